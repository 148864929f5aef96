"""The benchmark of ordinary differential equations: its contest, its bars and its report."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_benchmarks_ode import TINY, drawn

from benchmarks.answers import GRADIENT, VALUE
from benchmarks.contest import Row, as_record
from benchmarks.harness import Plan
from benchmarks.machine import installed_version
from benchmarks.ode import comparison, contest
from benchmarks.ode.cases import Case
from benchmarks.ode.contest import COMPILE
from benchmarks.ode.reference import answers
from benchmarks.ode.solvers import DIFFRAX_DEFAULT, OUR_DEFAULT, SOLVERS, Solver, by_jax

PLAN = Plan(sizes=(), seconds=0.0, limit=1000.0, repetitions=(1, 1), own_process_from=float("inf"))


def exact(case):
    """The misfit of two states that do not move, with a gradient by the parameters of zero."""
    return lambda y0, p: jnp.broadcast_to(y0 + 0 * p[0], (case.ts.size, case.n))


@pytest.mark.slow
def test_the_contest_checks_and_then_times(monkeypatch):
    still = Case(
        "still",
        lambda t, y, p: 0 * y * p[0],
        np.ones(2),
        np.ones(1),
        False,
        np.ones(1),
        np.zeros((1, 2)),
        np.ones(2),
    )
    moving = replace(still, f=lambda t, y, p: p[0] * y)

    def crash(_):
        raise RuntimeError("no such solver")

    solvers = [
        Solver(OUR_DEFAULT, by_jax(lambda _: lambda y0, p: (y0 * jnp.exp(p[0]))[None]), ours=True),
        Solver(DIFFRAX_DEFAULT, by_jax(lambda _: lambda y0, p: (y0 * jnp.exp(p[0]))[None])),
        Solver("wrong", by_jax(lambda _: lambda y0, p: (y0 * p[0])[None])),
        Solver("not a number", by_jax(lambda _: lambda y0, p: (y0 * p[0] * jnp.nan)[None])),
        Solver("missing", crash, package="no-such-package"),
        Solver("crashing", crash),
    ]
    said = []
    rows = contest.contest(moving, solvers, PLAN, 2, said.append)
    outcomes = [row.outcome for row in rows]
    assert outcomes == ["measured", "measured", "WRONG", "failed", "skipped", "failed"]
    assert rows[4].reason == "the package no-such-package is not installed"
    assert "no such solver" in rows[5].reason
    # The wrong one is timed too, and named so.
    assert set(rows[2].seconds) == {VALUE, GRADIENT}
    assert rows[3].seconds == {}
    assert [len(row.seconds[COMPILE]) for row in rows[:2]] == [2, 2]
    assert rows[0].errors[GRADIENT] < 1e-10


def test_what_takes_too_long_is_skipped():
    case = TINY["Lotka-Volterra"]
    solver = Solver("slow", by_jax(exact))
    row = Row(case.problem, 2, 6, "slow", False)
    calls = {VALUE: lambda p, v: 0.0, GRADIENT: lambda p, v: (0.0, p)}
    expected = answers(case, drawn(case))
    remaining = contest._examine(row, case, calls, drawn(case), expected, 0.0)
    assert (remaining, set(row.unsupported)) == ({}, {VALUE, GRADIENT})
    assert solver.obstacle(case) is None


@pytest.mark.slow
def test_errors_over_time(monkeypatch):
    monkeypatch.setattr(contest, "PROBLEMS", {"Lotka-Volterra": lambda: TINY["Lotka-Volterra"]})
    mine = [
        Solver(OUR_DEFAULT, SOLVERS[0].functions, ours=True),
        Solver("not compared", SOLVERS[0].functions),
    ]
    monkeypatch.setattr(contest, "SOLVERS", tuple(mine))
    points = contest.precision_sweep("Lotka-Volterra", (1e-4, 1e-8), PLAN, lambda _: None)
    assert [(point["solver"], point["rtol"]) for point in points] == [
        (OUR_DEFAULT, 1e-4),
        (OUR_DEFAULT, 1e-8),
    ]
    assert points[1]["error"] < 1e-6 < points[0]["error"]
    assert all(len(point["seconds"]) == 1 for point in points)


def test_obstacles_and_who_takes_part():
    case = TINY["Robertson"]
    assert Solver("a", by_jax(exact), package="no-such-package").obstacle(case) == (
        "the package no-such-package is not installed"
    )
    entrants = contest.field().entrants
    assert {solver.name for solver in entrants["Robertson"]}.isdisjoint(
        {"jax odeint", "torchdiffeq"}
    )
    assert "adjoint DiscreteAdjoint, 16 checkpoints" in {
        solver.name for solver in entrants["long neural ODE"]
    }
    assert installed_version("jax") == jax.__version__


def row(problem, solver, gradient=1.0, value=1.0, error=1e-6, compiling=1.0, peak=None, ours=False):
    seconds = {VALUE: [value] * 3, GRADIENT: [gradient] * 3, COMPILE: [compiling]}
    errors = {VALUE: 1e-7, GRADIENT: error}
    compile_seconds = {GRADIENT: compiling}
    return Row(
        problem,
        2,
        4,
        solver,
        ours,
        errors=errors,
        seconds=seconds,
        compile_seconds=compile_seconds,
        peak_bytes=peak,
    )


def record(**ours):
    rows = [
        row(
            "Lotka-Volterra",
            OUR_DEFAULT,
            **{"gradient": 2.0, "compiling": 2.0, "ours": True, **ours},
        ),
        row("Lotka-Volterra", DIFFRAX_DEFAULT, gradient=5.0, compiling=8.0, error=1e-5),
        row("long neural ODE", OUR_DEFAULT, ours=True, peak=2**24),
        row("long neural ODE", DIFFRAX_DEFAULT),
        row("long neural ODE", comparison.STORE_ALL, ours=True, peak=2**24),
        row("long neural ODE", comparison.BOUNDED, ours=True, peak=2**20),
    ]
    points = [
        {
            "problem": "Lotka-Volterra",
            "solver": name,
            "ours": name == OUR_DEFAULT,
            "rtol": rtol,
            "error": rtol,
            "seconds": [1.0],
        }
        for name in (OUR_DEFAULT, DIFFRAX_DEFAULT)
        for rtol in (1e-4, 1e-6)
    ]
    return {"rows": as_record(rows), "sweep": points}


def test_bars():
    bars = comparison.bars(record())
    found = {bar.promise: (bar.verdict, bar.measured.median, bar.limit) for bar in bars}
    ours_to_theirs = "Lotka-Volterra: default / diffrax's default"
    assert found[f"value and gradient, {ours_to_theirs}"] == ("pass", 0.4, 0.5)
    assert found[f"compilation of value and gradient, {ours_to_theirs}"] == ("pass", 0.25, 0.5)
    assert found[f"error of the gradient, {ours_to_theirs}"] == ("pass", pytest.approx(0.1), 1.0)
    assert found["value and gradient / value, Lotka-Volterra, default"] == ("pass", 2.0, 4.0)
    (memory,) = (value for promise, value in found.items() if promise.startswith("memory"))
    assert memory == ("pass", 1 / 16, 1 / 3)
    assert len(bars) == 2 + 2 + 2 + 2 + 1


def test_losses_are_losses_and_errors_of_rounding_are_none():
    bars = comparison.bars(record(gradient=5.0, error=1e-4))
    assert [bar.verdict for bar in bars if "Lotka-Volterra" in bar.promise] == [
        "FAIL",
        "pass",
        "FAIL",
        "FAIL",
    ]
    below_the_floor = comparison.bars(record(error=1e-11))
    assert below_the_floor[4].measured.median == pytest.approx(1e-3)
    found = record()
    for each in found["rows"]:
        each["seconds"], each["errors"], each["peak_bytes"] = {}, {}, None
    assert {bar.verdict for bar in comparison.bars(found)} == {"not measured"}


def test_the_report_is_drawn_and_a_wrong_answer_of_ours_is_noticed():
    found = record()
    titles = [table.title.split(",")[0] for table in comparison.tables(found)]
    assert titles == ["Lotka-Volterra", "long neural ODE", "Error of the gradient and its time"]
    assert set(comparison.figures(found)) == {"time", "precision"}
    assert not comparison.ours_wrong(found)
    # The gradient of the steps is what DiscreteAdjoint is asked for, also where it is none of the
    # solution.
    found["rows"][4]["outcome"] = "WRONG"
    assert not comparison.ours_wrong(found)
    found["rows"][0]["outcome"] = "WRONG"
    assert comparison.ours_wrong(found)
    assert "WRONG" in comparison.tables(found)[0].plain()


def test_which_problems_are_measured_and_how(monkeypatch):
    asked, swept = [], []

    def fake(case, _solvers, plan, compilations, _say):
        asked.append((case.problem, compilations, case.n >= plan.own_process_from))
        return [row(case.problem, OUR_DEFAULT, ours=True)]

    def fake_sweep(problem, tolerances, _plan, _say):
        swept.append((problem, len(tolerances)))
        return []

    monkeypatch.setattr(comparison, "contest", fake)
    monkeypatch.setattr(comparison, "precision_sweep", fake_sweep)
    comparison.run(comparison.QUICK, lambda _: None)
    assert [problem for problem, *_ in asked] == list(comparison.QUICK.problems)
    assert not any(own for *_, own in asked)
    assert swept == [("Lotka-Volterra", 3)]
    asked.clear()
    swept.clear()
    comparison.run(replace(comparison.FULL, sizes=(3, 160, 512)), lambda _: None)
    assert asked == [
        ("neural ODE", 0, False),
        ("long neural ODE", 3, True),
        ("Robertson", 3, False),
        ("Brusselator, explicit", 0, True),
        ("Brusselator, implicit", 0, False),
    ]
    assert swept == [("Robertson", 7)]
