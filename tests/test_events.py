"""hybrid_solve against closed forms: a bouncing ball, a thermostat, a switch at a parameter."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jaxtyping import Array

import adjoint
from adjoint import Event, Status, hybrid_solve

TIGHT = {"rtol": 1e-10, "atol": 1e-12}


def fall(t: Array, y: Array, p: Array) -> Array:
    return jnp.array([y[1], -p[1]])


def loses_speed(t: Array, y: Array, p: Array) -> Array:
    return jnp.array([0.0, -p[0] * y[1]])


BOUNCE = Event(lambda t, y, p: y[0], loses_speed)
# Restitution and gravity, height of the drop, and an end after two impacts.
P, HEIGHT, END = jnp.array([0.8, 9.81]), jnp.array(2.0), jnp.array(2.0)


def ball(height: Array, p: Array, end: Array, mode: Any = "reverse") -> Array:
    """The height at the end, the speed at the end, and the times of both impacts."""
    y0 = jnp.stack([height, jnp.zeros_like(height)])
    value = hybrid_solve(fall, y0, p, 0.0, end, BOUNCE, max_events=3, mode=mode, **TIGHT).value
    return jnp.concatenate([value.y, value.times[:2]])


def ball_exact(height: Array, p: Array, end: Array) -> Array:
    """Free fall: impacts after sqrt(2 h/g), and then every 2 v/g.

    v = e sqrt(2 g h), e^2 sqrt(2 g h), ...
    """
    e, g = p
    first, v = jnp.sqrt(2 * height / g), jnp.sqrt(2 * g * height)
    second = first + 2 * e * v / g
    rest = end - second
    return jnp.stack([e * e * v * rest - g * rest**2 / 2, e * e * v - g * rest, first, second])


class TestBouncingBall:
    def test_value_and_the_number_of_events(self) -> None:
        # The interpolant places the event to the tolerance; the correction makes it exact to
        # rounding.
        np.testing.assert_allclose(ball(HEIGHT, P, END), ball_exact(HEIGHT, P, END), rtol=1e-9)
        solution = hybrid_solve(fall, jnp.array([2.0, 0.0]), P, 0.0, 2.0, BOUNCE, max_events=3)
        assert int(solution.stats["events"]) == 2
        assert solution.stats["which"].tolist() == [0, 0, -1]
        assert solution.value.times[2] == 2.0
        np.testing.assert_array_equal(solution.value.states[2], solution.value.y)

    @pytest.mark.parametrize("mode", ["reverse", pytest.param("both", marks=pytest.mark.slow)])
    def test_first_derivatives(self, mode: Any) -> None:
        jacobian = jax.jacrev if mode == "reverse" else jax.jacfwd
        found = jax.jit(jacobian(lambda *a: ball(*a, mode), argnums=(0, 1, 2)))(HEIGHT, P, END)
        expected = jax.jacfwd(ball_exact, argnums=(0, 1, 2))(HEIGHT, P, END)
        for a, b in zip(found, expected, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-8, atol=1e-9)

    @pytest.mark.slow
    def test_hessian(self) -> None:
        def functional(outputs: Array) -> Array:
            return outputs @ jnp.array([1.0, -0.5, 2.0, 3.0])

        found = jax.jit(jax.jacfwd(jax.grad(lambda p: functional(ball(HEIGHT, p, END)))))(P)
        np.testing.assert_allclose(
            found, jax.hessian(lambda p: functional(ball_exact(HEIGHT, p, END)))(P), rtol=1e-7
        )

    @pytest.mark.slow
    def test_batch(self) -> None:
        heights = jnp.array([1.9, 2.0, 2.1])
        found = jax.vmap(jax.grad(lambda h: ball(h, P, END)[0]))(heights)
        np.testing.assert_allclose(
            found, jax.vmap(jax.grad(lambda h: ball_exact(h, P, END)[0]))(heights), rtol=1e-8
        )

    def test_a_ball_at_rest_has_too_many_events(self) -> None:
        def height(p: Array) -> tuple[Array, Status]:
            solution = hybrid_solve(fall, jnp.array([2.0, 0.0]), p, 0.0, 30.0, BOUNCE, max_events=3)
            return solution.value.y[0], solution.status

        gradient, status = jax.grad(height, has_aux=True)(P)
        assert int(status) == int(Status.MAX_EVENTS)
        assert np.all(np.isnan(gradient))


class TestSwitchAtAParameter:
    @staticmethod
    def filled(close: Array) -> Array:
        """A tank that fills at the rate 1 until the valve closes at `close`: y(1) = close."""
        shut = Event(lambda t, y, p: p - t, lambda t, y, p: y.at[1].set(0.0))
        solution = hybrid_solve(
            lambda t, y, p: jnp.stack([y[1], 0 * y[1]]),
            jnp.array([0.0, 1.0]),
            close,
            0.0,
            1.0,
            shut,
        )
        return solution.value.y[0]

    def test_the_time_of_the_switch_has_a_derivative(self) -> None:
        value, derivative = jax.value_and_grad(self.filled)(jnp.array(0.3))
        np.testing.assert_allclose([value, derivative], [0.3, 1.0], rtol=1e-12)


class TestThermostat:
    """T' = -k (T - outside) + heat while on: times between `low` and `high` by logarithms."""

    LOW, HIGH, OUTSIDE = 19.0, 21.0, 5.0

    def solve(self, p: Array) -> adjoint.Solution[adjoint.Hybrid]:
        def rate(t: Array, y: Array, p: Array) -> Array:
            return jnp.stack([-p[0] * (y[0] - self.OUTSIDE) + p[1] * y[1], 0 * y[1]])

        off = Event(
            lambda t, y, p: jnp.where(y[1] > 0.5, self.HIGH - y[0], 1.0),
            lambda t, y, p: y.at[1].set(0.0),
        )
        on = Event(
            lambda t, y, p: jnp.where(y[1] > 0.5, 1.0, y[0] - self.LOW),
            lambda t, y, p: y.at[1].set(1.0),
        )
        solution = hybrid_solve(
            rate, jnp.array([20.0, 1.0]), p, 0.0, 3.0, [off, on], max_events=8, **TIGHT
        )
        return solution

    def times(self, p: Array) -> Array:
        k, heat = p
        limit = self.OUTSIDE + heat / k
        first = jnp.log((limit - 20.0) / (limit - self.HIGH)) / k
        falling = jnp.log((self.HIGH - self.OUTSIDE) / (self.LOW - self.OUTSIDE)) / k
        rising = jnp.log((limit - self.LOW) / (limit - self.HIGH)) / k
        return jnp.stack([first, first + falling, first + falling + rising])

    @pytest.mark.slow
    def test_times_and_their_derivatives(self) -> None:
        p = jnp.array([0.3, 9.0])
        solution = self.solve(p)
        assert solution.stats["which"].tolist()[:3] == [0, 1, 0]
        np.testing.assert_allclose(solution.value.times[:3], self.times(p), rtol=1e-9)
        found = jax.jacrev(lambda p: self.solve(p).value.times[:3])(p)
        np.testing.assert_allclose(found, jax.jacfwd(self.times)(p), rtol=1e-8)


@pytest.mark.slow
def test_a_touch_is_degenerate() -> None:
    """y = (p - t)^3 falls through zero at t = p with slope zero: no formula finds dt/dp.

    The time of the event is p all the same.
    """

    def value(p: Array) -> tuple[Array, Status]:
        flat = Event(lambda t, y, p: y)
        solution = hybrid_solve(lambda t, y, p: -3 * (p - t) ** 2, p**3, p, 0.0, 2.0, flat, **TIGHT)
        return solution.value.times[0], solution.status

    gradient, status = jax.grad(value, has_aux=True)(jnp.array(1.0))
    assert int(status) == int(Status.DEGENERATE)
    assert np.isnan(gradient)


class TestBadInput:
    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"events": []}, "an Event or several"),
            ({"max_events": 0}, "a positive integer"),
            ({"events": Event(lambda t, y, p: y)}, "one number"),
            ({"events": Event(lambda t, y, p: y[0], lambda t, y, p: y[0])}, "as y0"),
            ({"rtol": 0.0}, "a positive number"),
            ({"t1": jnp.ones(2)}, "one number"),
        ],
    )
    def test_is_named(self, change: dict[str, Any], message: str) -> None:
        arguments: dict[str, Any] = {
            "f": fall,
            "y0": jnp.ones(2),
            "p": P,
            "t0": 0.0,
            "t1": 1.0,
            "events": BOUNCE,
        } | change
        with pytest.raises((ValueError, TypeError), match=message):
            hybrid_solve(**arguments)

    def test_nan_is_reported(self) -> None:
        solution = hybrid_solve(fall, jnp.array([2.0, jnp.nan]), P, 0.0, 1.0, BOUNCE)
        assert int(solution.status) == int(Status.NONFINITE_INPUT)
        assert np.all(np.isnan(solution.value.y))
