"""Laws of every root, minimizer and fixed point: start, composition, inversion and scaling.

The map x -> A x + x^3, with the symmetric part of A positive definite, is strictly monotone: A x +
x^3 = b has one solution for every b, and every start is in its basin. The laws draw x and compute b
from it, so the expected values need no solver.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import matrix
from hypothesis import given, settings
from hypothesis import strategies as st

from adjoint import argmin, fixed_point, root

N = 3
W = np.array([1.0, -2.0, 0.5])
few = settings(max_examples=15, deadline=None, derandomize=True)
seeds = st.integers(0, 10_000)


def monotone(A: Any, x: Any) -> Any:
    return A @ x + x**3


def slope(A: np.ndarray, x: np.ndarray) -> np.ndarray:
    """The derivative of A x + x^3 by x."""
    return A + np.diag(3 * x**2)


def drawn(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """A nonsymmetric, non-normal, with symmetric part at least the identity, and x."""
    rng = np.random.default_rng(seed)
    skew = rng.normal(size=(N, N))
    L = rng.normal(size=(N, N))
    return np.eye(N) + L @ L.T + 2 * (skew - skew.T), rng.normal(size=N)


@jax.jit
def solved(x0: Any, A: Any, b: Any, M: Any) -> Any:
    """x of M (A x + x^3 - b) = 0, dx/db, derivatives of W'x by A and M, its Hessian by b."""

    def x(A: Any, b: Any, M: Any) -> Any:
        return root(lambda x, p: p[2] @ (monotone(p[0], x) - p[1]), x0, (A, b, M)).value

    A_bar, M_bar = jax.grad(lambda A, b, M: W @ x(A, b, M), (0, 2))(A, b, M)
    hessian = jax.hessian(lambda b: W @ x(A, b, M))(b)
    return x(A, b, M), jax.jacrev(x, 1)(A, b, M), A_bar, M_bar, hessian


def assert_solved(found: Any, A: np.ndarray, x: np.ndarray, M_size: float = 1.0) -> None:
    """lam = F_x^-T W, A_bar = -lam x', M_bar = 0 as F = 0.

    The Hessian is by differentiating F_x dx = db again.
    """
    value, jacobian, A_bar, M_bar, hessian = found
    inverse = np.linalg.inv(slope(A, x))
    lam = inverse.T @ W
    np.testing.assert_allclose(value, x, rtol=1e-9, atol=1e-11)
    np.testing.assert_allclose(jacobian, inverse, rtol=1e-9, atol=1e-11)
    np.testing.assert_allclose(A_bar, -np.outer(lam, x), rtol=1e-9, atol=1e-11)
    np.testing.assert_allclose(M_size * M_bar, 0, atol=1e-9)
    np.testing.assert_allclose(
        hessian, -inverse.T @ np.diag(lam * 6 * x) @ inverse, rtol=1e-8, atol=1e-10
    )


@few
@given(seeds, st.floats(-4, 3))
@pytest.mark.slow
def test_the_start_of_a_root_does_not_matter(seed: int, exponent: float) -> None:
    A, x = drawn(seed)
    x0 = 10**exponent * np.random.default_rng(seed + 1).normal(size=N)
    assert_solved(solved(x0, A, monotone(A, x), np.eye(N)), A, x)


@few
@given(seeds)
@pytest.mark.slow
def test_the_derivative_of_the_inverse_is_the_inverse_of_the_derivative(seed: int) -> None:
    """x = root(F(x) - p): dx/dp F_x = F_x dx/dp = 1, with F_x by JAX."""
    A, x = drawn(seed)
    _, jacobian, *_ = solved(np.zeros(N), A, monotone(A, x), np.eye(N))
    F_x = jax.jacfwd(lambda x: monotone(A, x))(x)
    np.testing.assert_allclose(jacobian @ F_x, np.eye(N), atol=1e-10)
    np.testing.assert_allclose(F_x @ jacobian, np.eye(N), atol=1e-10)


@few
@given(seeds, st.floats(-12, 12), st.sampled_from([-1.0, 1.0]))
@pytest.mark.slow
def test_a_constant_in_front_of_the_residual_does_not_matter(
    seed: int, exponent: float, sign: float
) -> None:
    A, x = drawn(seed)
    c = sign * 10**exponent
    assert_solved(solved(np.zeros(N), A, monotone(A, x), c * np.eye(N)), A, x, M_size=c)


@few
@given(seeds)
def test_a_nonsingular_matrix_in_front_of_the_residual_does_not_matter(seed: int) -> None:
    A, x = drawn(seed)
    M = matrix("general", N, seed=seed)
    assert_solved(solved(np.zeros(N), A, monotone(A, x), M), A, x)


@jax.jit
def chained(A: Any, B: Any, b: Any) -> Any:
    """x of A x + x^3 = y with y of B y + y^3 = b, and dx/db."""

    def x(b: Any) -> Any:
        y = root(lambda y, b: monotone(B, y) - b, jnp.zeros(N), b).value
        return root(lambda x, y: monotone(A, x) - y, jnp.zeros(N), y).value

    return x(b), jax.jacrev(x)(b)


@few
@given(seeds)
def test_a_root_of_a_root_obeys_the_chain_rule(seed: int) -> None:
    (A, x), (B, _) = drawn(seed), drawn(seed + 1)
    y = monotone(A, x)
    value, jacobian = chained(A, B, monotone(B, y))
    np.testing.assert_allclose(value, x, rtol=1e-8, atol=1e-10)
    expected = np.linalg.inv(slope(A, x)) @ np.linalg.inv(slope(B, y))
    np.testing.assert_allclose(jacobian, expected, rtol=1e-8, atol=1e-10)


@jax.jit
def nested(A: Any, B: Any, b: Any) -> Any:
    """x of A x + x^3 + z(x) = b with z(x) of B z + z^3 = x, and dx/db."""

    def residual(x: Any, p: Any) -> Any:
        A, B, b = p
        z = root(lambda z, p: monotone(p[0], z) - p[1], jnp.zeros(N), (B, x)).value
        return monotone(A, x) + z - b

    x = lambda b: root(residual, jnp.zeros(N), (A, B, b)).value
    return x(b), jax.jacrev(x)(b)


@pytest.mark.slow
@few
@given(seeds)
def test_a_root_inside_the_residual_of_a_root(seed: int) -> None:
    """dx/db = (A + 3 x^2 + (B + 3 z^2)^-1)^-1, and x is unique.

    The inverse of a monotone map is monotone.
    """
    (A, _), (B, z) = drawn(seed), drawn(seed + 1)
    x = monotone(B, z)
    value, jacobian = nested(A, B, monotone(A, x) + z)
    np.testing.assert_allclose(value, x, rtol=1e-8, atol=1e-10)
    expected = np.linalg.inv(slope(A, x) + np.linalg.inv(slope(B, z)))
    np.testing.assert_allclose(jacobian, expected, rtol=1e-8, atol=1e-10)


@jax.jit
def minimized(c: Any, S: Any, b: Any) -> Any:
    """The minimizer of c (x'S x / 2 + sum(cosh x) - b'x), its derivative by b, that of W'x by c."""

    def x(c: Any, b: Any) -> Any:
        f = lambda x, p: p[0] * (x @ S @ x / 2 + jnp.sum(jnp.cosh(x)) - p[1] @ x)
        return argmin(f, jnp.zeros(N), (c, b)).value

    return x(c, b), jax.jacrev(x, 1)(c, b), jax.grad(lambda c: W @ x(c, b))(c)


@few
@given(seeds, st.floats(-6, 6))
def test_a_constant_in_front_of_the_objective_does_not_matter(seed: int, exponent: float) -> None:
    """S x + sinh x = b, so that dx/db = (S + diag(cosh x))^-1."""
    A, x = drawn(seed)
    S, c = (A + A.T) / 2, 10**exponent
    value, jacobian, c_bar = minimized(c, S, S @ x + np.sinh(x))
    np.testing.assert_allclose(value, x, rtol=1e-9, atol=1e-11)
    np.testing.assert_allclose(
        jacobian, np.linalg.inv(S + np.diag(np.cosh(x))), rtol=1e-9, atol=1e-11
    )
    np.testing.assert_allclose(c * c_bar, 0, atol=1e-9)


@jax.jit
def minimized_under_constraints(c: Any, S: Any, b: Any) -> Any:
    """The minimizer of c (x'S x / 2 - b'x) on sum(x) = 1, x_0 <= 0, x_1 <= 100, and d/db of it."""

    def x(b: Any) -> Any:
        f = lambda x, p: p[0] * (x @ S @ x / 2 - p[1] @ x)
        return argmin(
            f,
            jnp.zeros(N),
            (c, b),
            equality=lambda x, _: jnp.sum(x) - 1,
            inequality=lambda x, _: jnp.stack([x[0], x[1] - 100.0]),
        ).value

    return x(b), jax.jacrev(x)(b)


@pytest.mark.slow
@few
@given(seeds, st.floats(0.1, 10.0), st.floats(-6, 6))
def test_a_constant_in_front_of_a_constrained_objective_does_not_matter(
    seed: int, force: float, exponent: float
) -> None:
    """S x - b + (1, 1, 1) m + (1, 0, 0) z = 0 with z = force: x_0 = 0.

    dx/db is the first block of the inverse.
    """
    A, x = drawn(seed)
    S, x = (A + A.T) / 2, np.array([0.0, x[1], 1 - x[1]])
    constraints = np.array([[1.0, 1.0, 1.0], [1.0, 0.0, 0.0]])
    b = S @ x + constraints.T @ np.array([0.7, force])
    value, jacobian = minimized_under_constraints(10**exponent, S, b)
    K = np.block([[S, constraints.T], [constraints, np.zeros((2, 2))]])
    np.testing.assert_allclose(value, x, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(jacobian, np.linalg.inv(K)[:N, :N], rtol=1e-9, atol=1e-9)


@jax.jit
def iterated(a: Any, S: Any, b: Any) -> Any:
    """The fixed point of (1 - a) x + a (sin(S x) + b), its derivative by b, that of W'x by a."""

    def x(a: Any, b: Any) -> Any:
        damped = lambda x, p: (1 - p[0]) * x + p[0] * (jnp.sin(S @ x) + p[1])
        return fixed_point(damped, jnp.zeros(N), (a, b)).value

    return x(a, b), jax.jacrev(x, 1)(a, b), jax.grad(lambda a: W @ x(a, b))(a)


@pytest.mark.slow
@few
@given(seeds, st.floats(0.05, 1.5))
def test_damping_the_step_does_not_matter(seed: int, a: float) -> None:
    """With |S| < 1 there is one fixed point; dx/db = (1 - diag(cos(S x)) S)^-1."""
    A, x = drawn(seed)
    S = 0.3 * A / np.linalg.norm(A, 2)
    value, jacobian, a_bar = iterated(a, S, x - np.sin(S @ x))
    np.testing.assert_allclose(value, x, rtol=1e-9, atol=1e-11)
    np.testing.assert_allclose(
        jacobian, np.linalg.inv(np.eye(N) - np.diag(np.cos(S @ x)) @ S), rtol=1e-9, atol=1e-11
    )
    np.testing.assert_allclose(a_bar, 0, atol=1e-9)
