"""A step of a discrete solve with its transpose: what `DiscreteAdjoint` goes back by."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PyTree

from adjoint.ode.integrate import while_if_any
from adjoint.ode.integrator import Integrator, State
from adjoint.ode.vector_field import Parameters

# The steps as a chain of states x[k] = (y[k], slope[k]), x[k+1] = Phi_k(x[k], p), on the grid that
# was accepted:
#
#     lam[N] = y1_bar
#     lam[k] = (dPhi_k/dx)' lam[k+1] + what the samples inside step k add
#     p_bar = sum (dPhi_k/dp)' lam[k+1]
#
# The grid is a constant: its points s are shares of t1 - t0, and the error of a step does not enter
# the gradient. (Griewank and Walther, Evaluating Derivatives, 2nd ed., chapters 3 and 12; Eberhard
# and Bischof, Math. Comp. 68, 1999, on frozen steps.)


class Cotangents(NamedTuple):
    """Cotangents of the state at s = 1 and of the samples."""

    y1: Float[Array, " n"]
    samples: Float[Array, "samples n"]


class Gradient(NamedTuple):
    """Cotangents of the start, of the varying parameters and of the sample points."""

    y0: Float[Array, " n"]
    varying: list[Array]
    s: Float[Array, " samples"]


class AdjointState(NamedTuple):
    """The adjoint of the state and the parameters so far; samples before j are still to come."""

    state: State
    varying: list[Array]
    j: Int[Array, ""]
    s: Float[Array, " samples"]


def start_of_sweep(y0: Array, p: Parameters, s: Array, y1_bar: Array) -> AdjointState:
    """The adjoint at s = 1."""
    zeros = [jnp.zeros_like(v) for v in p.varying]
    return AdjointState(
        State(y1_bar, jnp.zeros_like(y0)), zeros, jnp.asarray(s.size - 1), jnp.zeros_like(s)
    )


class LinearizedStep(NamedTuple):
    """A step with its transpose, and what the samples inside it have left."""

    y1: Array
    stages: Array
    error: Array
    inside: "_Inside"
    transposed: Any

    @classmethod
    def of(
        cls,
        integrator: Integrator,
        s: tuple[Array, Array],
        state: State,
        p: Parameters,
        samples: Array,
        bars: Cotangents,
        lam: AdjointState,
    ) -> "LinearizedStep":
        def step(state: State, varying: list[Array]) -> tuple[State, Array, Array]:
            result = integrator.step_to_transpose(s, state, Parameters(varying, p.constant))
            return (
                State(result.y, result.slope),
                result.stages,
                integrator.method.error_share * result.error,
            )

        (after, stages, error), transposed = jax.vjp(step, state, p.varying)
        none = jax.tree.map(jnp.zeros_like, (state, stages, state.y))
        inside = _Inside(none[0], lam.varying, lam.state.y, none[1], lam.j, lam.s, none[2])
        if samples.size:
            inside = _pull_samples(integrator, s, state, after.y, stages, p, samples, bars, inside)
        return cls(after.y, stages, error, inside, transposed)

    def bars_of(self, lam: AdjointState) -> tuple[State, Array, Array]:
        """The cotangents of what the step leaves, of its stages and of its error."""
        return (
            State(self.inside.y1, lam.state.slope),
            self.inside.stages,
            jnp.zeros_like(self.error),
        )

    def pull(self, lam: AdjointState, state_bar: State, varying_bar: list[Array]) -> AdjointState:
        """The adjoint before the step from the one after it."""
        inside = self.inside
        return AdjointState(
            add(inside.state, state_bar),
            add(inside.varying, varying_bar),
            inside.j,
            inside.s,
        )


def add(*trees: Any) -> PyTree:
    """The sum of trees of one structure."""
    return jax.tree.map(lambda *parts: sum(parts[1:], start=parts[0]), *trees)


class _Inside(NamedTuple):
    """Cotangents of the samples inside a step by its start, parameters, end and slopes."""

    state: State
    varying: list[Array]
    y1: Array
    stages: Array
    j: Array
    s: Array
    # The sum of their own cotangents.
    datum: Array


def _pull_samples(
    integrator: Integrator,
    s: tuple[Array, Array],
    state: State,
    y1: Array,
    stages: Array,
    p: Parameters,
    samples: Array,
    bars: Cotangents,
    inside: _Inside,
) -> _Inside:
    def is_inside(inside: _Inside) -> Array:
        return (inside.j >= 0) & (samples[jnp.maximum(inside.j, 0)] > s[0])

    def pull(inside: _Inside) -> _Inside:
        j = inside.j

        def sample(
            state: State, varying: list[Array], y1: Array, stages: Array, at: Array
        ) -> Array:
            return integrator.sample(s, state, y1, stages, at, Parameters(varying, p.constant))[0]

        _, adjoint_of_sample = jax.vjp(sample, state, p.varying, y1, stages, samples[j])
        *of_step, at_bar = adjoint_of_sample(bars.samples[j])
        state_bar, varying_bar, y1_bar, stages_bar = add(list(inside[:4]), of_step)
        s_bars = inside.s.at[j].set(at_bar)
        datum = inside.datum + bars.samples[j]
        return _Inside(state_bar, varying_bar, y1_bar, stages_bar, j - 1, s_bars, datum)

    return while_if_any(is_inside, pull, inside)


def finish_at_start(
    integrator: Integrator, y0: Array, p: Parameters, s: Array, bars: Cotangents, lam: AdjointState
) -> Gradient:
    """The gradient from the adjoint at s = 0: first slope and samples there come from y0."""

    def first_slope(y0: Array, varying: list[Array]) -> Array:
        return integrator.field(jnp.zeros_like(y0[0]), y0, Parameters(varying, p.constant))

    at_start = pull_start(integrator, y0, p, s, bars)
    _, adjoint_of_slope = jax.vjp(first_slope, y0, p.varying)
    y0_bar, varying_bar = adjoint_of_slope(lam.state.slope)
    along_steps = Gradient(lam.state.y, lam.varying, lam.s)
    from_slope = Gradient(y0_bar, varying_bar, jnp.zeros_like(s))
    return add(along_steps, from_slope, at_start)


def pull_start(
    integrator: Integrator, y0: Array, p: Parameters, s: Array, bars: Cotangents
) -> Gradient:
    """What the samples at s = 0 give."""
    if s.size == 0:
        return Gradient(jnp.zeros_like(y0), [jnp.zeros_like(v) for v in p.varying], s)
    is_first = s <= 0

    def samples(y0: Array, varying: list[Array], s: Array) -> Array:
        here = Parameters(varying, p.constant)
        return jax.vmap(lambda s: integrator.at_start(y0, s, here))(jnp.where(is_first, s, 0))

    _, adjoint_of_samples = jax.vjp(samples, y0, p.varying, s)
    return Gradient(*adjoint_of_samples(is_first[:, None] * bars.samples))
