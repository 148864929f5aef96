"""The contest with constraints: every solver on every problem that it can state.

With it goes what is to be said of where a run ended. **Solved**: f is within 1e-6 of the published
optimum, relative to the scale of `verdicts.scale`, or within the published digits, and no violation
is above 1e-6. **Other point**: not solved, but the conditions of Karush, Kuhn and Tucker hold
there, to 1e-5 of |f'|: nothing to first order tells it from the optimum, so that a local method may
end there and say so.
"""

import importlib.util
import time
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
import scipy.optimize

from benchmarks.contest import Say, summary
from benchmarks.optimize.constrained_cases import ConstrainedCase
from benchmarks.optimize.constrained_solvers import (
    ASYMPTOTES,
    CONSTRAINED_SOLVERS,
    DEFAULT,
    NLOPT,
    ConstrainedFunctions,
    ConstrainedSolver,
    Evaluation,
)
from benchmarks.optimize.designs import designs
from benchmarks.optimize.hock_schittkowski import EQUATIONS, INEQUALITIES
from benchmarks.optimize.solvers import ADJOINT, Limits, Outcome
from benchmarks.optimize.tables import FALSE, MISSED, SOLVED, UNSOLVED, Rows
from benchmarks.optimize.verdicts import TOLERANCE, scale
from benchmarks.report import Bar, Spread, Table, duration

VIOLATION = 1e-6
STATIONARY = 1e-5
ACTIVE = 1e-6
OTHER = "other point"
# What was promised: unsolved of thirty by default, and by MMA of the seventeen with inequalities
# only; and its evaluations, median.
THIRTY = 30
UNSOLVED_BY_DEFAULT = 1
SEVENTEEN = 17
UNSOLVED_BY_MMA = 1
MMA_MEDIAN = 15.0


def constrained_cases() -> dict[str, ConstrainedCase]:
    """All thirty by name: those with equations first, then those with inequalities only."""
    return {case.name: case for case in (*EQUATIONS, *INEQUALITIES, *designs())}


def constrained_rows(names: Sequence[str] | None, limits: Limits, say: Say) -> list[dict[str, Any]]:
    """All solvers on the problems of these names, or on all."""
    library = constrained_cases()
    solvers = [
        s
        for s in CONSTRAINED_SOLVERS
        if s.library != NLOPT or importlib.util.find_spec("nlopt") is not None
    ]
    found: list[dict[str, Any]] = []
    for name in names or tuple(library):
        case = library[name]
        functions = ConstrainedFunctions(case)
        able = [s for s in solvers if case.equality is None or not s.inequalities_only]
        rows = [_row(case, solver, functions, limits) for solver in able]
        failed = [row["solver"] for row in rows if not row["solved"]]
        say(
            f"{name}, n = {case.n}: "
            + (f"not solved by {', '.join(failed)}" if failed else "solved by all")
        )
        found += rows
        jax.clear_caches()
    return found


def _row(
    case: ConstrainedCase,
    solver: ConstrainedSolver,
    functions: ConstrainedFunctions,
    limits: Limits,
) -> dict[str, Any]:
    row: dict[str, Any] = {
        "problem": case.name,
        "n": case.n,
        "solver": solver.name,
        "library": solver.library,
    }
    row["equations"] = case.equality is not None
    began = time.perf_counter()
    try:
        outcome = solver.solve(case, functions, limits)
    except Exception as error:
        # A peer may fail in any way, and that is a result; ours may not.
        if solver.library == ADJOINT:
            raise
        outcome = Outcome(case.start, False, summary(error), 0)
    seconds = time.perf_counter() - began
    row |= {
        "claims": outcome.claims,
        "status": outcome.status,
        "evaluations": outcome.evaluations,
        "seconds": seconds,
    }
    return row | judged(case, functions(outcome.x), functions(case.start).value)


def judged(case: ConstrainedCase, end: Evaluation, start_value: float) -> dict[str, Any]:
    """What is to be said of the point where a run ended."""
    outside = np.concatenate(
        [case.lower - end.x, end.x - case.upper, end.inequalities, np.abs(end.equations)]
    )
    violation = (
        float(np.max(outside, initial=0.0)) if np.all(np.isfinite(end.inequalities)) else np.inf
    )
    gap = end.value - case.value if np.isfinite(end.value) else np.inf
    allowed = max(TOLERANCE * scale(case.value, start_value), case.digits)
    within = violation <= VIOLATION
    return {
        "value": end.value,
        "gap": gap,
        "violation": violation,
        "solved": bool(within and gap <= allowed),
        "below": bool(within and gap < -allowed),
        "stationary": bool(within and residual(case, end) <= STATIONARY),
    }


def residual(case: ConstrainedCase, end: Evaluation) -> float:
    """What the best multipliers leave of f', as a share of it.

    Those of inequalities and bounds that are active are not negative.

    Source: J. Nocedal, S. J. Wright, Numerical Optimization, 2nd ed., Springer (2006), theorem
    12.1.
    """
    size = np.linalg.norm(end.derivative)
    if not np.isfinite(size) or size == 0:
        return 0.0 if size == 0 else np.inf
    active = end.inequalities >= -ACTIVE
    unit = np.eye(end.x.size)
    near = ACTIVE * np.maximum(np.abs(end.x), 1)
    columns = [
        end.equations_jacobian,
        end.inequalities_jacobian[active],
        -unit[end.x - case.lower <= near],
        unit[case.upper - end.x <= near],
    ]
    matrix = np.concatenate(columns).T
    if matrix.shape[1] == 0:
        return 1.0
    lengths = np.linalg.norm(matrix, axis=0)
    least = np.where(np.arange(matrix.shape[1]) < len(end.equations), -np.inf, 0.0)
    found = scipy.optimize.lsq_linear(
        matrix / np.where(lengths > 0, lengths, 1), -end.derivative, (least, np.inf)
    )
    return float(np.sqrt(2 * found.cost) / size)


def constrained_verdict(row: dict[str, Any]) -> str:
    """SOLVED, MISSED, OTHER, FALSE or UNSOLVED (and said so)."""
    if row["solved"]:
        return SOLVED if row["claims"] else MISSED
    if not row["claims"]:
        return UNSOLVED
    return OTHER if row["stationary"] else FALSE


def constrained_wrong(rows: Rows) -> bool:
    """Whether a method of this library called a success what is none."""
    return any(constrained_verdict(row) == FALSE for row in rows if row["library"] == ADJOINT)


def constrained_bars(rows: Rows) -> list[Bar]:
    """Solved by default and by MMA, its evaluations, and honesty."""
    mine = [row for row in rows if row["solver"] == ASYMPTOTES]
    counts = [row["evaluations"] for row in mine if row["solved"]]
    false = sum(constrained_verdict(row) == FALSE for row in rows if row["library"] == ADJOINT)
    return [
        _unsolved(rows, DEFAULT, THIRTY, UNSOLVED_BY_DEFAULT),
        _unsolved(rows, ASYMPTOTES, SEVENTEEN, UNSOLVED_BY_MMA),
        Bar(
            "evaluations where MMA solves, with constraints, median",
            Spread.of(counts) if counts else None,
            MMA_MEDIAN,
        ),
        Bar("false successes with constraints, all of our methods together", Spread.of([false]), 0),
    ]


def _unsolved(rows: Rows, solver: str, of: int, limit: int) -> Bar:
    mine = [row for row in rows if row["solver"] == solver]
    promise = (
        f"with constraints not solved by {solver}, of {of} (measured on {len(mine)}, in proportion)"
    )
    failed = [row for row in mine if constrained_verdict(row) != SOLVED]
    note = (
        f"{solver} with constraints: not solved are "
        f"{', '.join(row['problem'] for row in failed) or 'none'}"
    )
    return Bar(promise, Spread.of([of * len(failed) / len(mine)]) if mine else None, limit, note)


def constrained_tables(rows: Rows) -> list[Table]:
    """The solvers, and every run that missed its problem or ended below the published optimum."""
    names = list(dict.fromkeys(row["solver"] for row in rows))
    verdicts = (FALSE, MISSED, OTHER)
    lines = []
    for name in names:
        mine = [row for row in rows if row["solver"] == name]
        solved = [row for row in mine if row["solved"]]
        said = [constrained_verdict(row) for row in mine]
        median = f"{np.median([row['evaluations'] for row in solved]):.0f}" if solved else "-"
        seconds = duration(float(np.median([row["seconds"] for row in mine])))
        total = str(sum(row["evaluations"] for row in mine))
        counts = [str(said.count(verdict)) for verdict in verdicts]
        lines.append([name, f"{len(solved)} of {len(mine)}", *counts, median, total, seconds])
    header = ["solver", "solved", *verdicts, "evaluations", "in total", "time with compiling"]
    count = len({row["problem"] for row in rows})
    legend = (
        "solved: within 1e-6 of the published optimum and violations at most 1e-6. other point: "
        "the conditions of Karush, Kuhn and "
        "Tucker hold there, which is no false success. An evaluation is f and all constraints with "
        "derivatives at one point.",
    )
    ends = [_end(row) for row in rows if constrained_verdict(row) != SOLVED or row["below"]]
    columns = [
        "problem",
        "n",
        "solver",
        "verdict",
        "f - published",
        "violation",
        "status",
        "evaluations",
    ]
    return [
        Table(f"With constraints, {count} problems", header, lines, legend),
        Table("Where they end", columns, ends),
    ]


def _end(row: dict[str, Any]) -> list[str]:
    said = constrained_verdict(row) + (", below the published optimum" if row["below"] else "")
    numbers = [f"{float(row['gap']):.1e}", f"{float(row['violation']):.1e}"]
    return [
        row["problem"],
        str(row["n"]),
        row["solver"],
        said,
        *numbers,
        row["status"][:60],
        str(row["evaluations"]),
    ]
