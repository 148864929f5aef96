"""Forward mode of ode_solve, with every sensitivity: closed forms, reverse mode's transpose."""

from typing import Any

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.scipy.linalg import expm

import adjoint

SENSITIVITIES = {
    "by itself": None,
    "discrete": adjoint.DiscreteAdjoint(),
    "discrete, three states": adjoint.DiscreteAdjoint(checkpoints=3),
    "forward": adjoint.ForwardSensitivity(),
    "interpolating": adjoint.InterpolatingAdjoint(),
    "Gauss": adjoint.GaussAdjoint(),
    "backsolve": adjoint.BacksolveAdjoint(),
}
FAST = ("discrete, three states", "interpolating")
TIMES = jnp.array([0.0, 0.3, 1.0])


def nonnormal(n: int) -> Any:
    rng = np.random.default_rng(n)
    return jnp.asarray(
        (np.triu(rng.normal(size=(n, n)), 1) + 0.3 * rng.normal(size=(n, n)) - np.eye(n))
        / np.sqrt(n)
    )


def of_sizes(names: Any, sizes: Any) -> Any:
    return [
        pytest.param(name, n, marks=() if name in FAST and n == 2 else pytest.mark.slow)
        for name in names
        for n in sizes
    ]


@pytest.mark.parametrize(("name", "n"), of_sizes(SENSITIVITIES, (1, 2, 7, 50)))
def test_a_linear_equation_moves_as_its_exponential(name: str, n: int) -> None:
    """y(t) = expm(t A) y0 along A, y0, sample times and the end, by JAX's derivative of expm."""
    A, y0 = nonnormal(n), jnp.arange(1.0, n + 1) / n

    def ours(A: Any, y0: Any, ts: Any) -> Any:
        options = {"rtol": 1e-9, "atol": 1e-11, "sensitivity": SENSITIVITIES[name]}
        return adjoint.ode_solve(lambda t, y, A: A @ y, y0, A, 0.0, ts[-1], ts=ts, **options).value

    def closed_form(A: Any, y0: Any, ts: Any) -> Any:
        return jnp.stack([expm(t * A) @ y0 for t in ts])

    at, dots = (A, y0, TIMES), (0.3 * A.T, y0[::-1], jnp.array([0.0, 1.0, 0.5]))
    found, wanted = (jax.jit(lambda f=f: jax.jvp(f, at, dots))() for f in (ours, closed_form))
    for a, b in zip(found, wanted, strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-5, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("solver", [diffrax.Kvaerno5(), diffrax.Dopri8()])
@pytest.mark.parametrize("name", ["discrete", "forward", "interpolating"])
def test_forward_mode_is_the_transpose_of_reverse_mode(name: str, solver: Any) -> None:
    def swing(t: Any, y: Any, p: Any) -> Any:
        return jnp.array([y[1], -p[0] * jnp.sin(y[0]) - p[1] * y[1]])

    def samples(p: Any) -> Any:
        options = {
            "solver": solver,
            "rtol": 1e-10,
            "atol": 1e-12,
            "sensitivity": SENSITIVITIES[name],
        }
        return adjoint.ode_solve(
            swing, jnp.array([0.7, 0.1]), p, 0.0, 1.0, ts=TIMES, **options
        ).value

    p = jnp.array([2.0, 0.3])
    forward, reverse = (jax.jit(of(samples))(p) for of in (jax.jacfwd, jax.jacrev))
    np.testing.assert_allclose(forward, reverse, rtol=1e-7, atol=1e-8)


@pytest.mark.slow
def test_the_stability_limit_takes_the_variational_equation() -> None:
    """y' = -1000 (y - cos t): explicit steps are at their limit; dy/dk of the slow part is tiny."""

    def g(k: Any) -> Any:
        many = jnp.zeros(40)
        f = lambda t, y, p: -p[0] * (y - jnp.cos(t)) + jnp.sum(p[1])
        return adjoint.ode_solve(f, jnp.array([1.0]), (k, many), 0.0, 1.0, max_steps=20_000).value[
            0
        ]

    k = 1000.0
    # y = (k^2 cos t + k sin t) / (1 + k^2) once the start is forgotten.
    slow = lambda k: (k**2 * jnp.cos(1.0) + k * jnp.sin(1.0)) / (1 + k**2)
    np.testing.assert_allclose(jax.jvp(g, (k,), (1.0,))[1], jax.grad(slow)(k), rtol=1e-2)


def test_a_failed_solve_has_a_tangent_of_nan() -> None:
    """y' = y^2 from 1 blows up at t = 1."""
    y = lambda p: (
        adjoint.ode_solve(lambda t, y, p: p * y**2, jnp.array(1.0), p, 0.0, 2.0, max_steps=99).value
    )
    assert np.all(np.isnan(jax.jvp(y, (1.0,), (1.0,))))


@pytest.mark.slow
def test_reverse_over_reverse_is_refused_in_our_words() -> None:
    g = lambda p: adjoint.ode_solve(lambda t, y, p: -p * y, jnp.array(1.0), p, 0.0, 1.0).value
    for derivative in (jax.grad(jax.grad(g)), jax.grad(jax.jacfwd(g))):
        with pytest.raises(NotImplementedError, match=r"ode_solve: got reverse mode.*adjoint\.hvp"):
            derivative(1.0)
