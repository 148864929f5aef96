"""Augmented Lagrangians: published optima with multipliers, every mode, faults, bad input."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import adjoint
from adjoint import BFGS, LBFGS, MMA, AugmentedLagrangian, Newton, Status, minimize
from tests.hock_schittkowski import CASES, Case, assert_optimal


def solve(case: Case, method: Any = None, **options: Any) -> Any:
    method = method or AugmentedLagrangian()
    given = {"bounds": case.bounds, "equality": case.equality, "inequality": case.inequality}
    return minimize(case.f, jnp.asarray(case.start), method, **given, **options)


# Cases of one size share what is compiled.
SLOW = ("HS35", "HS43", "HS76")


class TestPublishedOptima:
    @pytest.mark.parametrize(
        "name", [pytest.param(n, marks=pytest.mark.slow) if n in SLOW else n for n in CASES]
    )
    def test_optimum_and_multipliers(self, name: str) -> None:
        solution = solve(CASES[name])
        assert_optimal(CASES[name], solution)
        # Some tens, as by other methods of multipliers; inner runs that zigzag along a bound take
        # hundreds.
        assert int(solution.stats["evaluations"]) <= 60

    @pytest.mark.slow
    def test_an_inner_run_that_loses_the_constraints_begins_again(self) -> None:
        """HS24: f falls like -x_1^3 beyond the constraints, faster than squares of violations grow.

        The source is as of the others.
        """
        case = Case(
            lambda x: ((x[0] - 3) ** 2 - 9) * x[1] ** 3 / (27 * np.sqrt(3)),
            [1.0, 0.5],
            -1.0,
            [3.0, np.sqrt(3)],
            inequality=lambda x: (
                jnp.array([[-1 / np.sqrt(3), 1], [-1, -np.sqrt(3)], [1, np.sqrt(3)]]) @ x
                - jnp.array([0.0, 0.0, 6.0])
            ),
            bounds=(0.0, jnp.inf),
        )
        assert_optimal(case, solve(case))

    @pytest.mark.slow
    def test_an_inactive_inequality_has_no_multiplier(self) -> None:
        limits = lambda x: jnp.stack([1 - x[0] - x[1], x[0] - 5])
        solution = minimize(
            lambda x: jnp.sum(x**2),
            jnp.array([2.0, 0.0]),
            AugmentedLagrangian(LBFGS()),
            inequality=limits,
        )
        # 2 x = lambda (1, 1) and x_0 + x_1 = 1.
        np.testing.assert_allclose(adjoint.require(solution), [0.5, 0.5], rtol=0, atol=1e-8)
        np.testing.assert_allclose(solution.stats["multipliers"], [1.0, 0.0], rtol=0, atol=1e-7)


@pytest.mark.slow
def test_compiled_and_host_take_the_same_steps() -> None:
    case = CASES["HS7"]

    def solved(start: Any) -> Any:
        solution = minimize(case.f, start, AugmentedLagrangian(BFGS()), equality=case.equality)
        return solution.value, solution.stats["evaluations"], solution.stats["multipliers"]

    start = jnp.asarray(case.start)
    compiled, on_host = jax.jit(solved)(start), solved(start)
    for a, b in zip(compiled, on_host, strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-12)


class TestStarts:
    """x . x with x_0 + x_1 = 1: (1/2, 1/2) by symmetry, multiplier -1 times the factor of f."""

    @pytest.mark.parametrize(
        ("start", "factor"), [(0.0, 1.0), (0.0, 1e-8), (0.0, 1e8), (1e-6, 1.0), (1e-9, 1.0)]
    )
    def test_where_f_is_stationary_or_almost(self, start: float, factor: float) -> None:
        f = lambda x: factor * jnp.sum(x**2)
        solution = minimize(
            f, jnp.full(2, start), AugmentedLagrangian(), equality=lambda x: x[0] + x[1] - 1
        )
        assert solution.status == Status.SUCCESS
        np.testing.assert_allclose(solution.value, 0.5, rtol=0, atol=1e-8)
        np.testing.assert_allclose(solution.stats["multipliers"], -factor, rtol=1e-7)

    def test_a_run_that_is_cut_short_has_the_multipliers_of_its_best_point(self) -> None:
        case, seen = CASES["HS7"], []
        for steps in range(1, 6):
            solution = solve(case, max_steps=steps)
            assert solution.status == Status.NOT_CONVERGED
            J = np.asarray(jax.grad(case.equality)(solution.value))
            slope = (
                np.asarray(jax.grad(case.f)(solution.value)) + solution.stats["multipliers"][0] * J
            )
            np.testing.assert_allclose(
                np.linalg.norm(slope), solution.stats["stationarity"], rtol=1e-6, atol=1e-12
            )
            seen.append(solution.stats["violation"])
        assert len({float(v) for v in seen}) > 1


class TestFaults:
    def test_infeasible_constraints(self) -> None:
        # x_0 <= 1 and x_0 >= 2: the least violation is 1/2.
        impossible = lambda x: jnp.stack([x[0] - 1, 2 - x[0]])
        solution = minimize(
            lambda x: jnp.sum(x**2), jnp.full(2, 0.5), AugmentedLagrangian(), inequality=impossible
        )
        assert solution.status == Status.INFEASIBLE
        assert float(solution.stats["violation"]) == pytest.approx(0.5, abs=1e-5)

    def test_a_constraint_that_is_no_number(self) -> None:
        nowhere = lambda x: jnp.sum(x) * jnp.nan
        solution = minimize(jnp.sum, jnp.full(2, 0.5), AugmentedLagrangian(), equality=nowhere)
        assert solution.status == Status.NONFINITE_OBJECTIVE


@pytest.mark.parametrize(
    "inner",
    [Newton(), MMA(), BFGS, AugmentedLagrangian()],
    ids=["Newton", "MMA", "class", "itself"],
)
def test_refuses_what_cannot_be_inside(inner: Any) -> None:
    with pytest.raises(ValueError, match=r"AugmentedLagrangian: got inner = .*BFGS\(\)"):
        AugmentedLagrangian(inner)
