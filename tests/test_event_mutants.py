"""Deliberate mutants of the events of hybrid_solve, each killed by a closed form."""

import importlib
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jaxtyping import Array
from mutation import COPY, HOME, Mutant, library

_SEARCH = "ode/event_search.py"
_INSTANT = "ode/event_instant.py"
_SEQUENCE = "ode/event_sequence.py"
_MODEL = "ode/event_model.py"

EVENT_MUTANTS: tuple[Mutant, ...] = (
    Mutant(
        "armed at once",
        _INSTANT,
        "jnp.where(instant.fired, armed_again, watch.armed | (c > zero))",
        "watch.armed | (c > zero)",
        "fast_condition",
    ),
    Mutant(
        "the conditions' error not controlled",
        _SEARCH,
        "error = jnp.maximum(of_state, of_conditions)",
        "error = of_state",
        "faster_condition",
    ),
    Mutant(
        "minimum search dropped",
        _SEARCH,
        "((c[1:] <= 0) | dips)",
        "(c[1:] <= 0)",
        "dip",
    ),
    Mutant(
        "order check dropped",
        _INSTANT,
        "return ~(same_state & same_slope & stays)",
        "return same_state & ~same_state",
        "order",
    ),
    Mutant(
        "f+ dropped",
        _SEQUENCE,
        "    state = _Now(\n        passage.t,",
        "    state = _Now(\n        jax.lax.stop_gradient(passage.t),",
        "valves",
    ),
    Mutant(
        "f+ of the first jump only",
        _SEQUENCE,
        "    state = _Now(\n        passage.t,",
        "    state = _Now(\n        jnp.where(now.instant.is_on, now.t, passage.t),",
        "valves",
    ),
    Mutant(
        "what an event missed forgotten",
        _INSTANT,
        "2 * instant.missed",
        "0 * instant.missed",
        "phase",
    ),
    Mutant(
        "a rounding at the start is a height",
        _MODEL,
        "jnp.where(self._is_rounding(t, y, length), 0, self.conditions(t, y))",
        "self.conditions(t, y)",
        "phase",
    ),
    Mutant(
        "a height at the start is a rounding",
        _MODEL,
        "return is_short & (slope != 0) & (jnp.abs(jnp.diagonal(led_to)) >= jnp.abs(c) / 2)",
        "return is_short & (slope != 0)",
        "lowest_start",
    ),
    Mutant(
        "a stopped state may fall on",
        _SEARCH,
        "(Status.DEGENERATE, is_beyond | touches)",
        "(Status.DEGENERATE, touches)",
        "no_rebound",
    ),
)
CHECKS: dict[str, Callable[[Any], None]] = {}


def check(function: Callable[[Any], None]) -> Callable[[Any], None]:
    CHECKS[function.__name__] = function
    return function


def rests(t: Array, y: Array, p: Array) -> Array:
    return 0 * y


@check
def fast_condition(events: Any) -> None:
    """cos(2 pi t) falls through zero at 1/4, 5/4, 9/4, beside a state at rest."""
    event = events.Event(lambda t, y, p: jnp.cos(2 * jnp.pi * t), lambda t, y, p: y + 1)
    assert float(events.hybrid_solve(rests, jnp.array(0.0), 0.0, 0.0, 3.0, event).value.y) == 3


@check
def faster_condition(events: Any) -> None:
    """cos(8 pi t) falls through zero four times in a unit of time, faster than looks by chance."""
    event = events.Event(lambda t, y, p: jnp.cos(8 * jnp.pi * t), lambda t, y, p: y + 1)
    solution = events.hybrid_solve(rests, jnp.array(0.0), 0.0, 0.0, 3.0, event, max_events=16)
    assert float(solution.value.y) == 12


@check
def phase(events: Any) -> None:
    """sin(2 pi (t + shift)) falls through zero once in a unit of time, not at the start."""
    for shift, count in ((0.5, 2), (0.499999, 3)):
        event = events.Event(lambda t, y, p, shift=shift: jnp.sin(2 * jnp.pi * (t + shift)))
        solution = events.hybrid_solve(rests, jnp.array(0.0), 0.0, 0.0, 2.3, event)
        assert (solution.status.name, int(solution.stats["events"])) == ("SUCCESS", count)


@check
def lowest_start(events: Any) -> None:
    """Thrown down from a height of 1e-30 with speed 1, a ball goes up with half of it."""
    bounce = events.Event(lambda t, y, p: y[0], lambda t, y, p: -0.5 * y)
    fall = lambda t, y, p: jnp.stack([y[1], 0 * y[1]])
    solution = events.hybrid_solve(fall, jnp.array([1e-30, -1.0]), 0.0, 0.0, 1.0, bounce)
    np.testing.assert_allclose(solution.value.y, [0.5, 0.5])


@check
def dip(events: Any) -> None:
    """(t - 1)^2 - 1e-4 is negative from 0.99 to 1.01."""
    event = events.Event(lambda t, y, p: (t - 1) ** 2 - 1e-4)
    solution = events.hybrid_solve(rests, jnp.array(0.0), 0.0, 0.0, 2.1, event)
    np.testing.assert_allclose(solution.value.times[0], 0.99)


@check
def order(events: Any) -> None:
    doubles = events.Event(lambda t, y, p: 0.3 - t, lambda t, y, p: 2 * y)
    adds = events.Event(lambda t, y, p: 0.3 - t, lambda t, y, p: y + 1)
    solution = events.hybrid_solve(rests, jnp.array(1.0), 0.0, 0.0, 1.0, [doubles, adds])
    assert solution.status.name == "DEGENERATE"


@check
def valves(events: Any) -> None:
    """A tank filled by three pipes, two of which close at p0 and p1: y(1) = p0 + 2 p1 + 3."""

    def f(t: Array, y: Array, p: Array) -> Array:
        return jnp.stack([y[1] + 2 * y[2] + 3, 0 * y[1], 0 * y[2]])

    close = [
        events.Event(lambda t, y, p, i=i: p[i] - t, lambda t, y, p, i=i: y.at[1 + i].set(0.0))
        for i in range(2)
    ]

    def filled(p: Array) -> Array:
        return events.hybrid_solve(
            f, jnp.array([0.0, 1.0, 1.0]), p, 0.0, 1.0, close, max_events=3
        ).value.y[0]

    value, slope = jax.value_and_grad(filled)(jnp.array([0.3, 0.3]))
    np.testing.assert_allclose([value, *slope], [3.9, 1.0, 2.0], rtol=1e-6)


@check
def no_rebound(events: Any) -> None:
    def fall(t: Array, y: Array, p: Array) -> Array:
        return jnp.stack([y[1], 0 * y[1] - 10.0])

    stops = events.Event(lambda t, y, p: y[0], lambda t, y, p: 0 * y)
    solution = events.hybrid_solve(fall, jnp.array([1.0, 0.0]), 0.0, 0.0, 3.0, stops)
    assert np.isnan(solution.value.y[0])


@pytest.mark.slow
@pytest.mark.parametrize("name", CHECKS)
def test_the_healthy_library_passes(name: str) -> None:
    with library(None):
        CHECKS[name](importlib.import_module(f"{COPY}.ode.events"))


@pytest.mark.slow
@pytest.mark.parametrize("mutant", EVENT_MUTANTS, ids=str)
def test_the_mutant_is_killed(mutant: Mutant) -> None:
    with library(mutant), pytest.raises(AssertionError):
        CHECKS[mutant.killed_by](importlib.import_module(f"{COPY}.ode.events"))


def test_every_mutant_finds_its_text() -> None:
    for mutant in EVENT_MUTANTS:
        assert mutant.source() != (HOME / mutant.file).read_text()
