"""Sparse direct solution on the host: elimination order, factorization, condition, residual.

Everything behind the callback is NumPy and SciPy and never raises: what goes wrong comes back as a
status code. Factors are always double precision, also for a float32 matrix.
"""

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Array

from adjoint.inputs import refuse
from adjoint.linear.factor_cache import factor_cache
from adjoint.linear.operators import Operator
from adjoint.linear.outcome import Outcome, condition_code, probe_vector, residual_limit
from adjoint.linear.pardiso import PardisoFactors
from adjoint.linear.sparse_pattern import Sparse, SparsePattern
from adjoint.linear.superlu import SuperLUFactors
from adjoint.status import Status
from adjoint.tracing import loops
from adjoint.tracing.host_call import make_host_call, record
from adjoint.tracing.rule import attach_derivative

UNIT_ROUNDOFF = float(np.finfo(np.float64).eps)
# What a good factorization leaves; more is worth a step of refinement.
BACKWARD_STABLE = 32 * UNIT_ROUNDOFF


class Factors(Protocol):
    """What a backend offers: A x = b and A' x = b for one b, log|det A|, its size in memory."""

    nbytes: int

    def solve(self, b: np.ndarray, transpose: bool) -> np.ndarray: ...
    def log_determinant(self) -> float: ...


BACKENDS: dict[str, Callable[[Any, np.ndarray], Factors]] = {
    "superlu": SuperLUFactors,
    "pardiso": PardisoFactors,
}


@dataclass(frozen=True)
class SparseDirect:
    """Sparse LU on the host, for `Sparse` and BCOO matrices; solve and adjoint share the factors.

    Parameters
    ----------
    backend
        ``"superlu"`` (SciPy's SuperLU in a nested-dissection order), ``"pardiso"`` (Intel MKL
        through the optional package `pypardiso`, real matrices only), or ``"auto"``: PARDISO where
        it is installed and applies, else SuperLU.

    Notes
    -----
    **Status**: `SINGULAR`, `ILL_CONDITIONED`, `NONFINITE_INPUT`, `RESIDUAL_TOO_LARGE`.

    **Cost**: one factorization per distinct matrix, held in `adjoint.factor_cache`, with two solves
    inside it that estimate the condition; every solve is refined until its residual is at roundoff.
    float32 matrices are factorized in float64 and the result is rounded. Under `vmap` over the
    right-hand side alone there is one factorization; over matrices, one for each.

    Examples
    --------
    >>> import numpy as np, jax.numpy as jnp, adjoint
    >>> pattern = adjoint.SparsePattern(np.array([0, 0, 1]), np.array([0, 1, 1]), (2, 2))
    >>> A = pattern.matrix(jnp.array([2.0, 1.0, 4.0]))
    >>> adjoint.require(
    ...     adjoint.linear_solve(A, jnp.array([3.0, 4.0]), adjoint.SparseDirect("superlu"))
    ... ).tolist()
    [1.0, 1.0]
    """

    backend: Literal["auto", "superlu", "pardiso"] = "auto"

    def __post_init__(self) -> None:
        if self.backend not in ("auto", *BACKENDS):
            refuse(
                "SparseDirect",
                f"backend = {self.backend!r}",
                f"one of {('auto', *BACKENDS)}",
                "See the docstring.",
            )
        if self.backend == "pardiso" and not _pardiso_installed():
            refuse(
                "SparseDirect",
                'backend = "pardiso"',
                "pypardiso installed",
                'pip install "adjoint[fast]", or backend="superlu".',
            )

    def factor(self, A: Sparse) -> Sparse:
        """The matrix itself: its factors stay on the host and are found again by its content."""
        return A

    def solve(self, factor: Sparse, A: Operator, b: Array) -> tuple[Array, Outcome]:
        return self._call(factor, b, transpose=False)

    def solve_transpose(self, factor: Sparse, A: Operator, c: Array) -> tuple[Array, Outcome]:
        return self._call(factor, c, transpose=True)

    def log_determinant(self, factor: Sparse, A: Sparse) -> Array:
        return _log_determinant(self._backend_for(A.dtype), A)

    def _backend_for(self, dtype: DTypeLike) -> str:
        complex_values = jnp.issubdtype(dtype, jnp.complexfloating)
        if self.backend == "pardiso" and complex_values:
            refuse(
                "SparseDirect",
                f"a {dtype} matrix",
                'a real one for backend="pardiso"',
                'Use backend="superlu".',
                TypeError,
            )
        if self.backend == "auto":
            return "pardiso" if _pardiso_installed() and not complex_values else "superlu"
        return self.backend

    def _call(self, A: Sparse, b: Array, transpose: bool) -> tuple[Array, Outcome]:
        host = _host(A.pattern, self._backend_for(A.dtype), transpose, b.ndim)
        real = A.values.real.dtype
        scalar = jax.ShapeDtypeStruct((), real)
        shapes = (
            jax.ShapeDtypeStruct(b.shape, b.dtype),
            jax.ShapeDtypeStruct((), jnp.int32),
            scalar,
            scalar,
        )
        x, code, residual, reciprocal_condition = host(shapes, A.values, b)
        return x, Outcome(code, residual, jnp.zeros((), jnp.int32), reciprocal_condition)


def _pardiso_installed() -> bool:
    return importlib.util.find_spec("pypardiso") is not None


class _Checked(NamedTuple):
    """Factors with the matrix they belong to, for residuals, and the verdict on its condition."""

    factors: Factors | None
    matrix: Any
    matrix_norm: float
    reciprocal_condition: float
    code: int

    @property
    def nbytes(self) -> int:
        return self.factors.nbytes if self.factors is not None else 0


def _factorize(pattern: SparsePattern, backend: str, values: np.ndarray) -> _Checked:
    import scipy.sparse as sparse

    record("factorizations", 1)
    A = sparse.csr_matrix((values, pattern.cols, pattern.indptr), shape=pattern.shape)
    if pattern.has_empty_line:
        return _Checked(None, A, 0.0, 0.0, int(Status.SINGULAR.code))
    norm = float(np.add.reduceat(np.abs(values), pattern.indptr[:-1]).max())
    try:
        factors = BACKENDS[backend](pattern, values)
    except ArithmeticError:
        return _Checked(None, A, norm, 0.0, int(Status.SINGULAR.code))
    reciprocal_condition = _reciprocal_condition(pattern, values, factors)
    code = int(condition_code(reciprocal_condition, UNIT_ROUNDOFF, np))
    return _Checked(factors, A, norm, reciprocal_condition, code)


def _reciprocal_condition(pattern: SparsePattern, values: np.ndarray, factors: Factors) -> float:
    """1 / (|S| |S^-1|) of S = diag(1/r) A diag(1/c), as in `adjoint.linear.dense`."""
    by_column, column_pointers = pattern.column_order
    size = np.abs(values)
    r = np.maximum.reduceat(size, pattern.indptr[:-1])
    if r.min() == 0:
        return 0.0
    size /= r[pattern.rows]
    c = np.maximum.reduceat(size[by_column], column_pointers[:-1])
    if c.min() == 0:
        return 0.0
    size /= c[pattern.cols]
    norm = np.add.reduceat(size, pattern.indptr[:-1]).max()
    w = probe_vector(pattern.n)
    with np.errstate(all="ignore"):
        y = c * factors.solve((r * w / np.linalg.norm(w)).astype(values.dtype), False)
        amplification = np.linalg.norm(y)
        z = r * factors.solve(c * y / amplification, True)
        estimate = 1.0 / (norm * max(amplification, np.linalg.norm(z)))
    return float(estimate) if np.isfinite(estimate) else 0.0


def _factors_of(pattern: SparsePattern, backend: str, values: np.ndarray) -> _Checked:
    """The factors of a finite matrix, from the cache or made now, in double precision."""
    values = values.astype(np.promote_types(values.dtype, np.float64), copy=False)
    # What is kept must be a copy: the memory that a callback looks into is JAX's, and used again
    # afterwards.
    return factor_cache.find_or_make(
        (pattern, backend), values, lambda: _factorize(pattern, backend, values.copy())
    )


# Jacobi's formula, with A' lam_k = e_k:
#
#     d log|det A| = tr(A^-1 dA) = sum_k e_k' A^-1 dA e_k = sum_k lam_k' (dA e_k)
@dataclass(frozen=True)
class _LogDeterminantTangent:
    backend: str

    def __call__(self, _value: Array, A: Sparse, A_dot: Sparse, _fixed: None) -> Array:
        fixed = jax.lax.stop_gradient(A)
        solver = SparseDirect(self.backend)  # pyright: ignore[reportArgumentType]

        def term(k: Array) -> Array:
            e_k = jnp.zeros(A.n, A.dtype).at[k].set(1)
            lam_k = loops.custom_linear_solve(
                A.transpose_matvec,
                e_k,
                solve=lambda _, c: solver.solve_transpose(fixed, fixed, c)[0],
                transpose_solve=lambda _, b: solver.solve(fixed, fixed, b)[0],
            )
            return jnp.sum(lam_k * A_dot.matvec(e_k)).real

        return jnp.sum(jax.lax.map(term, jnp.arange(A.n)))


def _log_determinant(backend: str, A: Sparse) -> Array:
    key = (backend, "log_determinant")
    if key not in A.pattern.analyses:
        pattern = A.pattern
        A.pattern.analyses[key] = make_host_call(
            lambda values: (_log_determinants(pattern, backend, values),)
        )
    values = jax.lax.stop_gradient(A.values)
    (value,) = A.pattern.analyses[key]((jax.ShapeDtypeStruct((), values.real.dtype),), values)
    return attach_derivative(_LogDeterminantTangent(backend), value, A, None)


def _log_determinants(pattern: SparsePattern, backend: str, values: np.ndarray) -> np.ndarray:
    result = np.full(values.shape[:-1], np.nan, np.finfo(values.dtype).dtype)
    for lane in np.ndindex(result.shape):
        if np.isfinite(values[lane]).all():
            held = _factors_of(pattern, backend, values[lane])
            if held.factors is not None and not held.code:
                result[lane] = held.factors.log_determinant()
    return result


def _host(
    pattern: SparsePattern, backend: str, transpose: bool, rank: int
) -> Callable[..., tuple[Array, ...]]:
    """The callback to solve with matrices of this pattern, for b of this rank; made once."""
    key = (backend, transpose, rank)
    if key not in pattern.analyses:

        def solve(values: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, ...]:
            return _solve_lanes(pattern, backend, values, b, transpose, rank)

        pattern.analyses[key] = make_host_call(solve)
    return pattern.analyses[key]


def _solve_lanes(
    pattern: SparsePattern,
    backend: str,
    values: np.ndarray,
    b: np.ndarray,
    transpose: bool,
    rank: int,
) -> tuple[np.ndarray, ...]:
    """Solve for every lane of a `vmap`; a matrix shared by all is factorized once.

    Leading axes of size 1 are shared.
    """
    lanes = np.broadcast_shapes(values.shape[:-1], b.shape[: b.ndim - rank])
    values = np.broadcast_to(values, lanes[: len(lanes) - values.ndim + 1] + values.shape)
    b = np.broadcast_to(b, lanes + b.shape[b.ndim - rank :])
    x = np.empty(b.shape, b.dtype)
    code = np.empty(lanes, np.int32)
    residual = np.empty(lanes, np.finfo(b.dtype).dtype)
    reciprocal_condition = np.empty(lanes, np.finfo(b.dtype).dtype)
    for lane in np.ndindex(lanes):
        own = tuple(
            0 if size == 1 else index for index, size in zip(lane, values.shape[:-1], strict=True)
        )
        x[lane], code[lane], residual[lane], reciprocal_condition[lane] = _solve_one(
            pattern, backend, values[own], b[lane], transpose
        )
    return x, code, residual, reciprocal_condition


def _solve_one(
    pattern: SparsePattern, backend: str, values: np.ndarray, b: np.ndarray, transpose: bool
) -> tuple[np.ndarray, int, float, float]:
    """One matrix, one right-hand side (n,) or (n, k), and how well it went."""
    if not (np.isfinite(values).all() and np.isfinite(b).all()):
        return np.full_like(b, np.nan), int(Status.NONFINITE_INPUT.code), np.nan, np.nan
    held = _factors_of(pattern, backend, values)
    columns = b.reshape(pattern.n, -1).astype(held.matrix.dtype, copy=False)
    record("transpose_solves" if transpose else "solves", columns.shape[1])
    # The entries are certain to the precision that they came in, not to that of the factors.
    code = held.code or int(
        condition_code(held.reciprocal_condition, float(np.finfo(values.dtype).eps), np)
    )
    if code or held.factors is None:
        return np.full_like(b, np.nan), code, np.nan, held.reciprocal_condition
    matrix = held.matrix.T if transpose else held.matrix
    x = np.empty_like(columns)
    error = 0.0
    # SuperLU is slower on several right-hand sides at once than on one after the other.
    for k in range(columns.shape[1]):
        x[:, k], error_k = _solve_and_refine(
            held, matrix, np.ascontiguousarray(columns[:, k]), transpose
        )
        error = float(np.maximum(error, error_k))
    with np.errstate(over="ignore"):
        rounded = x.reshape(b.shape).astype(b.dtype)
    if not (error <= residual_limit(np.float64) and np.isfinite(rounded).all()):
        return (
            np.full_like(b, np.nan),
            int(Status.RESIDUAL_TOO_LARGE.code),
            error,
            held.reciprocal_condition,
        )
    return rounded, 0, error, held.reciprocal_condition


@np.errstate(all="ignore")
def _solve_and_refine(
    held: _Checked, matrix: Any, b: np.ndarray, transpose: bool
) -> tuple[np.ndarray, float]:
    """Solve, and refine up to twice while |b - A x| / (|A| |x| + |b|) is above roundoff."""
    assert held.factors is not None
    b_norm = np.abs(b).max()

    def backward_error(x: np.ndarray, r: np.ndarray) -> float:
        size = held.matrix_norm * np.abs(x).max() + b_norm
        return float(np.abs(r).max() / size) if size > 0 else 0.0

    x = held.factors.solve(b, transpose)
    r = b - matrix @ x
    error = backward_error(x, r)
    for _ in range(2):
        if error < BACKWARD_STABLE:
            break
        refined = x + held.factors.solve(r, transpose)
        r_refined = b - matrix @ refined
        error_refined = backward_error(refined, r_refined)
        if not error_refined < error:
            break
        x = refined
        r = r_refined
        error = error_refined
    return x, error
