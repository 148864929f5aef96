"""Checkpoint schedules give the bits of store-all, at the number of repeated steps promised.

The chain is a nonlinear map of two states that swaps them, so that a step in the wrong place or in
the wrong order shows.
"""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from adjoint.ode.checkpoints import Schedule, sweep_back

MOST = 1000
SCHEDULES = {
    "all": Schedule(1),
    "two levels": Schedule(32),
    **{f"{slots} slots": Schedule(MOST, slots) for slots in (1, 2, 3, 7)},
}
STEPS = (0, 1, 2, 7, 50, MOST)
X0, P = jnp.array([0.3, -0.8]), jnp.array([0.9, 0.4, 0.05])


def step(k, x, p):
    return jnp.stack(
        [p[0] * jnp.sin(x[1]) + p[1] * x[0], p[2] * k / MOST + jnp.cos(p[1] * x[0] * x[1])]
    )


def gradient(schedule, count, x0, p):
    """d(x[count] @ (1, 2))/d(x0, p) of x[k+1] = step(k, x[k], p), by the schedule."""

    def advance(k, x):
        return step(k, x, p)

    def pull(k, x, adjoint):
        lam, total = adjoint
        x_bar, p_bar = jax.vjp(functools.partial(step, k), x, p)[1](lam)
        return x_bar, total + p_bar

    def forward(k, carry):
        x, kept = carry
        slot = k // schedule.spacing
        return advance(k, x), kept.at[slot].set(jnp.where(k % schedule.spacing == 0, x, kept[slot]))

    kept = jnp.zeros((-(-MOST // schedule.spacing), 2))
    _, kept = jax.lax.fori_loop(0, count, forward, (x0, kept))
    return sweep_back(schedule, advance, pull, kept, count, (jnp.array([1.0, 2.0]), jnp.zeros(3)))


@functools.cache
def gradients(name):
    compiled = jax.jit(functools.partial(gradient, SCHEDULES[name]))
    return [jax.tree.map(np.asarray, compiled(count, X0, P)) for count in STEPS]


def test_store_all_equals_the_gradient_by_jax():
    @jax.jit
    @functools.partial(jax.grad, argnums=(1, 2))
    def expected(count, x0, p):
        def body(x, k):
            return jnp.where(k < count, step(k, x, p), x), None

        return jax.lax.scan(body, x0, jnp.arange(MOST))[0] @ jnp.array([1.0, 2.0])

    for count, found in zip(STEPS, gradients("all"), strict=True):
        jax.tree.map(
            functools.partial(np.testing.assert_allclose, rtol=1e-12, atol=1e-14),
            found,
            expected(count, X0, P),
        )


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=pytest.mark.slow if name == "1 slots" else ())
        for name in SCHEDULES
        if name != "all"
    ],
)
def test_every_schedule_gives_the_same_bits(name):
    for found, expected in zip(gradients(name), gradients("all"), strict=True):
        jax.tree.map(np.testing.assert_array_equal, found, expected)


def calls(schedule, count):
    """How often the way back calls advance and pull; run in Python, step by step."""
    advanced, pulled = [], []

    def advance(k, x):
        advanced.append(int(k))
        return x + 1

    def pull(k, x, adjoint):
        assert int(x) == int(k), "step k is pulled back at another state than x[k]"
        pulled.append(int(k))
        return adjoint + 1

    with jax.disable_jit():
        kept = jnp.arange(0, max(count, 1), schedule.spacing)
        total = sweep_back(schedule, advance, pull, kept, count, jnp.asarray(0))
    assert int(total) == count
    assert pulled == list(range(count))[::-1]
    return len(advanced)


def fewest(steps, slots):
    """The fewest forward steps to reverse so many with so many states, the first the start.

    r l - C(s + r, s + 1) with r the fewest runs for which C(s + r, s) >= l (Griewank and Walther,
    Evaluating Derivatives, 2nd ed., section 12.3; their count of steps includes the one before
    every reversed step).
    """
    runs = next(r for r in range(steps + 1) if math.comb(slots + r, slots) >= steps)
    return runs * steps - math.comb(slots + runs, slots + 1)


def test_the_fewest_solve_the_equation_of_bellman():
    """F(l, s) = min over m of m + F(l - m, s - 1) + F(m, s).

    That is m steps on, then what is right of there, then what is left.
    """
    for slots in range(2, 6):
        for steps in range(2, 30):
            ways = [m + fewest(steps - m, slots - 1) + fewest(m, slots) for m in range(1, steps)]
            assert fewest(steps, slots) == min(ways)
    assert [fewest(steps, 1) for steps in (1, 2, 3, 4)] == [0, 1, 3, 6]


@pytest.mark.parametrize(("count", "slots"), [(1, 1), (6, 1), (15, 2), (23, 3), (40, 5)])
def test_binomial_repeats_no_step_too_often(count, slots):
    assert calls(Schedule(count, slots), count) == fewest(count, slots)


@pytest.mark.parametrize("count", [0, 1, 15, 16, 23])
def test_store_all_repeats_nothing_and_two_levels_every_step_once(count):
    assert calls(Schedule(1), count) == 0
    assert calls(Schedule(4), count) == count


def test_the_schedule_is_chosen_by_what_fits():
    state = 8000
    few, many = 2**26 // state, 2**26 // state + 1
    assert Schedule.of(None, few, state) == Schedule(1)
    assert Schedule.of(None, many, state) == Schedule(92)
    assert Schedule.of(100, 100, state) == Schedule(1)
    # Two levels hold 10 + 10 states of 100 steps.
    assert Schedule.of(20, 100, state) == Schedule(10)
    assert Schedule.of(19, 100, state) == Schedule(100, 19)
    assert Schedule.of(1, 1, state) == Schedule(1)
