"""Examinations: is a derivative that of the values, and is what is left lost in their noise?

What is left is what there is to gain.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from adjoint import BFGS, LBFGS, NewtonKrylov, Status, minimize
from adjoint.inner_products import Euclidean
from adjoint.optimize import derivative_check
from adjoint.optimize.derivative_check import Finding
from adjoint.optimize.descent import Descent
from adjoint.optimize.problem import Domain
from adjoint.optimize.state import Evaluation, Iterate, State, begin
from adjoint.optimize.trust_region import unknown

DOMAIN = Domain(None, None, jnp.zeros(()), Euclidean(), lambda x: x)


def check_derivative(f: Callable[[float], float], slope: Callable[[float], float]) -> Finding:
    """Of f(t) at t = 1, towards larger t."""

    def at(t: float) -> Iterate:
        return Iterate(jnp.array([t]), jnp.asarray(f(t)), jnp.array([slope(t)]))

    checked = derivative_check.begin(at(1.0), jnp.ones(1), jnp.asarray(1.0), DOMAIN)
    while not bool(derivative_check.complete(checked)):
        there = at(float(checked.point[0]))
        checked = derivative_check.record(checked, Evaluation(there.value, there.derivative))
    return derivative_check.find(checked, DOMAIN)


def test_a_right_derivative_of_a_smooth_function() -> None:
    finding = check_derivative(lambda t: float(np.exp(-t)), lambda t: float(-np.exp(-t)))
    assert not bool(finding.wrong)
    assert not bool(finding.at_floor)
    assert float(finding.noise) <= 1e-15


@pytest.mark.parametrize("factor", [-1.0, 0.5, 1.5])
def test_a_wrong_derivative(factor: float) -> None:
    assert bool(
        check_derivative(lambda t: float(np.exp(-t)), lambda t: float(-factor * np.exp(-t))).wrong
    )


def test_noise_and_what_it_hides() -> None:
    """f = (t - 1.001)^2 has 1e-6 to gain at t = 1, and noise of 1e-4."""
    noisy = check_derivative(
        lambda t: (t - 1.001) ** 2 + 1e-4 * float(np.sin(1e9 * t)), lambda t: 2 * (t - 1.001)
    )
    assert bool(noisy.at_floor)
    assert 1e-5 < float(noisy.noise) < 1e-3
    clear = check_derivative(lambda t: (t - 1.001) ** 2, lambda t: 2 * (t - 1.001))
    assert not bool(clear.at_floor)


def test_a_steep_curve_is_no_noise() -> None:
    """f = 1 - 1e8 s + 1e18 s^2 + 1e22 s^3, s = t - 1, has 0.25% to gain.

    At the shortest s the cubic term is left of it.
    """
    finding = check_derivative(
        lambda t: 1 - 1e8 * (t - 1) + 1e18 * (t - 1) ** 2 + 1e22 * (t - 1) ** 3,
        lambda t: -1e8 + 2e18 * (t - 1) + 3e22 * (t - 1) ** 2,
    )
    assert float(finding.noise) <= 1e-12
    assert not bool(finding.at_floor)
    assert not bool(finding.wrong)


def test_a_curve_that_levels_off_is_no_wrong_derivative() -> None:
    """1e9 (1 - exp(-(s / 1e-3)^2)), s = t - 1: long steps see its plateau, short ones its start."""

    def f(t: float) -> float:
        return 1e9 * (1 - float(np.exp(-(((t - 1) / 1e-3) ** 2))))

    finding = check_derivative(
        f, lambda t: 2e15 * (t - 1) * float(np.exp(-(((t - 1) / 1e-3) ** 2)))
    )
    assert not bool(finding.wrong)


def test_a_jump_of_the_values_is_no_wrong_derivative() -> None:
    """10 (t - 1)^2 within noise of 1e-6, and beside the minimum a step of 1e4."""

    def f(t: float) -> float:
        return 10 * (t - 1) ** 2 + (1e4 if t > 1 + 1e-5 else 1e-6 * float(np.sin(1e9 * t)))

    finding = check_derivative(f, lambda t: 20 * (t - 1) + 1e-7)
    assert not bool(finding.wrong)
    assert bool(finding.at_floor)


@pytest.mark.parametrize("factor", [1.08, 0.93])
def test_a_slope_that_is_wrong_by_little_is_no_noise(factor: float) -> None:
    """By too little to be called so: f = (t - 2)^2 has 1 to gain, and the slope misses 8e-10.

    That is over the shortest step, 5e-9.
    """
    finding = check_derivative(lambda t: (t - 2) ** 2, lambda t: factor * 2 * (t - 2))
    assert not bool(finding.wrong)
    assert not bool(finding.at_floor)
    assert float(finding.noise) <= 1e-15


def test_a_jump_at_the_point_itself_is_no_noise() -> None:
    """exp(-t), and 20,000 more for all t > 1."""
    finding = check_derivative(
        lambda t: float(np.exp(-t)) + 2e4 * (t > 1), lambda t: float(-np.exp(-t))
    )
    assert not bool(finding.wrong)
    assert not bool(finding.at_floor)
    assert float(finding.noise) <= 1e-15


def test_the_curvature_is_that_at_the_minimum() -> None:
    """sqrt(1 + (1e6 (s - 1e-14))^2), s = t - 1: from t = 1 a gain of 5e-17, which rounding hides.

    Over the longest stretch, 0.01, the slope goes from -0.01 to 1e6 only, as if there were 5e-13 to
    gain.
    """

    def root(t: float) -> float:
        return float(np.hypot(1, 1e6 * (t - 1 - 1e-14)))

    def slope(t: float) -> float:
        return 1e12 * (t - 1 - 1e-14) / root(t)

    assert bool(check_derivative(root, slope).at_floor)
    # From a million times as far there is 5e-5 to gain.
    clear = check_derivative(lambda t: root(t - 1e-8), lambda t: slope(t - 1e-8))
    assert not bool(clear.at_floor)


@pytest.mark.parametrize("promise", [np.inf, 0.0])
def test_nothing_to_gain_along_a_steep_direction_says_nothing_about_flat_ones(
    promise: float,
) -> None:
    """f = 1 + 1e6 (x - 1)^2 / 2 + (y^2 / 2 - y) 1e-10, at x = 1 + 3e-12 and y = 10.

    There is 4e-18 to gain along x, which rounding hides, and 4e-9 along y. The slope times the size
    of x is a hundred times what rounding of 1e-15 hides, 3e-8. Whoever knows f'' may say more.
    """

    class Stuck(Descent):
        def init(self, x: Any, domain: Any, constraints: int = 0) -> State:
            return begin(x, ())._replace(prediction=unknown(x.dtype))

        def step(self, state: State, evaluation: Any, domain: Any) -> State:
            at = Iterate(state.point, evaluation.value, evaluation.derivative)
            prediction = unknown(at.x.dtype)._replace(decrease=jnp.asarray(promise))
            return state._replace(at=at, failed=jnp.ones((), bool), prediction=prediction)

        def restart(self, state: Any, domain: Any) -> Any:
            return state

    def f(x: Any) -> Any:
        return 1 + 1e6 * (x[0] - 1) ** 2 / 2 + 1e-10 * (x[1] ** 2 / 2 - x[1])

    solution = minimize(f, jnp.array([1 + 3e-12, 10.0]), Stuck())
    assert solution.status == (Status.NOISE_FLOOR if promise == 0 else Status.STALLED)


def test_noise_that_only_searches_meet() -> None:
    """Problem of J. Devilliers, D. Glasser with data rounded off: f ends at 2e-10 or 1e-12.

    Source: SIAM J. Numer. Anal. 18 (1981). f = 1e5 at the start, of terms that cancel: at the end
    it is rounded off by 1e-8 of itself, which shows over steps shorter than any of a check.
    One of six runs may end elsewhere on another processor.
    """
    t, x = 0.1 * jnp.arange(24), jnp.array([60.137, 1.371, 3.112, 1.761])

    def curve(x: Any) -> Any:
        return x[0] * x[1] ** t * jnp.sin(x[2] * t + x[3])

    said = []
    for digits in (5, 6):
        data = jnp.round(curve(x), digits)
        for method in (BFGS(), LBFGS(), NewtonKrylov()):
            solution = minimize(
                lambda x, data=data: jnp.sum((curve(x) - data) ** 2), jnp.full(4, 2.0), method
            )
            phase = (solution.value - x)[3] / (2 * np.pi)
            np.testing.assert_allclose(
                solution.value - x, [0, 0, 0, 2 * np.pi * round(float(phase))], atol=1e-3
            )
            said.append(bool(solution.status.ok))
    assert sum(said) >= 5


def test_what_a_wrong_derivative_contradicts_is_no_noise() -> None:
    """Beale's function with 0.9 and 1.1 times the entries of its derivative."""

    def beale(x: Any) -> Any:
        return jnp.sum((jnp.array([1.5, 2.25, 2.625]) - x[0] * (1 - x[1] ** jnp.arange(1, 4))) ** 2)

    right = jax.jit(jax.grad(beale))

    def wrong(x: Any) -> Any:
        return np.asarray(right(x)) * np.array([0.9, 1.1])

    solution = minimize(
        lambda x: float(beale(x)),
        np.array([-1.2, 1.0]),
        BFGS(),
        gradient=wrong,
        max_evaluations=600,
    )
    assert not bool(solution.status.ok)
