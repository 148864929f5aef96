"""Laws that hold for every matrix: scaling, permutation, transposition, composition of blocks."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from cases import matrix
from hypothesis import given, settings
from hypothesis import strategies as st

from adjoint import SparseDirect, SparsePattern, factorize, linear_solve

N = 6
ROWS, COLS = (v.ravel() for v in np.indices((N, N)))
PATTERN = SparsePattern(ROWS, COLS, (N, N))
few = settings(max_examples=15, deadline=None, derandomize=True)
seeds = st.integers(0, 10_000)


def _loss(A: Any, b: Any) -> jax.Array:
    return jnp.sum(jnp.sin(linear_solve(A, b).value))


@jax.jit
def dense(A: jax.Array, b: jax.Array) -> Any:
    return linear_solve(A, b).value, jax.grad(_loss, (0, 1))(A, b)


@jax.jit
def sparse(A: jax.Array, b: jax.Array) -> Any:
    f = lambda v, b: linear_solve(PATTERN.matrix(v), b, SparseDirect("superlu")).value
    return f(A.ravel(), b), jax.grad(lambda v, b: jnp.sum(jnp.sin(f(v, b))), (0, 1))(A.ravel(), b)


def drawn(seed: int, n: int = N) -> tuple[np.ndarray, np.ndarray]:
    return matrix("general", n, seed=seed), np.random.default_rng(seed).normal(size=n)


@few
@given(seeds, st.floats(-12, 12), st.sampled_from([-1.0, 1.0]))
def test_scaling(seed: int, exponent: float, sign: float) -> None:
    """(c A)^-1 (c b) = A^-1 b; with g(c A, c b) = g(A, b) the gradients scale by 1 / c."""
    A, b = drawn(seed)
    c = sign * 10**exponent
    for solve in (dense, sparse):
        x, (A_bar, b_bar) = solve(A, b)
        x_c, (A_bar_c, b_bar_c) = solve(c * A, c * b)
        np.testing.assert_allclose(x_c, x, rtol=1e-10)
        np.testing.assert_allclose(c * A_bar_c, A_bar, rtol=1e-10, atol=1e-12)
        np.testing.assert_allclose(c * b_bar_c, b_bar, rtol=1e-10, atol=1e-12)


@few
@given(seeds, st.permutations(range(N)), st.permutations(range(N)))
def test_permutation(seed: int, p: list[int], q: list[int]) -> None:
    """(P A Q)^-1 P b = Q' A^-1 b, and the gradients move with the entries."""
    A, b = drawn(seed)
    for solve in (dense, sparse):
        x, (A_bar, b_bar) = solve(A, b)
        x_p, (A_bar_p, b_bar_p) = solve(A[np.ix_(p, q)], b[p])
        np.testing.assert_allclose(x_p, x[np.array(q)], rtol=1e-10, atol=1e-12)
        np.testing.assert_allclose(
            A_bar_p.reshape(N, N), A_bar.reshape(N, N)[np.ix_(p, q)], rtol=1e-9, atol=1e-12
        )
        np.testing.assert_allclose(b_bar_p, b_bar[np.array(p)], rtol=1e-10, atol=1e-12)


@few
@given(seeds)
def test_transposition(seed: int) -> None:
    """<A^-1 b, c> = <b, A^-T c>."""
    A, b = drawn(seed)
    c = np.random.default_rng(seed + 1).normal(size=N)
    for factors in (
        factorize(jnp.asarray(A)),
        factorize(PATTERN.matrix(A.ravel()), SparseDirect("superlu")),
    ):
        left, right = (
            factors.solve(jnp.asarray(b)).value @ c,
            b @ factors.solve_transpose(jnp.asarray(c)).value,
        )
        np.testing.assert_allclose(left, right, rtol=1e-10, atol=1e-13)


@few
@given(seeds)
def test_blocks_are_solved_apart(seed: int) -> None:
    """A block-diagonal system is its blocks, and log|det| is their sum."""
    (A, b), (C, d) = drawn(seed, 2), drawn(seed + 1, 4)
    whole = np.zeros((N, N))
    whole[:2, :2], whole[2:, 2:] = A, C
    for solve in (dense, sparse):
        x, (whole_bar, _) = solve(whole, np.concatenate([b, d]))
        np.testing.assert_allclose(
            x, np.concatenate([np.linalg.solve(A, b), np.linalg.solve(C, d)]), rtol=1e-10
        )
        lam = np.linalg.solve(C.T, np.cos(np.linalg.solve(C, d)))
        expected = -np.outer(lam, np.linalg.solve(C, d))
        np.testing.assert_allclose(whole_bar.reshape(N, N)[2:, 2:], expected, rtol=1e-9, atol=1e-12)
    parts = factorize(jnp.asarray(A)).logdet() + factorize(jnp.asarray(C)).logdet()
    np.testing.assert_allclose(factorize(jnp.asarray(whole)).logdet(), parts, rtol=1e-12)
