"""The benchmark ``optimize``: what is measured, what was promised, and what the report shows."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.contest import Say
from benchmarks.harness import Plan, Spread, ratio
from benchmarks.optimize.cases import LARGEST, cases
from benchmarks.optimize.cold_start import cold_starts
from benchmarks.optimize.constrained_contest import (
    constrained_bars,
    constrained_rows,
    constrained_tables,
    constrained_wrong,
)
from benchmarks.optimize.contest import contests
from benchmarks.optimize.many_starts import many_starts
from benchmarks.optimize.noise import ZERO_AT_MINIMUM, noise_runs
from benchmarks.optimize.peers import OPTIMISTIX_BFGS, PEER_SOLVERS, SCIPY_BFGS
from benchmarks.optimize.solvers import (
    BFGS,
    DEFAULT,
    KRYLOV,
    LBFGS,
    NEWTON,
    OURS,
    PEERS,
    STEEPEST,
    Limits,
)
from benchmarks.optimize.tables import (
    FALSE,
    MISSED,
    SOLVED,
    cold_start_table,
    many_starts_table,
    noise_table,
    of_solver,
    said,
    solver_tables,
    verdict,
)
from benchmarks.report import Bar, Table, duration
from benchmarks.results import FOLDER

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["FULL", "PEERS", "QUICK", "SUMMARY", "bars", "figures", "ours_wrong", "run", "tables"]

SUMMARY = "Minimization of CUTEst problems, and of problems with constraints"
SOLVERS = (*OURS, *PEER_SOLVERS)


@dataclass(frozen=True)
class OptimizePlan(Plan):
    """How much to measure of what; the largest of the sizes is the largest number of unknowns.

    Attributes
    ----------
    problems
        By name; None for all.
    solvers
        Who takes part.
    evaluations, steepest_evaluations
        Most of a run; steepest descent, which is there for show, has a limit of its own.
    noisy
        The problems that are also solved with noise, and `noisy_solvers` who does it.
    cold_starts
        How often a process is started for each of them.
    constrained
        The problems with constraints by name; None for all.
    kept
        The file beside the results that holds what is finished until the run is whole, so that an
        interrupted one goes on.
    """

    problems: tuple[str, ...] | None
    solvers: tuple[str, ...]
    evaluations: int
    steepest_evaluations: int
    noisy: tuple[str, ...]
    noisy_solvers: tuple[str, ...]
    cold_starts: int
    constrained: tuple[str, ...] | None
    kept: str


FULL = OptimizePlan(
    sizes=(LARGEST,),
    seconds=5.0,
    limit=20.0,
    repetitions=(5, 20),
    own_process_from=float("inf"),
    problems=None,
    solvers=tuple(solver.name for solver in SOLVERS),
    evaluations=2000,
    steepest_evaluations=200,
    noisy=ZERO_AT_MINIMUM,
    noisy_solvers=(DEFAULT, NEWTON, BFGS, LBFGS, SCIPY_BFGS, "optax L-BFGS"),
    cold_starts=3,
    constrained=None,
    kept=".optimize.partial.json",
)
QUICK = OptimizePlan(
    sizes=(LARGEST,),
    seconds=1.0,
    limit=20.0,
    repetitions=(3, 5),
    own_process_from=float("inf"),
    problems=(
        "ROSENBR",
        "BEALE",
        "CLIFF",
        "HUMPS",
        "HELIX",
        "BARD",
        "BROWNDEN",
        "KOWOSB",
        "BIGGS6",
        "HILBERTB",
        "OSBORNEB",
        "CHNROSNB",
    ),
    solvers=(
        DEFAULT,
        NEWTON,
        BFGS,
        LBFGS,
        SCIPY_BFGS,
        "scipy L-BFGS-B",
        "scipy trust-exact",
        OPTIMISTIX_BFGS,
    ),
    evaluations=1000,
    steepest_evaluations=200,
    noisy=("ROSENBR",),
    noisy_solvers=(DEFAULT, BFGS, SCIPY_BFGS),
    cold_starts=1,
    constrained=("HS7", "HS71", "HS76", "HS43", "cantilever"),
    kept=".optimize-quick.partial.json",
)

# What was promised of 92 problems; of another number, in proportion.
PROMISED_OF = 92
UNSOLVED_BY_DEFAULT = 1
UNSOLVED_BY_METHOD = 5
MISSED_ONES = 2
EVALUATIONS_TO_SCIPY = 1.0
NEWTON_MEDIAN = 12.0
COLD_SECONDS = 1.5
TIMES_WITHOUT_NOISE = 3.0
TIMES_OPTIMISTIX = 2.0
METHODS = (NEWTON, KRYLOV, BFGS, LBFGS)


def run(plan: OptimizePlan, say: Say) -> dict[str, Any]:
    """Every problem by every solver; then cold starts, noise, and many starts at once."""
    solvers = [solver for solver in SOLVERS if solver.name in plan.solvers]
    names = plan.problems or tuple(cases())
    chosen = [cases()[name] for name in names if cases()[name].n <= max(plan.sizes)]
    limits = {
        solver.name: Limits(
            plan.steepest_evaluations if solver.name == STEEPEST else plan.evaluations, plan.limit
        )
        for solver in solvers
    }
    kept = FOLDER / plan.kept
    # The short things first: what is interrupted then is only the long one, which goes on where it
    # was.
    say("the first call of a process")
    cold = cold_starts(plan.cold_starts)
    say("many starts")
    starts = many_starts(plan)
    say("problems with constraints")
    constrained = constrained_rows(plan.constrained, Limits(plan.evaluations, plan.limit), say)
    rows = contests(chosen, solvers, limits, kept, say)
    noisy = [case for case in chosen if case.name in plan.noisy]
    say(f"noise in {', '.join(case.name for case in noisy)}")
    disturbed = [solver for solver in solvers if solver.name in plan.noisy_solvers]
    noise = noise_runs(noisy, disturbed, Limits(plan.evaluations, plan.limit))
    kept.unlink(missing_ok=True)
    return {
        "rows": rows,
        "noise": noise,
        "cold_starts": cold,
        "many_starts": starts,
        "constrained": constrained,
    }


def ours_wrong(record: dict[str, Any]) -> bool:
    """Whether a method of this library called a success what is none."""
    claimed = any(verdict(row) == FALSE for row in record["rows"] if row["library"] == "adjoint")
    noisy = any(
        said(run) == FALSE for run in record["noise"] if run["solver"].startswith("adjoint")
    )
    return claimed or noisy or constrained_wrong(record["constrained"])


def bars(record: dict[str, Any]) -> list[Bar]:
    """The promises: solved, honest, evaluations, cold start, noise, many starts."""
    rows = record["rows"]
    present = {row["solver"] for row in rows}
    methods = [method for method in METHODS if method in present]
    return [
        _unsolved_bar(rows, DEFAULT, UNSOLVED_BY_DEFAULT),
        *(_unsolved_bar(rows, method, UNSOLVED_BY_METHOD) for method in methods),
        _false_bar(rows),
        *(_missed_bar(rows, method) for method in (DEFAULT, *methods)),
        _evaluations_bar(rows),
        _newton_bar(rows),
        *(_cold_bar(entry) for entry in record["cold_starts"]),
        *_noise_bars(record),
        _many_starts_bar(record["many_starts"]),
        *constrained_bars(record["constrained"]),
    ]


def _unsolved_bar(rows: Any, solver: str, limit: int) -> Bar:
    mine = of_solver(rows, solver)
    promise = f"not solved by {solver}, of {PROMISED_OF} (measured on {len(mine)}, in proportion)"
    if not mine:
        return Bar(promise, None, limit, "no problem has a reference")
    share = sum(not row["solved"] for row in mine) / len(mine)
    best = max(
        (sum(row["solved"] for row in of_solver(rows, peer)), peer)
        for peer in {row["solver"] for row in rows if row["library"] != "adjoint"}
    )
    return Bar(
        promise,
        Spread.of([PROMISED_OF * share]),
        limit,
        f"of the peers, {best[1]} solves most: {best[0]}",
    )


def _false_bar(rows: Any) -> Bar:
    ours = [row for row in rows if row["library"] == "adjoint"]
    peers = [row for row in rows if row["library"] != "adjoint"]
    counts = [sum(verdict(row) == FALSE for row in group) for group in (ours, peers)]
    note = (
        f"false successes: {counts[0]} of ours, steepest descent included, {counts[1]} of the peers"
    )
    return Bar("false successes, all of our methods together", Spread.of([counts[0]]), 0, note)


def _missed_bar(rows: Any, solver: str) -> Bar:
    missed = sum(verdict(row) == MISSED for row in of_solver(rows, solver))
    return Bar(f"missed successes, {solver}", Spread.of([missed]), MISSED_ONES)


def _evaluations_bar(rows: Any) -> Bar:
    promise = "evaluations in total, BFGS / SciPy's BFGS, where both solve"
    spent = [
        {row["problem"]: row["evaluations"] for row in of_solver(rows, solver) if row["solved"]}
        for solver in (BFGS, SCIPY_BFGS)
    ]
    both = spent[0].keys() & spent[1].keys()
    if not both:
        return Bar(
            promise, None, EVALUATIONS_TO_SCIPY, "BFGS and SciPy's BFGS solve no problem together"
        )
    ours, theirs = (sum(each[problem] for problem in both) for each in spent)
    note = f"evaluations in total, on the {len(both)} problems that both solve: {ours} and {theirs}"
    return Bar(promise, Spread.of([ours / theirs]), EVALUATIONS_TO_SCIPY, note)


def _newton_bar(rows: Any) -> Bar:
    promise = "evaluations of f with f' where Newton solves, median"
    counts = [row["evaluations"] for row in of_solver(rows, NEWTON) if row["solved"]]
    return Bar(promise, Spread.of(counts) if counts else None, NEWTON_MEDIAN)


def _cold_bar(entry: dict[str, Any]) -> Bar:
    promise = f"seconds of the first minimize of a process, {entry['method']}, n = {entry['n']}"
    note = f"with interpreter and imports: {duration(float(np.median(entry['process'])))}"
    return Bar(promise, Spread.of(entry["call"]), COLD_SECONDS, f"{promise}: {note}")


def _noise_bars(record: dict[str, Any]) -> list[Bar]:
    ours = [run for run in record["noise"] if run["solver"].startswith("adjoint")]
    good = [run for run in ours if said(run) == SOLVED]
    failed = [
        f"{run['solver']} on {run['problem']} ({said(run)})" for run in ours if run not in good
    ]
    without = {(row["problem"], row["solver"]): row["evaluations"] for row in record["rows"]}
    ratios = [(run["evaluations"] / without[run["problem"], run["solver"]], run) for run in good]
    most, which = max(ratios, key=lambda pair: pair[0], default=(None, {}))
    note = (
        f"the most with noise: {which['solver']} on {which['problem']}"
        if which
        else "no run with noise was solved"
    )
    failures = (
        "with noise: "
        f"{', '.join(failed) or 'every run of ours'}{'' if failed else ' is solved and says so'}"
    )
    return [
        Bar(
            "evaluations with noise of 1e-6 / without, the most",
            Spread.of([most]) if most else None,
            TIMES_WITHOUT_NOISE,
            note,
        ),
        Bar(
            "runs with noise that are not solved or do not say so, of ours",
            Spread.of([len(failed)]),
            0,
            failures,
        ),
    ]


def _many_starts_bar(found: list[dict[str, Any]]) -> Bar:
    ours, theirs = (
        {each["solver"]: each["seconds"] for each in found}[name]
        for name in (BFGS, OPTIMISTIX_BFGS)
    )
    note = "many starts: " + ", ".join(
        f"{each['solver']} {100 * each['stationary']:.1f} % stationary" for each in found
    )
    rounds = min(len(ours), len(theirs))
    measured = ratio(ours[:rounds], theirs[:rounds])
    return Bar("1,000 starts, time of BFGS / optimistix BFGS", measured, TIMES_OPTIMISTIX, note)


def tables(record: dict[str, Any]) -> list[Table]:
    """The solvers and their failures, then noise, cold starts and many starts."""
    return [
        *solver_tables(record["rows"]),
        noise_table(record["noise"], record["rows"]),
        cold_start_table(record["cold_starts"]),
        many_starts_table(record["many_starts"]),
        *constrained_tables(record["constrained"]),
    ]


def figures(record: dict[str, Any]) -> dict[str, "Figure"]:
    """The plots, by name."""
    from benchmarks.optimize.profiles import data_figure, performance_figure

    return {"performance": performance_figure(record["rows"]), "data": data_figure(record["rows"])}
