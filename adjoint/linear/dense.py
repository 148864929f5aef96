"""Dense direct solvers, LU and Cholesky, in compiled JAX, with an estimate of the condition number.

A solver here and in the rooms beside this one has three methods that work on arrays and are never
differentiated:

    factor(A)                      -> factor          what solving needs to know of A, a pytree
    solve(factor, A, b)            -> x, Outcome      A x = b
    solve_transpose(factor, A, c)  -> lam, Outcome    A' lam = c

In the last two, A is only applied to vectors, to check the result, so any `Operator` serves.

On failure x is NaN and the outcome's code says why.
"""

from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import jax.scipy.linalg as jsl
from jaxtyping import Array, Bool, Float, Inexact, Int32

from adjoint.linear.operators import Dense, Operator
from adjoint.linear.outcome import Outcome, condition_code, probe_vector, residual_limit
from adjoint.norm import norm as vector_norm
from adjoint.solution import poison
from adjoint.status import Status, first_failure
from adjoint.tracing.host_call import count_event


class DenseFactor(NamedTuple):
    """A triangular factorization, the condition estimate and the status found while factorizing."""

    triangles: Inexact[Array, "n n"]
    permutation: Int32[Array, " n"]
    norm: Float[Array, ""]
    reciprocal_condition: Float[Array, ""]
    code: Int32[Array, ""]


def _equilibration(
    A: Inexact[Array, "n n"],
) -> tuple[Float[Array, " n"], Float[Array, " n"], Float[Array, ""]]:
    """Row and column scales r, c, and the norm of diag(1/r) A diag(1/c).

    The condition number of that is without the units of A.
    """
    size = jnp.abs(A)
    r = jnp.max(size, axis=1)
    r = jnp.where(r > 0, r, 1)
    c = jnp.max(size / r[:, None], axis=0)
    c = jnp.where(c > 0, c, 1)
    return r, c, jnp.max(jnp.sum(size / r[:, None] / c[None, :], axis=1))


def _reciprocal_condition(
    A: Inexact[Array, "n n"], solve: Any, solve_transpose: Any
) -> Float[Array, ""]:
    """An upper bound 1 / (|S| |S^-1|) by inverse iteration, S = diag(1/r) A diag(1/c).

    S is the equilibrated matrix. Two steps, S^-1 then S'^-1, make the largest amplification visible
    even when the first vector misses it (Higham, Accuracy and Stability of Numerical Algorithms,
    2nd ed., section 15.3).
    """
    r, c, norm = _equilibration(A)
    w = jnp.asarray(probe_vector(A.shape[0]), A.dtype)
    y = c * solve(r * (w / vector_norm(w)))
    amplification = vector_norm(y)
    z = solve_transpose(c * y / jnp.where(amplification > 0, amplification, 1)) * r
    amplification = jnp.maximum(amplification, vector_norm(z))
    estimate = 1 / (norm * amplification)
    return jnp.where(jnp.isfinite(estimate), estimate, 0.0)


def _checked(
    factor: DenseFactor,
    A: Inexact[Array, "n n"],
    solve: Any,
    solve_transpose: Any,
    known: Status = Status.SUCCESS,
) -> DenseFactor:
    """The factor with the norm and the condition of A, and with what they say of its status."""
    rcond = _reciprocal_condition(
        A, lambda b: solve(factor, b), lambda c: solve_transpose(factor, c)
    )
    found = first_failure(
        (Status.NONFINITE_INPUT, ~_finite(A)),
        known,
        Status(condition_code(rcond, float(jnp.finfo(A.dtype).eps))),
    )
    return factor._replace(
        norm=jnp.max(jnp.sum(jnp.abs(A), axis=1)), reciprocal_condition=rcond, code=found.code
    )


def _finish(factor: DenseFactor, matvec: Any, x: Array, b: Array) -> tuple[Array, Outcome]:
    """Check the residual, put the reasons of failure in order, and turn a failed x into NaN."""
    size = factor.norm * _largest(x) + _largest(b)
    error = _largest(b - matvec(x)) / jnp.where(size > 0, size, 1)
    status = first_failure(
        Status(factor.code),
        (Status.NONFINITE_INPUT, ~_finite(b)),
        (Status.RESIDUAL_TOO_LARGE, ~(error <= residual_limit(b.dtype))),
    )
    outcome = Outcome(status.code, error, jnp.zeros((), jnp.int32), factor.reciprocal_condition)
    return jnp.where(status.ok, x, jnp.nan), outcome


def _largest(x: Array) -> Float[Array, ""]:
    return jnp.max(jnp.abs(x))


def _finite(x: Array) -> Bool[Array, ""]:
    return jnp.all(jnp.isfinite(x))


@dataclass(frozen=True)
class LU:
    """Gaussian elimination with partial pivoting, for any square dense matrix.

    Works in the precision of A. **Cost**: 2 n^3 / 3 operations to factorize, 2 n^2 per right-hand
    side; the adjoint reuses the factors. **Status**: `SINGULAR`, `ILL_CONDITIONED`,
    `NONFINITE_INPUT`, `RESIDUAL_TOO_LARGE`.

    Examples
    --------
    >>> import jax.numpy as jnp, adjoint
    >>> adjoint.linear_solve(jnp.array([[1.0, 2.0], [2.0, 4.0]]), jnp.ones(2), adjoint.LU()).status
    Status.SINGULAR
    """

    @partial(jax.jit, static_argnums=0)
    def factor(self, A: Dense) -> DenseFactor:
        matrix = count_event("factorizations", A.matrix)
        triangles, _, permutation = jax.lax.linalg.lu(matrix)
        factor = _unchecked(triangles, permutation)
        return _checked(factor, A.matrix, self._substitute, self._substitute_transpose)

    def solve(self, factor: DenseFactor, A: Operator, b: Array) -> tuple[Array, Outcome]:
        x = count_event("solves", self._substitute(factor, b), _columns(b))
        return _finish(factor, A.matvec, x, b)

    def solve_transpose(self, factor: DenseFactor, A: Operator, c: Array) -> tuple[Array, Outcome]:
        lam = count_event("transpose_solves", self._substitute_transpose(factor, c), _columns(c))
        return _finish(factor, A.transpose_matvec, lam, c)

    def log_determinant(self, factor: DenseFactor, A: Dense) -> Float[Array, ""]:
        return _log_determinant(factor, A)

    @staticmethod
    def _substitute(factor: DenseFactor, b: Array) -> Array:
        y = _triangular(factor.triangles, b[factor.permutation], lower=True, unit_diagonal=True)
        return _triangular(factor.triangles, y, lower=False)

    @staticmethod
    def _substitute_transpose(factor: DenseFactor, c: Array) -> Array:
        y = _triangular(factor.triangles, c, lower=False, trans=1)
        z = _triangular(factor.triangles, y, lower=True, trans=1, unit_diagonal=True)
        return jnp.zeros_like(z).at[factor.permutation].set(z, unique_indices=True)


@dataclass(frozen=True)
class Cholesky:
    """Cholesky factorization, for a symmetric (complex: Hermitian) positive definite dense matrix.

    Half the operations of `LU`. A matrix that is not positive definite ends in
    `NOT_POSITIVE_DEFINITE`; one that is not symmetric in `RESIDUAL_TOO_LARGE`, since only its
    symmetric part is factorized while the residual is that of A.

    Examples
    --------
    >>> import jax.numpy as jnp, adjoint
    >>> A, b = jnp.array([[4.0, 2.0], [2.0, 3.0]]), jnp.array([2.0, 5.0])
    >>> [
    ...     round(float(v), 6)
    ...     for v in adjoint.require(adjoint.linear_solve(A, b, adjoint.Cholesky()))
    ... ]
    [-0.5, 2.0]
    """

    @partial(jax.jit, static_argnums=0)
    def factor(self, A: Dense) -> DenseFactor:
        matrix = count_event("factorizations", A.matrix)
        triangle = jnp.linalg.cholesky(matrix, symmetrize_input=True)
        asymmetry = _largest(A.matrix - A.matrix.conj().T)
        symmetric = asymmetry <= residual_limit(A.dtype) * _largest(A.matrix)
        known = first_failure(
            (Status.NOT_POSITIVE_DEFINITE, ~_finite(triangle)),
            (Status.RESIDUAL_TOO_LARGE, ~symmetric),
        )
        factor = _unchecked(triangle, jnp.arange(A.n, dtype=jnp.int32))
        return _checked(factor, A.matrix, self._substitute, self._substitute_transpose, known)

    def solve(self, factor: DenseFactor, A: Operator, b: Array) -> tuple[Array, Outcome]:
        x = count_event("solves", self._substitute(factor, b), _columns(b))
        return _finish(factor, A.matvec, x, b)

    def solve_transpose(self, factor: DenseFactor, A: Operator, c: Array) -> tuple[Array, Outcome]:
        lam = count_event("transpose_solves", self._substitute_transpose(factor, c), _columns(c))
        return _finish(factor, A.transpose_matvec, lam, c)

    def log_determinant(self, factor: DenseFactor, A: Dense) -> Float[Array, ""]:
        return _log_determinant(factor, A)

    @staticmethod
    def _substitute(factor: DenseFactor, b: Array) -> Array:
        y = _triangular(factor.triangles, b, lower=True)
        return _triangular(factor.triangles, y, lower=True, trans=2)

    @classmethod
    def _substitute_transpose(cls, factor: DenseFactor, c: Array) -> Array:
        # A = L L^H gives A' = conj(A), so A' lam = c is A conj(lam) = conj(c).
        return jnp.conj(cls._substitute(factor, jnp.conj(c)))


def _log_determinant(factor: DenseFactor, A: Dense) -> Float[Array, ""]:
    """log|det A| by JAX's own LU, differentiable in every mode and order; NaN where that failed."""
    triangles, _, _ = jax.lax.linalg.lu(A.matrix)
    return poison(jnp.sum(jnp.log(jnp.abs(jnp.diagonal(triangles)))), factor.code == 0)


def _triangular(
    triangles: Array, b: Array, *, lower: bool, trans: int = 0, unit_diagonal: bool = False
) -> Inexact[Array, " n *k"]:
    return jsl.solve_triangular(triangles, b, lower=lower, trans=trans, unit_diagonal=unit_diagonal)


def _unchecked(triangles: Array, permutation: Array) -> DenseFactor:
    real = triangles.real.dtype
    return DenseFactor(
        triangles, permutation, jnp.ones((), real), jnp.ones((), real), jnp.zeros((), jnp.int32)
    )


def _columns(b: Array) -> int:
    return 1 if b.ndim == 1 else b.shape[1]
