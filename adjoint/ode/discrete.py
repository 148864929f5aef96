"""DiscreteAdjoint: the exact gradient of the steps that were taken."""

from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from adjoint.ode.checkpoints import Schedule, require_checkpoints, sweep_back
from adjoint.ode.integrate import Integrator, Outcome, Record, State, integrate, while_rarely
from adjoint.ode.vector_field import Parameters

# The steps as a chain of states x[k] = (y[k], slope[k]), x[k+1] = Phi_k(x[k], p), on the grid that was accepted:
#
#     lam[N] = y1_bar,   lam[k] = (dPhi_k/dx)' lam[k+1] + what the samples inside step k add,   p_bar = sum (dPhi_k/dp)' lam[k+1]
#
# The grid is a constant: its points s are shares of t1 - t0, and the error of a step does not enter the gradient. (Griewank
# and Walther, Evaluating Derivatives, 2nd ed., chapters 3 and 12; Eberhard and Bischof, Math. Comp. 68, 1999, on frozen steps.)


class Bars(NamedTuple):
    """Cotangents of the state at s = 1 and of the samples."""

    y1: Float[Array, " n"]
    samples: Float[Array, "samples n"]


class Gradient(NamedTuple):
    """Cotangents of the start, of the varying parameters and of the sample points."""

    y0: Float[Array, " n"]
    varying: list[Array]
    s: Float[Array, " samples"]


class Sweep(NamedTuple):
    """The adjoint on its way back: of the state, of the parameters so far; samples before j are still to come."""

    state: State
    varying: list[Array]
    j: Int[Array, ""]
    s: Float[Array, " samples"]


@dataclass(frozen=True)
class DiscreteAdjoint:
    """The exact gradient of the discrete solve, by its steps in reverse.

    Parameters
    ----------
    checkpoints
        How many states may be stored at once. None: all of them where they fit into 64 MiB, else about 2 sqrt(max_steps) of
        them, each step being repeated once. A small number is kept by a binomial schedule, which repeats steps more often.

    Notes
    -----
    **Cost**: one more run of the steps with their transposes: value and gradient mostly in about 4 times the solve, in 6 to
    11 times where f is made of differences on a grid, or of a dozen sines; half as much again with few checkpoints. From 128
    states stages of an implicit step are solved by the factors of the step, refined. The memory of the checkpoints.

    At an explicit solver's stability limit the gradient of the *steps* is no gradient of the *solution*; take
    `InterpolatingAdjoint` there.

    Source: A. Griewank, A. Walther, Algorithm 799: revolve, ACM Trans. Math. Softw. 26, 2000.

    Examples
    --------
    >>> import jax, jax.numpy as jnp, adjoint
    >>> decay = lambda t, y, p: -p * y
    >>> g = lambda p: adjoint.ode_solve(decay, jnp.array(1.0), p, 0.0, 1.0, sensitivity=adjoint.DiscreteAdjoint()).value
    >>> round(float(jax.grad(g)(jnp.array(2.0))), 4)  # -exp(-2)
    -0.1353
    """

    checkpoints: int | None = None

    def __post_init__(self) -> None:
        require_checkpoints("DiscreteAdjoint", self.checkpoints)

    def remember(
        self, integrator: Integrator, y0: Array, p: Parameters, s: Array
    ) -> tuple[tuple[Array, Array, Outcome], Record]:
        """The solve, and what its gradient needs of it."""
        schedule = self._schedule(integrator, y0)
        y1, samples, record, outcome = integrate(integrator, y0, p, s, schedule.spacing)
        assert record is not None
        return (y1, samples, outcome), record

    def pull_back(
        self, integrator: Integrator, record: Record, y0: Array, p: Parameters, s: Array, bars: Bars
    ) -> Gradient:
        """The gradient from the cotangents of what the solve returned."""

        def advance(k: Array, state: State) -> State:
            step = integrator.step((record.grid[k], record.grid[k + 1]), state, p)
            return State(step.y, step.slope)

        def pull(k: Array, state: State, lam: Sweep) -> Sweep:
            return _pull_step(integrator, (record.grid[k], record.grid[k + 1]), state, p, s, bars, lam)

        zeros = [jnp.zeros_like(v) for v in p.varying]
        lam = Sweep(State(bars.y1, jnp.zeros_like(y0)), zeros, jnp.asarray(s.size - 1), jnp.zeros_like(s))
        lam = sweep_back(self._schedule(integrator, y0), advance, pull, record.states, record.count, lam)
        return finish_at_start(integrator, y0, p, s, bars, lam)

    def _schedule(self, integrator: Integrator, y0: Array) -> Schedule:
        return Schedule.of(self.checkpoints, integrator.most_steps, 2 * y0.size * y0.dtype.itemsize)


def _pull_step(
    integrator: Integrator, s: tuple[Array, Array], state: State, p: Parameters, samples: Array, bars: Bars, lam: Sweep
) -> Sweep:
    """The adjoint before a step from the one after it."""

    def step(state: State, varying: list[Array]) -> tuple[State, Array]:
        result = integrator.step_to_transpose(s, state, Parameters(varying, p.constant))
        return State(result.y, result.slope), result.stages

    (after, stages), adjoint_of_step = jax.vjp(step, state, p.varying)
    none = jax.tree.map(jnp.zeros_like, (state, stages))
    inside = _Inside(none[0], lam.varying, lam.state.y, none[1], lam.j, lam.s)
    if samples.size:
        inside = _pull_samples(integrator, s, state, after.y, stages, p, samples, bars, inside)
    state_bar, varying_bar = adjoint_of_step((State(inside.y1, lam.state.slope), inside.stages))
    return Sweep(
        _sum(inside.state, state_bar),
        _sum(inside.varying, varying_bar),
        inside.j,
        inside.s,
    )


def _sum(*trees: Any) -> Any:
    return jax.tree.map(lambda *parts: sum(parts[1:], start=parts[0]), *trees)


class _Inside(NamedTuple):
    """Cotangents that the samples inside a step have left at its start, its parameters, its end and its slopes."""

    state: State
    varying: list[Array]
    y1: Array
    stages: Array
    j: Array
    s: Array


def _pull_samples(
    integrator: Integrator,
    s: tuple[Array, Array],
    state: State,
    y1: Array,
    stages: Array,
    p: Parameters,
    samples: Array,
    bars: Bars,
    inside: _Inside,
) -> _Inside:
    def is_inside(inside: _Inside) -> Array:
        return (inside.j >= 0) & (samples[jnp.maximum(inside.j, 0)] > s[0])

    def pull(inside: _Inside) -> _Inside:
        j = inside.j

        def sample(state: State, varying: list[Array], y1: Array, stages: Array, at: Array) -> Array:
            return integrator.sample(s, state, y1, stages, at, Parameters(varying, p.constant))[0]

        _, adjoint_of_sample = jax.vjp(sample, state, p.varying, y1, stages, samples[j])
        *of_step, at_bar = adjoint_of_sample(bars.samples[j])
        state_bar, varying_bar, y1_bar, stages_bar = _sum(list(inside[:4]), of_step)
        return _Inside(state_bar, varying_bar, y1_bar, stages_bar, j - 1, inside.s.at[j].set(at_bar))

    return while_rarely(is_inside, pull, inside)


def finish_at_start(integrator: Integrator, y0: Array, p: Parameters, s: Array, bars: Bars, lam: Sweep) -> Gradient:
    """The gradient from the adjoint at s = 0: the first slope and the samples at the start come from y0."""

    def first_slope(y0: Array, varying: list[Array]) -> Array:
        return integrator.field(jnp.zeros_like(y0[0]), y0, Parameters(varying, p.constant))

    at_start = pull_start(integrator, y0, p, s, bars)
    _, adjoint_of_slope = jax.vjp(first_slope, y0, p.varying)
    y0_bar, varying_bar = adjoint_of_slope(lam.state.slope)
    along_steps = Gradient(lam.state.y, lam.varying, lam.s)
    from_slope = Gradient(y0_bar, varying_bar, jnp.zeros_like(s))
    return _sum(along_steps, from_slope, at_start)


def pull_start(integrator: Integrator, y0: Array, p: Parameters, s: Array, bars: Bars) -> Gradient:
    """What the samples at s = 0 give."""
    if s.size == 0:
        return Gradient(jnp.zeros_like(y0), [jnp.zeros_like(v) for v in p.varying], s)
    is_first = s <= 0

    def samples(y0: Array, varying: list[Array], s: Array) -> Array:
        here = Parameters(varying, p.constant)
        return jax.vmap(lambda s: integrator.at_start(y0, s, here))(jnp.where(is_first, s, 0))

    _, adjoint_of_samples = jax.vjp(samples, y0, p.varying, s)
    return Gradient(*adjoint_of_samples(is_first[:, None] * bars.samples))
