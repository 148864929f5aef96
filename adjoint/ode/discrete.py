"""DiscreteAdjoint: the exact gradient of the steps taken, or of better ones if that is none."""

from dataclasses import dataclass

from jaxtyping import Array

from adjoint.ode.checkpoints import Schedule, require_checkpoints, sweep_back
from adjoint.ode.integrate import Outcome, Record, integrate
from adjoint.ode.integrator import Integrator, State
from adjoint.ode.repair import repaired
from adjoint.ode.step_adjoint import (
    AdjointState,
    Cotangents,
    Gradient,
    LinearizedStep,
    finish_at_start,
    start_of_sweep,
)
from adjoint.ode.vector_field import Parameters


@dataclass(frozen=True)
class DiscreteAdjoint:
    """The exact gradient of the discrete solve, by its steps in reverse.

    Parameters
    ----------
    checkpoints
        How many states may be stored at once. None: all of them where they fit into 64 MiB, else
        about 2 sqrt(max_steps) of them, each step being repeated once. A small number is kept by a
        binomial schedule, which repeats steps more often.

    Notes
    -----
    **Cost**: one more run of the steps with their transposes: value and gradient mostly in about 4
    times the solve, in 6 to 11 times where f is made of differences on a grid, or of a dozen sines;
    half as much again with few checkpoints. From 128 states stages of an implicit step are solved
    by the factors of the step, refined. The memory of the checkpoints.

    Steps that suit the solution may be too long for its derivatives: at rest, from zero, at an
    explicit solver's stability limit. An estimate of the error comes with the gradient, by the
    embedded weights, for y0 and each array of p as a whole. Above 100 rtol, and 30 times the error
    of the solution by the same estimate, the steps are made anew, to suit tangents too, then
    halved; what stays wrong by more than a tenth is NaN. Give numbers of very different influence
    as arrays of their own: what is small beside others of its array has only their digits. With
    equal steps (``steps``) the gradient is that of the steps, and nothing is repaired. Derivatives
    of the gradient have no estimate.

    Source: A. Griewank, A. Walther, Algorithm 799: revolve, ACM Trans. Math. Softw. 26, 2000.

    Examples
    --------
    >>> import jax, jax.numpy as jnp, adjoint
    >>> decay = lambda t, y, p: -p * y
    >>> g = lambda p: (
    ...     adjoint.ode_solve(
    ...         decay, jnp.array(1.0), p, 0.0, 1.0, sensitivity=adjoint.DiscreteAdjoint()
    ...     ).value
    ... )
    >>> round(float(jax.grad(g)(jnp.array(2.0))), 4)  # -exp(-2)
    -0.1353
    """

    checkpoints: int | None = None

    def __post_init__(self) -> None:
        require_checkpoints("DiscreteAdjoint", self.checkpoints)

    def forward(
        self, integrator: Integrator, y0: Array, p: Parameters, s: Array
    ) -> tuple[tuple[Array, Array, Outcome], Record]:
        """The solve, and what its gradient needs of it."""
        schedule = self._schedule(integrator, y0)
        y1, samples, record, outcome = integrate(integrator, y0, p, s, schedule.spacing)
        assert record is not None
        return (y1, samples, outcome), record

    def backward(
        self,
        integrator: Integrator,
        record: Record,
        y0: Array,
        p: Parameters,
        s: Array,
        bars: Cotangents,
    ) -> Gradient:
        """The gradient from the cotangents of what the solve returned."""
        schedule = self._schedule(integrator, y0)
        if integrator.steps is not None:
            return sweep(schedule, integrator, record, y0, p, s, bars)
        return repaired(schedule, integrator, record, y0, p, s, bars)

    def _schedule(self, integrator: Integrator, y0: Array) -> Schedule:
        return Schedule.of(self.checkpoints, integrator.most_steps, 2 * y0.size * y0.dtype.itemsize)


def sweep(
    schedule: Schedule,
    integrator: Integrator,
    record: Record,
    y0: Array,
    p: Parameters,
    s: Array,
    bars: Cotangents,
) -> Gradient:
    """The gradient of the steps, without an estimate of its error."""

    def advance(k: Array, state: State) -> State:
        step = integrator.step((record.grid[k], record.grid[k + 1]), state, p)
        return State(step.y, step.slope)

    def pull(k: Array, state: State, lam: AdjointState) -> AdjointState:
        step = LinearizedStep.of(
            integrator, (record.grid[k], record.grid[k + 1]), state, p, s, bars, lam
        )
        return step.pull(lam, *step.transposed(step.bars_of(lam)))

    lam = start_of_sweep(y0, p, s, bars.y1)
    lam = sweep_back(schedule, advance, pull, record.states, record.count, lam)
    return finish_at_start(integrator, y0, p, s, bars, lam)
