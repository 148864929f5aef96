"""Linear systems where a missing transpose shows, and solvers of a copied library for them.

Derivatives of their solutions are here, too.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

N = 6
Library = Any
Solve = Callable[[Any, Any], Any]

_rng = np.random.default_rng(7)


def _random(*shape: int) -> np.ndarray:
    return _rng.normal(size=shape)


# Rows are cycled, so that the row order of LU is not its own inverse, as it is for a single
# exchange.
REAL = np.roll(_random(N, N) + np.diag([9.0, 8.0, 7.0, 6.0, 5.0, 4.0]), 1, axis=0)
COMPLEX = REAL + 1j * _random(N, N)
_C = _random(N, N) + 1j * _random(N, N)
HERMITIAN = _C @ _C.conj().T + np.eye(N)
DIRECTION = {np.dtype(float): _random(N, N), np.dtype(complex): _random(N, N) + 1j * _random(N, N)}
B, B_DOT = _random(N), _random(N)
WEIGHTS = _random(N) + 1j * _random(N)
# A cyclic chain with its mirror images, and a pattern with few of them.
CHAIN = np.abs(np.subtract.outer(np.arange(N), np.arange(N))) % (N - 1) <= 1
ONE_SIDED = np.triu(np.ones((N, N), bool)) | np.eye(N, k=-1, dtype=bool)


def objective(solve: Solve, A: Any, b: Any) -> Any:
    """Re sum w sin(x), real for real and complex systems, curved, different in each component."""
    weights = WEIGHTS.astype(A.dtype) if jnp.iscomplexobj(A) else WEIGHTS.real
    return jnp.sum(weights.reshape(N, *[1] * (b.ndim - 1)) * jnp.sin(solve(A, b))).real


def derivatives(solve: Solve, A: Any, b: Any, order: int) -> Any:
    """The gradient by (A, b) and, for order 2, the Hessian times a direction, in both modes.

    The modes are forward and reverse.
    """
    A, b = jnp.asarray(A), jnp.asarray(b, A.dtype)
    gradient = jax.grad(lambda p: objective(solve, *p))
    if order == 1:
        return gradient((A, b))
    v = (jnp.asarray(DIRECTION[A.dtype]), jnp.asarray(B_DOT, A.dtype))

    def along_v(p: Any) -> Any:
        return sum(jnp.sum(g * d).real for g, d in zip(gradient(p), v, strict=True))

    return jax.jvp(gradient, ((A, b),), (v,)), jax.grad(along_v)((A, b))


@functools.cache
def _reference(name: str, order: int) -> Any:
    A, mask = {
        "real": (REAL, True),
        "complex": (COMPLEX, True),
        "hermitian": (HERMITIAN, True),
        "chain": (REAL + 9 * np.eye(N), CHAIN),
        "one-sided": (REAL + 9 * np.eye(N), ONE_SIDED),
        "complex chain": (COMPLEX + 9 * np.eye(N), CHAIN),
    }[name]
    return A, derivatives(lambda A, b: jnp.linalg.solve(jnp.where(mask, A, 0), b), A, B, order)


def assert_exact(solve: Solve, name: str, order: int = 1) -> None:
    A, expected = _reference(name, order)
    assert_same(derivatives(solve, A, B, order), expected)


def assert_same(found: Any, expected: Any, rtol: float = 1e-9) -> None:
    jax.tree.map(
        lambda f, e: np.testing.assert_allclose(f, e, rtol=rtol, atol=1e-11), found, expected
    )


def dense(lib: Library, solver: str = "LU", **mode: Any) -> Solve:
    return lambda A, b: lib.solve.linear_solve(A, b, getattr(lib.dense, solver)(), **mode).value


def superlu(lib: Library, mask: np.ndarray) -> Solve:
    """Each entry is given twice, as 1/4 and 3/4.

    The order of elimination is fixed, and not its own inverse.
    """
    lib.superlu.metis_order = lambda _rows, _cols, n: np.roll(np.arange(n), 2)
    rows, cols = np.nonzero(mask)
    pattern = lib.sparse_pattern.SparsePattern(np.tile(rows, 2), np.tile(cols, 2), mask.shape)

    def solve(A: Any, b: Any) -> Any:
        values = jnp.concatenate([0.25 * A[rows, cols], 0.75 * A[rows, cols]])
        return lib.solve.linear_solve(
            pattern.matrix(values), b, lib.sparse.SparseDirect("superlu")
        ).value

    return solve


def full_pattern(lib: Library) -> Any:
    return lib.sparse_pattern.SparsePattern(
        np.repeat(np.arange(N), N), np.tile(np.arange(N), N), (N, N)
    )


def matrix_free(lib: Library, solver: Any) -> Solve:
    return lambda A, b: (
        lib.solve.linear_solve(lib.operators.MatrixFree(lambda x: A @ x, N), b, solver).value
    )
