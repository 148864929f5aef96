"""steady_state: limits in closed form, their derivatives, and what is no limit."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jaxtyping import Array

import adjoint
from adjoint import Status, steady_state


def reactor(t: Array, y: Array, p: Array) -> Array:
    """A stirred tank, A -> B of second order: nonsymmetric, and stiff with its fast third state."""
    feed, rate, fast = p
    a, b, c = y
    return jnp.stack([feed - a - rate * a**2, rate * a**2 - b, fast * (b - c)])


def limit(p: Array) -> Array:
    """a is the positive root of rate a^2 + a = feed, and b = c = feed - a."""
    feed, rate, _ = p
    a = (jnp.sqrt(1 + 4 * rate * feed) - 1) / (2 * rate)
    return jnp.stack([a, feed - a, feed - a])


P = jnp.array([2.0, 0.7, 1e4])


def solve(p: Array, mode: Any = "reverse") -> adjoint.Solution[Array]:
    return steady_state(reactor, jnp.array([0.1, 0.0, 1.0]), p, 30.0, mode=mode)


def test_value_and_derivatives() -> None:
    np.testing.assert_allclose(solve(P).value, limit(P), rtol=1e-12)
    np.testing.assert_allclose(
        jax.jacrev(lambda p: solve(p).value)(P), jax.jacfwd(limit)(P), rtol=1e-9, atol=1e-12
    )


@pytest.mark.slow
def test_second_derivatives_and_forward_mode() -> None:
    found = jax.jit(jax.jacfwd(jax.grad(lambda p: solve(p).value @ jnp.array([1.0, 2.0, 3.0]))))(P)
    expected = jax.hessian(lambda p: limit(p) @ jnp.array([1.0, 2.0, 3.0]))(P)
    np.testing.assert_allclose(found, expected, rtol=1e-8, atol=1e-10)
    np.testing.assert_allclose(
        jax.jacfwd(lambda p: solve(p, "both").value)(P), jax.jacfwd(limit)(P), rtol=1e-9, atol=1e-12
    )


def test_the_limit_is_the_one_that_the_start_comes_to() -> None:
    """y' = y (p - y^2) rests at 0 and at -sqrt(p), sqrt(p); 0 is where nothing stays."""

    def rest(start: float) -> Array:
        return steady_state(
            lambda t, y, p: y * (p - y**2), jnp.array(start), jnp.array(2.0), 40.0
        ).value

    np.testing.assert_allclose([rest(0.01), rest(-0.01)], [np.sqrt(2), -np.sqrt(2)], rtol=1e-12)


@pytest.mark.parametrize(
    ("f", "time", "statuses"),
    [
        # Still on its way; a blow-up; a conserved sum, so that the limit depends on the start.
        (lambda t, y, p: -1e-3 * y + p, 1.0, ("NOT_CONVERGED",)),
        (lambda t, y, p: y**2 + p, 10.0, ("NOT_CONVERGED",)),
        (
            lambda t, y, p: p * jnp.stack([y[1] - y[0], y[0] - y[1]]),
            50.0,
            ("SINGULAR", "ILL_CONDITIONED"),
        ),
    ],
)
@pytest.mark.slow
def test_what_is_no_limit(f: Any, time: float, statuses: tuple[str, ...]) -> None:
    def first(p: Array) -> tuple[Array, Status]:
        solution = steady_state(f, jnp.array([1.0, 2.0]), p, time)
        return solution.value[0], solution.status

    gradient, status = jax.grad(first, has_aux=True)(jnp.array(1.0))
    assert status.name in statuses
    assert np.isnan(gradient)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"time": -1.0}, "a positive number"),
        ({"y0": jnp.ones(2)}, "as y0"),
        ({"mode": "forward"}, '"reverse" or "both"'),
    ],
)
def test_bad_input(change: dict[str, Any], message: str) -> None:
    arguments: dict[str, Any] = {"f": reactor, "y0": jnp.ones(3), "p": P, "time": 1.0}
    with pytest.raises(ValueError, match=message):
        steady_state(
            **(arguments | change)
            if "y0" not in change
            else {**arguments, "f": lambda t, y, p: y[:1], **change}
        )
