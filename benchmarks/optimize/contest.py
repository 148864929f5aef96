"""All solvers on all problems; what is finished is kept, for an interrupted run to go on."""

import hashlib
import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np

from benchmarks.contest import Say, summary
from benchmarks.optimize.cases import Case
from benchmarks.optimize.solvers import ADJOINT, Functions, Limits, Outcome, Solver
from benchmarks.optimize.verdicts import ending, judge

SOURCES = ("adjoint", "benchmarks/optimize")
ROOT = Path(__file__).parent.parent.parent
# Compiled programs are dropped after so many problems: they fill the memory, and some parts serve
# the next problem too.
PROBLEMS_IN_MEMORY = 10


@dataclass
class Row:
    """One run: where it ended, what it claims, what it has cost.

    Verdicts come when all of its problem are there.
    """

    problem: str
    n: int
    solver: str
    library: str
    start_value: float
    claims: bool = False
    status: str = ""
    evaluations: int = 0
    hessians: int = 0
    products: int = 0
    compile_seconds: float = 0.0
    seconds: float = 0.0
    value: float = float("inf")
    promise: float = float("inf")
    convex: bool = False
    strict: bool = False
    saddle: bool = False
    gap: float | None = None
    solved: bool | None = None


def contest(
    case: Case, solvers: Sequence[Solver], limits: dict[str, Limits]
) -> list[dict[str, Any]]:
    """The rows of one problem, judged."""
    functions = Functions(case)
    start_value = float(functions.value_and_gradient(case.start)[0])
    rows = [_row(case, solver, functions, limits[solver.name], start_value) for solver in solvers]
    found = [asdict(row) for row in rows]
    judge(found)
    return found


def _row(
    case: Case, solver: Solver, functions: Functions, limits: Limits, start_value: float
) -> Row:
    row = Row(case.name, case.n, solver.name, solver.library, start_value)
    try:
        run = solver.prepare(case, functions, limits)
        outcome, first = _timed(run)
        if solver.shared:
            row.seconds, row.compile_seconds = first, functions.compile_seconds
            row.compile_seconds += functions.hessian_compile_seconds if solver.hessians else 0.0
        else:
            # What the second call does not need was compiling, which is no part of the time limit
            # either.
            outcome, row.seconds = _timed(run)
            row.compile_seconds = max(first - row.seconds, 0.0)
    except Exception as error:
        # A peer may fail in any way, and that is a result; ours may not.
        if solver.library == ADJOINT:
            raise
        row.status = summary(error)
        return row
    row.claims, row.status = outcome.claims, outcome.status
    row.evaluations, row.hessians, row.products = (
        outcome.evaluations,
        outcome.hessians,
        outcome.products,
    )
    value, gradient = functions.value_and_gradient(outcome.x)
    end = ending(
        outcome.x, float(value), np.asarray(gradient), np.asarray(functions.hessian(outcome.x))
    )
    row.value, row.promise, row.convex, row.strict, row.saddle = end
    return row


def _timed(run: Any) -> tuple[Outcome, float]:
    start = time.perf_counter()
    outcome = run()
    return outcome, time.perf_counter() - start


def contests(
    chosen: Sequence[Case],
    solvers: Sequence[Solver],
    limits: dict[str, Limits],
    kept: Path,
    say: Say,
) -> list[dict[str, Any]]:
    """The rows of all problems; those that `kept` holds are taken from there.

    `kept` is of an interrupted run of the same code.
    """
    mark = _fingerprint(solvers, limits)
    finished = _load(kept, mark)
    if finished:
        say(f"going on with the {len(finished)} problems of an interrupted run in {kept.name}")
    for number, case in enumerate(chosen, start=1):
        if case.name in finished:
            continue
        rows = contest(case, solvers, limits)
        finished[case.name] = rows
        _save(kept, mark, finished)
        if number % PROBLEMS_IN_MEMORY == 0:
            jax.clear_caches()
        say(f"{number:3} of {len(chosen)}  {case.name}, n = {case.n}: {_short(rows)}")
    return [row for case in chosen for row in finished[case.name]]


def _short(rows: list[dict[str, Any]]) -> str:
    if rows[0]["solved"] is None:
        return "no minimum is known"
    failed = [row["solver"] for row in rows if not row["solved"]]
    return f"not solved by {', '.join(failed)}" if failed else "solved by all"


def _fingerprint(solvers: Sequence[Solver], limits: dict[str, Limits]) -> str:
    """Of everything that the rows depend on in this repository."""
    digest = hashlib.sha256(
        repr(([solver.name for solver in solvers], sorted(limits.items()))).encode()
    )
    for source in SOURCES:
        for path in sorted((ROOT / source).rglob("*.py")):
            digest.update(path.read_bytes())
    return digest.hexdigest()


def _load(kept: Path, mark: str) -> dict[str, list[dict[str, Any]]]:
    try:
        record = json.loads(kept.read_text())
    except (OSError, ValueError):
        return {}
    return record["rows"] if record.get("made_with") == mark else {}


def _save(kept: Path, mark: str, rows: dict[str, Any]) -> None:
    unfinished = kept.with_suffix(".unfinished")
    unfinished.write_text(json.dumps({"made_with": mark, "rows": rows}))
    unfinished.replace(kept)
