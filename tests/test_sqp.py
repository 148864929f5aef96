"""SQP: published optima with their multipliers, limits, faults and what it refuses."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import adjoint
from adjoint import SQP, Status, minimize
from adjoint.inner_products import Euclidean
from adjoint.optimize import progress
from adjoint.optimize.problem import Domain, Measure
from adjoint.optimize.run import Limits, start
from adjoint.optimize.state import Evaluation
from adjoint.optimize.stopping import RUNNING
from tests.hock_schittkowski import CASES, Case, assert_optimal

SLOW = ("HS35", "HS43", "HS76")


def solve(case: Case, **options: Any) -> Any:
    given = {"bounds": case.bounds, "equality": case.equality, "inequality": case.inequality}
    return minimize(case.f, jnp.asarray(case.start), SQP(), **given, **options)


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=pytest.mark.slow) if n in SLOW else n for n in CASES]
)
def test_optimum_and_multipliers(name: str) -> None:
    seen: list[Any] = []
    solution = solve(CASES[name], callback=seen.append)
    assert_optimal(CASES[name], solution)
    assert int(solution.stats["evaluations"]) <= 30
    history = solution.stats["history"]
    assert [step.iteration for step in seen] == list(range(int(solution.stats["iterations"]) + 1))
    assert history["evaluations"][-1] == int(solution.stats["evaluations"])


def test_limits_and_the_callback_end_it() -> None:
    case = CASES["HS7"]
    assert solve(case, max_steps=3).status == Status.NOT_CONVERGED
    few = solve(case, max_evaluations=4)
    assert few.status == Status.MAX_EVALUATIONS
    assert int(few.stats["evaluations"]) == 4
    assert solve(case, max_seconds=1e-9).status == Status.TIME_LIMIT
    assert solve(case, callback=lambda step: step.iteration == 2).status == Status.INTERRUPTED


METHODS = {"SQP": SQP(), "AugmentedLagrangian": adjoint.AugmentedLagrangian(), "default": None}


class TestFaults:
    def test_a_flipped_component_of_the_gradient(self) -> None:
        right = jax.jit(jax.grad(CASES["HS7"].f))
        wrong = lambda x: np.asarray(right(jnp.asarray(x))) * np.array([1.0, -1.0])
        f = lambda x: float(np.log(1 + x[0] ** 2) - x[1])
        solution = minimize(
            f, jnp.array([2.0, 2.0]), SQP(), equality=CASES["HS7"].equality, gradient=wrong
        )
        assert solution.status == Status.UNTRUSTED_GRADIENT
        assert int(solution.stats["evaluations"]) <= 120

    def test_a_flipped_component_at_a_limit_of_steps(self) -> None:
        right = jax.jit(jax.grad(CASES["HS7"].f))
        wrong = lambda x: np.asarray(right(jnp.asarray(x))) * np.array([1.0, -1.0])
        f = lambda x: float(np.log(1 + x[0] ** 2) - x[1])
        given = {"equality": CASES["HS7"].equality, "gradient": wrong, "max_steps": 5}
        assert (
            minimize(f, jnp.array([2.0, 2.0]), SQP(), **given).status == Status.UNTRUSTED_GRADIENT
        )

    @pytest.mark.parametrize(
        ("known", "code", "reason"),
        [(0.0, RUNNING, "STALLED"), (1.0, RUNNING, "INFEASIBLE")],
    )
    def test_stuck_outside_is_infeasible_only_where_nothing_within_is_known(
        self, known: float, code: int, reason: str
    ) -> None:
        x, method = jnp.ones(2), SQP()
        domain = Domain(None, None, jnp.asarray(0.0), Euclidean(), lambda x: x, equalities=1)
        one, no = jnp.asarray(1.0), jnp.asarray(False)
        run = start(method, x, domain, constraints=1)
        here = Measure(stationarity=one, violation=one, merit=one, derivative=x, scale=one)
        failed = run.state._replace(failed=~no, at=run.state.at._replace(value=one))
        run = run._replace(
            state=failed,
            measure=here,
            scaled=here,
            first_measure=here,
            best=run.best._replace(violation=known * one),
        )
        limits = Limits(*(jnp.asarray(v) for v in (1e-8, 0.0, 1e-8, 100, 100)))
        evaluation = Evaluation(one, x, jnp.ones(1), jnp.ones((1, 2)))
        run = progress._stop(run, no, no, no, evaluation, domain, limits)
        assert int(run.code) == code
        assert Status(run.reason).name == reason

    def test_infeasible_constraints(self) -> None:
        # x_0 <= 1 and x_0 >= 2.
        impossible = lambda x: jnp.stack([x[0] - 1, 2 - x[0]])
        solution = minimize(lambda x: jnp.sum(x**2), jnp.full(2, 0.5), SQP(), inequality=impossible)
        assert solution.status == Status.INFEASIBLE

    @pytest.mark.parametrize(
        ("name", "slope"),
        [
            ("SQP", [1.0, -2.0]),
            *(
                pytest.param(name, slope, marks=pytest.mark.slow)
                for name in METHODS
                for slope in ([1.0, -2.0], [-1.0, 4.0], [0.0, 0.0], [0.0, 1e3])
                if (name, slope) != ("SQP", [1.0, -2.0])
            ),
        ],
    )
    def test_an_equation_that_contradicts_an_inequality(
        self, name: str, slope: list[float]
    ) -> None:
        """x + y = 3 misses the unit disc, and f falls along both."""
        solution = minimize(
            lambda x: jnp.dot(jnp.array(slope), x),
            jnp.array([2.0, 0.0]),
            METHODS[name],
            equality=lambda x: x[0] + x[1] - 3,
            inequality=lambda x: jnp.sum(x**2) - 1,
        )
        assert solution.status == Status.INFEASIBLE
        assert int(solution.stats["evaluations"]) <= 200

    def test_not_a_number(self) -> None:
        nowhere = lambda x: jnp.sum(x) * jnp.nan
        assert (
            minimize(jnp.sum, jnp.ones(2), SQP(), equality=nowhere).status
            == Status.NONFINITE_OBJECTIVE
        )
        # Beyond x = 1/10 only: the minimum of -log x + 10 x, which the first step from 5 passes.
        solution = minimize(lambda x: jnp.sum(10 * x - jnp.log(x)), jnp.array([5.0, 0.02]), SQP())
        np.testing.assert_allclose(adjoint.require(solution), 0.1, rtol=1e-7)


def test_inside_jit_it_takes_the_same_steps() -> None:
    case = CASES["HS7"]
    on_host = solve(case)
    compiled = jax.jit(lambda x: minimize(case.f, x, SQP(), equality=case.equality))(
        jnp.asarray(case.start)
    )
    assert compiled.status == Status.SUCCESS
    assert int(on_host.stats["evaluations"]) == int(compiled.stats["evaluations"])
    np.testing.assert_allclose(on_host.value, compiled.value, rtol=1e-9, atol=1e-12)


@pytest.mark.slow
def test_four_constraints_of_different_sizes() -> None:
    """HS100 (Hock and Schittkowski): SciPy's SLSQP violates constraints by 1e-8 to 1e-7."""

    def f(x):
        first = (
            (x[0] - 10) ** 2
            + 5 * (x[1] - 12) ** 2
            + x[2] ** 4
            + 3 * (x[3] - 11) ** 2
            + 10 * x[4] ** 6
        )
        return first + 7 * x[5] ** 2 + x[6] ** 4 - 4 * x[5] * x[6] - 10 * x[5] - 8 * x[6]

    def limits(x):
        return jnp.stack(
            [
                2 * x[0] ** 2 + 3 * x[1] ** 4 + x[2] + 4 * x[3] ** 2 + 5 * x[4] - 127,
                7 * x[0] + 3 * x[1] + 10 * x[2] ** 2 + x[3] - x[4] - 282,
                23 * x[0] + x[1] ** 2 + 6 * x[5] ** 2 - 8 * x[6] - 196,
                4 * x[0] ** 2 + x[1] ** 2 - 3 * x[0] * x[1] + 2 * x[2] ** 2 + 5 * x[5] - 11 * x[6],
            ]
        )

    start = jnp.array([1.0, 2.0, 0.0, 4.0, 0.0, 1.0, 1.0])
    solution = minimize(f, start, SQP(), inequality=limits)
    x = [2.330499, 1.951372, -0.4775414, 4.365726, -0.6244870, 1.038131, 1.594227]
    np.testing.assert_allclose(adjoint.require(solution), x, rtol=0, atol=1e-5)
    assert float(solution.stats["value"]) == pytest.approx(680.6300573, abs=1e-6)
