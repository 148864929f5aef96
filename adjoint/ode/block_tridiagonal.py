"""S x = b for a positive definite block tridiagonal S by Cholesky, in O(N n^3) operations.

S is symmetric, with N blocks of size n. S has the blocks diagonal[k] on its diagonal and lower[k]
in row k + 1, column k.
"""

from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from adjoint.tracing import loops


def solve(
    diagonal: Float[Array, "blocks n n"],
    lower: Float[Array, "blocks-1 n n"],
    b: Float[Array, "blocks n"],
) -> Float[Array, "blocks n"]:
    """x = S^-1 b; L_k L_k' = S_kk - M_k M_k', M_k = S_{k,k-1} L_{k-1}^-T.

    NaN where S is not positive definite.
    """
    n = b.shape[1]
    triangular_solve = partial(jax.scipy.linalg.solve_triangular, lower=True)

    def eliminate(carry: PyTree, row: PyTree) -> tuple[PyTree, PyTree]:
        L, z = carry
        S, below, b = row
        M = triangular_solve(L, below.T).T
        L = jnp.linalg.cholesky(S - M @ M.T)
        z = triangular_solve(L, b - M @ z)
        return (L, z), (L, M, z)

    def substitute(carry: PyTree, row: PyTree) -> tuple[PyTree, Array]:
        M_next, x_next = carry
        L, M, z = row
        x = triangular_solve(L, z - M_next.T @ x_next, trans=1)
        return (M, x), x

    zero = jnp.zeros(n, b.dtype)
    zeros = jnp.zeros((1, n, n), b.dtype)
    rows = (diagonal, jnp.concatenate([zeros, lower]), b)
    _, factors = loops.scan(eliminate, (jnp.eye(n, dtype=b.dtype), zero), rows)
    _, x = loops.scan(substitute, (zeros[0], zero), factors, reverse=True)
    return x


def multiply(
    diagonal: Float[Array, "blocks n n"],
    lower: Float[Array, "blocks-1 n n"],
    x: Float[Array, "blocks n"],
) -> Float[Array, "blocks n"]:
    """S x."""
    product = jnp.einsum("kij,kj->ki", diagonal, x)
    product = product.at[1:].add(jnp.einsum("kij,kj->ki", lower, x[:-1]))
    return product.at[:-1].add(jnp.einsum("kji,kj->ki", lower, x[1:]))
