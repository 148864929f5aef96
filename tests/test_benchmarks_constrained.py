"""The benchmark of minimization with constraints: problems, verdicts, counts, bars, tables."""

import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks.optimize.constrained_cases import ConstrainedCase
from benchmarks.optimize.constrained_contest import (
    OTHER,
    constrained_bars,
    constrained_cases,
    constrained_tables,
    constrained_verdict,
    constrained_wrong,
    judged,
    residual,
)
from benchmarks.optimize.constrained_solvers import (
    ASYMPTOTES,
    CONSTRAINED_SOLVERS,
    DEFAULT,
    NLOPT,
    ConstrainedFunctions,
)
from benchmarks.optimize.solvers import ADJOINT, SCIPY, Limits
from benchmarks.optimize.tables import FALSE, MISSED, SOLVED, UNSOLVED

LIMITS = Limits(evaluations=500, seconds=100.0)


def constrained_row(solver=DEFAULT, library=ADJOINT, **others):
    """A run with constraints that has solved its problem and says so."""
    usual = {
        "problem": "HS7",
        "n": 2,
        "claims": True,
        "status": "done",
        "evaluations": 12,
        "seconds": 0.1,
        "gap": 0.0,
    }
    given = {
        "violation": 0.0,
        "solved": True,
        "below": False,
        "stationary": True,
        "solver": solver,
        "library": library,
    }
    return usual | given | others


@pytest.mark.parametrize("name", ["HS7", "HS64", "HS71"])
def test_published_optima_satisfy_the_conditions_of_optimality(name):
    # The published digits, of x and of f, are six to ten.
    case = constrained_cases()[name]
    end = ConstrainedFunctions(case)(case.optimum)
    found = judged(case, end, start_value=case.value + 1)
    assert found["solved"]
    assert found["stationary"]
    elsewhere = ConstrainedFunctions(case)((case.start + case.optimum) / 2)
    assert residual(case, elsewhere) > 1e-2
    assert not judged(case, elsewhere, elsewhere.value)["stationary"]


@pytest.mark.slow
def test_all_published_optima_satisfy_the_conditions_of_optimality():
    for name, case in constrained_cases().items():
        assert np.all(case.box[0] < case.box[1])
        assert np.all(np.isfinite(case.box))
        if case.optimum is not None:
            end = ConstrainedFunctions(case)(case.optimum)
            # Seven digits of x, and slopes of up to a hundred.
            assert abs(end.value - case.value) <= 1e-6 * max(abs(case.value), 1), name
            assert np.max(end.inequalities, initial=0) <= 2e-5, name
            assert np.max(np.abs(end.equations), initial=0) <= 1e-5, name
    assert sum(case.equality is None for case in constrained_cases().values()) == 17
    assert len(constrained_cases()) == 30


# Minimize x + y on and outside of a circle about (1, 0): the nearest point is (1, 0) - (1, 1) /
# sqrt 2, the farthest one on it is a maximum, where the multiplier of the equation is of the other
# sign.
CIRCLE = ConstrainedCase(
    "circle",
    lambda x: x[0] + x[1],
    np.array([1.5, 1.0]),
    1 - np.sqrt(2),
    0.0,
    None,
    lambda x: jnp.stack([(x[0] - 1) ** 2 + x[1] ** 2 - 1]),
    None,
    np.full(2, -np.inf),
    np.full(2, np.inf),
)


def test_verdicts_with_constraints():
    functions, root = ConstrainedFunctions(CIRCLE), np.sqrt(0.5)
    points = {"nearest": [1 - root, -root], "farthest": [1 + root, root], "outside": [-1.0, -1.0]}
    ends = {name: judged(CIRCLE, functions(np.array(x)), 2.5) for name, x in points.items()}
    verdicts = {name: constrained_verdict(found | {"claims": True}) for name, found in ends.items()}
    assert verdicts == {"nearest": SOLVED, "farthest": OTHER, "outside": FALSE}
    assert constrained_verdict(ends["nearest"] | {"claims": False}) == MISSED
    assert constrained_verdict(ends["outside"] | {"claims": False}) == UNSOLVED
    assert ends["outside"]["violation"] == pytest.approx(4.0)


@pytest.mark.parametrize(
    "solver", [s for s in CONSTRAINED_SOLVERS if s.library == SCIPY], ids=lambda s: s.name
)
def test_evaluations_of_constrained_peers_are_counted_and_cut_off(solver):
    functions = ConstrainedFunctions(CIRCLE)
    outcome = solver.solve(CIRCLE, functions, LIMITS)
    np.testing.assert_allclose(outcome.x, [1 - np.sqrt(0.5), -np.sqrt(0.5)], rtol=0, atol=1e-5)
    # How long a peer dwells in the rounding at the end is its own affair.
    assert 4 < outcome.evaluations < LIMITS.evaluations
    short = solver.solve(CIRCLE, functions, Limits(evaluations=3, seconds=100.0))
    assert (short.claims, short.evaluations, short.status) == (False, 3, "limit of evaluations")


def test_nlopt_is_stated_the_same_problem():
    pytest.importorskip("nlopt")
    solver = next(s for s in CONSTRAINED_SOLVERS if s.library == NLOPT and not s.inequalities_only)
    outcome = solver.solve(CIRCLE, ConstrainedFunctions(CIRCLE), LIMITS)
    np.testing.assert_allclose(outcome.x, [1 - np.sqrt(0.5), -np.sqrt(0.5)], rtol=0, atol=1e-6)
    assert outcome.claims


def test_bars_and_tables_with_constraints():
    rows = [constrained_row(), constrained_row(ASYMPTOTES)]
    rows += [
        constrained_row(
            "scipy SLSQP", SCIPY, problem="HS6", solved=False, stationary=False, gap=1.0
        )
    ]
    assert not constrained_wrong(rows)
    bars = constrained_bars(rows)
    assert [(bar.verdict, bar.measured.median) for bar in bars] == [
        ("pass", 0),
        ("pass", 0),
        ("pass", 12),
        ("pass", 0),
    ]
    rows[0] |= {"solved": False, "stationary": False, "gap": 1.0}
    assert [bar.verdict for bar in constrained_bars(rows)] == ["FAIL", "pass", "pass", "FAIL"]
    assert "HS6" in constrained_tables(rows)[1].plain()
    assert constrained_wrong(rows)
