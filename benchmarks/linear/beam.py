"""One iteration of the MBB beam, this library's against pyMOTO's.

It is assembly, solve, sensitivities, filter and update. Both optimize the same half beam at 300 x
100 elements from the same start: plane stress, SIMP with p = 3 and E_min = 1e-9, a density filter
of radius 2.4 and optimality criteria with a move limit of 0.2. pyMOTO (MIT license) is set up as in
its published compliance example, with the matrix declared symmetric positive definite.
"""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from benchmarks.harness import Competitor, Plan, time_by_turns
from benchmarks.linear.contest import Say
from benchmarks.machine import installed_version
from problems import mbb_beam

SETTINGS = mbb_beam.Settings(
    nelx=300, nely=100, filter="density", max_iterations=10_000, change_tolerance=0.0
)
# The start is the same design, so its compliance must be the same; the updates differ in their
# bisections.
AGREEMENT = 1e-6
ITERATION = "iteration"
# pyMOTO's direct solvers, by the name of the same backend here where there is one.
PYMOTO_SOLVERS = {
    "SuperLU": "SolverSparseLU",
    "PARDISO": "SolverSparsePardiso",
    "CHOLMOD by cvxopt": "SolverSparseCholeskyCVXOPT",
    "CHOLMOD by scikit-sparse": "SolverSparseCholeskyScikit",
}

# An optimization: each next() is one iteration and gives the compliance of the design that it began
# with.
Iterations = Iterator[float]


def beam(plan: Plan, say: Say) -> list[dict[str, Any]]:
    """Seconds per iteration of each, without compilation and set-up.

    A wrong compliance is reported, not timed.
    """
    say(
        f"mbb_beam, {SETTINGS.nelx} x {SETTINGS.nely} elements, density filter of radius "
        f"{SETTINGS.filter_radius}"
    )
    rows = []
    competitors = []
    first: float | None = None
    for library, backend, start in _entrants(say):
        row: dict[str, Any] = {
            "library": library,
            "backend": backend,
            "outcome": "measured",
            "reason": "",
        }
        iterations = start()
        # Two to warm up: the first compiles or sets up, and in the second every matrix is a new
        # one.
        row["compliances"] = [next(iterations), next(iterations)]
        first = row["compliances"][0] if first is None else first
        if abs(row["compliances"][0] - first) > AGREEMENT * abs(first):
            row["outcome"], row["reason"] = (
                "WRONG",
                f"compliance {row['compliances'][0]:.8g}, expected {first:.8g}",
            )
            say(f"  {library}, {backend}: {row['outcome']}: {row['reason']}")
        else:
            name = f"{library}, {backend}"
            calls = {ITERATION: _one_more(iterations, row["compliances"])}
            competitors.append(Competitor(name, lambda: None, calls))
        rows.append(row)
    seconds = time_by_turns(competitors, plan)
    for row in rows:
        row["seconds"] = seconds.get(f"{row['library']}, {row['backend']}", {}).get(ITERATION, [])
        if row["seconds"]:
            say(
                f"  {row['library']}, {row['backend']}: {np.median(row['seconds']):.4g} s per "
                "iteration"
            )
    return rows


def _one_more(iterations: Iterations, compliances: list[float]) -> Callable[[Any], None]:
    return lambda _: compliances.append(next(iterations))


def _entrants(say: Say) -> Iterator[tuple[str, str, Callable[[], Iterations]]]:
    yield "adjoint", "SuperLU", lambda: _ours("SuperLU")
    if installed_version("pypardiso"):
        yield "adjoint", "PARDISO", lambda: _ours("PARDISO")
    else:
        say("  adjoint, PARDISO: skipped: the package pypardiso is not installed")
    if not installed_version("pymoto"):
        say("  pyMOTO: skipped: the package pymoto is not installed")
        return
    import pymoto  # pyright: ignore[reportMissingImports]

    for backend, name in PYMOTO_SOLVERS.items():
        solver = getattr(pymoto.solvers, name)
        if solver.defined:
            yield "pyMOTO", backend, lambda solver=solver: _theirs(solver())
        else:
            say(f"  pyMOTO, {backend}: skipped: {name} finds no library")


def _ours(backend: str) -> Iterations:
    """`problems.mbb_beam` as it is.

    It takes PARDISO where it finds it, so for SuperLU it must not find it.
    """
    designs = mbb_beam.design_iterations(SETTINGS)
    with _hidden("pypardiso", backend == "SuperLU"):
        first = next(designs)  # the backend is chosen when the iteration is compiled
    yield first.compliance
    for design in designs:
        yield design.compliance


@contextmanager
def _hidden(package: str, hide: bool) -> Iterator[None]:
    """Hide a package from Python by None in `sys.modules`, as the import system documents it."""
    held = sys.modules.get(package)
    if hide:
        sys.modules[package] = None  # pyright: ignore[reportArgumentType]
    try:
        yield
    finally:
        if hide:
            del sys.modules[package]
            if held is not None:
                sys.modules[package] = held


def _theirs(solver: Any) -> Iterations:
    import pymoto  # pyright: ignore[reportMissingImports]

    domain: Any = pymoto.VoxelDomain(SETTINGS.nelx, SETTINGS.nely)
    rollers = domain.get_dofnumber(domain.nodes[0, :].ravel(), 0, ndof=2).ravel()
    corner = domain.get_dofnumber(domain.nodes[-1, 0].ravel(), 1, ndof=2).ravel()
    load = np.zeros(2 * domain.nnodes)
    load[domain.get_dofnumber(domain.nodes[0, -1].ravel(), 1, ndof=2).ravel()] = -1.0
    x = pymoto.Signal("x", state=np.full(domain.nel, SETTINGS.volume_fraction))
    smallest = SETTINGS.minimum_stiffness
    with pymoto.Network() as network:
        density = pymoto.DensityFilter(domain, radius=SETTINGS.filter_radius)(x)
        modulus = pymoto.MathExpression(f"{smallest} + {1 - smallest}*inp0^{SETTINGS.penalty:g}")(
            density
        )
        fixed = np.concatenate([rollers, corner])
        assembly = pymoto.AssembleStiffness(
            domain, bc=fixed, poisson_ratio=SETTINGS.poisson_ratio, plane="stress"
        )
        displacement = pymoto.LinSolve(symmetric=True, positive_definite=True, solver=solver)(
            assembly(modulus), load
        )
        compliance = pymoto.EinSum("i,i->")(displacement, load)
        scaled = pymoto.Scaling(scaling=100.0)(compliance)
    method = pymoto.OC(
        [x], scaled, network, move=SETTINGS.move, maxvol=SETTINGS.volume_fraction, verbosity=0
    )
    while True:
        new, _, _ = method.step()
        value = float(compliance.state)
        method.x = new
        yield value
