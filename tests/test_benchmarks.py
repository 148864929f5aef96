"""The benchmarks' own machinery: turns and statistics on fake clocks, and right answers."""

import sys
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks.answers import AGREEMENT, GRADIENT, PRODUCT, VALUE, objective, relative_error
from benchmarks.contest import Row, contest, summary
from benchmarks.harness import Competitor, Plan, Spread, ratio, time_by_turns
from benchmarks.linear.beam import _hidden
from benchmarks.linear.cases import PROBLEMS, Case, per_cell
from benchmarks.linear.contest import field
from benchmarks.linear.reference import answers
from benchmarks.linear.solvers import SOLVERS, LinearSolver

PLAN = Plan(
    sizes=(100,), seconds=1.0, limit=10.0, repetitions=(3, 5), own_process_from=float("inf")
)


class FakeClock:
    """A clock that only moves when work is done."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


def worker(name, clock, durations, log):
    """A competitor with a measure for each duration; each call moves the clock by its duration."""

    def work(measure, seconds):
        def run(argument):
            log.append((name, measure, argument))
            clock.now += seconds

        return run

    count = iter(range(1000))
    return Competitor(
        name, lambda: next(count), {measure: work(measure, s) for measure, s in durations.items()}
    )


@pytest.mark.slow
def test_turns_go_back_and_forth_on_fresh_inputs():
    clock, log = FakeClock(), []
    competitors = [worker(name, clock, {"v": 0.25, "g": 0.5}, log) for name in "ab"]
    seconds = time_by_turns(competitors, PLAN, clock)
    assert seconds == {name: {"v": [0.25] * 3, "g": [0.5] * 3} for name in "ab"}
    there = [("a", "v"), ("a", "g"), ("b", "v"), ("b", "g")]
    assert [entry[:2] for entry in log] == [*there, *there[::-1], *there]
    for name in "ab":
        arguments = [argument for who, _, argument in log if who == name]
        assert arguments == list(range(6))


@pytest.mark.slow
def test_a_slow_one_drops_out_after_the_fewest_repetitions_and_a_fast_one_goes_on():
    clock, log = FakeClock(), []
    seconds = time_by_turns(
        [worker("slow", clock, {"v": 2.0}, log), worker("fast", clock, {"v": 0.1}, log)],
        PLAN,
        clock,
    )
    assert len(seconds["slow"]["v"]) == 3
    assert len(seconds["fast"]["v"]) == 5


@pytest.mark.slow
def test_the_time_to_make_inputs_is_not_measured():
    clock = FakeClock()

    def draw():
        clock.now += 100.0

    def work(_):
        clock.now += 0.5

    seconds = time_by_turns([Competitor("a", draw, {"v": work})], PLAN, clock)
    assert seconds["a"]["v"] == [0.5] * 3


def test_spread_and_ratio():
    # Quartiles of 1 to 5 by linear interpolation (Hyndman and Fan, 1996, type 7): 2, 3, 4.
    assert Spread.of([5.0, 1.0, 4.0, 2.0, 3.0]) == Spread(1.0, 2.0, 3.0, 4.0, 5)
    # A drift of the machine by a factor of 10 between rounds leaves the ratio alone.
    assert ratio([1.5, 15.0, 150.0], [1.0, 10.0, 100.0]) == Spread(1.5, 1.5, 1.5, 1.5, 3)
    with pytest.raises(ValueError, match="empty sample"):
        Spread.of([])
    with pytest.raises(ValueError, match="equally many"):
        ratio([1.0], [1.0, 2.0])


def test_parameters_of_any_number_cover_the_cells():
    p = jnp.arange(7.0)
    np.testing.assert_array_equal(per_cell(p, 3), [(0 + 3 + 6) / 3, (1 + 4) / 2, (2 + 5) / 2])
    np.testing.assert_array_equal(per_cell(p[:2], 5), [0, 1, 0, 1, 0])
    np.testing.assert_array_equal(per_cell(p[:5], 5), p[:5])


def test_convection_diffusion_conserves_and_is_nonsymmetric():
    case = PROBLEMS["convection-diffusion"](64)
    A = np.asarray(case.matrix(jnp.zeros(64)).todense())
    inner = np.arange(64).reshape(8, 8)[1:-1, 1:-1].ravel()
    # What leaves an inner cell enters its neighbors (columns), and a constant is carried along
    # unchanged (rows).
    np.testing.assert_allclose(A[:, inner].sum(axis=0), 0, atol=1e-13)
    np.testing.assert_allclose(A[inner].sum(axis=1), 0, atol=1e-13)
    off = A - np.diag(np.diag(A))
    assert (off <= 0).all()
    assert (np.diag(A) > 0).all()
    assert abs(A - A.T).max() > 1


@pytest.fixture(scope="module", params=list(PROBLEMS))
def answered(request):
    """A small case, a point, a direction, and the answers."""
    case = PROBLEMS[request.param](100)
    generator = np.random.default_rng(0)
    p, v = case.draw(generator), case.draw(generator)
    return case, p, v, answers(case, p, v)


@pytest.mark.slow
def test_the_answers_are_those_of_dense_algebra(answered):
    case, p, v, found = answered

    def g(p):
        return objective(
            jnp.linalg.solve(case.matrix(p).todense(), jnp.asarray(case.right_hand_side))
        )

    value, gradient = jax.value_and_grad(g)(p)
    product = jax.jvp(jax.grad(g), (p,), (v,))[1]
    assert relative_error(np.asarray(found.value), np.asarray(value)) < 1e-11
    assert relative_error(found.gradient, np.asarray(gradient)) < 1e-10
    assert relative_error(found.hessian_vector_product, np.asarray(product)) < 1e-10


def broken(factor=1.0, error=None):
    """A solver whose solution is off by a factor, or that raises."""

    def solve(case, _constants, A):
        if error is not None:
            raise error
        return factor * jnp.linalg.solve(A.todense(), jnp.asarray(case.right_hand_side))

    return solve


@pytest.mark.slow
def test_wrong_failing_missing_and_oversized_competitors_are_named_and_not_timed():
    def no_rule(*_):
        raise NotImplementedError("no rule for this")

    solvers = (
        LinearSolver("right", broken()),
        LinearSolver("wrong", broken(1 + 1e-5)),
        LinearSolver("NaN", broken(np.nan)),
        LinearSolver("raises", broken(error=RuntimeError("out of luck"))),
        LinearSolver("no rule", no_rule),
        LinearSolver("missing", broken(), package="no-such-package"),
        LinearSolver("slow", broken(), growth=3.0),
    )
    entrants = replace(field(), entrants={"elasticity": solvers})
    said = []
    before = Row("elasticity", 10, 10, "slow", False, seconds={GRADIENT: [5.0]})
    rows = {
        row.solver: row for row in contest(entrants, "elasticity", 60, PLAN, [before], said.append)
    }
    assert set(rows["right"].seconds) == {VALUE, GRADIENT, PRODUCT}
    assert max(rows["right"].errors.values()) < 1e-9 < AGREEMENT
    outcomes = {name: (row.outcome, row.reason) for name, row in rows.items()}
    assert outcomes["wrong"] == (
        "WRONG",
        "relative error 1.0e-05 in the value, 1.0e-05 in the value and gradient, 1.0e-05 in the "
        "Hessian-vector product",
    )
    assert outcomes["NaN"][0] == "failed"
    assert outcomes["raises"] == ("failed", "RuntimeError: out of luck")
    assert outcomes["missing"] == ("skipped", "the package no-such-package is not installed")
    assert outcomes["slow"][0] == "skipped"
    assert "the limit is 10 s" in outcomes["slow"][1]
    assert outcomes["no rule"] == ("failed", "NotImplementedError: no rule for this")
    assert all(not row.seconds for name, row in rows.items() if name != "right")
    assert any("WRONG" in line for line in said)


def test_dense_arrays_that_do_not_fit_are_refused():
    big = Case("elasticity", lambda _: None, np.ones(1), 1, True, _Pattern(10_000_000))
    (dense,) = (solver for solver in SOLVERS if solver.name == "jnp.linalg.solve, dense")
    assert "too large" in dense.obstacle(big)


class _Pattern:
    def __init__(self, n):
        self.n = n


def test_the_innermost_message_of_a_failed_callback_is_kept():
    text = "INTERNAL: callback:\nTraceback\n  File\npackage.SomeError: the reason\n\nmore"
    assert summary(RuntimeError(text)) == "RuntimeError: the reason"


def test_a_package_can_be_hidden_and_comes_back():
    held = sys.modules["numpy"]
    with _hidden("numpy", True), pytest.raises(ImportError):
        __import__("numpy")
    assert sys.modules["numpy"] is held
