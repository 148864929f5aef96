"""The line search on functions of one variable whose Wolfe points are known."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import adjoint
from adjoint.optimize.backtracking import Backtracking
from adjoint.optimize.line_search import StrongWolfe, WolfeState

WOLFE = StrongWolfe()


def search(
    phi: Callable, t: float = 1.0, longest: float = jnp.inf, noise: float = 0.0
) -> WolfeState:
    """Run a search on phi from t = 0 until it ends."""
    slope = jax.grad(phi)
    zero = jnp.asarray(0.0)
    state = WOLFE.begin(phi(zero), slope(zero), jnp.zeros(1), jnp.asarray(t), jnp.asarray(longest))
    step = jax.jit(
        lambda state: WOLFE.advance(
            state, phi(state.t), slope(state.t), slope(state.t)[None], jnp.asarray(noise)
        )
    )
    for _ in range(WOLFE.trials + 1):
        state = step(state)
        if state.accepted or state.failed:
            return state
    pytest.fail("the search does not end")


# More (1994), ACM Trans. Math. Softw. 20, section 5: functions 1, 2 and 3 shifted so that they
# begin at 0; and simple ones.
FUNCTIONS = {
    "parabola": lambda t: (t - 3.0) ** 2,
    "quartic": lambda t: (t - 0.01) ** 4 + 1e-3 * t**2,
    "More 1": lambda t: -t / (t**2 + 2),
    "More 2": lambda t: (t + 0.004) ** 5 - 2 * (t + 0.004) ** 4,
    "exponential": lambda t: jnp.exp(50 * t) - 100 * t,
    "logarithm": lambda t: -jnp.log(0.3 - t) - 5 * t,
}


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("t", [1e-3, 1.0, 1e3])
def test_the_strong_wolfe_conditions_hold(name: str, t: float) -> None:
    phi = FUNCTIONS[name]
    found = search(phi, t)
    assert bool(found.accepted)
    assert not bool(found.fell_back)
    start_slope = jax.grad(phi)(0.0)
    assert float(phi(found.t)) <= float(phi(0.0) + WOLFE.c1 * found.t * start_slope)
    assert abs(float(jax.grad(phi)(found.t))) <= WOLFE.c2 * abs(float(start_slope))
    # From a thousand times too far a tenth is kept at each trial.
    assert int(found.trials) <= (10 if t == 1.0 else WOLFE.trials)


def test_a_cubic_is_interpolated_exactly() -> None:
    # phi' = 3 (t - 1)(t + 2) / 6, so that the minimum is 1; from the bracket [0, 3] it is found in
    # one step.
    def phi(t):
        return (t**3 / 3 + t**2 / 2 - 2 * t) / 2

    found = search(phi, 3.0)
    assert float(found.t) == pytest.approx(1.0, abs=1e-12)
    assert int(found.trials) == 2


def test_the_longest_step_is_kept_and_taken() -> None:
    found = search(lambda t: -t, 1.0, longest=7.5)
    assert bool(found.accepted)
    assert float(found.t) == 7.5


def test_uphill_everywhere_fails() -> None:
    # The slope at 0 is claimed to be -1 while values rise.
    state = WOLFE.begin(
        jnp.asarray(0.0), jnp.asarray(-1.0), jnp.zeros(1), jnp.asarray(1.0), jnp.asarray(jnp.inf)
    )
    for _ in range(WOLFE.trials):
        state = WOLFE.advance(state, state.t, jnp.asarray(1.0), jnp.ones(1), jnp.asarray(0.0))
    assert bool(state.failed)
    assert not bool(state.accepted)


def test_what_is_not_finite_is_too_far() -> None:
    found = search(lambda t: jnp.where(t > 0.05, jnp.nan, (t - 0.02) ** 2), 1.0)
    assert bool(found.accepted)
    assert 0 < float(found.t) <= 0.05


def test_noise_does_not_keep_a_flat_slope_from_being_found() -> None:
    def phi(t):
        return (t - 1.0) ** 2

    state = WOLFE.begin(
        phi(jnp.asarray(0.0)),
        jnp.asarray(-2.0),
        jnp.zeros(1),
        jnp.asarray(1.0),
        jnp.asarray(jnp.inf),
    )
    # At the minimum a value that is higher than at the start, by less than its noise.
    assert bool(
        WOLFE.advance(
            state, jnp.asarray(1.001), jnp.asarray(0.0), jnp.zeros(1), jnp.asarray(0.01)
        ).accepted
    )
    assert not bool(
        WOLFE.advance(
            state, jnp.asarray(1.001), jnp.asarray(0.0), jnp.zeros(1), jnp.asarray(0.0)
        ).accepted
    )


def test_noise_ends_the_search_soon() -> None:
    """-1e-3 t + t^2 has 2.5e-7 to gain, noise is four times that: no shorter trial sees more."""
    state = WOLFE.begin(
        jnp.asarray(0.0), jnp.asarray(-1e-3), jnp.zeros(1), jnp.asarray(1.0), jnp.asarray(jnp.inf)
    )
    while not (state.accepted or state.failed):
        t = state.t
        value = -1e-3 * t + t**2 + 1e-6 * (2 + jnp.sin(1e9 * t))
        state = WOLFE.advance(state, value, -1e-3 + 2 * t, jnp.ones(1), jnp.asarray(0.0))
    assert bool(state.failed)
    assert int(state.trials) <= 9


def test_a_gain_that_is_noise_is_no_step() -> None:
    """Values 1e-6 below a slope of -1e-12, three times: noise is as large as what was gained."""
    state = WOLFE.begin(
        jnp.asarray(0.0), jnp.asarray(-1e-12), jnp.zeros(1), jnp.asarray(1.0), jnp.asarray(jnp.inf)
    )
    for _ in range(3):
        state = WOLFE.advance(
            state, jnp.asarray(-1e-6), jnp.asarray(-1e-12), jnp.ones(1), jnp.asarray(0.0)
        )
    assert bool(state.failed)
    assert not bool(state.fell_back)


@pytest.mark.parametrize(
    ("value", "slope", "slope_at_start", "accepted"),
    [
        # Rounding of 1e-16 is claimed, and five times as large: HS 35 in units of its end. There is
        # 1e-16 to gain.
        (5e-16, 4e-19, -2e-16, True),
        # The slope has not fallen enough, f has risen by more than rounding, there is more to gain
        # than rounding hides.
        (5e-16, -5e-17, -2e-16, False),
        (2e-15, 4e-19, -2e-16, False),
        (5e-16, 4e-19, -2e-15, False),
    ],
)
def test_a_step_that_flattens_the_slope_is_taken_where_values_tell_nothing(
    value: float, slope: float, slope_at_start: float, accepted: bool
) -> None:
    state = WOLFE.begin(
        jnp.asarray(0.0),
        jnp.asarray(slope_at_start),
        jnp.zeros(1),
        jnp.asarray(1.0),
        jnp.asarray(jnp.inf),
    )
    after = WOLFE.advance(
        state, jnp.asarray(value), jnp.asarray(slope), jnp.zeros(1), jnp.asarray(1e-16)
    )
    assert bool(after.accepted) == accepted


class Exact:
    """The longest step of a quadratic, from two slopes: a search of a user's own."""

    def begin(self, value: Any, slope: Any, derivative: Any, t: Any, longest: Any) -> Any:
        return BACKTRACKING.begin(value, slope, derivative, t, longest)

    def advance(self, search: Any, value: Any, slope: Any, derivative: Any, noise: Any) -> Any:
        start = search.low.slope
        best = search.t * start / (start - slope)
        here = jnp.abs(slope) <= 1e-9 * jnp.abs(start)
        return search._replace(t=jnp.where(here, search.t, best), accepted=here)


BACKTRACKING = Backtracking(shrink=0.5)


def test_backtracking_takes_the_first_power_that_is_low_enough() -> None:
    """(t - 0.1)^2 falls by c1 of its slope where t <= 0.2 (1 - c1): 1/8 of 1."""
    phi = lambda t: (t - 0.1) ** 2
    state = BACKTRACKING.begin(
        phi(jnp.asarray(0.0)), jnp.asarray(-0.2), jnp.ones(1), jnp.asarray(1.0), jnp.asarray(9.0)
    )
    for k in range(3):
        assert not bool(state.accepted)
        assert float(state.t) == 0.5**k
        t = state.t
        state = BACKTRACKING.advance(state, phi(t), 2 * (t - 0.1), jnp.ones(1), jnp.asarray(0.0))
    t = state.t
    state = BACKTRACKING.advance(state, phi(t), 2 * (t - 0.1), jnp.ones(1), jnp.asarray(0.0))
    assert bool(state.accepted)
    assert float(state.t) == 0.125
    uphill = Backtracking(trials=3)
    for _ in range(3):
        state = uphill.advance(state, jnp.asarray(9.0), jnp.asarray(1.0), jnp.ones(1), t)
    assert bool(state.failed)


@pytest.mark.parametrize("method", [adjoint.BFGS, adjoint.LBFGS, adjoint.SteepestDescent])
def test_searches_are_exchanged(method: Any) -> None:
    """Of a quadratic in 3 unknowns BFGS with exact searches is at the minimum after 3 steps.

    Source: Nocedal and Wright, Numerical Optimization, 2nd ed., theorem 6.4.
    """
    A = jnp.array([[4.0, 1.0, 0.0], [1.0, 3.0, 0.5], [0.0, 0.5, 2.0]])
    f = lambda x: (x - 1) @ A @ (x - 1) / 2 + 1
    for search in (Exact(), BACKTRACKING):
        solution = adjoint.minimize(f, jnp.array([3.0, -1.0, 2.0]), method(search=search))
        np.testing.assert_allclose(adjoint.require(solution), 1.0, atol=1e-4)
        if method is adjoint.BFGS and isinstance(search, Exact):
            assert int(solution.stats["iterations"]) <= 4


def test_a_bound_keeps_a_backtracking_step() -> None:
    method = adjoint.BFGS(search=BACKTRACKING)
    solution = adjoint.minimize(
        lambda x: jnp.sum((x - 2) ** 2), jnp.zeros(2), method, bounds=(-1.0, 1.0)
    )
    np.testing.assert_allclose(adjoint.require(solution), 1.0)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: StrongWolfe(c1=0.5, c2=0.2), "0 < c1 < c2 < 1"),
        (lambda: StrongWolfe(trials=0), "at least one trial"),
        (lambda: Backtracking(shrink=1.0), "shares between 0 and 1"),
        (lambda: Backtracking(trials=0), "at least one trial"),
    ],
)
def test_settings_that_are_no_search_are_refused(make: Callable, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
