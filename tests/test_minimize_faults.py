"""minimize by the descent methods where something is wrong: faults on the way, and bad input."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_minimize import METHODS, QUASI_NEWTON, quadratic, rosenbrock

import adjoint
from adjoint import BFGS, Status, minimize


def noisy(x: Any, level: float) -> Any:
    """Rosenbrock's function with values that jitter by `level` and a derivative that does not."""
    return rosenbrock(x) + level * jnp.sin(1e8 * jnp.sum(jax.lax.stop_gradient(x)))


class TestFaults:
    @pytest.mark.parametrize("method", QUASI_NEWTON, ids=repr)
    def test_nan_at_the_start(self, method: Any) -> None:
        for f in (lambda x: jnp.sum(x) * jnp.nan, lambda x: jnp.sum(jnp.sqrt(x - 1.0))):
            solution = minimize(f, jnp.ones(2), method)
            assert solution.status == Status.NONFINITE_OBJECTIVE
            assert int(solution.stats["evaluations"]) == 1

    @pytest.mark.parametrize("method", QUASI_NEWTON, ids=repr)
    def test_nan_on_the_way_is_stepped_back_from(self, method: Any) -> None:
        # -log x + 10 x: minimum at 0.1; steps to x < 0 give NaN.
        solution = minimize(lambda x: jnp.sum(-jnp.log(x) + 10 * x), jnp.array([5.0, 0.02]), method)
        np.testing.assert_allclose(adjoint.require(solution), 0.1, rtol=1e-7)

    @pytest.mark.parametrize("method", METHODS, ids=repr)
    @pytest.mark.parametrize(
        "factors", [(1.0, -1.0), (-1.0, -1.0), pytest.param((1.0, 1e3), marks=pytest.mark.slow)]
    )
    def test_a_wrong_gradient_is_no_success(
        self, method: Any, factors: tuple[float, float]
    ) -> None:
        right = jax.jit(jax.grad(rosenbrock))

        def wrong(x):
            return np.asarray(right(jnp.asarray(x))) * np.array(factors)

        def f(x):
            return np.asarray(rosenbrock(jnp.asarray(x)))

        solution = minimize(f, jnp.array([-1.2, 1.0]), method, gradient=wrong, max_steps=300)
        assert solution.status == Status.UNTRUSTED_GRADIENT
        # It keeps the best point: never worse than the start.
        assert float(solution.stats["value"]) <= float(rosenbrock(jnp.array([-1.2, 1.0])))
        with pytest.raises(adjoint.SolveError, match="verify_gradient"):
            adjoint.require(solution)

    def test_noise_ends_at_its_floor(self) -> None:
        # 10 unknowns without noise take about 100 evaluations.
        start = -jnp.ones(10)
        clean = int(minimize(rosenbrock, start, BFGS()).stats["evaluations"])
        for more in ({}, {"noise": 1e-6}):
            solution = minimize(lambda x: noisy(x, 1e-6), start, BFGS(), **more)
            assert bool(solution.status.ok)
            assert int(solution.stats["evaluations"]) <= 3 * clean
            assert float(rosenbrock(solution.value)) <= 1e-5

    @pytest.mark.slow
    def test_a_kink_is_no_noise(self) -> None:
        solution = minimize(
            lambda x: jnp.abs(x[0] - 0.3) + 2 * jnp.abs(x[1]), jnp.array([1.0, 1.0]), BFGS()
        )
        assert (
            solution.status in (Status.STALLED, Status.UNTRUSTED_GRADIENT)
            or float(solution.stats["value"]) < 1e-9
        )

    @pytest.mark.parametrize(
        "f", [lambda x: -jnp.sum(x), lambda x: jnp.sum(x**3), lambda x: -jnp.sum(jnp.exp(x))]
    )
    def test_unbounded_below(self, f: Any) -> None:
        assert minimize(f, -0.5 * jnp.ones(2), BFGS()).status == Status.UNBOUNDED

    @pytest.mark.parametrize("method", [BFGS(), None])
    def test_a_steep_start_makes_no_slope_small(self, method: Any) -> None:
        """f = e^x + e^(-x/9) from 40, where f' = 2e17: a share of 1e-8 of that is no small slope.

        f' = 0 at 10 x / 9 = -log 9.
        """
        solution = minimize(
            lambda x: jnp.sum(jnp.exp(x) + jnp.exp(-x / 9)), jnp.array([40.0]), method
        )
        np.testing.assert_allclose(adjoint.require(solution), [-0.9 * np.log(9)], rtol=1e-5)

    def test_a_constant_is_minimal_at_once(self) -> None:
        solution = minimize(lambda x: 3.0 + 0 * jnp.sum(x), jnp.ones(3), BFGS())
        assert solution.status == Status.SUCCESS
        assert int(solution.stats["evaluations"]) == 1

    def test_limits(self) -> None:
        start = jnp.array([-1.2, 1.0])
        assert minimize(rosenbrock, start, BFGS(), max_steps=3).status == Status.NOT_CONVERGED
        few = minimize(rosenbrock, start, BFGS(), max_evaluations=7)
        assert few.status == Status.MAX_EVALUATIONS
        assert int(few.stats["evaluations"]) == 7
        assert minimize(rosenbrock, start, BFGS(), max_seconds=1e-9).status == Status.TIME_LIMIT
        assert float(few.stats["value"]) == pytest.approx(float(rosenbrock(few.value)), rel=1e-12)


class TestBadInput:
    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({"bounds": (1.0, 0.0)}, "lower <= upper"),
            ({"bounds": (jnp.zeros(3), 1.0)}, "like x0"),
            ({"bounds": 1.0}, "pair"),
            ({"x0": jnp.array([1, 2])}, "real floating-point"),
            ({"x0": jnp.array([1.0 + 1j])}, "real floating-point"),
            ({"x0": {"a": jnp.ones(1), "b": jnp.ones(1, jnp.float32)}}, "one precision"),
            ({"x0": {}}, "without numbers"),
            ({"objective": lambda x: x}, "real scalar"),
            ({"objective": lambda x: jnp.sum(x) * 1j}, "real scalar"),
            ({"objective": 3.0}, "a function"),
            ({"method": "BFGS"}, "method"),
            ({"method": BFGS(), "equality": lambda x: x[0]}, "cannot honor"),
            ({"method": BFGS(), "inequality": lambda x: x > 0}, "real numbers"),
            ({"rtol": -1.0}, "rtol"),
            ({"max_steps": 0}, "max_steps"),
            ({"inner_product": 3.0}, "inner_product"),
        ],
    )
    def test_is_named_at_once(self, arguments: dict[str, Any], message: str) -> None:
        given = {"objective": lambda x: jnp.sum(x**2), "x0": jnp.ones(2), **arguments}
        with pytest.raises((ValueError, TypeError), match=message):
            minimize(**given)

    def test_what_is_for_the_host_is_refused_inside_jit(self) -> None:
        with pytest.raises(ValueError, match="callback inside jit"):
            jax.jit(lambda x: minimize(quadratic, x, callback=print).value)(jnp.zeros(7))

    def test_derivatives_are_refused_and_argmin_is_named(self) -> None:
        with pytest.raises(ValueError, match="argmin"):
            jax.grad(
                lambda c: minimize(lambda x: jnp.sum((x - c) ** 2), jnp.zeros(2), BFGS()).stats[
                    "value"
                ]
            )(1.0)

    def test_a_start_outside_is_projected_and_said(self) -> None:
        solution = minimize(
            lambda x: jnp.sum(x**2), jnp.array([5.0, 0.0]), BFGS(), bounds=(-1.0, 2.0)
        )
        assert float(solution.stats["start_outside"]) == 3.0
        np.testing.assert_allclose(adjoint.require(solution), 0.0, atol=1e-7)
