"""A bound that is not there is infinite: a fair number among constants and parameters.

NaN is none, nor is what infinity spoils.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import adjoint
from adjoint import GMRES, HostSolver, MatrixFree, NewtonKrylov, Status

CAPS = jnp.array([1.0, jnp.inf])
TARGET = jnp.array([2.0, 5.0])


# min(q, u) with a target q and caps u, found in different ways; p = (q, u).
WAYS: dict[str, Callable[[Any], Any]] = {
    "root": lambda p: adjoint.root(lambda x, p: x - jnp.minimum(*p[:2]), jnp.zeros(2), p),
    "NewtonKrylov": lambda p: adjoint.root(
        lambda x, p: x - jnp.minimum(*p[:2]), jnp.zeros(2), p, NewtonKrylov()
    ),
    "HostSolver": lambda p: adjoint.root(
        lambda x, p: x - jnp.minimum(*p[:2]), jnp.zeros(2), p, HOST
    ),
    "fixed_point": lambda p: adjoint.fixed_point(
        lambda x, p: 0.5 * (x + jnp.minimum(*p[:2])), jnp.zeros(2), p
    ),
    "argmin": lambda p: adjoint.argmin(
        lambda x, p: jnp.sum((x - jnp.minimum(*p[:2])) ** 2), jnp.zeros(2), p
    ),
    "argmin under constraints": lambda p: adjoint.argmin(
        lambda x, p: jnp.sum((x - p[0]) ** 2),
        jnp.zeros(2),
        p,
        inequality=lambda x, p: jnp.exp(x - p[1]) - 1,
    ),
    "ode_solve": lambda p: adjoint.ode_solve(
        lambda t, y, p: jnp.minimum(*p[:2]), jnp.zeros(2), p, 0.0, 1.0, rtol=1e-10, atol=1e-12
    ),
    "steady_state": lambda p: adjoint.steady_state(
        lambda t, y, p: jnp.minimum(*p[:2]) - y, jnp.zeros(2), p, 50.0
    ),
    "recurrence": lambda p: adjoint.recurrence(
        lambda k, x, p: x + 0.25 * jnp.minimum(*p[:2]), jnp.zeros(2), p, 4
    ),
}
HOST = HostSolver(lambda x0, p: np.minimum(p[0], p[1]))


@pytest.mark.parametrize("name", WAYS)
def test_an_infinite_parameter_is_a_fair_one(name: str) -> None:
    """x = min(q, u): the first entry is at its cap, with all of the derivative; the second not."""

    @jax.jit
    def found(p: Any) -> Any:
        def total(p: Any) -> Any:
            solution = WAYS[name](p)
            return jnp.sum(solution.value), solution

        return jax.value_and_grad(total, has_aux=True)(p)

    unused = jnp.array(-jnp.inf)
    (_, solution), gradient = found((TARGET, CAPS, unused))
    assert solution.status.ok
    np.testing.assert_allclose(solution.value, [1.0, 5.0], rtol=1e-7)
    np.testing.assert_allclose(gradient[0], [0.0, 1.0], atol=1e-7)
    np.testing.assert_allclose(gradient[1], [1.0, 0.0], atol=1e-7)
    assert gradient[2] == 0
    (_, solution), gradient = found((TARGET, CAPS, jnp.array(jnp.nan)))
    assert solution.status == Status.NONFINITE_INPUT
    assert jnp.all(jnp.isnan(solution.value))
    # What makes the solution infinite is no success.
    (_, solution), gradient = found((TARGET.at[1].set(jnp.inf), CAPS, unused))
    assert not solution.status.ok
    assert jnp.all(jnp.isnan(solution.value))
    assert jnp.all(jnp.isnan(gradient[0]))


def test_infinite_constants_are_fair_ones() -> None:
    solution = adjoint.root(lambda x, p: x - jnp.minimum(p, CAPS), jnp.zeros(2), TARGET)
    np.testing.assert_allclose(solution.value, [1.0, 5.0])
    solution = adjoint.minimize(
        lambda x: jnp.sum((x - jnp.minimum(TARGET, CAPS)) ** 2), jnp.zeros(2)
    )
    assert solution.status.ok
    np.testing.assert_allclose(solution.value, [1.0, 5.0], rtol=1e-6)
    operator = MatrixFree(lambda x: 2 * x + jnp.minimum(0.5, CAPS) * jnp.flip(x), 2)
    solution = adjoint.linear_solve(operator, jnp.ones(2), GMRES())
    np.testing.assert_allclose(solution.value, [0.4, 0.4])


def test_an_infinity_that_comes_out_is_told_from_an_iteration_that_fails() -> None:
    spoiled = adjoint.root(lambda x, p: x - p, jnp.zeros(2), CAPS)
    assert spoiled.status == Status.NONFINITE_INPUT
    operator = MatrixFree(lambda x: CAPS * x, 2)
    assert adjoint.linear_solve(operator, jnp.ones(2)).status == Status.NONFINITE_INPUT
    # Within a residual that is fine the search for a root of x^2 = -1 fails by itself.
    hopeless = adjoint.root(
        lambda x, p: x**2 + jnp.minimum(1.0, p), jnp.ones(1), jnp.array([jnp.inf])
    )
    assert not hopeless.status.ok
    assert hopeless.status != Status.NONFINITE_INPUT


def test_a_jump_with_an_infinite_parameter() -> None:
    """A ball that is never driven faster than a bound of infinity."""
    bounce = adjoint.Event(
        lambda t, y, p: y[0],
        lambda t, y, p: jnp.stack([jnp.zeros(()), jnp.minimum(-0.8 * y[1], p)]),
    )
    fall = lambda t, y, p: jnp.array([y[1], -9.81])
    solution = adjoint.hybrid_solve(
        fall, jnp.array([1.0, 0.0]), jnp.inf, 0.0, 0.8, bounce, max_events=2
    )
    assert solution.status.ok
    t = np.sqrt(2 / 9.81)
    np.testing.assert_allclose(
        solution.value.y[0], 0.8 * 9.81 * t * (0.8 - t) - 9.81 * (0.8 - t) ** 2 / 2, rtol=1e-5
    )
