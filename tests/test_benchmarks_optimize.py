"""The benchmark of minimization: problems, verdicts, counted evaluations, kept rows, noise."""

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
    """f, f' and f'' of the Rosenbrock function in two unknowns, in NumPy, and a count of calls."""
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
