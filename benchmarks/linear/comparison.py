"""The benchmark ``linear``: what is measured, what was promised, and what the report shows."""

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from benchmarks.harness import Plan, Spread, ratio
from benchmarks.linear.beam import beam
from benchmarks.linear.cases import PROBLEMS
from benchmarks.linear.contest import ASSEMBLY, SWEEP_PARAMETERS, Row, Say, as_record, contest, parameter_sweep
from benchmarks.linear.solvers import GRADIENT, PEERS, PRODUCT, VALUE
from benchmarks.report import Bar, Table, duration, size

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["FULL", "PEERS", "QUICK", "SUMMARY", "bars", "figures", "ours_wrong", "run", "tables"]

SUMMARY = "Value, gradient and Hessian-vector product through A(p) x = b, and one MBB beam iteration"
FULL = Plan(
    sizes=(1_000, 10_000, 100_000, 300_000), seconds=4.0, limit=15.0, repetitions=(3, 25), own_process_from=5_000
)
QUICK = Plan(sizes=(1_000, 10_000), seconds=0.5, limit=2.0, repetitions=(3, 10), own_process_from=float("inf"))

# A 5 % bar needs more repetitions than a table does; a beam iteration is measured often enough to see its spread.
SWEEP_FACTOR, SWEEP_REPETITIONS, BEAM_REPETITIONS = 2.0, (7, 25), (8, 20)
# The parameters are swept at these sizes, where factorizing is neither nothing nor everything.
SWEEP_SIZES = (5_000, 200_000)


LEGEND = (
    "In all tables: median [lower quartile, upper quartile] of the repetitions, each on new values.",
    "Ratios are to the value: medians of the ratios within the rounds.",
    "compile: of value and gradient, once. error: the largest relative difference from SciPy's answer.",
    "memory: peak of the first value and gradient in a process of its own, beyond what that held before.",
)


def run(plan: Plan, say: Say) -> dict[str, Any]:
    """Measure everything: the contest, the sweep over the number of parameters, and the beam."""
    rows: list[Row] = []
    for n in plan.sizes:
        for problem in PROBLEMS:
            rows += contest(problem, n, plan, rows, say)
    sweep_plan = _more(plan, SWEEP_FACTOR, SWEEP_REPETITIONS)
    sweep = [
        row for n in plan.sizes if SWEEP_SIZES[0] <= n <= SWEEP_SIZES[1] for row in parameter_sweep(n, sweep_plan, say)
    ]
    return {"rows": as_record(rows), "sweep": sweep, "beam": beam(_more(plan, 1.0, BEAM_REPETITIONS), say)}


def _more(plan: Plan, factor: float, repetitions: tuple[int, int]) -> Plan:
    quick = plan.repetitions[1] < FULL.repetitions[1]
    repetitions = (plan.repetitions[0], repetitions[0]) if quick else repetitions
    return replace(plan, seconds=factor * plan.seconds, repetitions=repetitions)


def ours_wrong(record: dict[str, Any]) -> bool:
    """Whether a finite result of this library was wrong."""
    ours = [row for row in record["rows"] if row["ours"]] + [r for r in record["beam"] if r["library"] == "adjoint"]
    return any(row["outcome"] == "WRONG" for row in ours)


def bars(record: dict[str, Any]) -> list[Bar]:
    """The promises: the price of a gradient, its independence of the number of parameters, and a beam iteration."""
    return [*_gradient_bars(record["rows"]), *_parameter_bars(record["sweep"]), *_beam_bars(record["beam"])]


def gradient_limit(n: int) -> float | None:
    """What (value + gradient) / value may be at a size; sizes are rounded to whole grids, hence the margin."""
    return 1.05 if n >= 90_000 else 1.15 if n >= 9_000 else None


def _gradient_bars(rows: list[dict[str, Any]]) -> list[Bar]:
    found = []
    for row in rows:
        limit = gradient_limit(row["n"])
        if limit is None or not row["ours"] or "SparseDirect" not in row["solver"]:
            continue
        promise = f"(value + gradient) / value, {row['problem']}, n = {row['n']}, {row['solver']}"
        same = [r for r in rows if (r["problem"], r["n"]) == (row["problem"], row["n"]) and not r["ours"]]
        peers = [f"{r['solver']} {spread.median:.2f}" for r in same if (spread := gradient_ratio(r))]
        note = f"peers, {row['problem']}, n = {row['n']}: " + (", ".join(peers) or "none measured")
        if not gradient_ratio(row):
            note = f"not measured, {row['problem']}, n = {row['n']}, {row['solver']}: {_why_not(row)}"
        found.append(Bar(promise, gradient_ratio(row), limit, note))
    return found


def _why_not(row: dict[str, Any]) -> str:
    return row["unsupported"].get(GRADIENT) or f"{row['outcome']}: {row['reason']}"


def gradient_ratio(row: dict[str, Any]) -> Spread | None:
    """(value + gradient) / value within the rounds, where both were measured."""
    seconds = row["seconds"]
    return ratio(seconds[GRADIENT], seconds[VALUE]) if seconds.get(GRADIENT) and seconds.get(VALUE) else None


def beyond_assembly(row: dict[str, Any]) -> list[float]:
    """Seconds of value and gradient less those of assembling, repetition by repetition."""
    return [a - b for a, b in zip(row["seconds"][GRADIENT], row["seconds"][ASSEMBLY], strict=True)]


def _parameter_bars(sweep: list[dict[str, Any]]) -> list[Bar]:
    found = []
    for most in (row for row in sweep if row["parameters"] == max(SWEEP_PARAMETERS)):
        (fewest,) = (
            row
            for row in sweep
            if (row["n"], row["solver"]) == (most["n"], most["solver"]) and row["parameters"] == min(SWEEP_PARAMETERS)
        )
        rounds = min(len(beyond_assembly(most)), len(beyond_assembly(fewest)))
        measured = ratio(beyond_assembly(most)[:rounds], beyond_assembly(fewest)[:rounds])
        promise = f"{max(SWEEP_PARAMETERS):,} parameters / 1, beyond assembling, n = {most['n']}, {most['solver']}"
        found.append(Bar(promise, measured, 1.05))
    return found


def _beam_bars(rows: list[dict[str, Any]]) -> list[Bar]:
    found = []
    for ours in (row for row in rows if row["library"] == "adjoint"):
        promise = f"mbb_beam iteration at 300x100 / pyMOTO's, both with {ours['backend']}"
        theirs = [row for row in rows if row["library"] == "pyMOTO" and row["backend"] == ours["backend"]]
        if not theirs or not theirs[0]["seconds"] or not ours["seconds"]:
            found.append(
                Bar(
                    promise,
                    None,
                    1.0,
                    f"not measured, mbb_beam with {ours['backend']}: one of the two did not take part",
                )
            )
            continue
        rounds = min(len(ours["seconds"]), len(theirs[0]["seconds"]))
        measured = ratio(ours["seconds"][:rounds], theirs[0]["seconds"][:rounds])
        found.append(Bar(promise, measured, 1.0))
    return found


def tables(record: dict[str, Any]) -> list[Table]:
    """Times, ratios and memory for each system; the sweep; the beam."""
    cases = list(dict.fromkeys((row["problem"], row["n"]) for row in record["rows"]))
    found = [_case_table([r for r in record["rows"] if (r["problem"], r["n"]) == case]) for case in cases]
    found[-1] = replace(found[-1], notes=[*found[-1].notes, *LEGEND])
    if record["sweep"]:
        found.append(_sweep_table(record["sweep"]))
    return [*found, _beam_table(record["beam"])]


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
    lines, notes = [], []
    for row in rows:
        seconds = row["seconds"]
        if not seconds:
            notes.append(f"{row['solver']}: {row['outcome']}: {row['reason']}")
            continue
        spreads = {name: Spread.of(times) for name, times in seconds.items()}
        ratios = [_ratio_text(seconds, measure) for measure in (GRADIENT, PRODUCT)]
        times = [_time_text(spreads.get(measure)) for measure in (VALUE, GRADIENT, PRODUCT)]
        compile_time = duration(row["compile_seconds"].get(GRADIENT))
        worst = f"{max(row['errors'].values()):.0e}"
        lines.append([row["solver"], *times, *ratios, compile_time, size(row["peak_bytes"]), worst])
        notes += [f"{row['solver']}: no {measure}: {reason}" for measure, reason in row["unsupported"].items()]
    return Table(f"{rows[0]['problem']}, n = {rows[0]['n']}, {rows[0]['parameters']} parameters", header, lines, notes)


def _time_text(spread: Spread | None) -> str:
    if spread is None:
        return "-"
    unit, factor = ("s", 1.0) if spread.median >= 1 else ("ms", 1e3)
    numbers = [f"{factor * x:.3g}" for x in (spread.median, spread.lower_quartile, spread.upper_quartile)]
    return f"{numbers[0]} {unit} [{numbers[1]}, {numbers[2]}]"


def _ratio_text(seconds: dict[str, list[float]], measure: str) -> str:
    return f"{ratio(seconds[measure], seconds[VALUE]).median:.2f}" if seconds.get(measure) else "-"


def _sweep_table(sweep: list[dict[str, Any]]) -> Table:
    lines = []
    for row in sweep:
        beyond = Spread.of(beyond_assembly(row))
        times = [_time_text(Spread.of(row["seconds"][measure])) for measure in (GRADIENT, ASSEMBLY)]
        lines.append([row["solver"], str(row["n"]), f"{row['parameters']:,}", *times, _time_text(beyond)])
    header = ["solver", "n", "parameters", GRADIENT, ASSEMBLY, "beyond it"]
    return Table("Number of parameters, convection-diffusion", header, lines)


def _beam_table(rows: list[dict[str, Any]]) -> Table:
    lines, notes = [], []
    for row in rows:
        if not row["seconds"]:
            notes.append(f"{row['library']}, {row['backend']}: {row['outcome']}: {row['reason']}")
            continue
        spread = Spread.of(row["seconds"])
        first = f"{row['compliances'][0]:.6g}"
        lines.append(
            [row["library"], row["backend"], _time_text(spread), duration(spread.minimum), str(spread.count), first]
        )
    header = ["library", "solver", "seconds per iteration", "minimum", "iterations", "first compliance"]
    return Table("One MBB beam iteration, 300 x 100 elements", header, lines, notes)


def figures(record: dict[str, Any]) -> dict[str, "Figure"]:
    """The plots, by name."""
    from benchmarks.linear.plots import parameters_figure, ratio_figure, time_figure

    found = {"ratio": ratio_figure(record["rows"]), "time": time_figure(record["rows"])}
    if record["sweep"]:
        found["parameters"] = parameters_figure(record["sweep"])
    return found
