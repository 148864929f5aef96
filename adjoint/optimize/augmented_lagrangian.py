"""Augmented Lagrangians: equations and inequalities for any method that knows none."""

from dataclasses import dataclass, field
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int32

from adjoint.inputs import describe, refuse
from adjoint.optimize import lagrangian
from adjoint.optimize.bfgs import BFGS
from adjoint.optimize.descent import DescentState
from adjoint.optimize.lagrangian import Constraints, no_constraints, positive
from adjoint.optimize.problem import Domain, Evaluation, Iterate, Measure, Method, Query

# rho_i |c_i'|^2 = FIRST_PENALTY |f'| at the start; times RAISE when the violation has not fallen to
# this SHARE.
FIRST_PENALTY = 10.0
RAISE = 10.0
SHARE = 0.25
# The inner problems' tolerance: this share of |f'(x0)|, and of the tolerance before.
FIRST_TOLERANCE = 0.1
TIGHTEN = 0.1
# An inner run ends after so many of its steps, or so many for each unknown, converged or not; the
# next one begins anew.
INNER_STEPS = 50
INNER_STEPS_EACH = 10
# An inner run has lost the constraints when an iterate misses them by so many times the size of x,
# or the miss that it began with.
LOST = 100.0
# Multipliers are kept below this, in units of scale / |c_i'|.
LARGEST_MULTIPLIER = 1e8


class AugmentedState(NamedTuple):
    """Where an augmented Lagrangian stands; see `adjoint.optimize.problem.State`.

    Attributes
    ----------
    inner
        The state of the inner method.
    constraints
        Those of `at`.
    multipliers
        Of the constraints; those of inequalities are not negative.
    weights
        The largest multipliers so far, doubled: the price of violations in the merit.
    penalties
        rho, of each constraint.
    scale, sizes
        The largest |f'| of an iterate; |c_i'| at the start, or at the first iterate where f' is not
        zero.
    infeasibility
        How far the constraints and their multipliers were from being satisfied, in lengths of x.
    tolerance
        Of the inner run.
    settling, diverged
        Whether the inner run is over, and its result to be evaluated; whether that is where it
        began, as it has run away to where f falls faster than the penalties grow.
    """

    query: Int32[Array, ""]
    point: Float[Array, " n"]
    direction: Float[Array, " n"]
    at: Iterate
    iterations: Int32[Array, ""]
    failed: Bool[Array, ""]
    started: Bool[Array, ""]
    inner: Any
    constraints: Constraints
    multipliers: Float[Array, " m"]
    weights: Float[Array, " m"]
    penalties: Float[Array, " m"]
    scale: Float[Array, ""]
    sizes: Float[Array, " m"]
    infeasibility: Float[Array, ""]
    tolerance: Float[Array, ""]
    settling: Bool[Array, ""]
    diverged: Bool[Array, ""]

    @property
    def search_direction(self) -> Float[Array, " n"]:
        return self.direction


@dataclass(frozen=True)
class AugmentedLagrangian:
    """Minimize f + sum_i rho_i / 2 (c_i + lambda_i / rho_i)^2 by `inner`, lambda <- lambda + rho c.

    The two take turns. For inequalities c + lambda / rho and the new lambda are replaced by zero
    where they are negative. rho grows when the violation has not fallen enough.

    Parameters
    ----------
    inner
        A method that asks for values with derivatives only: `BFGS`, `LBFGS` or `SteepestDescent`.
        Bounds are its own.

    Raises
    ------
    ValueError
        For an inner method that needs more, or that knows constraints itself.

    Notes
    -----
    **Steps** of the history, of `callback` and of max_steps are those of the multipliers, mostly 5
    to 15. **Cost** of each: an inner run, which keeps what the one before has learned unless rho
    has grown, and one evaluation of its result.

    Source: E. G. Birgin, J. M. Martinez, Practical Augmented Lagrangian Methods, SIAM (2014),
    algorithm 4.1; Nocedal and Wright, Numerical Optimization, 2nd ed., section 17.4.

    Examples
    --------
    >>> import jax.numpy as jnp, adjoint
    >>> on_the_circle = lambda x: jnp.sum(x**2) - 2
    >>> solution = adjoint.minimize(
    ...     jnp.sum, jnp.array([-2.0, 1.0]), adjoint.AugmentedLagrangian(), equality=on_the_circle
    ... )
    >>> (
    ...     [round(float(v), 6) for v in adjoint.require(solution)],
    ...     round(float(solution.stats["multipliers"][0]), 6),
    ... )
    ([-1.0, -1.0], 0.5)
    """

    inner: Method = field(default_factory=BFGS)
    queries = (Query.VALUE,)
    patience = 1
    rates_have_units = False

    def __post_init__(self) -> None:
        protocol = ("init", "step", "measure", "restart", "queries", "handles")
        known = not isinstance(self.inner, type) and all(
            hasattr(self.inner, name) for name in protocol
        )
        if not known or self.inner.queries != (Query.VALUE,) or "inequality" in self.inner.handles:
            refuse(
                "AugmentedLagrangian",
                f"inner = {describe(self.inner)}",
                "a method that asks for values with derivatives only and knows no constraints",
                "Take BFGS(), LBFGS() or SteepestDescent().",
            )

    @property
    def handles(self) -> tuple[str, ...]:
        return (*self.inner.handles, "equality", "inequality")

    def init(self, x: Float[Array, " n"], domain: Domain, constraints: int = 0) -> AugmentedState:
        """The state that asks about x first."""
        x = domain.project(x)
        none = jnp.zeros(constraints, x.dtype)
        one = jnp.ones((), x.dtype)
        no = jnp.zeros((), bool)
        return AugmentedState(
            query=jnp.zeros((), jnp.int32),
            point=x,
            direction=jnp.zeros_like(x),
            at=Iterate(x, jnp.asarray(jnp.inf, x.dtype), jnp.zeros_like(x)),
            iterations=jnp.zeros((), jnp.int32),
            failed=no,
            started=no,
            inner=self.inner.init(x, domain),
            constraints=no_constraints(x, constraints),
            multipliers=none,
            weights=none,
            penalties=jnp.ones_like(none),
            scale=jnp.zeros((), x.dtype),
            sizes=jnp.ones_like(none),
            infeasibility=jnp.asarray(jnp.inf, x.dtype),
            tolerance=one,
            settling=no,
            diverged=no,
        )

    def step(self, state: AugmentedState, evaluation: Evaluation, domain: Domain) -> AugmentedState:
        """The state after the evaluation that it asked for; pure."""
        first = ~state.started
        concludes = first | state.settling
        unscaled = first | ((state.scale == 0) & jnp.any(evaluation.derivative != 0))
        concluded = _where(
            unscaled, _scaled(state, evaluation, domain), _concluded(state, evaluation, domain)
        )
        same = jnp.all(concluded.penalties == state.penalties) & ~state.inner.failed
        same = same & (state.inner.iterations < _most_steps(state.point.size))
        concluded = concluded._replace(inner=_anew(self.inner, state, same, domain))
        state = _where(concludes, concluded, state)
        inner = self.inner.step(state.inner, _augmented(state, evaluation, domain), domain)
        near = self.inner.measure(inner, domain).stationarity <= state.tolerance
        diverged = (inner.iterations > state.inner.iterations) & _has_diverged(
            state, evaluation, domain
        )
        over = inner.failed | near | diverged | (inner.iterations >= _most_steps(state.point.size))
        # What the inner run has found may be any point of its last line search: its constraints are
        # asked for again.
        return state._replace(
            inner=inner,
            point=jnp.where(diverged, state.at.x, jnp.where(over, inner.at.x, inner.point)),
            settling=over,
            diverged=diverged,
            started=jnp.ones((), bool),
            direction=inner.at.x - state.at.x,
        )

    def restart(self, state: AugmentedState, domain: Domain) -> AugmentedState:
        """Stuck: it knows no other way."""
        return state._replace(failed=jnp.ones((), bool))

    def measure(self, state: AugmentedState, domain: Domain) -> Measure:
        """Of the Lagrangian, with the latest multipliers."""
        return lagrangian.measure(
            state.at, state.constraints, state.multipliers, state.weights, domain
        )


def _most_steps(n: int) -> int:
    """Of an inner run."""
    return max(INNER_STEPS, INNER_STEPS_EACH * n)


def _where(condition: Bool[Array, ""], a: Any, b: Any) -> Any:
    return jax.tree.map(lambda x, y: jnp.where(condition, x, y), a, b)


def _anew(inner: Method, state: AugmentedState, same: Bool[Array, ""], domain: Domain) -> Any:
    """The inner run begun at the point, with what the one before has learned.

    That is kept where second derivatives are about the same.
    """
    begun = inner.init(state.point, domain)
    before = state.inner
    if isinstance(begun, DescentState):
        kept = begun._replace(
            memory=before.memory, fresh=before.fresh, size=before.size, unit=before.unit
        )
        return _where(same, kept, begun)
    return begun


def _positive(v: Float[Array, " m"], domain: Domain) -> Float[Array, " m"]:
    """The entries of equations, and the positive parts of those of inequalities."""
    return jnp.where(jnp.arange(v.size) < domain.equalities, v, jnp.maximum(v, 0))


def _augmented(state: AugmentedState, evaluation: Evaluation, domain: Domain) -> Evaluation:
    """The augmented Lagrangian and its derivative."""
    constraints = lagrangian.of_answer(evaluation)
    shifted = _positive(constraints.value + state.multipliers / state.penalties, domain)
    weights = state.penalties * shifted
    # Less (lambda / rho)^2, so that large multipliers do not drown f.
    squares = weights @ shifted - state.multipliers @ (state.multipliers / state.penalties)
    return Evaluation(
        evaluation.value + squares / 2, evaluation.derivative + weights @ constraints.jacobian
    )


def _scaled(state: AugmentedState, evaluation: Evaluation, domain: Domain) -> AugmentedState:
    """The start, with penalties and tolerances in its units.

    After a start where f' is 0 it is the first iterate that has any. After such a start the way to
    the iterate tells the second derivatives of f, which penalties are to exceed.
    """
    constraints = lagrangian.of_answer(evaluation)
    scale = domain.dual_norm(evaluation.derivative)
    sizes = lagrangian.row_norms(constraints.jacobian, domain)
    size = positive(scale)
    sizes = positive(sizes)
    length = domain.norm(state.point - state.at.x)
    return state._replace(
        at=Iterate(state.point, evaluation.value, evaluation.derivative),
        iterations=state.iterations + jnp.where(state.started, 1, 0).astype(jnp.int32),
        constraints=constraints,
        penalties=FIRST_PENALTY * size / positive(length) / sizes**2,
        scale=scale,
        sizes=sizes,
        tolerance=FIRST_TOLERANCE * size,
    )


def _bend(state: AugmentedState, evaluation: Evaluation, domain: Domain) -> Float[Array, ""]:
    """How f' changed on the way to the point, per length: penalties far below hold nothing back."""
    length = domain.norm(state.point - state.at.x)
    far = length > jnp.sqrt(jnp.finfo(length.dtype).eps) * domain.norm(state.point)
    change = domain.dual_norm(evaluation.derivative - state.at.derivative)
    return jnp.where(far, change / jnp.where(far, length, 1), 0)


def _unmet(state: AugmentedState, constraints: Constraints, domain: Domain) -> Float[Array, ""]:
    """How far constraints and multipliers are from being satisfied, in lengths of x."""
    is_equation = jnp.arange(constraints.value.size) < domain.equalities
    unmet = jnp.maximum(constraints.value, -state.multipliers / state.penalties)
    return jnp.max(
        jnp.abs(jnp.where(is_equation, constraints.value, unmet)) / state.sizes, initial=0.0
    )


def _has_diverged(state: AugmentedState, evaluation: Evaluation, domain: Domain) -> Bool[Array, ""]:
    size = domain.norm(state.at.x)
    before = jnp.maximum(_unmet(state, state.constraints, domain), jnp.where(size > 0, size, 1))
    return _unmet(state, lagrangian.of_answer(evaluation), domain) > LOST * before


def _concluded(state: AugmentedState, evaluation: Evaluation, domain: Domain) -> AugmentedState:
    """An inner run's result as an iterate with its multipliers, and the next one's penalties."""
    constraints = lagrangian.of_answer(evaluation)
    infeasibility = _unmet(state, constraints, domain)
    # What the inexactness of the inner run leaves is not for the penalties to mend.
    slow = state.diverged | (infeasibility > SHARE * state.infeasibility) & (
        infeasibility > state.tolerance / positive(state.scale)
    )
    raised = jnp.maximum(
        RAISE * state.penalties, FIRST_PENALTY * _bend(state, evaluation, domain) / state.sizes**2
    )
    scale = jnp.maximum(state.scale, domain.dual_norm(evaluation.derivative))
    most = LARGEST_MULTIPLIER * positive(scale) / state.sizes
    multipliers = _positive(state.multipliers + state.penalties * constraints.value, domain)
    multipliers = jnp.where(state.diverged, state.multipliers, multipliers)
    # All by one factor, so that those that belong to violations without an end keep their balance.
    multipliers = multipliers / jnp.max(jnp.abs(multipliers) / most, initial=1.0)
    # Below this the noise of rounding in f' ends every inner run.
    finest = jnp.finfo(state.point.dtype).eps ** (2 / 3) * positive(scale)
    return state._replace(
        at=Iterate(state.point, evaluation.value, evaluation.derivative),
        iterations=state.iterations + 1,
        constraints=constraints,
        multipliers=multipliers,
        weights=jnp.maximum(state.weights, 2 * jnp.abs(multipliers)),
        penalties=jnp.where(slow, raised, state.penalties),
        scale=scale,
        infeasibility=infeasibility,
        tolerance=jnp.where(
            state.diverged, state.tolerance, jnp.maximum(TIGHTEN * state.tolerance, finest)
        ),
    )
