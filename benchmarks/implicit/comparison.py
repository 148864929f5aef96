"""The benchmark ``implicit``: what is measured, what was promised, and what the report shows."""

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.answers import GRADIENT
from benchmarks.case_tables import case_tables, gradient_ratio, why_not
from benchmarks.contest import Row, Say, as_record, contest
from benchmarks.harness import Plan, Spread, ratio
from benchmarks.implicit.cases import BATCH
from benchmarks.implicit.contest import field
from benchmarks.implicit.solvers import GRADIENT_ALONE_ABOVE, PEERS
from benchmarks.report import Bar, Table, duration

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["FULL", "PEERS", "QUICK", "SUMMARY", "bars", "figures", "ours_wrong", "run", "tables"]

SUMMARY = "Value, gradient and Hessian-vector product through F(x, p) = 0"
FULL = Plan(
    sizes=(10, 100, 500, 1000, 2000, 64**2, 128**2, 256**2, 512**2),
    seconds=1.0,
    limit=60.0,
    repetitions=(3, 50),
    own_process_from=2000,
)
QUICK = Plan(
    sizes=(10, 100, 64**2, 128**2),
    seconds=0.5,
    limit=5.0,
    repetitions=(3, 10),
    own_process_from=float("inf"),
)

# Sizes up to this one are those of dense systems, larger ones of sparse systems.
LARGEST_DENSE = 3000
BATCH_SIZE = 10 * BATCH
# Up to here a sparse system takes so little memory that a process of its own tells nothing.
LITTLE_MEMORY = 50_000
# What was promised of sparse systems: to be so many times faster at the one size, and to be the
# only one at the other.
FASTER = 5.0
FASTER_AT = 256**2
ALONE_AT = 512**2


def run(plan: Plan, say: Say) -> dict[str, Any]:
    """Measure everything: one system of each size, dense or sparse, and 256 small ones at once."""
    cases = [
        ("batch", BATCH_SIZE),
        *(("dense" if n <= LARGEST_DENSE else "bratu", n) for n in plan.sizes),
    ]
    rows: list[Row] = []
    for problem, n in cases:
        rows += contest(field(), problem, n, _plan_of(plan, problem, n), rows, say)
    return {"rows": as_record(rows)}


def _plan_of(plan: Plan, problem: str, n: int) -> Plan:
    """The longest calls are measured once, and the memory where it exceeds the process's."""
    if problem != "dense" and n <= LITTLE_MEMORY:
        plan = replace(plan, own_process_from=float("inf"))
    return replace(plan, repetitions=(1, 1)) if n > GRADIENT_ALONE_ABOVE else plan


def ours_wrong(record: dict[str, Any]) -> bool:
    """Whether a finite result of this library was wrong."""
    return any(row["outcome"] == "WRONG" for row in record["rows"] if row["ours"])


def bars(record: dict[str, Any]) -> list[Bar]:
    """The promises: a gradient's price if dense, its time if sparse, and who finishes at all."""
    rows = record["rows"]
    of_problem = {
        problem: [row for row in rows if row["problem"] == problem]
        for problem in ("dense", "batch", "bratu")
    }
    sparse = of_problem["bratu"]
    return [
        *_overhead_bars(of_problem["dense"] + of_problem["batch"]),
        *_speed_bars([row for row in sparse if row["n"] == FASTER_AT]),
        *_alone_bars([row for row in sparse if row["n"] == ALONE_AT], record["plan"]["limit"]),
    ]


def _overhead_bars(rows: list[dict[str, Any]]) -> list[Bar]:
    """(value + gradient) / value, ours at most that of the best peer in the same case."""
    found = []
    for row in (row for row in rows if row["ours"]):
        same = [
            r
            for r in rows
            if (r["problem"], r["n"]) == (row["problem"], row["n"]) and not r["ours"]
        ]
        peers = {r["solver"]: spread.median for r in same if (spread := gradient_ratio(r))}
        case = f"{row['problem']}, n = {row['n']}"
        promise = f"(value + gradient) / value, {case}, {row['solver']}, against the best peer's"
        measured = gradient_ratio(row)
        if measured is None or not peers:
            reason = why_not(row) if measured is None else "no peer was measured"
            found.append(Bar(promise, None, 1.0, f"not measured, {case}: {reason}"))
            continue
        note = f"peers, {case}: " + ", ".join(
            f"{name} {median:.2f}" for name, median in peers.items()
        )
        found.append(Bar(promise, measured, min(peers.values()), note))
    return found


def _speed_bars(rows: list[dict[str, Any]]) -> list[Bar]:
    """Seconds of value and gradient, of the fastest of ours over those of the fastest peer."""
    if not rows:
        return []
    n = rows[0]["n"]
    ours, peers = (
        {
            row["solver"]: row["seconds"][GRADIENT]
            for row in rows
            if row["ours"] == of_us and row["seconds"].get(GRADIENT)
        }
        for of_us in (True, False)
    )
    promise = f"value and gradient, bratu, n = {n}, our fastest / the fastest peer"
    if not ours or not peers:
        missing = (
            "no peer was measured"
            if ours
            else "; ".join(why_not(row) for row in rows if row["ours"])
        )
        return [Bar(promise, None, 1 / FASTER, f"not measured, bratu, n = {n}: {missing}")]
    first, second = (
        min(times, key=lambda name: float(np.median(times[name]))) for times in (ours, peers)
    )
    rounds = min(len(ours[first]), len(peers[second]))
    note = f"bratu, n = {n}: " + _times(ours) + "; peers: " + _times(peers)
    return [Bar(promise, ratio(ours[first][:rounds], peers[second][:rounds]), 1 / FASTER, note)]


def _alone_bars(rows: list[dict[str, Any]], limit: float) -> list[Bar]:
    """How many libraries finish a value and gradient in the limit; it is to be this one alone."""
    if not rows:
        return []
    promise = (
        f"libraries that finish bratu, n = {rows[0]['n']}, in {limit:.0f} s, this one among them"
    )
    finished = {
        row["solver"]: row["seconds"][GRADIENT]
        for row in rows
        if row["seconds"].get(GRADIENT) and np.median(row["seconds"][GRADIENT]) <= limit
    }
    ours = [row["solver"] for row in rows if row["ours"] and row["solver"] in finished]
    if not ours:
        return [
            Bar(
                promise,
                None,
                1.0,
                f"not measured, bratu, n = {rows[0]['n']}: this library did not finish",
            )
        ]
    peers = {
        row["solver"].split()[0] for row in rows if not row["ours"] and row["solver"] in finished
    }
    return [
        Bar(
            promise,
            Spread.of([1.0 + len(peers)]),
            1.0,
            f"finished, n = {rows[0]['n']}: {_times(finished)}",
        )
    ]


def _times(seconds: dict[str, list[float]]) -> str:
    return ", ".join(
        f"{name} {duration(float(np.median(times)))}" for name, times in seconds.items()
    )


def tables(record: dict[str, Any]) -> list[Table]:
    """Times, ratios, memory and errors for each system."""
    return case_tables(record["rows"])


def figures(record: dict[str, Any]) -> dict[str, "Figure"]:
    """The plots, by name."""
    from benchmarks.plots import time_figure

    return {"time": time_figure(record["rows"])}
