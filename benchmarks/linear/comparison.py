"""The benchmark ``linear``: what is measured, what was promised, and what the report shows."""

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from benchmarks.answers import GRADIENT
from benchmarks.case_tables import case_tables, gradient_ratio, time_text, why_not
from benchmarks.contest import Row, Say, as_record, contest
from benchmarks.harness import Plan, Spread, ratio
from benchmarks.linear.beam import beam
from benchmarks.linear.cases import PROBLEMS
from benchmarks.linear.contest import ASSEMBLY, SWEEP_PARAMETERS, field, parameter_sweep
from benchmarks.linear.solvers import PEERS
from benchmarks.linear.targets import beyond_assembly, gradient_limit
from benchmarks.report import Bar, Table, duration

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["FULL", "PEERS", "QUICK", "SUMMARY", "bars", "figures", "ours_wrong", "run", "tables"]

SUMMARY = (
    "Value, gradient and Hessian-vector product through A(p) x = b, and one MBB beam iteration"
)
FULL = Plan(
    sizes=(1_000, 10_000, 100_000, 300_000),
    seconds=4.0,
    limit=15.0,
    repetitions=(3, 25),
    own_process_from=5_000,
)
QUICK = Plan(
    sizes=(1_000, 10_000),
    seconds=0.5,
    limit=2.0,
    repetitions=(3, 10),
    own_process_from=float("inf"),
)

# A 5 % bar needs more repetitions than a table does; a beam iteration is measured often enough to
# see its spread.
SWEEP_FACTOR = 2.0
SWEEP_REPETITIONS = (7, 25)
BEAM_REPETITIONS = (8, 20)
# The parameters are swept at these sizes, where factorizing is neither nothing nor everything.
SWEEP_SIZES = (5_000, 200_000)


def run(plan: Plan, say: Say) -> dict[str, Any]:
    """Measure everything: the contest, the sweep over the number of parameters, and the beam."""
    rows: list[Row] = []
    for n in plan.sizes:
        for problem in PROBLEMS:
            rows += contest(field(), problem, n, plan, rows, say)
    sweep_plan = _more(plan, SWEEP_FACTOR, SWEEP_REPETITIONS)
    sweep = [
        row
        for n in plan.sizes
        if SWEEP_SIZES[0] <= n <= SWEEP_SIZES[1]
        for row in parameter_sweep(n, sweep_plan, say)
    ]
    return {
        "rows": as_record(rows),
        "sweep": sweep,
        "beam": beam(_more(plan, 1.0, BEAM_REPETITIONS), say),
    }


def _more(plan: Plan, factor: float, repetitions: tuple[int, int]) -> Plan:
    quick = plan.repetitions[1] < FULL.repetitions[1]
    repetitions = (plan.repetitions[0], repetitions[0]) if quick else repetitions
    return replace(plan, seconds=factor * plan.seconds, repetitions=repetitions)


def ours_wrong(record: dict[str, Any]) -> bool:
    """Whether a finite result of this library was wrong."""
    ours = [row for row in record["rows"] if row["ours"]] + [
        r for r in record["beam"] if r["library"] == "adjoint"
    ]
    return any(row["outcome"] == "WRONG" for row in ours)


def bars(record: dict[str, Any]) -> list[Bar]:
    """The promises: a gradient's price, for any number of parameters, and a beam iteration."""
    return [
        *_gradient_bars(record["rows"]),
        *_parameter_bars(record["sweep"]),
        *_beam_bars(record["beam"]),
    ]


def _gradient_bars(rows: list[dict[str, Any]]) -> list[Bar]:
    found = []
    for row in rows:
        limit = gradient_limit(row["n"])
        if limit is None or not row["ours"] or "SparseDirect" not in row["solver"]:
            continue
        promise = f"(value + gradient) / value, {row['problem']}, n = {row['n']}, {row['solver']}"
        same = [
            r
            for r in rows
            if (r["problem"], r["n"]) == (row["problem"], row["n"]) and not r["ours"]
        ]
        peers = [
            f"{r['solver']} {spread.median:.2f}" for r in same if (spread := gradient_ratio(r))
        ]
        note = f"peers, {row['problem']}, n = {row['n']}: " + (", ".join(peers) or "none measured")
        if not gradient_ratio(row):
            note = (
                f"not measured, {row['problem']}, n = {row['n']}, {row['solver']}: {why_not(row)}"
            )
        found.append(Bar(promise, gradient_ratio(row), limit, note))
    return found


def _parameter_bars(sweep: list[dict[str, Any]]) -> list[Bar]:
    found = []
    for most in (row for row in sweep if row["parameters"] == max(SWEEP_PARAMETERS)):
        (fewest,) = (
            row
            for row in sweep
            if (row["n"], row["solver"]) == (most["n"], most["solver"])
            and row["parameters"] == min(SWEEP_PARAMETERS)
        )
        rounds = min(len(beyond_assembly(most)), len(beyond_assembly(fewest)))
        measured = ratio(beyond_assembly(most)[:rounds], beyond_assembly(fewest)[:rounds])
        promise = (
            f"{max(SWEEP_PARAMETERS):,} parameters / 1, beyond assembling, n = {most['n']}, "
            f"{most['solver']}"
        )
        found.append(Bar(promise, measured, 1.05))
    return found


def _beam_bars(rows: list[dict[str, Any]]) -> list[Bar]:
    found = []
    for ours in (row for row in rows if row["library"] == "adjoint"):
        promise = f"mbb_beam iteration at 300x100 / pyMOTO's, both with {ours['backend']}"
        theirs = [
            row for row in rows if row["library"] == "pyMOTO" and row["backend"] == ours["backend"]
        ]
        if not theirs or not theirs[0]["seconds"] or not ours["seconds"]:
            found.append(
                Bar(
                    promise,
                    None,
                    1.0,
                    f"not measured, mbb_beam with {ours['backend']}: one of the two did not take "
                    "part",
                )
            )
            continue
        rounds = min(len(ours["seconds"]), len(theirs[0]["seconds"]))
        measured = ratio(ours["seconds"][:rounds], theirs[0]["seconds"][:rounds])
        found.append(Bar(promise, measured, 1.0))
    return found


def tables(record: dict[str, Any]) -> list[Table]:
    """Times, ratios and memory for each system; the sweep; the beam."""
    found = case_tables(record["rows"])
    if record["sweep"]:
        found.append(_sweep_table(record["sweep"]))
    return [*found, _beam_table(record["beam"])]


def _sweep_table(sweep: list[dict[str, Any]]) -> Table:
    lines = []
    for row in sweep:
        beyond = Spread.of(beyond_assembly(row))
        times = [time_text(Spread.of(row["seconds"][measure])) for measure in (GRADIENT, ASSEMBLY)]
        lines.append(
            [row["solver"], str(row["n"]), f"{row['parameters']:,}", *times, time_text(beyond)]
        )
    header = ["solver", "n", "parameters", GRADIENT, ASSEMBLY, "beyond it"]
    return Table("Number of parameters, convection-diffusion", header, lines)


def _beam_table(rows: list[dict[str, Any]]) -> Table:
    lines = []
    notes = []
    for row in rows:
        if not row["seconds"]:
            notes.append(f"{row['library']}, {row['backend']}: {row['outcome']}: {row['reason']}")
            continue
        spread = Spread.of(row["seconds"])
        first = f"{row['compliances'][0]:.6g}"
        lines.append(
            [
                row["library"],
                row["backend"],
                time_text(spread),
                duration(spread.minimum),
                str(spread.count),
                first,
            ]
        )
    header = [
        "library",
        "solver",
        "seconds per iteration",
        "minimum",
        "iterations",
        "first compliance",
    ]
    return Table("One MBB beam iteration, 300 x 100 elements", header, lines, notes)


def figures(record: dict[str, Any]) -> dict[str, "Figure"]:
    """The plots, by name."""
    from benchmarks.linear.plots import parameters_figure, ratio_figure
    from benchmarks.plots import time_figure

    found = {"ratio": ratio_figure(record["rows"]), "time": time_figure(record["rows"])}
    if record["sweep"]:
        found["parameters"] = parameters_figure(record["sweep"])
    return found
