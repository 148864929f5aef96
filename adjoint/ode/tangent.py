"""The tangent of an ODE solve in one direction, from what its sensitivity left for the way back.

    DiscreteAdjoint, implicit methods, equal steps    the recorded steps once more, with tangents
    ForwardSensitivity                                its columns S: y_dot = S (y0, p)_dot
    continuous adjoints, the stability limit          y_dot' = F_y y_dot + F_p p_dot, controlled

There is a second adaptive solve in the last case alone, where the steps do not stand for the solution
(Hairer, Norsett and Wanner, Solving ODEs I, 2nd ed., section I.14).
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float

from adjoint.ode.backsolve import BacksolveAdjoint
from adjoint.ode.choice import Chosen
from adjoint.ode.discrete import DiscreteAdjoint
from adjoint.ode.forward import ForwardSensitivity
from adjoint.ode.integrate import Integrator, State, integrate, while_rarely
from adjoint.ode.runge_kutta import Tolerances
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
    sensitivity: Any,
    integrator: Integrator,
    memory: Any,
    y0: Array,
    p: Parameters,
    s: Array,
    dots: Any,
) -> Tangents:
    """The tangents of y(1) and of the samples; `dots` are those of y0, p.varying and s, or None."""
    along = Dots(*instantiate((y0, p.varying, s), tuple(dots)))
    y1_dot, samples_dot = _push(sensitivity, integrator, memory, y0, p, s, along)
    # A select in f answers a NaN with a clean zero.
    finite = jnp.all(jnp.stack([jnp.all(jnp.isfinite(dot)) for dot in jax.tree.leaves(along)]))
    return poison((y1_dot, samples_dot), finite)


def _push(
    sensitivity: Any,
    integrator: Integrator,
    memory: Any,
    y0: Array,
    p: Parameters,
    s: Array,
    dots: Dots,
) -> Tangents:
    if isinstance(sensitivity, Chosen):
        memory, samples, is_at_limit = memory

        def as_chosen(dots: Dots) -> Tangents:
            return _push(sensitivity.sensitivity, integrator, memory, y0, p, s, dots)

        def variational(dots: Dots) -> Tangents:
            return _by_variational_equation(integrator, samples, y0, p, s, dots)

        if not sensitivity.may_change(integrator):
            return as_chosen(dots)
        return loops.cond(is_at_limit, variational, as_chosen, dots)
    if isinstance(sensitivity, ForwardSensitivity):
        return _by_columns(memory, y0, s, dots)
    if isinstance(sensitivity, DiscreteAdjoint):
        return _by_steps(integrator, memory.grid, memory.count, y0, p, s, dots)
    first, samples = memory
    if integrator.steps is None and not integrator.method.is_implicit:
        return _by_variational_equation(integrator, samples, y0, p, s, dots)
    if isinstance(sensitivity, BacksolveAdjoint):
        # Nothing was recorded.
        return _tangent_of(lambda y0, p, s: integrate(integrator, y0, p, s)[:2], y0, p, s, dots)
    return _by_steps(integrator, first.grid, first.count, y0, p, s, dots)


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
    """The tangent of the accepted steps, on their grid, which is a constant."""

    def solve(y0: Array, p: Parameters, s: Array) -> Tangents:
        return replay(integrator, grid, count, y0, p, s)

    return _tangent_of(solve, y0, p, s, dots)


def replay(integrator: Integrator, grid: Array, count: Array, y0: Array, p: Parameters, s: Array) -> Tangents:
    """y(1) and the samples by the accepted steps once more: they are known to be good."""
    samples, first = jnp.zeros((s.size, y0.size), y0.dtype), jnp.zeros((), jnp.int32)
    if s.size:
        is_first = s <= 0
        at_start = jax.vmap(lambda s: integrator.at_start(y0, s, p))(jnp.where(is_first, s, 0))
        samples = jnp.where(is_first[:, None], at_start, samples)
        first = jnp.sum(is_first, dtype=jnp.int32)

    def advance(k: Array, carry: Any) -> Any:
        state, samples, j = carry
        ends = (grid[k], grid[k + 1])
        step = integrator.step(ends, state, p)

        def is_inside(filled: Any) -> Array:
            return (filled[1] < s.size) & (s[jnp.minimum(filled[1], s.size - 1)] <= ends[1])

        def fill(filled: Any) -> Any:
            samples, j = filled
            y, _ = integrator.sample(ends, state, step.y, step.stages, s[j], p)
            return samples.at[j].set(y), j + 1

        if s.size:
            samples, j = while_rarely(is_inside, fill, (samples, j))
        return State(step.y, step.slope), samples, j

    start = State(y0, integrator.field(jnp.zeros((), y0.dtype), y0, p))
    state, samples, _ = loops.fori_loop(0, count, advance, (start, samples, first))
    return state.y, samples


class _Direction(NamedTuple):
    """Parameters, and their tangents."""

    p: Parameters
    varying_dot: list[Array]


@dataclass(frozen=True)
class _VariationalField:
    """The slopes of (y, y_dot) as one vector."""

    field: Any

    def __call__(self, s: Array, z: Array, along: _Direction) -> Float[Array, " 2n"]:
        y, y_dot = jnp.split(z, 2)

        def F(y: Array, varying: list[Array]) -> Array:
            return self.field(s, y, Parameters(varying, along.p.constant))

        return jnp.concatenate(jax.jvp(F, (y, along.p.varying), (y_dot, along.varying_dot)))


@dataclass(frozen=True)
class _LargerOfBoth(Tolerances):
    """The error of y, or that of y_dot if it is larger."""

    def scaled(self, error: Array, *ys: Array) -> Float[Array, ""]:
        scaled = super().scaled
        halves = zip(*(jnp.split(v, 2) for v in (error, *ys)), strict=True)
        return jnp.maximum(*(scaled(*half) for half in halves))


def _by_variational_equation(
    integrator: Integrator, samples: Array, y0: Array, p: Parameters, s: Array, dots: Dots
) -> Tangents:
    """y_dot beside y, both under the error control of the solve."""
    # In units of the numbers themselves, so that the tolerances mean something.
    at, along = (ravel_pytree(tree)[0] for tree in ((y0, p.varying), (dots.y0, dots.varying)))
    relative = jnp.max(jnp.abs(along) / jnp.where(at == 0, 1, jnp.abs(at)))
    size = jax.lax.stop_gradient(jnp.where(relative > 0, relative, 1))
    tolerances = _LargerOfBoth(integrator.tolerances.rtol, integrator.tolerances.atol)
    joint = replace(integrator, field=_VariationalField(integrator.field), tolerances=tolerances)
    start = jnp.concatenate([y0, dots.y0 / size])
    direction: Any = _Direction(p, [dot / size.astype(dot.dtype) for dot in dots.varying])
    z1, z_of_samples, _, outcome = integrate(joint, start, direction, s)
    y1_dot = size * jnp.split(z1, 2)[1]
    samples_dot = size * z_of_samples[:, y0.size :]
    if s.size:
        rates = jax.vmap(lambda s, y: integrator.rate(s, y, p))(s, samples)
        samples_dot = samples_dot + dots.s[:, None] * rates
    return poison((y1_dot, samples_dot), outcome.code == 0)
