"""Augmented Lagrangians: published optima with their multipliers, in every mode, faults and bad input."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import adjoint
from adjoint import BFGS, LBFGS, MMA, AugmentedLagrangian, Newton, Status, minimize


class Case(NamedTuple):
    """A problem with its published optimum, at the published start."""

    f: Callable[[Any], Any]
    start: list[float]
    value: float
    x: list[float]
    equality: Callable[[Any], Any] | None = None
    inequality: Callable[[Any], Any] | None = None
    bounds: tuple[Any, Any] | None = None


# W. Hock, K. Schittkowski, Test Examples for Nonlinear Programming Codes, Springer (1981), by their numbers.
CASES = {
    "HS6": Case(lambda x: (1 - x[0]) ** 2, [-1.2, 1.0], 0.0, [1.0, 1.0], lambda x: 10 * (x[1] - x[0] ** 2)),
    "HS7": Case(
        lambda x: jnp.log(1 + x[0] ** 2) - x[1],
        [2.0, 2.0],
        -np.sqrt(3),
        [0.0, np.sqrt(3)],
        lambda x: (1 + x[0] ** 2) ** 2 + x[1] ** 2 - 4,
    ),
    "HS35": Case(
        lambda x: (
            9 - 8 * x[0] - 6 * x[1] - 4 * x[2] + 2 * x[0] ** 2 + 2 * x[1] ** 2 + x[2] ** 2 + 2 * x[0] * (x[1] + x[2])
        ),
        [0.5, 0.5, 0.5],
        1 / 9,
        [4 / 3, 7 / 9, 4 / 9],
        None,
        lambda x: x[0] + x[1] + 2 * x[2] - 3,
        (0.0, jnp.inf),
    ),
    "HS71": Case(
        lambda x: x[0] * x[3] * (x[0] + x[1] + x[2]) + x[2],
        [1.0, 5.0, 5.0, 1.0],
        17.0140173,
        [1.0, 4.7429994, 3.8211503, 1.3794082],
        lambda x: jnp.sum(x**2) - 40,
        lambda x: 25 - jnp.prod(x),
        (1.0, 5.0),
    ),
}


def solve(case: Case, method: Any = None, **options: Any) -> Any:
    method = method or AugmentedLagrangian()
    given = {"bounds": case.bounds, "equality": case.equality, "inequality": case.inequality}
    return minimize(case.f, jnp.asarray(case.start), method, **given, **options)


class TestPublishedOptima:
    @pytest.mark.parametrize("name", CASES)
    def test_optimum_and_multipliers(self, name: str) -> None:
        case = CASES[name]
        solution = solve(case)
        x, multipliers = adjoint.require(solution), np.asarray(solution.stats["multipliers"])
        assert solution.status == Status.SUCCESS
        # Some tens, as by other methods of multipliers; inner runs that zigzag along a bound take hundreds.
        assert int(solution.stats["evaluations"]) <= 60
        # rtol = 1e-8 leaves 1e-6 of x in the flattest directions, that of HS6 first.
        np.testing.assert_allclose(x, case.x, rtol=0, atol=1e-6)
        assert float(solution.stats["value"]) == pytest.approx(case.value, abs=1e-7)
        # The conditions of optimality (Nocedal and Wright, theorem 12.1), with derivatives taken here.
        gradient, row, zero = np.asarray(jax.grad(case.f)(x)), 0, 1e-8
        for constraint, is_equation in ((case.equality, True), (case.inequality, False)):
            if constraint is not None:
                c = float(constraint(x))
                assert c <= zero
                assert not is_equation or c >= -zero
                assert is_equation or multipliers[row] > 0
                gradient = gradient + multipliers[row] * np.asarray(jax.grad(constraint)(x))
                row += 1
        lower = -np.inf if case.bounds is None else np.asarray(case.bounds[0])
        held = (np.asarray(x) <= lower) & (gradient > 0)
        np.testing.assert_allclose(gradient[~held], 0, rtol=0, atol=1e-6)

    def test_an_inactive_inequality_has_no_multiplier(self) -> None:
        limits = lambda x: jnp.stack([1 - x[0] - x[1], x[0] - 5])  # noqa: E731
        solution = minimize(
            lambda x: jnp.sum(x**2), jnp.array([2.0, 0.0]), AugmentedLagrangian(LBFGS()), inequality=limits
        )
        # 2 x = lambda (1, 1) and x_0 + x_1 = 1.
        np.testing.assert_allclose(adjoint.require(solution), [0.5, 0.5], rtol=0, atol=1e-8)
        np.testing.assert_allclose(solution.stats["multipliers"], [1.0, 0.0], rtol=0, atol=1e-7)


def test_compiled_and_host_take_the_same_steps() -> None:
    case = CASES["HS7"]

    def solved(start: Any) -> Any:
        solution = minimize(case.f, start, AugmentedLagrangian(BFGS()), equality=case.equality)
        return solution.value, solution.stats["evaluations"], solution.stats["multipliers"]

    start = jnp.asarray(case.start)
    compiled, on_host = jax.jit(solved)(start), solved(start)
    for a, b in zip(compiled, on_host, strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-12)


class TestFaults:
    def test_infeasible_constraints(self) -> None:
        # x_0 <= 1 and x_0 >= 2: the least violation is 1/2.
        impossible = lambda x: jnp.stack([x[0] - 1, 2 - x[0]])  # noqa: E731
        solution = minimize(lambda x: jnp.sum(x**2), jnp.full(2, 0.5), AugmentedLagrangian(), inequality=impossible)
        assert solution.status == Status.INFEASIBLE
        assert float(solution.stats["violation"]) == pytest.approx(0.5, abs=1e-5)

    def test_a_constraint_that_is_no_number(self) -> None:
        nowhere = lambda x: jnp.sum(x) * jnp.nan  # noqa: E731
        solution = minimize(jnp.sum, jnp.full(2, 0.5), AugmentedLagrangian(), equality=nowhere)
        assert solution.status == Status.NONFINITE_OBJECTIVE


@pytest.mark.parametrize(
    "inner", [Newton(), MMA(), BFGS, AugmentedLagrangian()], ids=["Newton", "MMA", "class", "itself"]
)
def test_refuses_what_cannot_be_inside(inner: Any) -> None:
    with pytest.raises(ValueError, match=r"AugmentedLagrangian: got inner = .*BFGS\(\)"):
        AugmentedLagrangian(inner)
