"""Newton's method for minimizers: the exact Hessian in a trust region."""

from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from adjoint.optimize.problem import Domain, Measure, unconstrained_measure
from adjoint.optimize.state import Evaluation, Iterate, Prediction, Query, State, begin, choose
from adjoint.optimize.trust_region import (
    Region,
    eigenbasis,
    judge,
    minimize_in_ball,
    radius_collapsed,
    unknown,
    whole_region,
    widened,
)
from adjoint.tracing import loops

# With bounds: entries that a step would carry beyond are held, and the others solved for again, at
# most so often.
ROUNDS = 8
# The lengths of steps along the projected gradient that a step must be as good as, by the model:
# radius times these.
CAUCHY_SHARES = tuple(4.0**-k for k in range(12))
# A negative eigenvalue counts when it is so many times its rounding.
INDEFINITE = 100


class TrustRegionMemory(NamedTuple):
    """What the method knows.

    Attributes
    ----------
    region
        How far it may go.
    hessian
        At the iterate.
    unit
        Of the entries.
    """

    region: Region
    hessian: Float[Array, "n n"]
    unit: Float[Array, " n"]


@dataclass(frozen=True)
class TrustRegionNewton:
    """x <- x + s: s minimizes f'(x) s + s' f''(x) s / 2 within |s| <= radius, exactly.

    The hard case is included. The norm is that of the inner product, and with the Euclidean one
    that of x_i / |x0_i|, so that steps are the same in whatever units x is (an entry that starts at
    zero is measured by the largest). The radius follows the ratio of the decrease of f to that of
    the model (Nocedal and Wright, Numerical Optimization, 2nd ed., algorithm 4.1). A point is a
    minimum only where f'' has no negative eigenvalue. Bounds are kept by projection: entries that
    are at a bound, or that the step would carry beyond one, are held there, and the step is as
    good, by the model, as any along the projected gradient.

    Notes
    -----
    **Cost** per step: one Hessian, one to a few values with derivatives, one eigendecomposition for
    each of them (about 10 n^3 operations): up to 500 unknowns.
    """

    queries = (Query.VALUE, Query.HESSIAN)
    patience = 1
    rates_have_units = False
    handles = ("bounds",)

    def measure(self, state: State, domain: Domain) -> Measure:
        """Dual norm of the projected derivative; there are no constraints."""
        return unconstrained_measure(state.at, domain)

    def init(self, x: Float[Array, " n"], domain: Domain, constraints: int = 0) -> State:
        """The state that asks about x first."""
        x = domain.project(x)
        unit = _units(x)
        region = whole_region(x, domain.in_units(unit))
        memory = TrustRegionMemory(region, jnp.zeros((x.size, x.size), x.dtype), unit)
        return begin(x, memory)._replace(prediction=unknown(x.dtype))

    def step(self, state: State, evaluation: Evaluation, domain: Domain) -> State:
        """The state after the evaluation that it asked for; pure."""
        domain = domain.in_units(state.memory.unit)
        valued = state.query == Query.VALUE
        judged = _judge(state, evaluation, domain)
        H = jnp.asarray(evaluation.hessian)
        informed = state._replace(
            prediction=_prediction(H, state.at, domain), memory=state.memory._replace(hessian=H)
        )
        state = choose(valued, judged, informed)
        accepted = valued & (state.query == Query.HESSIAN)
        return loops.cond(
            accepted | state.failed, lambda s: s, lambda s: _propose(s, domain), state
        )

    def restart(self, state: State, domain: Domain) -> State:
        """The failed state with its first radius, once a step: now the noise of f is known."""
        memory = state.memory
        again = _propose(
            state._replace(
                failed=jnp.zeros((), bool),
                memory=memory._replace(region=widened(memory.region)),
            ),
            domain.in_units(memory.unit),
        )
        return choose(memory.region.restarted, state, again)


@dataclass(frozen=True)
class GaussNewton(TrustRegionNewton):
    """Least squares f = |r(x)|^2 / 2: x <- x + s, s minimizes |r + r' s|^2 / 2 in |s| <= radius.

    In `minimize` with this method the objective returns the residuals r, an array or a pytree of
    arrays, and not |r|^2. The multiplier of the radius is the damping of the Levenberg-Marquardt
    method. Bounds are kept by projection.

    Notes
    -----
    Without second derivatives of r the convergence is fast only where residuals at the solution are
    small or r is nearly linear. **Cost** per step: the Jacobian of r, one to a few values with
    derivatives, one eigendecomposition for each of them. Source: J. J. Moré, The
    Levenberg-Marquardt algorithm: implementation and theory, in Numerical Analysis, Lecture Notes
    in Mathematics 630, Springer (1978).

    Examples
    --------
    >>> import jax.numpy as jnp, adjoint
    >>> t = jnp.array([0.0, 1.0, 2.0])
    >>> residuals = lambda x: x[0] * jnp.exp(-x[1] * t) - jnp.array([2.0, 1.0, 0.5])
    >>> solution = adjoint.minimize(residuals, jnp.array([1.0, 0.0]), adjoint.GaussNewton())
    >>> [round(float(v), 4) for v in adjoint.require(solution)]  # 2 and log 2
    [2.0, 0.6931]
    """

    least_squares = True


def _units(x: Float[Array, " n"]) -> Float[Array, " n"]:
    """The start's sizes; the largest where one is zero, or nothing beside that; 1 if all are."""
    size = jnp.abs(x)
    largest = jnp.max(size, initial=0.0)
    largest = jnp.where(largest > 0, largest, 1)
    return jnp.where(size > jnp.finfo(x.dtype).eps * largest, size, largest)


def _judge(state: State, evaluation: Evaluation, domain: Domain) -> State:
    """The state that moved and asks for the Hessian, or stayed with a smaller radius."""
    assert state.prediction is not None
    memory = state.memory
    verdict = judge(state, evaluation, memory.region, domain)
    accepted = verdict.accepted
    here = Iterate(state.point, evaluation.value, evaluation.derivative)
    return state._replace(
        query=jnp.where(accepted, Query.HESSIAN, Query.VALUE).astype(jnp.int32),
        at=choose(accepted, here, state.at),
        iterations=state.iterations + (accepted & state.started),
        started=jnp.ones((), bool),
        failed=~accepted & radius_collapsed(verdict.region),
        contradicted_by=verdict.contradicted_by,
        prediction=choose(accepted, unknown(state.point.dtype), state.prediction),
        memory=memory._replace(region=verdict.region),
    )


def _prediction(H: Array, at: Iterate, domain: Domain) -> Prediction:
    """The model's gain without a trust region, and the share of x that its step changes.

    The gain is g' H^-1 g / 2 of the free entries. It is infinite where H is indefinite; the share
    also where rounding hides an eigenvalue.
    """
    free = domain.free(at.x, at.derivative)
    w, vectors = eigenbasis(H, free, domain)
    b = vectors.T @ (at.derivative * free)
    rounding = w.size * jnp.finfo(w.dtype).eps * jnp.max(jnp.abs(w))
    known = jnp.maximum(w, jnp.maximum(rounding, jnp.finfo(w.dtype).tiny))
    gain = jnp.sum(b**2 / known) / 2
    step = jnp.abs(vectors @ (b / known)) * free
    share = jnp.max(jnp.where(step > 0, step / jnp.abs(at.x), 0), initial=0.0)
    resolved = w[0] > INDEFINITE * rounding
    return Prediction(
        jnp.where(w[0] < -INDEFINITE * rounding, jnp.inf, gain),
        jnp.where(resolved, share, jnp.inf),
    )


def _propose(state: State, domain: Domain) -> State:
    """The state that asks for f at the trial step; failed where the model promises nothing."""
    x = state.at.x
    g = state.at.derivative
    memory = state.memory
    H = memory.hessian
    everything = jnp.ones(x.shape, bool)
    s = (
        _bounded_step(state, domain)
        if domain.bounded
        else _step(H, g, everything, memory.region.radius, domain)
    )
    point = domain.project(x + s)
    s = point - x
    predicted = -(g @ s + s @ (H @ s) / 2)
    promising = predicted > 0
    return state._replace(
        query=jnp.full((), Query.VALUE, jnp.int32),
        point=jnp.where(promising, point, x),
        direction=jnp.where(promising, s, -domain.gradient(g)),
        failed=~promising,
        memory=memory._replace(region=memory.region._replace(predicted=predicted)),
    )


def _step(
    H: Array, g: Array, free: Bool[Array, " n"], radius: Float[Array, ""], domain: Domain
) -> Float[Array, " n"]:
    """The minimizer of the model of the free entries."""
    basis = eigenbasis(H, free, domain)
    y, _ = minimize_in_ball(basis.values, basis.vectors.T @ (g * free), radius)
    return (basis.vectors @ y) * free


def _bounded_step(state: State, domain: Domain) -> Float[Array, " n"]:
    """A step within the bounds: by the free entries, or along the projected gradient.

    Entries that would leave are held.
    """
    x = state.at.x
    g = state.at.derivative
    H = state.memory.hessian
    radius = state.memory.region.radius
    free = domain.free(x, g)

    def within(s: Array) -> Array:
        return domain.project(x + s) - x

    def solve(carry: tuple[Array, Array, Array, Array]) -> tuple[Array, Array, Array, Array]:
        free, s, _, k = carry
        pushed = g + H @ jnp.where(free, 0, s)
        s = jnp.where(free, _step(H, pushed, free, radius, domain), s)
        beyond = free & (domain.project(x + s) != x + s)
        return free & ~beyond, within(s), jnp.any(beyond), k + 1

    start = (free, jnp.zeros_like(x), jnp.ones((), bool), jnp.zeros((), jnp.int32))
    newton = loops.while_loop(lambda c: c[2] & (c[3] < ROUNDS), solve, start)[1]
    gradient = domain.gradient(g * free) * free
    length = domain.norm(gradient)
    unit = gradient * (radius / jnp.where(length > 0, length, 1))
    shares = jnp.asarray(CAUCHY_SHARES, x.dtype)
    steps = jnp.concatenate([newton[None], jax.vmap(lambda share: within(-share * unit))(shares)])
    models = steps @ g + jnp.sum(steps * (steps @ H.T), axis=1) / 2
    return steps[jnp.argmin(jnp.where(jnp.isfinite(models), models, jnp.inf))]
