"""The half MBB beam, the benchmark of topology optimization: the stiffest from half the material.

    minimize   c(x) = f' u           the compliance: twice the energy that the load stores
    over       0 <= x <= 1           one density for each element
    subject to K(x) u = f            plane stress, E_e = E_min + x~_e^p (1 - E_min)
               mean of x~ <= the volume fraction

E_e is the modified SIMP of `problems.mbb_beam_analysis`.

The optimality criteria method (OC) is the published one. `adjoint.minimize` takes any other that
knows bounds and the volume constraint: MMA, or an augmented Lagrangian over LBFGS.

x~ are the physical densities: x itself with the sensitivity filter, a cone average of x with the
density filter. The derivative of c comes from `adjoint.linear_solve`, through assembly,
penalization and density filter, by automatic differentiation; nothing of it is written by hand.

The right half of the beam, by symmetry; units are lengths of one element, a Young's modulus and a
load of 1::

        load
         v
    ||o--+-------------------------+   o  rollers: the left edge is the plane of symmetry
    ||o  |                         |
    ||o--+-------------------------+
                                   ^   the lower right corner rests on a roller

Source: E. Andreassen, A. Clausen, M. Schevenels, B. S. Lazarov, O. Sigmund, Efficient topology
optimization in MATLAB using 88 lines of code, Struct. Multidisc. Optim. 43 (2011) 1-16. Its
published compliances at 60x20 elements and a filter radius of 2.4 are 216.81 with the sensitivity
filter and 233.71 with the density filter.
"""

import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

import adjoint
from adjoint.run.ending import Ending, Outcome
from adjoint.run.figures import Panel, convergence_png, density_png
from adjoint.run.record import Record
from adjoint.run.vtk import image_data
from problems.mbb_beam_analysis import analysis, compliance, cone_filter, displacement, filter_roles

SUMMARY = "The stiffest half MBB beam from a given amount of material (SIMP; OC, MMA or L-BFGS)."
# How `minimize` goes, and the share of the first gradient at which it stops if the change of the
# design has not stopped it before.
JUDGED = "Judged at random densities, on a beam of at most 60x20 elements."
METHODS: dict[str, tuple[Any, float]] = {
    "MMA": (adjoint.MMA(), 1e-6),
    "LBFGS": (adjoint.AugmentedLagrangian(adjoint.LBFGS()), 2e-3),
}
VOLUME_TOLERANCE = 1e-4  # of minimize, as a share of the volume that is allowed


def _setting(default: Any, help: str, **limits: Any) -> Any:
    return field(default=default, metadata={"help": help, **limits})


@dataclass(frozen=True)
class Settings:
    """What can be set, each with its meaning and its range in the metadata of the field."""

    nelx: int = _setting(60, "number of elements along the beam", minimum=1)
    nely: int = _setting(20, "number of elements over its height", minimum=1)
    volume_fraction: float = _setting(
        0.5, "part of the domain to fill with material", minimum=0.01, maximum=1.0
    )
    penalty: float = _setting(
        3.0, "SIMP exponent p: makes gray elements uneconomic", minimum=1.0, maximum=10.0
    )
    filter: str = _setting(
        "sensitivity", "what the cone average acts on", choices=("sensitivity", "density")
    )
    filter_radius: float = _setting(
        2.4, "radius of the filter, in elements; up to 1: no filter", minimum=0.1
    )
    method: str = _setting(
        "OC", "optimizer; the others than OC need filter=density", choices=("OC", *METHODS)
    )
    move: float = _setting(
        0.2, "largest change of a density in one iteration of OC", minimum=0.001, maximum=1.0
    )
    change_tolerance: float = _setting(
        0.01, "stop when no density changes by more", minimum=0.0, maximum=1.0
    )
    max_iterations: int = _setting(
        2000, "stop after this many iterations, converged or not", minimum=1
    )
    minimum_stiffness: float = _setting(
        1e-9, "Young's modulus of an empty element", minimum=1e-12, maximum=0.1
    )
    poisson_ratio: float = _setting(0.3, "Poisson's ratio", minimum=-0.9, maximum=0.49)

    def __post_init__(self) -> None:
        if self.method in METHODS and self.filter == "sensitivity":
            raise ValueError(
                f"method={self.method} needs filter=density: it minimizes, and what the "
                "sensitivity filter makes of the derivative "
                "is the gradient of no function"
            )


@dataclass(frozen=True)
class Iteration:
    """One design and what was found out about it.

    Attributes
    ----------
    iteration
        Its number, from 1.
    density
        Physical densities x~, of shape (nelx, nely): entry ``[i, j]`` is the i-th element from the
        left and the j-th from the bottom.
    compliance
        c of this density.
    volume
        Mean of this density.
    change
        Largest change of a design variable in the update that follows; the run has converged when
        it is at most ``change_tolerance``.
    seconds
        Wall time of the analysis, its derivative and the update; in the first iteration with
        compilation.
    status
        Of the linear solve; always a success, since a failure raises.
    following
        The state of OC after the update.
    """

    iteration: int
    density: Float[np.ndarray, "nelx nely"]
    compliance: float
    volume: float
    change: float
    seconds: float
    status: adjoint.Status
    following: adjoint.OCState


def design_iterations(
    settings: Settings, begin: adjoint.OCState | None = None, done: int = 0
) -> Iterator[Iteration]:
    """Optimize by OC until no design variable changes by more than ``change_tolerance``.

    It yields one design after the other. Goes on from the state after so many iterations as are
    done, or begins. The last iteration's ``change`` is above the tolerance when ``max_iterations``
    came first.

    Raises
    ------
    adjoint.SolveError
        When a linear solve fails.
    ValueError
        When ``settings.filter`` is not known.
    """
    cone = cone_filter(settings)
    method = adjoint.OC(move=settings.move)
    to_density, to_update = filter_roles(settings, cone)
    analyze = analysis(settings)

    @jax.jit
    def iterate(state: adjoint.OCState, volume_derivative: Array) -> Any:
        (c, (density, solution)), derivative = jax.value_and_grad(analyze, has_aux=True)(state.x)
        new = method.step(state, to_update(state.x, derivative), volume_derivative, volume_limit)
        return new, c, density, jnp.mean(density), solution

    x = jnp.full(cone.grid.elements, settings.volume_fraction)
    volume_limit = settings.volume_fraction * cone.grid.element_count
    # The filter is linear, so this holds for every x. The ones are an argument, since XLA would
    # fold a constant slowly.
    volume_derivative = jax.jit(lambda ones: jax.vjp(to_density, x)[1](ones)[0])(jnp.ones_like(x))
    state = method.init(x) if begin is None else begin
    for number in range(done + 1, settings.max_iterations + 1):
        if float(state.change) <= settings.change_tolerance:
            return
        start = time.perf_counter()
        state, c, density, volume, solution = jax.block_until_ready(
            iterate(state, volume_derivative)
        )
        seconds = time.perf_counter() - start
        adjoint.require(solution)
        change = float(state.change)
        yield Iteration(
            number,
            np.asarray(density),
            float(c),
            float(volume),
            change,
            seconds,
            solution.status,
            state,
        )


def verify(settings: Settings) -> adjoint.Verdict:
    """Check dc/dx by independent oracles, at seeded random densities between 0.2 and 1.

    The beam is cut to at most 60x20 elements, so that the many solves of the check take seconds:
    the derivative runs through the same functions at every size.
    """
    small = replace(settings, nelx=min(settings.nelx, 60), nely=min(settings.nely, 20))
    x = np.random.default_rng(0).uniform(0.2, 1.0, (small.nelx, small.nely))
    return adjoint.verify_gradient(jax.jit(compliance(small)), jnp.asarray(x))


def run(settings: Settings, record: Record) -> Ending:
    """Optimize, and leave the pictures and the state of the latest design, however it ends.

    Raises
    ------
    adjoint.SolveError
        When a linear solve fails.
    KeyboardInterrupt
        After the iteration in which Ctrl-C was pressed.
    OSError
        When a file cannot be written.
    """
    try:
        found = (
            _by_optimality_criteria(settings, record)
            if settings.method == "OC"
            else _by_minimize(settings, record)
        )
    finally:
        if record.state is not None:
            _leave(settings, record.state[-1], record)
    change = record.history.last.get("change", np.inf)
    words = (
        f"the largest change of a density is {change:.3g}, the tolerance "
        f"{settings.change_tolerance}{found.words}"
    )
    if found.converged or change <= settings.change_tolerance:
        return Ending(Outcome.DONE, f"Converged after {len(record.history)} iterations: {words}.")
    return Ending(
        Outcome.NOT_CONVERGED, f"Not converged after {len(record.history)} iterations: {words}."
    )


class _Found(NamedTuple):
    """What is known of the end of a run beside the last change of the design."""

    converged: bool
    words: str


def _by_optimality_criteria(settings: Settings, record: Record) -> _Found:
    state = None if record.state is None else adjoint.OCState(*map(jnp.asarray, record.state[:3]))
    for design in record.follow(design_iterations(settings, state, len(record.history))):
        _report(
            record,
            design.iteration,
            design.density,
            design.compliance,
            design.change,
            design.seconds,
        )
        record.keep([*map(np.asarray, design.following), design.density])
    return _Found(False, "")


def _by_minimize(settings: Settings, record: Record) -> _Found:
    """Each step is an iteration; its change is that of the step that led to it."""
    if record.history.last.get("change", np.inf) <= settings.change_tolerance:
        return _Found(True, "")
    (solution,) = record.follow(_minimized(settings, record))
    status = solution.status
    # The callback ends a run by the change of the design, and the status then does not tell more.
    said = "" if status == adjoint.Status.INTERRUPTED else f", the status {status.name}"
    return _Found(
        bool(status.ok), f", after {int(solution.stats['evaluations'])} evaluations{said}"
    )


def _minimized(settings: Settings, record: Record) -> Iterator[adjoint.Solution[Array]]:
    cone = cone_filter(settings)
    to_density = jax.jit(cone.density)
    method, rtol = METHODS[settings.method]
    start = jnp.full(cone.grid.elements, settings.volume_fraction)
    previous = np.asarray(start if record.state is None else record.state[0])
    clock = time.perf_counter()

    def seen(step: adjoint.Step) -> bool:
        nonlocal previous, clock
        if record.reported(step.iteration):
            return False
        density = np.asarray(to_density(step.x))
        change = float(np.max(np.abs(step.x - previous)))
        now = time.perf_counter()
        _report(record, step.iteration, density, step.value, change, now - clock)
        previous = step.x
        clock = now
        record.save([step.x, density])
        return change <= settings.change_tolerance

    yield adjoint.minimize(
        compliance(settings),
        start,
        method,
        bounds=(0.0, 1.0),
        inequality=lambda x: jnp.mean(cone.density(x)) / settings.volume_fraction - 1,
        rtol=rtol,
        constraint_tolerance=VOLUME_TOLERANCE,
        max_steps=settings.max_iterations,
        callback=seen,
        checkpoint=record.checkpoint(settings.method),
    )


def _report(
    record: Record,
    iteration: int,
    density: Float[np.ndarray, "nelx nely"],
    value: float,
    change: float,
    seconds: float,
) -> None:
    row = {
        "iteration": iteration,
        "compliance": value,
        "volume": float(np.mean(density)),
        "change": change,
        "seconds": seconds,
    }
    record.iteration(row, density, f"iteration {iteration}    compliance {value:.2f}")


def _leave(settings: Settings, density: Float[np.ndarray, "nelx nely"], record: Record) -> None:
    """The pictures and the VTK file of a design."""
    history = record.history
    record.picture(
        "density.png", density_png(density), "The density: black is solid, white is void."
    )
    record.picture("iterations.gif", record.film.gif(), "The density over the iterations.")
    panels = [
        Panel("compliance in F²/(E t)", history.column("compliance"), "log"),
        Panel(
            "largest change of a density",
            history.column("change"),
            "log",
            settings.change_tolerance,
            "tolerance",
        ),
    ]
    plot = convergence_png(
        history.column("iteration"), panels, f"MBB beam, {settings.nelx} x {settings.nely} elements"
    )
    record.picture(
        "convergence.png", plot, "Compliance and largest change of a density in each iteration."
    )
    state = image_data(
        density.shape,
        cell_data={"density": density},
        point_data={"displacement": displacement(settings, density)},
        spacing=(1.0, 1.0),
    )
    record.file(
        "state.vti", state, "density of the elements and displacement of the nodes, for ParaView"
    )
