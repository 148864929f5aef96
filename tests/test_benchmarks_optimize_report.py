"""The benchmark of minimization: its bars, tables, figures and profiles, and what is measured."""

import numpy as np
from test_benchmarks_optimize import row

from benchmarks.optimize import comparison
from benchmarks.optimize.cases import Case, rosenbrock
from benchmarks.optimize.profiles import costs, evaluations, performance, profile, work
from benchmarks.optimize.solvers import ADJOINT, BFGS, DEFAULT, NEWTON, OPTIMISTIX, SCIPY
from benchmarks.optimize.tables import FALSE, verdict
from benchmarks.optimize.verdicts import judge
from benchmarks.report import Bar, Spread, bars_table


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
