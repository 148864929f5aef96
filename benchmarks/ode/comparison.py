"""The benchmark ``ode``: what is measured, what was promised, and what the report shows."""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.answers import GRADIENT
from benchmarks.case_tables import gradient_ratio, why_not
from benchmarks.contest import Row, Say, as_record
from benchmarks.harness import Plan, Spread, ratio
from benchmarks.ode.cases import PROBLEMS
from benchmarks.ode.contest import COMPILE, contest, precision_sweep
from benchmarks.ode.reference import NOISE_FLOOR
from benchmarks.ode.solvers import (
    CASADI,
    DIFFRAX_DEFAULT,
    DIFFRAX_TUNED,
    ODEINT,
    OUR_DEFAULT,
    PEERS,
    SOLVERS,
    TWO_LEVELS,
)
from benchmarks.ode.tables import case_tables, sweep_table
from benchmarks.report import Bar, Table, duration, size

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["FULL", "PEERS", "QUICK", "SUMMARY", "bars", "figures", "ours_wrong", "run", "tables"]

SUMMARY = "Value and gradient of a misfit through y' = f(t, y, p)"


@dataclass(frozen=True)
class OdePlan(Plan):
    """How much to measure of what; sizes are numbers of states, and each problem has one.

    Attributes
    ----------
    problems
        In the order of measuring.
    solvers
        Who takes part.
    compilations
        How often the two that are compared for it are compiled, where something was promised of
        that.
    swept, tolerances
        The problems whose errors are measured over time, and the relative tolerances.
    """

    problems: tuple[str, ...]
    solvers: tuple[str, ...]
    compilations: int
    swept: tuple[str, ...]
    tolerances: tuple[float, ...]


FULL = OdePlan(
    sizes=(2, 3, 4, 160, 512),
    seconds=1.0,
    limit=30.0,
    repetitions=(3, 50),
    own_process_from=160,
    problems=tuple(PROBLEMS),
    solvers=tuple(solver.name for solver in SOLVERS),
    compilations=3,
    swept=("Lotka-Volterra", "Robertson"),
    tolerances=tuple(10.0**-k for k in range(4, 11)),
)
QUICK = OdePlan(
    sizes=FULL.sizes,
    seconds=0.3,
    limit=5.0,
    repetitions=(3, 10),
    own_process_from=float("inf"),
    problems=("Lotka-Volterra", "Robertson", "long neural ODE"),
    solvers=(
        OUR_DEFAULT,
        "adjoint DiscreteAdjoint",
        DIFFRAX_DEFAULT,
        DIFFRAX_TUNED,
        ODEINT,
        CASADI,
    ),
    compilations=1,
    swept=("Lotka-Volterra",),
    tolerances=(1e-4, 1e-7, 1e-10),
)

# What was promised, and of which problems.
FASTER_IN = ("Lotka-Volterra", "Robertson", "long neural ODE")
SHARE_OF_TIME = 0.5
SHARE_OF_COMPILING = 0.5
TIMES_THE_SOLVE = 4.0
TIMES_A_STIFF_SOLVE = 6.0
# Where thousands of steps of many states could be stored.
MEMORY_MATTERS_IN = ("long neural ODE", "Brusselator, explicit")
STIFF = ("Robertson", "Brusselator, implicit")
# All states take 10 MiB, 128 of them 0.3 MiB; a call of a few states makes a process grow by 1 to 3
# MiB.
MEMORY_IN = "long neural ODE"
SHARE_OF_MEMORY = 1 / 3
STORE_ALL = "adjoint DiscreteAdjoint"
BOUNDED = f"adjoint DiscreteAdjoint, {TWO_LEVELS} checkpoints"


def run(plan: OdePlan, say: Say) -> dict[str, Any]:
    """Measure every problem at one tolerance, then some at several."""
    rows: list[Row] = []
    for problem in plan.problems:
        case = PROBLEMS[problem]()
        if case.n not in plan.sizes:
            continue
        solvers = [
            solver
            for solver in SOLVERS
            if solver.name in plan.solvers and problem in solver.problems
        ]
        own = plan if problem in MEMORY_MATTERS_IN else replace(plan, own_process_from=float("inf"))
        rows += contest(case, solvers, own, plan.compilations if problem in FASTER_IN else 0, say)
    measured = {row.problem for row in rows}
    sweeps = [
        precision_sweep(problem, plan.tolerances, plan, say)
        for problem in plan.swept
        if problem in measured
    ]
    return {"rows": as_record(rows), "sweep": [point for sweep in sweeps for point in sweep]}


def ours_wrong(record: dict[str, Any]) -> bool:
    """Whether a gradient of this library was wrong, but for those of steps that were asked for."""
    return any(
        row["outcome"] == "WRONG" and not row["solver"].startswith(STORE_ALL)
        for row in record["rows"]
        if row["ours"]
    )


def bars(record: dict[str, Any]) -> list[Bar]:
    """Promises: time, compilation, error by diffrax's default, time by the solve's; and memory."""
    problems = {
        problem: {row["solver"]: row for row in record["rows"] if row["problem"] == problem}
        for problem in PROBLEMS
    }
    problems = {problem: rows for problem, rows in problems.items() if rows}
    fast = [problem for problem in problems if problem in FASTER_IN]
    return [
        *(
            _against_diffrax(problem, problems[problem], GRADIENT, SHARE_OF_TIME)
            for problem in fast
        ),
        *(
            _against_diffrax(problem, problems[problem], COMPILE, SHARE_OF_COMPILING)
            for problem in fast
        ),
        *(_error_bar(problem, rows) for problem, rows in problems.items()),
        *(_overhead_bar(problem, rows) for problem, rows in problems.items()),
        *(_memory_bar(rows) for problem, rows in problems.items() if problem == MEMORY_IN),
    ]


def _against_diffrax(problem: str, rows: dict[str, Any], measure: str, limit: float) -> Bar:
    promise = f"{measure}, {problem}: default / diffrax's default"
    ours, theirs = (rows[name]["seconds"].get(measure) for name in (OUR_DEFAULT, DIFFRAX_DEFAULT))
    if not ours or not theirs:
        return Bar(promise, None, limit, _not_measured(problem, rows))
    rounds = min(len(ours), len(theirs))
    times = {
        name: row["seconds"][measure] for name, row in rows.items() if row["seconds"].get(measure)
    }
    note = f"{measure}, {problem}: " + ", ".join(
        f"{name} {duration(float(np.median(t)))}" for name, t in times.items()
    )
    return Bar(promise, ratio(ours[:rounds], theirs[:rounds]), limit, note)


def _error_bar(problem: str, rows: dict[str, Any]) -> Bar:
    """What is below the noise floor counts as that."""
    promise = f"error of the gradient, {problem}: default / diffrax's default"
    ours, theirs = (rows[name]["errors"].get(GRADIENT) for name in (OUR_DEFAULT, DIFFRAX_DEFAULT))
    if ours is None or theirs is None:
        return Bar(promise, None, 1.0, _not_measured(problem, rows))
    measured = Spread.of([max(float(ours), NOISE_FLOOR) / max(float(theirs), NOISE_FLOOR)])
    errors = {
        name: row["errors"][GRADIENT] for name, row in rows.items() if GRADIENT in row["errors"]
    }
    note = f"errors, {problem}: " + ", ".join(
        f"{name} {float(error):.1e}" for name, error in errors.items()
    )
    return Bar(promise, measured, 1.0, note)


def _overhead_bar(problem: str, rows: dict[str, Any]) -> Bar:
    limit = TIMES_A_STIFF_SOLVE if problem in STIFF else TIMES_THE_SOLVE
    promise = f"value and gradient / value, {problem}, default"
    measured = gradient_ratio(rows[OUR_DEFAULT])
    if measured is None:
        return Bar(promise, None, limit, _not_measured(problem, rows))
    ratios = {name: spread.median for name, row in rows.items() if (spread := gradient_ratio(row))}
    note = f"ratios, {problem}: " + ", ".join(
        f"{name} {median:.2f}" for name, median in ratios.items()
    )
    return Bar(promise, measured, limit, note)


def _memory_bar(rows: dict[str, Any]) -> Bar:
    promise = (
        f"memory, {MEMORY_IN}: DiscreteAdjoint with {TWO_LEVELS} checkpoints / with all states"
    )
    bounded, all_states = (
        rows[name]["peak_bytes"] if name in rows else None for name in (BOUNDED, STORE_ALL)
    )
    if bounded is None or not all_states:
        return Bar(
            promise,
            None,
            SHARE_OF_MEMORY,
            "not measured, memory: needs the processes of the full benchmark",
        )
    note = "memory: " + ", ".join(
        f"{name} {size(row['peak_bytes'])}" for name, row in rows.items() if row["peak_bytes"]
    )
    return Bar(promise, Spread.of([bounded / all_states]), SHARE_OF_MEMORY, note)


def _not_measured(problem: str, rows: dict[str, Any]) -> str:
    missing = [
        name for name in (OUR_DEFAULT, DIFFRAX_DEFAULT) if not rows[name]["seconds"].get(GRADIENT)
    ]
    reasons = ", ".join(f"{name}: {why_not(rows[name])}" for name in missing)
    return f"not measured, {problem}: {reasons or 'one of the two lacks this measure'}"


def tables(record: dict[str, Any]) -> list[Table]:
    """Times, ratios, memory and errors for each problem; errors over time."""
    return [*case_tables(record["rows"]), *sweep_table(record["sweep"])]


def figures(record: dict[str, Any]) -> dict[str, "Figure"]:
    """The plots, by name."""
    from benchmarks.ode.plots import precision_figure, times_figure

    found = {"time": times_figure(record["rows"])}
    return found | ({"precision": precision_figure(record["sweep"])} if record["sweep"] else {})
