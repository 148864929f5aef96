"""Mutants of the rules for ODEs and recurrences are killed; the healthy library passes all.

Gradients are compared with closed forms (`ode_cases.py`), to what a few steps are worth: a mutant's
error is a thousandth at least.
"""

from typing import Any

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from mutation import HOME, Mutant, library
from ode_cases import error
from ode_checks import CHECKS, check, module
from ode_mutants import ODE_MUTANTS
from test_ode_rest import of_knots


def rest(sensitivity: Any) -> None:
    """y'' = -25 y at rest: dy(3)/dy0 = (cos 15, sin 15 / 5)."""
    swing = lambda _, y, p: jnp.stack([y[1], -p * y[0]])
    solve = module("solve").ode_solve
    end = lambda y: solve(swing, y, 25.0, 0.0, 3.0, sensitivity=sensitivity).value[0]
    assert error(jax.grad(end)(jnp.zeros(2)), np.array([np.cos(15.0), np.sin(15.0) / 5])) < 1e-3


@check
def at_rest() -> None:
    rest(module("discrete").DiscreteAdjoint())


@check
def stationary() -> None:
    """The height of what was thrown at its top, by the end of time: zero, for each speed."""
    flight = lambda t, y, g: jnp.stack([y[1], -g])

    def height(t1: Any, speed: Any) -> Any:
        start = jnp.stack([0 * speed, speed])
        discrete = module("discrete").DiscreteAdjoint()
        return (
            module("solve").ode_solve(flight, start, 9.81, 0.0, t1, sensitivity=discrete).value[0]
        )

    speeds = jnp.linspace(1.0, 9.0, 200)
    slopes = jax.jit(jax.vmap(jax.grad(height)))(speeds / 9.81, speeds)
    np.testing.assert_allclose(slopes, 0.0, atol=1e-12)


@check
def small_share() -> None:
    """x'' = -x swings, z'' = p - 49 z rests; of x + 1e-6 z by p, at 3: 1e-6 (1 - cos 21) / 49."""
    beside = lambda t, y, p: jnp.stack([y[1], -y[0], y[3], p - 49 * y[2]])
    discrete = module("discrete").DiscreteAdjoint()
    start = jnp.array([1.0, 0, 0, 0])

    def output(p: Any) -> Any:
        y = module("solve").ode_solve(beside, start, p, 0.0, 3.0, sensitivity=discrete).value
        return y[0] + 1e-6 * y[2]

    assert error(jax.grad(output)(0.0) / 1e-6, (1 - np.cos(21.0)) / 49) < 1e-3


@check
def small_share_of_lam() -> None:
    """x'' = -x swings, z'' = -49 z rests; of x + 1e-6 z by z and z' at the start."""
    beside = lambda t, y, p: jnp.stack([y[1], -y[0], y[3], -49 * y[2]])
    interpolating = module("continuous").InterpolatingAdjoint()

    def output(y0: Any) -> Any:
        y = module("solve").ode_solve(beside, y0, None, 0.0, 3.0, sensitivity=interpolating).value
        return y[0] + 1e-6 * y[2]

    found = jax.grad(output)(jnp.array([1.0, 0, 0, 0]))
    assert error(found[2:] / 1e-6, np.array([np.cos(21.0), np.sin(21.0) / 7])) < 1e-4


@check
def controls() -> None:
    """y' = -y + 1e-9 sum of p_k exp(-((t - c_k) / w)^2) at p = 0; y(3) by p.

    It is the integral of exp(-((t - c) / w)^2 + t - 3), which is w sqrt(pi) exp(c - 3 + w^2 / 4).
    """
    centers = np.linspace(0.3, 2.7, 9)
    width = 0.1

    def output(p: Any) -> Any:
        hats = lambda t: jnp.exp(-(((t - jnp.asarray(centers)) / width) ** 2))
        controlled = lambda t, y, p: -y + 1e-9 * (p @ hats(t))
        interpolating = module("continuous").InterpolatingAdjoint()
        solved = module("solve").ode_solve(
            controlled, jnp.array(0.0), p, 0.0, 3.0, sensitivity=interpolating
        )
        return solved.value

    right = 1e-9 * width * np.sqrt(np.pi) * np.exp(centers - 3 + width**2 / 4)
    assert error(jax.grad(output)(jnp.zeros(9)), right) < 1e-3


@check
def forward_at_rest() -> None:
    rest(module("forward").ForwardSensitivity())


def controlled(u: Any) -> Any:
    move = lambda t, y, u: jnp.stack([y[1], jnp.interp(t, jnp.linspace(0.0, 3.0, 12), u)])
    discrete = module("discrete").DiscreteAdjoint()
    return module("solve").ode_solve(move, jnp.zeros(2), u, 0, 3.0, sensitivity=discrete).value[0]


@check
def kinks() -> None:
    found = jax.grad(controlled)(jnp.full(12, 0.1))
    assert np.linalg.norm(found - of_knots(12)) < 1e-3 * np.linalg.norm(of_knots(12))


@check
def late_kink() -> None:
    found = jax.jvp(controlled, (jnp.zeros(12),), (jnp.eye(12)[-2],))[1]
    np.testing.assert_allclose(found, of_knots(12)[-2], rtol=1e-3)


@check
def switch() -> None:
    """y' = 1 until p, then 0: y(2) = p."""
    flow = lambda t, y, p: jnp.where(t < p, 1.0, 0.0) * jnp.ones(1)
    solve = module("solve").ode_solve
    end = lambda p: solve(flow, jnp.zeros(1), p, 0.0, 2.0, jumps=[p]).value[0]
    found = jax.value_and_grad(end)(jnp.asarray(0.98))
    assert error(found, (np.asarray(0.98), np.asarray(1.0))) < 1e-9


@check
def decay() -> None:
    """Running back exp(-100) tells nothing of where it began."""
    options = {
        "sensitivity": module("backsolve").BacksolveAdjoint(),
        "solver": diffrax.Kvaerno3(),
        "rtol": 1e-3,
        "atol": 1e-6,
    }
    fall = lambda _, y, p: -p * (y - 1)
    end = lambda p: module("solve").ode_solve(fall, jnp.zeros(1), p, 0.0, 1.0, **options).value[0]
    assert np.isnan(jax.grad(end)(jnp.asarray(100.0)))


@check
def unstable() -> None:
    """An upside-down pendulum near the top: what disturbs it grows by exp(6) per unit of time."""
    fall = lambda _, y, p: jnp.stack([y[1], p * y[0]])
    solution = module("solve").ode_solve(
        fall, jnp.array([1.0, -3.0]), jnp.asarray(9.0), 0.0, 2.6, certificate=True
    )
    assert solution.status.name == "UNTRUSTED"


@check
def failures() -> None:
    """y' = y^2 and x[k+1] = x[k]^2 leave the numbers; a solve out of steps is finite.

    It is not to be shown.
    """
    solution = module("solve").ode_solve(
        lambda _, y, p: p * y, jnp.ones(1), 1.0, 0.0, 50.0, max_steps=3
    )
    assert np.all(np.isnan(solution.value))
    recurrence, infinite = module("recurrence").recurrence, jnp.asarray(np.inf)
    assert np.isnan(recurrence(lambda _, x, p: p * jnp.ones_like(x), infinite, 1.0, 2).value)


@check
def stages() -> None:
    """Two steps of Kvaerno3 on y' = -10 y^3, stage roots by bisection.

    Iterations leave a thousandth of 1e-3.
    """
    tableau, h, y = diffrax.Kvaerno3.tableau, 0.02, 1.0
    for _ in range(2):
        slopes = [-10 * y**3]
        for row in tableau.a_lower:
            known, a = y + h * np.dot(row, slopes), tableau.a_diagonal[-1]
            low, high = 0.0, 2.0
            for _ in range(60):
                middle = (low + high) / 2
                low, high = (
                    (middle, high) if middle + 10 * h * a * middle**3 < known else (low, middle)
                )
            slopes.append(-10 * low**3)
        y = low
    options = {"solver": diffrax.Kvaerno3(), "steps": 2, "rtol": 1e-3, "atol": 1e-3}
    found = (
        module("solve")
        .ode_solve(lambda _, y, p: -p * y**3, jnp.ones(1), 10.0, 0.0, 0.04, **options)
        .value[0]
    )
    assert abs(found - y) < 1e-5


@check
def chains() -> None:
    """x[k+1] = x[k] + k + 1, so step k starts from k (k + 1) / 2; all are pulled back once.

    They are pulled back from last to first.
    """
    schedules, pulled = module("checkpoints"), []

    def pull(k: Any, x: Any, adjoint: Any) -> Any:
        assert int(x) == int(k) * (int(k) + 1) // 2
        pulled.append(int(k))
        return adjoint + 1

    for schedule in (schedules.Schedule(1), schedules.Schedule(3), schedules.Schedule(8, 2)):
        starts = jnp.arange(0, 8, schedule.spacing)
        with jax.disable_jit():
            schedules.sweep_back(
                schedule,
                lambda k, x: x + k + 1,
                pull,
                starts * (starts + 1) // 2,
                8,
                jnp.asarray(0),
            )
        assert pulled == list(range(8))[::-1]
        pulled.clear()


@check
def recurrences() -> None:
    """x[k+1] = p x[k] + k from 1: x[5] = p^5 + p^3 + 2 p^2 + 3 p + 4."""
    step = lambda k, x, p: p * x + k
    end = lambda x0, p: module("recurrence").recurrence(step, x0, p, 5, checkpoints=3).value
    found = jax.value_and_grad(lambda z: end(z[0], z[1]))(jnp.array([1.0, 2.0]))
    np.testing.assert_allclose(found[0], 32 + 8 + 8 + 6 + 4, rtol=1e-12)
    np.testing.assert_allclose(found[1], [32, 80 + 12 + 8 + 3], rtol=1e-12)
    many = lambda x0, p: module("recurrence").recurrence(step, x0, p, 9, checkpoints=6).value
    np.testing.assert_allclose(
        jax.grad(many)(jnp.asarray(1.0), jnp.asarray(2.0)), 2.0**9, rtol=1e-12
    )


@check
def shadow() -> None:
    def average(p: jax.Array) -> jax.Array:
        find = module("shadowing").shadowing_sensitivity
        return find(
            lambda t, y, p: -p * y,
            1.0,
            p,
            0.0,
            2.0,
            running_cost=lambda t, y, p: y,
            transient=1.0,
            segments=64,
        ).value[0]

    try:
        jax.eval_shape(jax.grad(average), 1.0)
    except (TypeError, ValueError, NotImplementedError) as refusal:
        assert "The gradient is part of the result" in str(refusal)  # noqa: PT017
    else:
        raise AssertionError("a derivative of the result was let through")


# One of each rule; the others take longer than they add.
FAST = {
    "two levels: one step too far",
    "binomial: the state after the checkpoint",
    "recurrence: stored one step late",
    "recurrence: p_bar of one step only",
    "discrete: stale slope",
    "variational equation: no F_p",
    "implicit stage: F_y transposed",
    "implicit stage: ends too early",
    "continuous: F_y lam",
    "solve: not poisoned",
}


@pytest.mark.slow
@pytest.mark.parametrize("name", CHECKS)
def test_the_healthy_library_passes(name: str) -> None:
    with library(None):
        CHECKS[name]()


@pytest.mark.parametrize(
    "mutant",
    [m if m.name in FAST else pytest.param(m, marks=pytest.mark.slow) for m in ODE_MUTANTS],
    ids=str,
)
def test_the_mutant_is_killed(mutant: Mutant) -> None:
    with library(mutant), pytest.raises(AssertionError):
        CHECKS[mutant.killed_by]()


def test_every_mutant_finds_its_text() -> None:
    for mutant in ODE_MUTANTS:
        assert mutant.source() != (HOME / mutant.file).read_text()
