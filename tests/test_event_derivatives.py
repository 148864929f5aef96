"""Derivatives through events of hybrid_solve, also several at once, against closed forms."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jaxtyping import Array

import adjoint
from adjoint import Event, Status, hybrid_solve

TIGHT = {"rtol": 1e-10, "atol": 1e-12}


def agree(
    found: Callable[[Array], Array], exact: Callable[[Array], Array], x: Array, rtol: float = 1e-7
) -> None:
    """Values and Jacobians."""
    jacobian = jax.jit(jax.jacrev(lambda x: (found(x), found(x)), has_aux=True))
    slopes, value = jacobian(x)
    np.testing.assert_allclose(value, exact(x), rtol=rtol, atol=1e-9)
    np.testing.assert_allclose(slopes, jax.jacfwd(exact)(x), rtol=rtol, atol=1e-8)


def refused(value: Callable[[Array], adjoint.Solution[Any]], x: Array) -> None:
    """No gradient, and the status that says why."""

    def functional(x: Array) -> tuple[Array, Status]:
        solution = value(x)
        return jnp.sum(solution.value.y), solution.status

    (y, status), slope = jax.jit(jax.value_and_grad(functional, has_aux=True))(x)
    assert status.name == "DEGENERATE"
    assert np.isnan(y)
    assert np.all(np.isnan(slope))


class TestValves:
    """Tank y0, filled at the rate given by valves y1 and y2, which close at the times p0 and p1."""

    CLOSE = (
        Event(lambda t, y, p: p[0] - t, lambda t, y, p: y.at[1].set(0.0)),
        Event(lambda t, y, p: p[1] - t, lambda t, y, p: y.at[2].set(0.0)),
    )

    def solve(self, rate: Any, p: Array, events: Any = CLOSE) -> adjoint.Solution[adjoint.Hybrid]:
        def f(t: Array, y: Array, p: Array) -> Array:
            return jnp.stack([rate(y[1], y[2]), 0 * y[1], 0 * y[2]])

        return hybrid_solve(f, jnp.array([0.0, 1.0, 1.0]), p, 0.0, 1.0, events, max_events=3)

    @pytest.mark.slow
    @pytest.mark.parametrize("p", [[0.3, 0.3], [0.3, 0.6], [0.6, 0.3]])
    def test_two_pipes_side_by_side(self, p: list[float]) -> None:
        agree(lambda p: self.solve(lambda a, b: a + b, p).value.y[0], jnp.sum, jnp.array(p))
        solution = self.solve(lambda a, b: a + b, jnp.array(p), self.CLOSE[::-1])
        np.testing.assert_allclose(solution.value.y[0], sum(p), rtol=1e-9)

    @pytest.mark.slow
    def test_in_one_pipe_the_first_decides(self) -> None:
        """y = min(p0, p1): a kink where they are equal."""
        agree(
            lambda p: self.solve(lambda a, b: a * b, p).value.y[0], jnp.min, jnp.array([0.3, 0.6])
        )
        refused(lambda p: self.solve(lambda a, b: a * b, p), jnp.array([0.3, 0.3]))

    @pytest.mark.slow
    def test_jumps_whose_order_matters(self) -> None:
        doubles = Event(lambda t, y, p: p[0] - t, lambda t, y, p: 2 * y)
        adds = Event(lambda t, y, p: p[1] - t, lambda t, y, p: y + 1)
        refused(lambda p: self.solve(lambda a, b: a + b, p, (doubles, adds)), jnp.array([0.3, 0.3]))

    @pytest.mark.slow
    def test_one_that_keeps_the_other_from_happening(self) -> None:
        fill = Event(lambda t, y, p: p[0] - y[0], lambda t, y, p: y.at[0].set(0.0))
        full = Event(lambda t, y, p: p[1] - y[0], lambda t, y, p: y.at[1].set(0.0))
        refused(lambda p: self.solve(lambda a, b: a, p, (full, fill)), jnp.array([0.3, 0.3]))


class TestOscillators:
    """y_i = a_i sin t; each adds up its times of rising past 1/2: arcsin(1 / (2 a_i)) + 2 pi k."""

    @staticmethod
    def sums(a: Array, order: int = 1) -> Array:
        def f(t: Array, y: Array, a: Array) -> Array:
            return jnp.concatenate([a * jnp.cos(t), jnp.zeros(2)])

        events = [
            Event(lambda t, y, a, i=i: 0.5 - y[i], lambda t, y, a, i=i: y.at[2 + i].add(t))
            for i in range(2)
        ]
        return hybrid_solve(
            f, jnp.zeros(4), a, 0.0, 10.0, events[::order], max_events=5, **TIGHT
        ).value.y[2:]

    @staticmethod
    def exact(a: Array) -> Array:
        return 2 * jnp.arcsin(0.5 / a) + 2 * jnp.pi

    @pytest.mark.parametrize(
        "a",
        [
            [1.0, 1.0],
            pytest.param([1.0, 1.0 + 1e-9], marks=pytest.mark.slow),
            pytest.param([2.0, 0.7], marks=pytest.mark.slow),
        ],
    )
    @pytest.mark.slow
    def test_independent_ones_do_not_disturb_each_other(self, a: list[float]) -> None:
        agree(self.sums, self.exact, jnp.array(a))

    @pytest.mark.slow
    def test_their_order_is_irrelevant(self) -> None:
        a = jnp.array([1.3, 1.3])
        np.testing.assert_allclose(self.sums(a, -1), self.sums(a), rtol=1e-12)
        slope = jax.jit(jax.grad(lambda a: jnp.sum(self.sums(a, -1))))(a)
        np.testing.assert_allclose(slope, jax.grad(lambda a: jnp.sum(self.exact(a)))(a), rtol=1e-7)


@pytest.mark.slow
class TestCorner:
    """A ball meets the floor and a wall at w at one time: both coordinates are independent."""

    FLOOR = Event(lambda t, y, p: y[1], lambda t, y, p: y.at[3].set(-p[0] * y[3]))
    WALL = Event(
        lambda t, y, p: y[0] - p[1], lambda t, y, p: y.at[2].set(-p[0] * y[2]), direction=1
    )

    def test_first_derivatives(self) -> None:
        def f(t: Array, y: Array, p: Array) -> Array:
            return jnp.stack([y[2], y[3], 0 * y[2], -p[2] + 0 * y[3]])

        def found(x: Array) -> Array:
            p, y0, end = x[:3], jnp.concatenate([jnp.zeros(2), x[3:5]]), x[5]
            return hybrid_solve(
                f, y0, p, 0.0, end, [self.FLOOR, self.WALL], max_events=3, **TIGHT
            ).value.y

        def exact(x: Array) -> Array:
            e, w, g, u, v, end = x
            lands, hits = 2 * v / g, w / u
            since = end - lands
            return jnp.stack(
                [
                    w - e * u * (end - hits),
                    e * v * since - g * since**2 / 2,
                    -e * u,
                    e * v - g * since,
                ]
            )

        agree(found, exact, jnp.array([0.8, 3.0, 10.0, 2.0, 7.5, 2.0]))


@pytest.mark.slow
class TestCascade:
    """A ball at x with speed v meets three at rest at 1: each hands it on, times e, at once."""

    COUNT = 3

    def events(self) -> list[Event]:
        def passes(k: int, t: Array, y: Array, e: Array) -> Array:
            return y.at[k].set(0.0).at[k + 1].set(e * y[k])

        first = Event(
            lambda t, y, e: jnp.where(y[1] > 0, 1 - y[0], 1.0), lambda t, y, e: passes(1, t, y, e)
        )
        # A ball that is faster than the next by 0.1 hits it.
        next = [
            Event(
                lambda t, y, e, k=k: 0.1 + y[k + 1] - y[k], lambda t, y, e, k=k: passes(k, t, y, e)
            )
            for k in range(2, 1 + self.COUNT)
        ]
        return [*next[::-1], first]

    def solve(self, x: Array) -> adjoint.Solution[adjoint.Hybrid]:
        e, x0, v = x

        def f(t: Array, y: Array, e: Array) -> Array:
            # The last ball is followed through y0, the first one too: the others stay where they
            # are.
            return jnp.concatenate([(y[1] + y[-1])[None], jnp.zeros(1 + self.COUNT)])

        y0 = jnp.concatenate([jnp.stack([x0, v]), jnp.zeros(self.COUNT)])
        return hybrid_solve(f, y0, e, 0.0, 2.0, self.events(), max_events=5, **TIGHT)

    def test_is_one_jump(self) -> None:
        x = jnp.array([0.9, 0.2, 1.0])
        solution = self.solve(x)
        assert solution.status.name == "SUCCESS"
        assert solution.stats["which"].tolist() == [2, 1, 0, -1, -1]
        assert int(solution.stats["events"]) == self.COUNT
        np.testing.assert_allclose(solution.value.times[: self.COUNT], 0.8, rtol=1e-9)

        def exact(x: Array) -> Array:
            e, x0, v = x
            hit = (1 - x0) / v
            return jnp.stack([1 + e**3 * v * (2 - hit), e**3 * v, hit])

        def found(x: Array) -> Array:
            value = self.solve(x).value
            return jnp.stack([value.y[0], value.y[-1], value.times[2]])

        agree(found, exact, x)

    def test_a_jump_onto_another_condition_is_degenerate(self) -> None:
        first = Event(lambda t, y, p: p - t, lambda t, y, p: 0 * y)
        other = Event(lambda t, y, p: y, lambda t, y, p: y + 1)
        refused(
            lambda p: hybrid_solve(
                lambda t, y, p: 0 * y, jnp.array(1.0), p, 0.0, 1.0, [first, other]
            ),
            jnp.array(0.5),
        )

    def test_a_second_time_at_one_time_is_too_much(self) -> None:
        """Two that set each other off for ever."""
        start = Event(lambda t, y, p: p - t, lambda t, y, p: -y)
        up = Event(lambda t, y, p: y, lambda t, y, p: -y)
        down = Event(lambda t, y, p: y, lambda t, y, p: -y, direction=1)
        solution = hybrid_solve(
            lambda t, y, p: 0 * y, jnp.array(1.0), 0.5, 0.0, 1.0, [start, up, down]
        )
        assert solution.status.name == "MAX_EVENTS"
        assert int(solution.stats["events"]) <= 4


@pytest.mark.slow
class TestSamples:
    """Drop from h with restitution e: heights about the first impact, at times that move."""

    @staticmethod
    def found(x: Array, **options: Any) -> Array:
        e, h, t0, end = x[:4]
        bounce = Event(lambda t, y, p: y[0], lambda t, y, p: y.at[1].set(-p * y[1]))

        def f(t: Array, y: Array, p: Array) -> Array:
            return jnp.stack([y[1], -10.0 + 0 * y[1]])

        y0 = jnp.stack([h, 0 * h])
        value = hybrid_solve(
            f, y0, e, t0, end, bounce, ts=x[4:], max_events=2, **TIGHT, **options
        ).value
        assert value.samples is not None
        return jnp.concatenate([value.samples.ravel(), value.times[:1]])

    @staticmethod
    def exact(x: Array) -> Array:
        e, h, t0, _ = x[:4]
        hit = jnp.sqrt(h / 5)
        s = x[4:] - t0
        since = s - hit
        v = 10 * hit
        after = jnp.stack([e * v * since - 5 * since**2, e * v - 10 * since], axis=1)
        before = jnp.stack([h - 5 * s**2, -10 * s], axis=1)
        # Of the side after the impact, within rounding.
        is_after = (since > -1e-12)[:, None]
        return jnp.concatenate([jnp.where(is_after, after, before).ravel(), (t0 + hit)[None]])

    X = (0.8, 1.25, 0.1, 1.1, 0.1, 0.3, 0.6, 0.9, 1.1)

    @pytest.mark.parametrize(
        "sensitivity", [None, adjoint.InterpolatingAdjoint(), adjoint.ForwardSensitivity()]
    )
    def test_with_respect_to_everything(self, sensitivity: Any) -> None:
        # The impact is at 0.6, where a sample is the state after it.
        agree(lambda x: self.found(x, sensitivity=sensitivity), self.exact, jnp.array(self.X), 1e-6)

    def test_batches_and_second_derivatives(self) -> None:
        weights = jnp.linspace(1.0, 2.0, 11)

        def functional(outputs: Array) -> Array:
            return jnp.sum(weights * outputs**2)

        x = jnp.array(self.X).at[6].set(0.55)
        hessian = jax.jit(jax.vmap(jax.jacfwd(jax.grad(lambda x: functional(self.found(x))))))
        batch = jnp.stack([x, x.at[1].set(1.2)])
        expected = jax.vmap(jax.hessian(lambda x: functional(self.exact(x))))(batch)
        np.testing.assert_allclose(hessian(batch), expected, rtol=1e-5, atol=1e-5)

    def test_out_of_order_is_refused(self) -> None:
        x = jnp.array(self.X)
        assert np.all(np.isnan(self.found(x.at[5].set(0.7))))
        assert np.all(np.isnan(self.found(x.at[8].set(1.2))))


@pytest.mark.slow
def test_functions_may_close_over_what_is_differentiated() -> None:
    """An impact at sqrt(2 h / g), after which the ball rises with e g t."""

    def found(x: Array) -> Array:
        e, g = x
        bounce = Event(lambda t, y, p: y[0], lambda t, y, p: y.at[1].set(-e * y[1]))

        def f(t: Array, y: Array, p: Array) -> Array:
            return jnp.stack([y[1], 0 * y[1] - g])

        value = hybrid_solve(
            f, jnp.array([1.0, 0.0]), 0.0, 0.0, 0.6, bounce, max_events=2, **TIGHT
        ).value
        return jnp.stack([value.times[0], value.y[1]])

    def exact(x: Array) -> Array:
        e, g = x
        hit = jnp.sqrt(2 / g)
        return jnp.stack([hit, e * g * hit - g * (0.6 - hit)])

    agree(found, exact, jnp.array([0.8, 9.0]))
