"""When events fire in hybrid_solve, and which models it refuses; by closed forms."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jaxtyping import Array

import adjoint
from adjoint import Event, Status, hybrid_solve

GRAVITY = 9.81
TIGHT = {"rtol": 1e-10, "atol": 1e-12}


def fall(t: Array, y: Array, p: Array) -> Array:
    return jnp.stack([y[1], -GRAVITY + 0 * y[1]])


# p = (restitution, height of the floor).
BOUNCE = Event(lambda t, y, p: y[0] - p[1], lambda t, y, p: y.at[1].set(-p[0] * y[1]))


def rests(t: Array, y: Array, p: Array) -> Array:
    return 0 * y


def names(solution: adjoint.Solution[Any]) -> str:
    return solution.status.name


def only(solution: adjoint.Solution[adjoint.Hybrid], expected: list[float]) -> None:
    """A success with events at these times and no others."""
    assert names(solution) == "SUCCESS"
    count = int(solution.stats["events"])
    np.testing.assert_allclose(solution.value.times[:count], expected, rtol=1e-8)


class TestAccumulation:
    """Drop from 1 m: impacts accumulate at sqrt(2 / g) (1 + e) / (1 - e).

    Without rebound there is no second one.
    """

    def test_is_refused(self) -> None:
        for floor in (0.0, 1.0):
            start = jnp.array([1.0 + floor, 0.0])
            for e in (0.0, 0.1, 0.5):
                p = jnp.array([e, floor])
                solution = hybrid_solve(fall, start, p, 0.0, 3.0, BOUNCE, max_events=24)
                assert np.all(np.isnan(solution.value.y))
                assert names(solution) == ("MAX_EVENTS" if e else "DEGENERATE")
                expected = np.sqrt(2 / GRAVITY) * (1 + e) / (1 - e) if e else np.nan
                np.testing.assert_allclose(solution.stats["accumulation_time"], expected, rtol=1e-6)

    @pytest.mark.slow
    @pytest.mark.parametrize("e", [1e-14, 1e-8, 1e-4, 0.01, 0.9])
    def test_no_restitution_lets_the_ball_through(self, e: float) -> None:
        p = jnp.array([e, 0.0])
        solution = hybrid_solve(fall, jnp.array([1.0, 0.0]), p, 0.0, 20.0, BOUNCE, max_events=24)
        assert names(solution) in ("MAX_EVENTS", "DEGENERATE")
        assert np.all(np.isnan(solution.value.y))

    @pytest.mark.slow
    def test_regular_and_slowing_events_do_not_accumulate(self) -> None:
        """t = k / 4, and t = sqrt(k), whose intervals shrink for ever and have no limit."""
        for condition in (lambda t: jnp.cos(8 * jnp.pi * t), lambda t: jnp.sin(2 * jnp.pi * t * t)):
            event = Event(lambda t, y, p, c=condition: c(t))
            solution = hybrid_solve(rests, jnp.array(0.0), 0.0, 0.1, 9.0, event, max_events=8)
            assert names(solution) == "MAX_EVENTS"
            assert np.isnan(solution.stats["accumulation_time"])


@pytest.mark.slow
class TestAfterTheJump:
    def test_what_goes_on_beyond_its_condition_is_degenerate(self) -> None:
        below = Event(lambda t, y, p: y[0], lambda t, y, p: y.at[0].set(-0.1))
        held = Event(lambda t, y, p: y[0], lambda t, y, p: 0 * y)
        for event in (below, held):
            solution = hybrid_solve(fall, jnp.array([1.0, 0.0]), 0.0, 0.0, 2.0, event)
            assert names(solution) == "DEGENERATE"

    def test_what_rests_or_passes_through_is_not(self) -> None:
        first = np.sqrt(2 / GRAVITY)
        slows = Event(lambda t, y, p: y[0], lambda t, y, p: y.at[1].set(0.5 * y[1]))
        only(hybrid_solve(fall, jnp.array([1.0, 0.0]), 0.0, 0.0, 2.0, slows), [first])

        def flight(t: Array, y: Array, p: Array) -> Array:
            return jnp.stack([y[1], -GRAVITY * y[2], 0 * y[2]])

        lands = Event(lambda t, y, p: y[0], lambda t, y, p: 0 * y)
        solution = hybrid_solve(flight, jnp.array([1.0, 0.0, 1.0]), 0.0, 0.0, 2.0, lands)
        only(solution, [first])
        np.testing.assert_array_equal(solution.value.y, np.zeros(3))


class TestArmed:
    @pytest.mark.parametrize(
        ("phase", "direction", "expected"),
        [
            (0.0, -1, [0.5, 1.5]),
            pytest.param(0.0, 1, [1.0, 2.0], marks=pytest.mark.slow),
            pytest.param(0.0, 0, [0.5, 1.0, 1.5, 2.0], marks=pytest.mark.slow),
            pytest.param(1e-6, -1, [0.5 - 1e-6, 1.5 - 1e-6], marks=pytest.mark.slow),
            pytest.param(0.5 - 1e-6, -1, [1e-6, 1 + 1e-6, 2 + 1e-6], marks=pytest.mark.slow),
            pytest.param(0.5, -1, [1.0, 2.0], marks=pytest.mark.slow),
            pytest.param(0.75, 0, [0.25, 0.75, 1.25, 1.75, 2.25], marks=pytest.mark.slow),
        ],
    )
    def test_zero_at_the_start_does_not_fire(
        self, phase: float, direction: Any, expected: list[float]
    ) -> None:
        event = Event(lambda t, y, p: jnp.sin(2 * jnp.pi * (t + p)), direction=direction)
        only(hybrid_solve(rests, jnp.array(0.0), phase, 0.0, 2.3, event), expected)

    @pytest.mark.parametrize(
        ("phase", "expected"),
        [
            (0.499999, [1e-6, 1 + 1e-6, 2 + 1e-6]),
            pytest.param(0.5, [1.0, 2.0], marks=pytest.mark.slow),
            pytest.param(1e-9, [0.5 - 1e-9, 1.5 - 1e-9], marks=pytest.mark.slow),
            pytest.param(1e3 + 0.5, [1.0, 2.0], marks=pytest.mark.slow),
        ],
    )
    def test_a_condition_is_rounded_by_numbers_of_its_own(
        self, phase: float, expected: list[float]
    ) -> None:
        """Beside a phase that no argument tells of, sin(2 pi (t + phase)) is no smaller zero."""
        event = Event(lambda t, y, p: jnp.sin(2 * jnp.pi * (t + phase)))
        only(hybrid_solve(rests, jnp.array(0.0), 0.0, 0.0, 2.3, event), expected)

    @pytest.mark.parametrize("height", [1e-30, pytest.param(1e-12, marks=pytest.mark.slow)])
    def test_the_smallest_height_is_one(self, height: float) -> None:
        """Thrown down from it with speed 1 the ball bounces at once, and is up for 2 e / g."""
        y0, e = jnp.array([height, -1.0]), 0.5
        solution = hybrid_solve(fall, y0, jnp.array([e, 0.0]), 0.0, 0.05, BOUNCE, **TIGHT)
        assert int(solution.stats["events"]) == 1
        expected = e * 0.05 - GRAVITY * 0.05**2 / 2
        np.testing.assert_allclose(solution.value.y[0], expected, rtol=1e-8)

    @pytest.mark.slow
    @pytest.mark.parametrize("share", [0.1, 0.37, 0.62, 0.9])
    def test_an_interval_may_be_split(self, share: float) -> None:
        """Impacts at sqrt(2 / g), then every 2 e v / g, wherever the solve is interrupted."""
        p, y0, end = jnp.array([0.8, 0.0]), jnp.array([1.0, 0.0]), 1.9
        whole = hybrid_solve(fall, y0, p, 0.0, end, BOUNCE, **TIGHT)
        first = hybrid_solve(fall, y0, p, 0.0, share * end, BOUNCE, **TIGHT)
        second = hybrid_solve(fall, first.value.y, p, share * end, end, BOUNCE, **TIGHT)
        np.testing.assert_allclose(second.value.y, whole.value.y, rtol=1e-8)
        assert int(first.stats["events"]) + int(second.stats["events"]) == int(
            whole.stats["events"]
        )

    @pytest.mark.slow
    def test_time_may_run_backwards(self) -> None:
        """From after the second impact back to the start, with the jump undone."""
        p, y0, end = jnp.array([0.8, 0.0]), jnp.array([1.0, 0.0]), 1.5
        there = hybrid_solve(fall, y0, p, 0.0, end, BOUNCE, **TIGHT)
        undo = Event(lambda t, y, p: y[0], lambda t, y, p: y.at[1].set(-y[1] / p[0]))
        back = hybrid_solve(fall, there.value.y, p, end, 0.0, undo, ts=[end, 0.2, 0.0], **TIGHT)
        np.testing.assert_allclose(back.value.y, y0, atol=1e-8)
        np.testing.assert_allclose(back.value.times[:2], there.value.times[1::-1], rtol=1e-9)
        np.testing.assert_allclose(
            back.value.samples[1], [1 - GRAVITY * 0.02, -GRAVITY * 0.2], rtol=1e-8
        )


class TestBetweenSteps:
    @pytest.mark.parametrize(
        "scale", [1.0, *(pytest.param(a, marks=pytest.mark.slow) for a in (1e-12, 1e12))]
    )
    def test_a_condition_may_change_faster_than_the_state(self, scale: float) -> None:
        event = Event(lambda t, y, p: p * jnp.cos(2 * jnp.pi * t), lambda t, y, p: y + 1)
        solution = hybrid_solve(rests, jnp.array(0.0), scale, 0.0, 10.0, event, max_events=32)
        only(solution, [k + 0.25 for k in range(10)])
        assert float(solution.value.y) == 10

    @pytest.mark.slow
    @pytest.mark.parametrize("depth", [1e-2, 1e-4, 1e-10, 0.0, -1e-10, -1e-3])
    def test_a_dip_between_two_looks(self, depth: float) -> None:
        """c = (t - 1)^2 - depth falls through zero at 1 - sqrt(depth), and once more from below."""
        event = Event(lambda t, y, p: (t - 1) ** 2 - p, lambda t, y, p: y + 1)
        solution = hybrid_solve(rests, jnp.array(0.0), depth, 0.0, 2.1, event)
        if abs(depth) < 1e-6:
            assert names(solution) == "DEGENERATE"
        else:
            only(solution, [1 - np.sqrt(depth)] if depth > 0 else [])

    @pytest.mark.slow
    @pytest.mark.parametrize("level", [1.001, 1.0, 0.999])
    def test_a_dip_of_the_state(self, level: float) -> None:
        """y = sin t reaches -1 at 3 pi / 2."""
        event = Event(lambda t, y, p: y[0] + p)

        def swing(t: Array, y: Array, p: Array) -> Array:
            return jnp.stack([y[1], -y[0]])

        solution = hybrid_solve(swing, jnp.array([0.0, 1.0]), level, 0.0, 7.0, event)
        if level == 1.0:
            assert names(solution) == "DEGENERATE"
        else:
            count = int(solution.stats["events"])
            assert count == (level < 1)
            np.testing.assert_allclose(
                solution.value.times[:count], [np.pi + np.arcsin(level)][:count], rtol=1e-4
            )


def drain(t: Array, y: Array, p: Array) -> Array:
    return -jnp.ones(())


class TestConditionsThatAreNotNumbers:
    """y = 1 - t, so that sqrt(y - 1/2) ends at t = 1/2."""

    def test_a_root_that_ends_at_zero_is_an_event(self) -> None:
        refill = Event(lambda t, y, p: jnp.sqrt(y - p), lambda t, y, p: y + 5)

        def end(p: Array) -> tuple[Array, Status]:
            solution = hybrid_solve(drain, jnp.array(1.0), p, 0.0, 2.0, refill, max_events=2)
            return solution.value.times[0] + solution.value.y, solution.status

        (value, status), slope = jax.value_and_grad(end, has_aux=True)(jnp.array(0.5))
        assert int(status) == int(Status.SUCCESS)
        np.testing.assert_allclose([value, slope], [0.5 + 4.0, -1.0], rtol=1e-9)

    @pytest.mark.slow
    def test_one_that_ends_elsewhere_is_an_underflow(self) -> None:
        event = Event(lambda t, y, p: jnp.where(y > 0.5, y, jnp.nan))
        assert names(hybrid_solve(drain, jnp.array(1.0), 0.0, 0.0, 2.0, event)) == "STEP_UNDERFLOW"

    @pytest.mark.slow
    def test_nan_beyond_an_earlier_event_does_not_matter(self) -> None:
        root = Event(lambda t, y, p: jnp.sqrt(y - 0.5))
        first = Event(lambda t, y, p: y - 0.6, lambda t, y, p: y + 5)
        only(hybrid_solve(drain, jnp.array(1.0), 0.0, 0.0, 2.0, [root, first]), [0.4])

    @pytest.mark.slow
    def test_nan_at_the_start_is_bad_input_and_infinity_is_never(self) -> None:
        solution = hybrid_solve(
            drain, jnp.array(1.0), 0.0, 0.0, 2.0, Event(lambda t, y, p: jnp.nan * y)
        )
        assert names(solution) == "NONFINITE_INPUT"
        never = Event(lambda t, y, p: jnp.where(y > -9, jnp.inf, y))
        only(hybrid_solve(drain, jnp.array(1.0), 0.0, 0.0, 2.0, never), [])


@pytest.mark.slow
class TestTerminal:
    def test_it_ends_the_solve(self) -> None:
        lands = Event(lambda t, y, p: y[0], lambda t, y, p: 2 * y, terminal=True)
        first = np.sqrt(2 / GRAVITY)
        ts = jnp.array([0.0, 0.2, 0.5])
        solution = hybrid_solve(fall, jnp.array([1.0, 0.0]), 0.0, 0.0, 2.0, lands, ts=ts)
        only(solution, [first])
        np.testing.assert_allclose(solution.value.y, [0.0, -2 * GRAVITY * first], atol=1e-9)
        np.testing.assert_allclose(solution.value.times, first)
        np.testing.assert_allclose(solution.value.samples[:2, 0], [1.0, 1 - GRAVITY * 0.02])
        assert np.all(np.isnan(solution.value.samples[2]))

    def test_in_the_first_step(self) -> None:
        event = Event(lambda t, y, p: 1e-9 - t, terminal=True)
        only(hybrid_solve(rests, jnp.array(0.0), 0.0, 0.0, 1.0, event), [1e-9])
