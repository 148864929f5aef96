"""The rows of a contest as tables, one for each system."""

from dataclasses import replace
from typing import Any

from benchmarks.answers import GRADIENT, PRODUCT, VALUE
from benchmarks.harness import Spread, ratio
from benchmarks.report import Table, duration, size

LEGEND = (
    "In all tables: median [lower quartile, upper quartile] of the repetitions, each on new "
    "values.",
    "Ratios are to the value: medians of the ratios within the rounds.",
    "compile: of value and gradient, once. error: the largest relative difference from SciPy's "
    "answer.",
    "memory: peak of the first value and gradient in a process of its own, beyond what that held "
    "before.",
)


def case_tables(rows: list[dict[str, Any]]) -> list[Table]:
    """Times, ratios, memory and errors for each system; the last table explains them."""
    cases = list(dict.fromkeys((row["problem"], row["n"]) for row in rows))
    found = [_case_table([r for r in rows if (r["problem"], r["n"]) == case]) for case in cases]
    found[-1] = replace(found[-1], notes=[*found[-1].notes, *LEGEND])
    return found


def gradient_ratio(row: dict[str, Any]) -> Spread | None:
    """(value + gradient) / value within the rounds, where both were measured."""
    seconds = row["seconds"]
    return (
        ratio(seconds[GRADIENT], seconds[VALUE])
        if seconds.get(GRADIENT) and seconds.get(VALUE)
        else None
    )


def why_not(row: dict[str, Any]) -> str:
    """Why there is no value and gradient."""
    return row["unsupported"].get(GRADIENT) or f"{row['outcome']}: {row['reason']}"


def _case_table(rows: list[dict[str, Any]]) -> Table:
    header = [
        "solver",
        VALUE,
        GRADIENT,
        "Hessian-v.",
        "gradient ratio",
        "Hessian-v. ratio",
        "compile",
        "memory",
        "error",
    ]
    lines = []
    notes = []
    for row in rows:
        seconds = row["seconds"]
        if not seconds:
            notes.append(f"{row['solver']}: {row['outcome']}: {row['reason']}")
            continue
        spreads = {name: Spread.of(times) for name, times in seconds.items()}
        ratios = [_ratio_text(seconds, measure) for measure in (GRADIENT, PRODUCT)]
        times = [time_text(spreads.get(measure)) for measure in (VALUE, GRADIENT, PRODUCT)]
        compile_time = duration(row["compile_seconds"].get(GRADIENT))
        worst = f"{max(row['errors'].values()):.0e}"
        lines.append([row["solver"], *times, *ratios, compile_time, size(row["peak_bytes"]), worst])
        notes += [
            f"{row['solver']}: no {measure}: {reason}"
            for measure, reason in row["unsupported"].items()
        ]
    return Table(
        f"{rows[0]['problem']}, n = {rows[0]['n']}, {rows[0]['parameters']} parameters",
        header,
        lines,
        notes,
    )


def time_text(spread: Spread | None) -> str:
    """Median and quartiles in one unit."""
    if spread is None:
        return "-"
    unit, factor = ("s", 1.0) if spread.median >= 1 else ("ms", 1e3)
    numbers = [
        f"{factor * x:.3g}" for x in (spread.median, spread.lower_quartile, spread.upper_quartile)
    ]
    return f"{numbers[0]} {unit} [{numbers[1]}, {numbers[2]}]"


def _ratio_text(seconds: dict[str, list[float]], measure: str) -> str:
    return (
        f"{ratio(seconds[measure], seconds[VALUE]).median:.2f}"
        if seconds.get(measure) and seconds.get(VALUE)
        else "-"
    )
