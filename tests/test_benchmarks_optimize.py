"""The benchmark of minimization: its problems, its verdicts, how evaluations are counted, what is
kept, its bars and profiles.
"""

import sys
from dataclasses import replace
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks.optimize import comparison
from benchmarks.optimize.cases import Case, rosenbrock
from benchmarks.optimize.contest import Row, contests
from benchmarks.optimize.noise import NOISE, noise_runs, noisy
from benchmarks.optimize.peers import PEER_SOLVERS
from benchmarks.optimize.profiles import costs, evaluations, performance, profile, work
from benchmarks.optimize.solvers import (
    ADJOINT,
    BFGS,
    DEFAULT,
    NEWTON,
    OPTAX,
    OPTIMISTIX,
    SCIPY,
    Limits,
    Outcome,
    Solver,
)
from benchmarks.optimize.tables import FALSE, MISSED, SADDLE, SOLVED, UNSOLVED, verdict
from benchmarks.optimize.verdicts import ending, judge, reference, scale
from benchmarks.report import Bar, Spread, bars_table

LIMITS = Limits(evaluations=500, seconds=100.0)


def row(solver="scipy BFGS", library=SCIPY, value=0.0, **others):
    """A run that ended at a strict minimum and says so."""
    usual = {
        "problem": "P",
        "n": 2,
        "start_value": 10.0,
        "claims": True,
        "evaluations": 10,
        "promise": 0.0,
    }
    given = usual | {"convex": True, "strict": True, "status": "done"} | others
    return vars(Row(solver=solver, library=library, value=value, **given))


@pytest.mark.slow
def test_the_problems_are_the_small_ones_of_the_package_and_nothing_else_is_imported():
    pytest.importorskip("equinox")
    if "sif2jax" in sys.modules:
        pytest.skip("the package has been imported already")
    found = pytest.importorskip("benchmarks.optimize.cases").cases()
    assert "sif2jax" not in sys.modules
    assert not any(
        "constrained_minimisation." in name and "_un" not in name for name in sys.modules
    )
    assert len(found) >= 92
    sizes = [case.n for case in found.values()]
    assert sizes == sorted(sizes)
    assert sizes[-1] <= 100
    assert set(comparison.QUICK.problems) | set(comparison.FULL.noisy) <= set(found)
    # J. J. Moré, B. S. Garbow, K. E. Hillstrom, ACM Trans. Math. Softw. 7 (1981): problems 1 and 5.
    np.testing.assert_allclose(found["ROSENBR"].objective(jnp.array([-1.2, 1.0])), 24.2)
    np.testing.assert_allclose(found["BEALE"].objective(jnp.array([3.0, 0.5])), 0.0)


def test_the_promise_is_what_a_newton_step_gains_in_any_units():
    # f = x'Ax/2 - b'x gains (b - Ax)'A^-1(b - Ax)/2 from x to its minimum.
    A, b, x = np.array([[2.0, 1.0], [1.0, 3.0]]), np.array([1.0, -1.0]), np.array([0.5, 2.0])
    gain = (b - A @ x) @ np.linalg.solve(A, b - A @ x) / 2
    for units in (np.ones(2), np.array([1e-6, 1e7])):
        end = ending(x / units, 1.0, units * (A @ x - b), units[:, None] * A * units)
        np.testing.assert_allclose(end.promise, gain, rtol=1e-12)
        assert end.convex
    assert not ending(x, 1.0, np.zeros(2), np.array([[1.0, 2.0], [2.0, 1.0]])).convex
    assert ending(x, np.nan, np.zeros(2), A) == (np.inf, np.inf, False, False, False)


def test_a_plateau_is_no_strict_minimum():
    x, gradient = np.array([10.0, 20.0]), np.full(2, 1e-30)
    assert ending(x, 1.0, gradient, np.eye(2)).strict
    assert not ending(x, 1.0, gradient, 1e-25 * np.eye(2)).strict


def test_the_reference_is_a_strict_minimum_or_one_that_two_methods_agree_on():
    def flat(*given, **others):
        return row(*given, strict=False, **others)

    assert reference([row(value=1.0), row(BFGS, ADJOINT, 2.0)]) == 1.0
    assert (
        reference([flat(value=1.0), flat(BFGS, ADJOINT, 2.0), flat("optax", OPTAX, 2.0 + 1e-7)])
        == 2.0
    )
    assert reference([flat(value=1.0), flat(BFGS, ADJOINT, value=1.0 + 1e-5)]) is None
    assert reference([flat(value=1.0, promise=1e-3), flat(BFGS, ADJOINT, value=1.0)]) is None
    assert reference([flat(value=1.0, convex=False), flat(BFGS, ADJOINT, value=1.0)]) is None
    # Our default is one of our other methods.
    assert reference([flat(DEFAULT, ADJOINT), flat(NEWTON, ADJOINT)]) is None
    # Where all values are small, so must differences be.
    assert [scale(1e-5, 1e-3), scale(3.0, 1e9), scale(0.0, 5.0), scale(-7.0, np.inf)] == [
        9.9e-4,
        3.0,
        1.0,
        7.0,
    ]


def test_verdicts():
    rows = [
        row(value=1.0),
        row(BFGS, ADJOINT, value=1.0 + 5e-7, claims=False),
        row(DEFAULT, ADJOINT, value=1.01, strict=False),
        row("optax L-BFGS", OPTAX, value=1.01, claims=False, promise=0.1, convex=False),
        row(NEWTON, ADJOINT, value=1.02),
        row("optimistix BFGS", OPTIMISTIX, value=1.02, promise=0.1),
    ]
    judge(rows)
    assert [verdict(each) for each in rows] == [SOLVED, MISSED, FALSE, UNSOLVED, SOLVED, FALSE]
    np.testing.assert_allclose(rows[2]["gap"], 0.01)
    judge(unknown := [row(strict=False)])
    assert (unknown[0]["solved"], verdict(unknown[0])) == (None, "")


def test_a_saddle_is_excused_where_two_libraries_end_and_second_derivatives_are_not_seen():
    there = {"value": 2.0, "convex": False, "strict": False, "saddle": True}
    rows = [row(value=1.0), row(BFGS, ADJOINT, **there), row("optax", OPTAX, **there)]
    judge(rows)
    assert [verdict(each) for each in rows] == [SOLVED, SADDLE, SADDLE]
    judge(
        seen := [
            row(value=1.0),
            row(NEWTON, ADJOINT, hessians=3, **there),
            row("optax", OPTAX, **there),
        ]
    )
    assert [verdict(each) for each in seen] == [SOLVED, FALSE, SADDLE]
    judge(alone := [row(value=1.0), row(BFGS, ADJOINT, **there)])
    assert [verdict(each) for each in alone] == [SOLVED, FALSE]
    assert ending(np.ones(2), 1.0, np.zeros(2), np.diag([1.0, -1.0])).saddle
    assert not ending(np.ones(2), 1.0, np.zeros(2), np.diag([1.0, -1e-20])).saddle


def counted(case):
    """The case, and the number of times that its objective has been evaluated so far."""
    calls = []

    def objective(x):
        jax.debug.callback(lambda _: calls.append(1), x)
        return case.objective(x)

    return Case(case.name, objective, case.start), calls


VALLEY = Case("valley", rosenbrock, np.array([-1.2, 1.0]))


@pytest.mark.slow
@pytest.mark.parametrize(
    "solver", [s for s in PEER_SOLVERS if s.library in (OPTIMISTIX, OPTAX)], ids=lambda s: s.name
)
def test_evaluations_of_compiled_peers_are_counted_right(solver):
    case, calls = counted(VALLEY)
    functions = SimpleNamespace(value_and_gradient=jax.value_and_grad(rosenbrock))
    outcome = solver.prepare(case, functions, LIMITS)()
    jax.effects_barrier()
    assert outcome.evaluations > 10
    # A last one at the end may be made without being of use.
    assert outcome.evaluations <= len(calls) <= outcome.evaluations + 1


def by_hand():
    """f with f' and f'' of the Rosenbrock function in two unknowns, in NumPy, and a count of
    calls.
    """
    calls = []

    def value_and_gradient(x):
        calls.append(1)
        u, v = x[1] - x[0] ** 2, 1 - x[0]
        return 100 * u**2 + v**2, np.array([-400 * u * x[0] - 2 * v, 200 * u])

    def hessian(x):
        return np.array([[1200 * x[0] ** 2 - 400 * x[1] + 2, -400 * x[0]], [-400 * x[0], 200.0]])

    return SimpleNamespace(value_and_gradient=value_and_gradient, hessian=hessian), calls


@pytest.mark.parametrize(
    "solver", [s for s in PEER_SOLVERS if s.library == SCIPY], ids=lambda s: s.name
)
def test_scipy_is_counted_and_cut_off(solver):
    functions, calls = by_hand()
    run = solver.prepare(VALLEY, functions, LIMITS)
    calls.clear()
    outcome = run()
    np.testing.assert_allclose(outcome.x, 1.0, rtol=1e-6)
    assert outcome.claims
    assert outcome.evaluations == len(calls) > 5
    assert (outcome.hessians > 0) == solver.hessians
    short = solver.prepare(VALLEY, functions, replace(LIMITS, evaluations=5))()
    assert (short.claims, short.evaluations, short.status) == (False, 5, "limit of evaluations")
    assert rosenbrock(short.x) <= rosenbrock(VALLEY.start)
    late = solver.prepare(VALLEY, functions, replace(LIMITS, seconds=-1.0))
    # Not even the first evaluation is made.
    assert (late().status, late().evaluations) == ("limit of time", 0)


def test_an_interrupted_run_goes_on_and_changed_limits_begin_anew(tmp_path):
    runs, lines = [], []

    def prepare(case, functions, limits):
        def run():
            runs.append(case.name)
            if runs.count("second") == 1 and case.name == "second":
                raise KeyboardInterrupt
            return Outcome(np.zeros(2), True, "done", 3)

        return run

    chosen = [Case(name, lambda x: x @ x, np.ones(2)) for name in ("first", "second")]
    solvers = [Solver("ours", ADJOINT, prepare), Solver("theirs", SCIPY, prepare)]
    limits = dict.fromkeys(("ours", "theirs"), LIMITS)
    kept = tmp_path / "kept.json"
    with pytest.raises(KeyboardInterrupt):
        contests(chosen, solvers, limits, kept, lines.append)
    first = runs.count("first")
    rows = contests(chosen, solvers, limits, kept, lines.append)
    assert runs.count("first") == first == 3
    assert [each["problem"] for each in rows] == ["first", "first", "second", "second"]
    assert all(each["solved"] and each["value"] == 0 for each in rows)
    assert rows[0]["start_value"] == 2
    assert any("going on with the 1 problems" in line for line in lines)
    contests(chosen, solvers, limits | {"ours": replace(LIMITS, seconds=1.0)}, kept, lines.append)
    assert runs.count("first") == 2 * first


def test_a_failing_peer_is_a_result_and_failing_ours_is_none(tmp_path):
    def prepare(case, functions, limits):
        raise ValueError("no such thing")

    case = [Case("bowl", lambda x: x @ x, np.ones(2))]
    (found,) = contests(
        case, [Solver("s", SCIPY, prepare)], {"s": LIMITS}, tmp_path / "kept.json", lambda _: None
    )
    assert (found["status"], found["claims"], found["value"]) == (
        "ValueError: no such thing",
        False,
        np.inf,
    )
    with pytest.raises(ValueError, match="no such thing"):
        contests(
            case,
            [Solver("s", ADJOINT, prepare)],
            {"s": LIMITS},
            tmp_path / "other.json",
            lambda _: None,
        )


def test_noise_is_in_the_value_alone():
    x = np.random.default_rng(0).normal(size=(40, 2))
    disturbed = noisy(VALLEY, seed=0)
    values, gradients = jax.vmap(jax.value_and_grad(disturbed.objective))(x)
    expected, slopes = jax.vmap(jax.value_and_grad(rosenbrock))(x)
    # The values are up to 1e4, so that their rounding is 1e-12.
    assert np.max(np.abs(values - expected)) <= NOISE + 1e-11
    assert np.std(values - expected) > NOISE / 3
    np.testing.assert_allclose(gradients, slopes, rtol=1e-13)


def test_runs_with_noise_are_judged_without_it():
    ends = iter([np.ones(2), np.ones(2), np.zeros(2), np.zeros(2)])

    def prepare(case, functions, limits):
        return lambda: Outcome(next(ends), True, "done", 7)

    solvers = [Solver("good", ADJOINT, prepare), Solver("bad", ADJOINT, prepare)]
    runs = noise_runs([VALLEY], solvers, LIMITS)
    assert [(run["reached"], run["evaluations"]) for run in runs] == [(True, 7), (False, 7)]
    assert runs[1]["gap"] == 1.0


def record():
    """A small record, as `run` makes it."""
    rows = []
    for problem, factor in (("P", 1), ("Q", 2)):
        rows += [
            row(DEFAULT, ADJOINT, problem=problem, evaluations=10 * factor, hessians=9),
            row(NEWTON, ADJOINT, problem=problem, evaluations=10 * factor, hessians=9),
            row(BFGS, ADJOINT, problem=problem, evaluations=20 * factor),
            row("scipy BFGS", SCIPY, problem=problem, evaluations=25 * factor),
            row(
                "optimistix BFGS",
                OPTIMISTIX,
                problem=problem,
                value=1.0,
                strict=False,
                evaluations=5,
            ),
        ]
    judge(rows[:5])
    judge(rows[5:])
    noise = [
        {
            "problem": "P",
            "n": 2,
            "solver": BFGS,
            "evaluations": 30,
            "claims": True,
            "status": "done",
            "gap": 1e-7,
        }
    ]
    cold = [{"n": 2, "method": "default", "call": [1.0, 1.2, 1.1], "process": [3.0, 3.0, 3.0]}]
    starts = [
        {"solver": BFGS, "seconds": [3.0, 3.0, 3.0], "stationary": 1.0},
        {"solver": "optimistix BFGS", "seconds": [1.0, 1.0], "stationary": 0.9},
    ]
    parts = {
        "rows": rows,
        "noise": [noise[0] | {"reached": True}],
        "cold_starts": cold,
        "many_starts": starts,
    }
    return parts | {"constrained": []}


def measured(found):
    return {
        bar.promise: (bar.verdict, round(bar.measured.median, 9))
        for bar in comparison.bars(found)
        if bar.measured
    }


def test_bars():
    found = measured(record())
    assert found[f"not solved by {DEFAULT}, of 92 (measured on 2, in proportion)"] == ("pass", 0)
    assert found["false successes, all of our methods together"] == ("pass", 0)
    assert found["evaluations in total, BFGS / SciPy's BFGS, where both solve"] == ("pass", 0.8)
    assert found["evaluations of f with f' where Newton solves, median"] == ("FAIL", 15)
    assert found["seconds of the first minimize of a process, default, n = 2"] == ("pass", 1.1)
    assert found["evaluations with noise of 1e-6 / without, the most"] == ("pass", 1.5)
    assert found["runs with noise that are not solved or do not say so, of ours"] == ("pass", 0)
    assert found["1,000 starts, time of BFGS / optimistix BFGS"] == ("FAIL", 3)
    broken = record()
    broken["rows"][0] |= {"solved": False, "gap": 1.0}
    broken["rows"][6] |= {"claims": False}
    broken["noise"][0] |= {"claims": False}
    found = measured(broken)
    assert found[f"not solved by {DEFAULT}, of 92 (measured on 2, in proportion)"] == ("FAIL", 46)
    assert found["false successes, all of our methods together"] == ("FAIL", 1)
    assert found[f"missed successes, {NEWTON}"] == ("pass", 1)
    assert found["runs with noise that are not solved or do not say so, of ours"] == ("FAIL", 1)
    assert "evaluations with noise of 1e-6 / without, the most" not in found


def test_a_false_success_of_ours_is_wrong_and_one_of_a_peer_is_not():
    found = record()
    assert verdict(found["rows"][4]) == FALSE
    assert not comparison.ours_wrong(found)
    missed = record()
    missed["rows"][0] |= {"claims": False}
    assert not comparison.ours_wrong(missed)
    for name, number in (("rows", 0), ("noise", 0)):
        wrong = record()
        wrong[name][number] |= {"solved": False, "reached": False}
        assert comparison.ours_wrong(wrong)


def test_a_missed_limit_of_zero_has_no_share():
    assert bars_table([Bar("none", Spread.of([2.0]), 0)]).rows[0][1] == "FAIL"


def test_tables_and_figures_are_drawn():
    found = record()
    found["rows"][2] |= {"solved": False, "gap": 0.5}
    for each in found["rows"][5:]:
        each.update(solved=None, gap=None)
    titles = {table.title: table.plain() for table in comparison.tables(found)}
    assert "adjoint BFGS" in titles["Where ours fail"]
    assert FALSE in titles["Where ours fail"]
    assert "optimistix BFGS  P" in " ".join(titles["False successes of the peers"].split()).replace(
        "BFGS P", "BFGS  P"
    )
    assert "Q" in titles["Problems without a known minimum: they count for nobody"]
    assert "0 of 1" in next(
        line for line in titles["Solvers, 1 problems"].splitlines() if line.startswith(BFGS)
    )
    assert set(comparison.figures(found)) == {"performance", "data"}


def test_profiles():
    found = costs(record()["rows"], evaluations)
    assert {solver: cost.tolist() for solver, cost in found.items()}["optimistix BFGS"] == [
        np.inf,
        np.inf,
    ]
    ratios = performance(found)
    assert ratios["scipy BFGS"].tolist() == [2.5, 2.5]
    assert profile(ratios[DEFAULT])[1].tolist() == [0.5, 1.0]
    # 10 evaluations and 9 Hessians of 2 columns each.
    assert costs(record()["rows"], work)[NEWTON].tolist() == [28, 38]


def test_what_is_measured_and_when_what_is_kept_goes(monkeypatch, tmp_path):
    asked = {}

    def fake(chosen, solvers, limits, kept, say):
        kept.write_text("{}")
        asked.update(
            problems=[case.name for case in chosen],
            solvers=[s.name for s in solvers],
            limits=limits,
        )
        return record()["rows"]

    library = {name: Case(name, rosenbrock, np.ones(2)) for name in comparison.QUICK.problems}
    monkeypatch.setattr(comparison, "FOLDER", tmp_path)
    monkeypatch.setattr(
        comparison, "cases", lambda: library | {"huge": Case("huge", rosenbrock, np.ones(101))}
    )
    monkeypatch.setattr(comparison, "contests", fake)
    for name in ("cold_starts", "many_starts", "noise_runs", "constrained_rows"):
        monkeypatch.setattr(
            comparison, name, lambda *given, name=name: asked.setdefault(name, given) and []
        )
    found = comparison.run(comparison.QUICK, lambda _: None)
    assert asked["problems"] == list(comparison.QUICK.problems)
    assert asked["solvers"] == [
        s.name for s in comparison.SOLVERS if s.name in comparison.QUICK.solvers
    ]
    assert [case.name for case in asked["noise_runs"][0]] == ["ROSENBR"]
    assert list(tmp_path.iterdir()) == []
    assert found["rows"] == record()["rows"]
    comparison.run(comparison.FULL, lambda _: None)
    assert set(asked["problems"]) == set(comparison.QUICK.problems)
    assert asked["limits"]["adjoint SteepestDescent"].evaluations == 200
    assert asked["limits"][BFGS].evaluations == 2000
