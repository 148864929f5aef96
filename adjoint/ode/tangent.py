"""The tangent of an ODE solve in one direction, from what its sensitivity left for the way back.

    DiscreteAdjoint, implicit methods, equal steps    the recorded steps once more, with tangents
    ForwardSensitivity                                its columns S: y_dot = S (y0, p)_dot
    continuous adjoints, the stability limit          a solve with the tangent in its error test

There is a second adaptive solve in the last case alone, and where the recorded steps do not suit
the tangent (`tangent_control.py`; Hairer, Norsett and Wanner, Solving ODEs I, 2nd ed., section
I.14).
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float, PyTree

from adjoint.ode.backsolve import BacksolveAdjoint
from adjoint.ode.choice import AutomaticSensitivity
from adjoint.ode.discrete import DiscreteAdjoint
from adjoint.ode.error_estimate import ENOUGH_DIGITS
from adjoint.ode.forward import ForwardSensitivity
from adjoint.ode.integrate import integrate, while_if_any
from adjoint.ode.integrator import Integrator, State
from adjoint.ode.sensitivity import Sensitivity
from adjoint.ode.tangent_control import ENOUGH, FLOOR, ROUNDING, integrate_with_tangents, unit_of
from adjoint.ode.vector_field import Parameters
from adjoint.solution import poison
from adjoint.tracing import loops
from adjoint.tracing.rule import instantiate


class Dots(NamedTuple):
    """Tangents of the start, of the varying parameters and of the sample points."""

    y0: Float[Array, " n"]
    varying: list[Array]
    s: Float[Array, " samples"]


Tangents = tuple[Float[Array, " n"], Float[Array, "samples n"]]


def push(
    sensitivity: Sensitivity,
    integrator: Integrator,
    memory: PyTree,
    y0: Array,
    p: Parameters,
    s: Array,
    dots: PyTree,
) -> Tangents:
    """The tangents of y(1) and of the samples; `dots` are those of y0, p.varying and s, or None."""
    along = Dots(*instantiate((y0, p.varying, s), tuple(dots)))
    y1_dot, samples_dot = _push(sensitivity, integrator, memory, y0, p, s, along)
    # A select in f answers a NaN with a clean zero.
    finite = jnp.all(jnp.stack([jnp.all(jnp.isfinite(dot)) for dot in jax.tree.leaves(along)]))
    return poison((y1_dot, samples_dot), finite)


def _push(
    sensitivity: Sensitivity,
    integrator: Integrator,
    memory: PyTree,
    y0: Array,
    p: Parameters,
    s: Array,
    dots: Dots,
) -> Tangents:
    if isinstance(sensitivity, AutomaticSensitivity):
        memory, _, is_at_limit = memory

        def as_chosen(dots: Dots) -> Tangents:
            return _push(sensitivity.sensitivity, integrator, memory, y0, p, s, dots)

        def controlled(dots: Dots) -> Tangents:
            return _controlled(integrator, y0, p, s, dots)

        if not sensitivity.may_change(integrator):
            return as_chosen(dots)
        return loops.cond(is_at_limit, controlled, as_chosen, dots)
    if isinstance(sensitivity, ForwardSensitivity):
        return _by_columns(memory, y0, s, dots)
    if isinstance(sensitivity, DiscreteAdjoint):
        return _by_steps(integrator, memory.grid, memory.count, y0, p, s, dots)
    first, _ = memory
    if integrator.method.is_implicit and not isinstance(sensitivity, BacksolveAdjoint):
        return _by_steps(integrator, first.grid, first.count, y0, p, s, dots)
    if integrator.steps is not None:
        return _tangent_of(lambda y0, p, s: integrate(integrator, y0, p, s)[:2], y0, p, s, dots)
    return _controlled(integrator, y0, p, s, dots)


def _tangent_of(
    solve: Callable[[Array, Parameters, Array], Tangents],
    y0: Array,
    p: Parameters,
    s: Array,
    dots: Dots,
) -> Tangents:
    def of_varying(y0: Array, varying: list[Array], s: Array) -> Tangents:
        return solve(y0, Parameters(varying, p.constant), s)

    return jax.jvp(of_varying, (y0, p.varying, s), tuple(dots))[1]


def _by_columns(S: Array, y0: Array, s: Array, dots: Dots) -> Tangents:
    """S times the tangents; its last row holds how the sample points move the samples."""
    row = ravel_pytree((dots.y0, dots.varying))[0] @ S[:-1]
    rates = S[-1, y0.size :].reshape(s.size, y0.size)
    return row[: y0.size], row[y0.size :].reshape(s.size, y0.size) + dots.s[:, None] * rates


def _by_steps(
    integrator: Integrator,
    grid: Array,
    count: Array,
    y0: Array,
    p: Parameters,
    s: Array,
    dots: Dots,
) -> Tangents:
    """The tangent of the accepted steps, on their grid, which is a constant.

    Where these steps do not suit it, as at rest, that of steps which do.
    """
    if integrator.steps is not None:
        return _replayed(integrator, grid, count, y0, p, s, dots)[0]
    exact, error = _replayed(integrator, grid, count, y0, p, s, dots)
    enough = min(ENOUGH * integrator.tolerances.rtol, 10**-ENOUGH_DIGITS)

    def repaired(_: Tangents) -> Tangents:
        return _controlled(integrator, y0, p, s, dots)

    # A loop of one turn or none: of a branch each element of a batch would pay both sides.
    _, tangents = loops.while_loop(
        lambda carry: carry[0],
        lambda carry: (carry[0] & False, repaired(carry[1])),
        (jax.lax.stop_gradient(~(error <= enough)), exact),
    )
    return tangents


class _Replay(NamedTuple):
    """The steps once more: the state, its tangent v, and the error of that by the embedded one."""

    state: State
    v: State
    eps: State
    peak: Float[Array, " n"]
    samples: Float[Array, "samples n"]
    j: Array
    error: Float[Array, ""]


def _replayed(
    integrator: Integrator,
    grid: Array,
    count: Array,
    y0: Array,
    p: Parameters,
    s: Array,
    dots: Dots,
) -> tuple[Tangents, Float[Array, ""]]:
    """The tangents along the accepted steps, and the error of the worst of them as a share of it.

    With x[k+1] = Phi_k(x[k], p) and its embedded error e_k (`error_estimate.py`):

        v[k+1] = Phi_k' v[k] + what p adds,       eps[k+1] = Phi_k' eps[k] + e_k' v[k]
    """
    zero = jnp.zeros_like(y0)
    none = [jnp.zeros_like(v) for v in p.varying]
    samples = jnp.zeros((s.size, y0.size), y0.dtype)
    first = jnp.zeros((), jnp.int32)
    if s.size:
        is_first = s <= 0

        def at_start(y0: Array, varying: list[Array], s: Array) -> Array:
            here = Parameters(varying, p.constant)
            return jax.vmap(lambda s: integrator.at_start(y0, s, here))(jnp.where(is_first, s, 0))

        of_start = jax.jvp(at_start, (y0, p.varying, s), tuple(dots))[1]
        samples = jnp.where(is_first[:, None], of_start, samples)
        first = jnp.sum(is_first, dtype=jnp.int32)

    def first_slope(y0: Array, varying: list[Array]) -> Array:
        return integrator.field(jnp.zeros((), y0.dtype), y0, Parameters(varying, p.constant))

    slope, slope_dot = jax.jvp(first_slope, (y0, p.varying), (dots.y0, dots.varying))

    def advance(k: Array, now: _Replay) -> _Replay:
        ends = (grid[k], grid[k + 1])

        def step(state: State, varying: list[Array]) -> PyTree:
            taken = integrator.step(ends, state, Parameters(varying, p.constant))
            error = integrator.method.error_share * taken.error
            return State(taken.y, taken.slope), taken.stages, error

        (after, stages, _), linear = jax.linearize(step, now.state, p.varying)
        v, v_stages, e = linear(now.v, dots.varying)
        eps, _, _ = linear(now.eps, none)
        eps = State(eps.y + e, eps.slope)
        peak = jnp.maximum(now.peak, jnp.abs(v.y))

        def is_inside(filled: PyTree) -> Array:
            return (filled[1] < s.size) & (s[jnp.minimum(filled[1], s.size - 1)] <= ends[1])

        def fill(filled: PyTree) -> PyTree:
            samples, j = filled

            def sample(
                state: State, y1: Array, stages: Array, at: Array, varying: list[Array]
            ) -> Array:
                here = Parameters(varying, p.constant)
                return integrator.sample(ends, state, y1, stages, at, here)[0]

            at = (now.state, after.y, stages, s[j], p.varying)
            moved = (now.v, v.y, v_stages, dots.s[j], dots.varying)
            return samples.at[j].set(jax.jvp(sample, at, moved)[1]), j + 1

        samples = now.samples
        j = now.j
        error = now.error
        if s.size:
            samples, j = while_if_any(is_inside, fill, (samples, j))
        # The interpolant is about as wrong as the step.
        is_output = (j > now.j) | (k == count - 1)
        share = jnp.where(is_output, _share(eps.y, v.y, peak, after.y), 0)
        return _Replay(after, v, eps, peak, samples, j, jnp.maximum(error, share))

    start = _Replay(
        State(y0, slope),
        State(dots.y0, slope_dot),
        State(zero, zero),
        jnp.abs(dots.y0),
        samples,
        first,
        jnp.zeros((), y0.dtype),
    )
    end = loops.fori_loop(0, count, advance, start)
    return (end.v.y, end.samples), end.error


def _share(eps: Array, v: Array, peak: Array, y: Array) -> Float[Array, ""]:
    """eps as a share of v, each entry in its own unit, of those that are more than rounding."""
    eps, v, peak, y = jax.lax.stop_gradient((eps, v, peak, y))
    noisy = jnp.maximum(jnp.max(peak, initial=0), jnp.max(jnp.abs(y), initial=0))
    rounding = ROUNDING * jnp.finfo(v.dtype).eps * noisy
    size = jnp.abs(v) + FLOOR * peak + rounding + jnp.finfo(v.dtype).tiny ** 0.5
    return jnp.max(jnp.abs(eps) / size, initial=0)


def _controlled(integrator: Integrator, y0: Array, p: Parameters, s: Array, dots: Dots) -> Tangents:
    """By a solve whose steps suit the tangent too."""
    # In units of the numbers themselves, so that the tolerances mean something.
    at, along = (ravel_pytree(tree)[0] for tree in ((y0, p.varying), (dots.y0, dots.varying)))
    relative = jnp.max(jnp.abs(along) / unit_of(at), initial=0)
    size = jax.lax.stop_gradient(jnp.where(relative > 0, relative, 1))
    directions = jax.tree.map(
        lambda dot: (dot / size.astype(dot.dtype))[None], (dots.y0, dots.varying)
    )
    end, samples, _, outcome = integrate_with_tangents(integrator, y0, p, directions, s)
    y1_dot = size * end.v[0]
    samples_dot = size * samples.v[:, 0]
    if s.size:
        rates = jax.vmap(lambda s, y: integrator.rate(s, y, p))(s, samples.y)
        samples_dot = samples_dot + dots.s[:, None] * rates
    return poison((y1_dot, samples_dot), outcome.code == 0)
