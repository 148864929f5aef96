"""The contest's rows as tables, one for each problem, and the errors by tolerance as one."""

from dataclasses import replace
from typing import Any

from benchmarks.answers import GRADIENT, VALUE
from benchmarks.case_tables import gradient_ratio, time_text
from benchmarks.harness import Spread
from benchmarks.report import Table, duration, size

LEGEND = (
    "In all tables: median [lower quartile, upper quartile] of the repetitions, each on new "
    "values.",
    "ratio: value and gradient to value, the median of the ratios within the rounds.",
    "compile: of value and gradient, once, with nothing known from before; of CasADi building, of "
    "torchdiffeq nothing.",
    "memory: peak of the first value and gradient in a process of its own, beyond what that held "
    "before; where measured.",
    "error: of the gradient, relative in the 2-norm, by initial state and by parameters, the "
    "larger; against SciPy at 1e-12.",
)


def case_tables(rows: list[dict[str, Any]]) -> list[Table]:
    """Times, ratio, memory and error for each problem; the last table explains them."""
    problems = list(dict.fromkeys(row["problem"] for row in rows))
    found = [
        _case_table([row for row in rows if row["problem"] == problem]) for problem in problems
    ]
    return [*found[:-1], replace(found[-1], notes=[*found[-1].notes, *LEGEND])] if found else []


def _case_table(rows: list[dict[str, Any]]) -> Table:
    header = ["solver", VALUE, GRADIENT, "ratio", "compile", "memory", "error"]
    lines = []
    notes = []
    for row in rows:
        seconds = row["seconds"]
        if row["outcome"] != "measured":
            notes.append(f"{row['solver']}: {row['outcome']}: {row['reason']}")
        notes += [
            f"{row['solver']}: no {measure}: {reason}"
            for measure, reason in row["unsupported"].items()
        ]
        if not seconds:
            continue
        times = [
            time_text(Spread.of(seconds[measure]) if seconds.get(measure) else None)
            for measure in (VALUE, GRADIENT)
        ]
        spread = gradient_ratio(row)
        error = row["errors"].get(GRADIENT)
        wrong = " WRONG" if row["outcome"] == "WRONG" else ""
        lines.append(
            [
                row["solver"],
                *times,
                f"{spread.median:.2f}" if spread else "-",
                duration(row["compile_seconds"].get(GRADIENT)),
                size(row["peak_bytes"]),
                f"{float(error):.1e}{wrong}" if error is not None else "-",
            ]
        )
    return Table(
        f"{rows[0]['problem']}, {rows[0]['n']} states, {rows[0]['parameters']} parameters",
        header,
        lines,
        notes,
    )


def sweep_table(sweep: list[dict[str, Any]]) -> list[Table]:
    """Time and error of the gradient at each tolerance; a column for each solver."""
    tables = []
    for problem in dict.fromkeys(point["problem"] for point in sweep):
        points = {(p["solver"], float(p["rtol"])): p for p in sweep if p["problem"] == problem}
        solvers = list(dict.fromkeys(solver for solver, _ in points))
        tolerances = sorted({rtol for _, rtol in points}, reverse=True)
        lines = [
            [f"{rtol:.0e}", *(_cell(points.get((solver, rtol))) for solver in solvers)]
            for rtol in tolerances
        ]
        tables.append(
            Table(f"Error of the gradient and its time, {problem}", ["rtol", *solvers], lines)
        )
    return tables


def _cell(point: dict[str, Any] | None) -> str:
    if point is None:
        return "-"
    return f"{float(point['error']):.1e} in {duration(Spread.of(point['seconds']).median)}"
