"""Who has solved what, who claims what is not so, and what it has cost, as tables."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from benchmarks.optimize.solvers import ADJOINT
from benchmarks.report import Table, duration

SOLVED = "solved"
FALSE = "false success"
MISSED = "missed success"
UNSOLVED = "not solved"
SADDLE = "saddle"
LEGEND = (
    "solved: at most 1e-6 of the scale max(|f|, min(1, f(x0) - f)) above the lowest known minimum, "
    "or at another strict minimum. A "
    "minimum is where f'' is semidefinite and a Newton step promises no more; it is known when "
    "strict, or when two methods agree.",
    "false success: claimed and not solved. missed success: solved and not claimed. saddle: "
    "claimed where f' vanishes and f'' is "
    "indefinite, by a solver that never sees f'', and found by two libraries. Medians are over "
    "what each has solved.",
    "Tolerances: ours rtol = 1e-8; gradient tolerances of the peers min(1e-5, 1e-8 of the gradient "
    "at the start); optimistix 1e-8.",
    "time: of a run after compilation, in Python for ours and SciPy's, in one compiled loop for "
    "optimistix and optax. compile: "
    "the first run less the second; for SciPy that of f with f' (and f'').",
)

Rows = Sequence[dict[str, Any]]


def verdict(row: dict[str, Any]) -> str:
    """SOLVED, FALSE, MISSED, UNSOLVED (and said so), SADDLE, or "" without a reference.

    A SADDLE is what f' cannot tell from a minimum.
    """
    if row["solved"] is None:
        return ""
    if row["claims"]:
        unseen = row.get("saddle", False) and row["hessians"] == 0
        return SOLVED if row["solved"] else SADDLE if unseen else FALSE
    return MISSED if row["solved"] else UNSOLVED


def of_solver(rows: Rows, solver: str) -> list[dict[str, Any]]:
    """The rows of one solver on the problems that have a reference."""
    return [row for row in rows if row["solver"] == solver and row["solved"] is not None]


def solver_tables(rows: Rows) -> list[Table]:
    """The solvers, our failures, peers' false successes, and problems that count for nobody."""
    return [*_solvers(rows), _failures(rows), _peers_false(rows), _without_reference(rows)]


def _solvers(rows: Rows) -> list[Table]:
    header = [
        "solver",
        "solved",
        FALSE,
        MISSED,
        SADDLE,
        "evaluations",
        "in total",
        "Hessians",
        "products",
        "time",
        "compile",
    ]
    lines = [
        _line(solver, of_solver(rows, solver))
        for solver in dict.fromkeys(row["solver"] for row in rows)
    ]
    count = len({row["problem"] for row in rows if row["solved"] is not None})
    return [Table(f"Solvers, {count} problems", header, [line for line in lines if line], LEGEND)]


def _line(solver: str, rows: Rows) -> list[str]:
    solved = [row for row in rows if row["solved"]]
    if not rows:
        return []
    return [
        solver,
        f"{len(solved)} of {len(rows)}",
        str(sum(verdict(row) == FALSE for row in rows)),
        str(sum(verdict(row) == MISSED for row in rows)),
        str(sum(verdict(row) == SADDLE for row in rows)),
        _median(solved, "evaluations", "{:.0f}".format),
        str(sum(row["evaluations"] for row in rows)),
        _median(solved, "hessians", "{:.0f}".format),
        _median(solved, "products", "{:.0f}".format),
        _median(solved, "seconds", duration),
        _median(rows, "compile_seconds", duration),
    ]


def _median(rows: Rows, name: str, text: Callable[[float], str]) -> str:
    return text(float(np.median([row[name] for row in rows]))) if rows else "-"


def _failures(rows: Rows) -> Table:
    header = ["problem", "n", "solver", "verdict", "f - reference", "status", "evaluations"]
    lines = [
        [
            row["problem"],
            str(row["n"]),
            row["solver"],
            verdict(row),
            f"{float(row['gap']):.1e}",
            row["status"],
            str(row["evaluations"]),
        ]
        for row in rows
        if row["library"] == ADJOINT and verdict(row) in (FALSE, MISSED, UNSOLVED, SADDLE)
    ]
    return Table("Where ours fail", header, lines)


def _peers_false(rows: Rows) -> Table:
    found: dict[str, list[str]] = {}
    for row in rows:
        if row["library"] != ADJOINT and verdict(row) == FALSE:
            found.setdefault(row["solver"], []).append(row["problem"])
    return Table(
        "False successes of the peers",
        ["solver", "problems"],
        [[name, ", ".join(p)] for name, p in found.items()],
    )


def _without_reference(rows: Rows) -> Table:
    found: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        if row["solved"] is None:
            found.setdefault(row["problem"], []).append(row)
    lines = []
    for problem, runs in found.items():
        lowest = min(runs, key=lambda row: float(row["value"]))
        lines.append(
            [
                problem,
                str(lowest["n"]),
                f"{float(lowest['value']):.6g}",
                lowest["solver"],
                lowest["status"],
            ]
        )
    header = ["problem", "n", "lowest f", "found by", "status"]
    return Table("Problems without a known minimum: they count for nobody", header, lines)


def said(run: dict[str, Any]) -> str:
    """The verdict of a run with noise."""
    return verdict({"claims": run["claims"], "solved": run["reached"]})


def noise_table(runs: Rows, rows: Rows) -> Table:
    """Evaluations with noise beside those without."""
    without = {(row["problem"], row["solver"]): row["evaluations"] for row in rows}
    lines = [
        [
            run["problem"],
            str(run["n"]),
            run["solver"],
            str(without[run["problem"], run["solver"]]),
            str(run["evaluations"]),
            f"{float(run['gap']):.1e}",
            run["status"],
            said(run),
        ]
        for run in runs
    ]
    header = [
        "problem",
        "n",
        "solver",
        "evaluations without noise",
        "with",
        "f - minimum",
        "status",
        "verdict",
    ]
    notes = [
        "honest: success is claimed where the run ended within ten times the noise of the minimum, "
        "and nowhere else."
    ]
    return Table("Noise of 1e-6 in f", header, lines, notes)


def cold_start_table(found: Rows) -> Table:
    """The first call of a process, and the process in all."""
    lines = [
        [
            f"Rosenbrock, n = {entry['n']}",
            entry["method"],
            duration(float(np.median(entry["call"]))),
            duration(float(np.median(entry["process"]))),
        ]
        for entry in found
    ]
    return Table(
        "The first minimize of a process",
        ["problem", "method", "call", "process with imports"],
        lines,
    )


def many_starts_table(found: Rows) -> Table:
    """Time and share of success of many starts."""
    lines = [
        [
            entry["solver"],
            duration(float(np.median(entry["seconds"]))),
            f"{100 * entry['stationary']:.1f} %",
        ]
        for entry in found
    ]
    return Table(
        "1,000 starts of the 10-dimensional Rosenbrock function",
        ["solver", "time", "stationary"],
        lines,
    )
