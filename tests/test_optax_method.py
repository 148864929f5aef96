"""Optimizers of optax in minimize: their own steps, with bounds, stopping, checkpoints and jit."""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from adjoint import Checkpoint, Status, minimize
from adjoint.optimize.optax_method import OptaxMethod

START = {"a": jnp.array([1.5, -0.5]), "b": jnp.array(2.0)}
SCHEDULE = optax.exponential_decay(0.05, 10, 0.9)
OPTIMIZERS = {
    "momentum": optax.sgd(0.02, momentum=0.9),
    "clipped, by a schedule": optax.chain(optax.clip_by_global_norm(1.0), optax.adam(SCHEDULE)),
}


def bowl(x: Any) -> Any:
    """Minimum -7/4 at a = (1, 1/4), b = 1/2: its gradient is linear, and couples the leaves."""
    a, b = x["a"], x["b"]
    return a[0] ** 2 + 2 * a[1] ** 2 - 2 * a[0] - a[1] + b**2 - b + (a[0] - 1) * (b - 0.5)


def by_hand(optimizer: optax.GradientTransformation, steps: int) -> list[Any]:
    x, state, points = START, optimizer.init(START), [START]
    for _ in range(steps):
        updates, state = optimizer.update(jax.grad(bowl)(x), state, x)
        x = optax.apply_updates(x, updates)
        points.append(x)
    return points


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_the_steps_are_those_of_optax(name: str) -> None:
    seen: list[Any] = []
    solution = minimize(bowl, START, OPTIMIZERS[name], callback=seen.append, max_steps=12)
    assert solution.status == Status.NOT_CONVERGED
    for step, expected in zip(seen, by_hand(OPTIMIZERS[name], 12), strict=True):
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-12), step.x, expected)


def test_it_stops_at_the_minimum_and_says_so() -> None:
    solution = minimize(bowl, START, OPTIMIZERS["momentum"])
    assert solution.status == Status.SUCCESS
    np.testing.assert_allclose(solution.value["a"], [1.0, 0.25], atol=1e-6)
    np.testing.assert_allclose(solution.value["b"], 0.5, atol=1e-6)
    assert str(solution.stats["method"]) == "OptaxMethod: as asked"


def test_bounds_by_projection() -> None:
    """min (x - 2)^2 + (y - 1/2)^2 with x <= 1."""
    f = lambda x: (x[0] - 2) ** 2 + (x[1] - 0.5) ** 2
    seen: list[Any] = []
    solution = minimize(f, jnp.zeros(2), optax.sgd(0.1), bounds=(0.0, 1.0), callback=seen.append)
    assert solution.status == Status.SUCCESS
    np.testing.assert_allclose(solution.value, [1.0, 0.5], atol=1e-6)
    assert all(np.all((step.x >= 0) & (step.x <= 1)) for step in seen)


def test_a_run_that_was_stopped_is_the_run_that_was_not(tmp_path: Path) -> None:
    optimizer, path = optax.adam(0.1), tmp_path / "run"
    whole = minimize(bowl, START, optimizer, max_steps=9)
    given: dict[str, Any] = {"checkpoint": Checkpoint(path, 2), "max_steps": 9}
    for evaluations in (3, 7):
        minimize(bowl, START, optimizer, max_evaluations=evaluations, **given)
    # The same optimizer, made anew.
    resumed = minimize(bowl, START, optax.adam(0.1), **given)
    jax.tree.map(np.testing.assert_array_equal, whole.value, resumed.value)
    one, other = whole.stats["history"], resumed.stats["history"]
    for name in set(one) - {"seconds"}:
        np.testing.assert_array_equal(one[name], other[name])
    with pytest.raises(ValueError, match="method OptaxMethod"):
        minimize(bowl, START, optax.adam(0.2), **given)


def test_its_text_knows_what_it_closes_over() -> None:
    texts = [repr(OptaxMethod(optax.adam(rate))) for rate in (0.1, 0.1, 0.2)]
    assert texts[0] == texts[1] != texts[2]
    schedules = [optax.exponential_decay(0.1, 10, decay) for decay in (0.9, 0.8)]
    assert len({repr(OptaxMethod(optax.sgd(schedule))) for schedule in schedules}) == 2


@pytest.mark.slow
def test_inside_jit_it_takes_the_same_steps() -> None:
    run = lambda x: minimize(bowl, x, OPTIMIZERS["momentum"])
    on_host, compiled = run(START), jax.jit(run)(START)
    assert compiled.status == Status.SUCCESS
    assert int(on_host.stats["evaluations"]) == int(compiled.stats["evaluations"])


def test_what_diverges_is_no_success() -> None:
    solution = minimize(bowl, START, optax.sgd(1e3), max_steps=300)
    assert not bool(solution.status.ok)
    # The best point, not the last.
    assert float(solution.stats["value"]) <= float(bowl(START))


def test_constraints_are_refused_by_name() -> None:
    with pytest.raises(ValueError, match=r"OptaxMethod.*inequality.*SQP\(\)"):
        minimize(bowl, START, optax.adam(0.1), inequality=lambda x: x["b"] - 1)
    with pytest.raises(TypeError, match="optimizer of optax"):
        minimize(bowl, START, optax.adam)
