"""What users pass as A, made into an operator.

That is an array, a matrix of JAX or of SciPy, or an operator of the library.
"""

from typing import Any

import jax
import jax.core
import numpy as np

from adjoint.inputs import as_inexact_array, refuse, require_shape
from adjoint.linear.operators import BoundFunction, Dense, MatrixFree
from adjoint.linear.sparse_pattern import Sparse, SparsePattern
from adjoint.tracing.loops import Axes

BoundOperator = Dense | Sparse | BoundFunction


def as_operator(A: Any, dtype: Any, axes: Axes = frozenset()) -> BoundOperator:
    """What a user passes as A, acting on vectors of `dtype` that vary over these mesh axes."""
    if isinstance(A, MatrixFree):
        return A.bind(dtype, axes)
    if isinstance(A, Dense | Sparse):
        return A
    if type(A).__name__ == "BCOO":
        return _from_bcoo(A)
    if hasattr(A, "tocoo") and hasattr(A, "nnz"):
        refuse(
            "linear_solve",
            f"a SciPy sparse matrix ({getattr(A, 'format', 'unknown')})",
            "a matrix that JAX can trace",
            "Use SparsePattern(A.row, A.col, A.shape).matrix(A.data) with A = A.tocoo().",
            TypeError,
        )
    A = as_inexact_array("linear_solve", "A", A)
    require_shape(
        "linear_solve",
        "A",
        A.shape,
        "a square matrix (n, n)",
        A.ndim == 2 and A.shape[0] == A.shape[1] and A.shape[0] > 0,
        "For a batch of systems use jax.vmap; for least squares use jnp.linalg.lstsq.",
    )
    return Dense(A)


_bcoo_patterns: list[tuple[np.ndarray, SparsePattern]] = []
# A model has one or two patterns of matrices; each costs its indices, 8 bytes a nonzero.
_BCOO_PATTERNS_KEPT = 8


def _from_bcoo(A: Any) -> Sparse:
    """A jax.experimental.sparse.BCOO matrix on a pattern, found again by its indices' content."""
    if A.n_batch or A.n_dense or A.ndim != 2:
        refuse(
            "linear_solve",
            f"a BCOO with n_batch={A.n_batch}, n_dense={A.n_dense}, ndim={A.ndim}",
            "one matrix, with n_batch = n_dense = 0",
            "For a batch of systems use jax.vmap over the values.",
        )
    if isinstance(A.indices, jax.core.Tracer):
        refuse(
            "linear_solve",
            "a BCOO with traced indices",
            "indices known before compilation",
            "Pass A.data through jit and close over the indices, or use SparsePattern(rows, cols, "
            "shape).matrix(data).",
            TypeError,
        )
    indices = np.asarray(A.indices)
    for known, pattern in _bcoo_patterns:
        if pattern.shape == A.shape and np.array_equal(known, indices):
            return pattern.matrix(A.data)
    # JAX marks padding of a BCOO by out-of-range indices; their values count for nothing.
    inside = np.all(indices < np.array(A.shape), axis=1)
    if not inside.all():
        A = type(A)((A.data[inside], A.indices[inside]), shape=A.shape)
        return _from_bcoo(A)
    pattern = SparsePattern(indices[:, 0], indices[:, 1], A.shape)
    _bcoo_patterns.insert(0, (indices.copy(), pattern))
    del _bcoo_patterns[_BCOO_PATTERNS_KEPT:]
    return pattern.matrix(A.data)
