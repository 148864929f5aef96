"""Constrained problems of Hock and Schittkowski with their published optima."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import adjoint
from adjoint import Status


class Case(NamedTuple):
    """A problem with its published optimum, at the published start."""

    f: Callable[[Any], Any]
    start: list[float]
    value: float
    x: list[float]
    equality: Callable[[Any], Any] | None = None
    inequality: Callable[[Any], Any] | None = None
    bounds: tuple[Any, Any] | None = None


def rosen_suzuki(x: Any) -> Any:
    return (
        x[0] ** 2
        + x[1] ** 2
        + 2 * x[2] ** 2
        + x[3] ** 2
        - 5 * x[0]
        - 5 * x[1]
        - 21 * x[2]
        + 7 * x[3]
    )


def rosen_suzuki_limits(x: Any) -> Any:
    squares = x**2
    return jnp.stack(
        [
            jnp.sum(squares) + x[0] - x[1] + x[2] - x[3] - 8,
            squares @ jnp.array([1.0, 2.0, 1.0, 2.0]) - x[0] - x[3] - 10,
            squares @ jnp.array([2.0, 1.0, 1.0, 0.0]) + 2 * x[0] - x[1] - x[3] - 5,
        ]
    )


def hs76(x: Any) -> Any:
    squares = x**2 @ jnp.array([1.0, 0.5, 1.0, 0.5])
    return squares - x[0] * x[2] + x[2] * x[3] - x @ jnp.array([1.0, 3.0, -1.0, 1.0])


def hs76_limits(x: Any) -> Any:
    A = jnp.array([[1.0, 2.0, 1.0, 1.0], [3.0, 1.0, 2.0, -1.0], [0.0, -1.0, -4.0, 0.0]])
    return A @ x - jnp.array([5.0, 4.0, -1.5])


# W. Hock, K. Schittkowski, Test Examples for Nonlinear Programming Codes, Springer (1981), by their
# numbers.
CASES = {
    "HS6": Case(
        lambda x: (1 - x[0]) ** 2, [-1.2, 1.0], 0.0, [1.0, 1.0], lambda x: 10 * (x[1] - x[0] ** 2)
    ),
    "HS7": Case(
        lambda x: jnp.log(1 + x[0] ** 2) - x[1],
        [2.0, 2.0],
        -np.sqrt(3),
        [0.0, np.sqrt(3)],
        lambda x: (1 + x[0] ** 2) ** 2 + x[1] ** 2 - 4,
    ),
    "HS35": Case(
        lambda x: (
            9
            - 8 * x[0]
            - 6 * x[1]
            - 4 * x[2]
            + 2 * x[0] ** 2
            + 2 * x[1] ** 2
            + x[2] ** 2
            + 2 * x[0] * (x[1] + x[2])
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
    "HS43": Case(rosen_suzuki, [0.0] * 4, -44.0, [0.0, 1.0, 2.0, -1.0], None, rosen_suzuki_limits),
    "HS76": Case(
        hs76,
        [0.5] * 4,
        -4.681818181,
        [3 / 11, 23 / 11, 0.0, 6 / 11],
        None,
        hs76_limits,
        (0.0, jnp.inf),
    ),
}


def assert_optimal(case: Case, solution: Any) -> None:
    """The published optimum, and the conditions of optimality with derivatives taken here.

    They are Nocedal and Wright's, theorem 12.1.
    """
    x, multipliers = adjoint.require(solution), np.asarray(solution.stats["multipliers"])
    assert solution.status == Status.SUCCESS
    # rtol = 1e-8 leaves 1e-6 of x in the flattest directions, that of HS6 first.
    np.testing.assert_allclose(x, case.x, rtol=0, atol=1e-6)
    assert float(solution.stats["value"]) == pytest.approx(case.value, abs=1e-7)
    gradient, row, zero = np.asarray(jax.grad(case.f)(x)), 0, 1e-8
    for constraint, is_equation in ((case.equality, True), (case.inequality, False)):
        if constraint is not None:
            c, J = np.atleast_1d(constraint(x)), np.atleast_2d(jax.jacrev(constraint)(x))
            mine = multipliers[row : row + c.size]
            assert np.all(c <= zero)
            assert not is_equation or np.all(c >= -zero)
            assert is_equation or np.all(mine >= 0)
            assert is_equation or np.all(mine[c < -1e-4] <= 1e-6)
            gradient, row = gradient + mine @ J, row + c.size
    assert row == multipliers.size
    lower = -np.inf if case.bounds is None else np.asarray(case.bounds[0])
    held = (np.asarray(x) <= lower + 1e-12) & (gradient > 0)
    np.testing.assert_allclose(gradient[~held], 0, rtol=0, atol=1e-6)
