"""linear_solve: x = A^-1 b, and its adjoint rule, the one that every other solver of the library reduces to."""

from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Generic, Literal, Protocol, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Inexact

from adjoint.inputs import as_inexact_array, refuse, require_same_precision, require_shape
from adjoint.linear.dense import LU, Cholesky, Outcome
from adjoint.linear.iterative import CG, GMRES, MINRES
from adjoint.linear.operators import BoundFunction, Dense, MatrixFree, Operator, Sparse, as_operator
from adjoint.linear.sparse import SparseDirect
from adjoint.solution import Solution, Status, poison

Mode = Literal["reverse", "both"]
Factor = TypeVar("Factor")


class Solver(Protocol):
    """What the rule needs of a solver; see `adjoint.linear.dense` for the meaning of the methods."""

    def solve(self, factor: Any, A: Any, b: Array) -> tuple[Array, Outcome]: ...
    def solve_transpose(self, factor: Any, A: Any, c: Array) -> tuple[Array, Outcome]: ...


# The rule (Johnson, "Notes on adjoint methods for 18.335", MIT 2006; Bright, Edelman and Johnson, "Matrix calculus",
# MIT 18.063, 2025, section 6.3):
#
#     A x = b,  g = g(x),  x_bar = dg/dx      dA x + A dx = db      =>      dx = A^-1 (db - dA x)
#     dg = x_bar' dx = lam' (db - dA x)       with  A' lam = x_bar,  one transpose solve with the same factors
#     b_bar = lam                             A_bar = -(adjoint of  A -> A x)(lam), for a dense A:  -lam x'
#
# A' is the plain transpose also for complex A: that is JAX's convention for cotangents.


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _solve(solver: Solver, factor: Any, A: Operator, b: Array) -> tuple[Array, Outcome]:
    return tangent_solve(solver, factor, A, b)


def _solve_fwd(solver: Solver, factor: Any, A: Operator, b: Array) -> tuple[Any, Any]:
    x, outcome = tangent_solve(solver, factor, A, b)
    return (x, outcome), (factor, A, x)


def _solve_bwd(solver: Solver, residuals: Any, cotangents: Any) -> tuple[None, Operator, Array]:
    factor, A, x = residuals
    x_bar, _ = cotangents
    lam, _ = tangent_solve(TransposedSolver(solver), factor, Transposed(A), x_bar)
    _, adjoint_of_matvec = jax.vjp(lambda A: A.matvec(x), A)
    (A_bar,) = adjoint_of_matvec(-lam)
    return None, A_bar, lam


_solve.defvjp(_solve_fwd, _solve_bwd)


# Forward and backward both end here, in  x_dot = A^-1 (b_dot - A_dot x),  which JAX differentiates again in every mode: the
# rule above has every higher derivative, and this one alone has forward mode too (mode="both").
@partial(jax.custom_jvp, nondiff_argnums=(0,))
def tangent_solve(solver: Solver, factor: Any, A: Operator, b: Array) -> tuple[Array, Outcome]:
    return solver.solve(factor, A, b)


@tangent_solve.defjvp
def tangent_solve_jvp(solver: Solver, primals: Any, tangents: Any) -> tuple[Any, Any]:
    (factor, A, b), (_, A_dot, b_dot) = primals, tangents
    x, outcome = tangent_solve(solver, factor, A, b)
    _, A_dot_x = jax.jvp(lambda A: A.matvec(x), (A,), (A_dot,))
    x_dot = solve_for_tangent(solver, factor, A, b_dot - A_dot_x)
    return (x, outcome), (x_dot, jax.tree.map(_no_tangent, outcome))


def solve_for_tangent(solver: Solver, factor: Any, A: Operator, b_dot: Array) -> Array:
    """A^-1 b_dot as a linear map of a tangent b_dot, which JAX can transpose and differentiate by A."""
    fixed = jax.lax.stop_gradient(A)
    return jax.lax.custom_linear_solve(
        A.matvec,
        b_dot,
        solve=lambda _, b: solver.solve(factor, fixed, b)[0],
        transpose_solve=lambda _, c: solver.solve_transpose(factor, fixed, c)[0],
    )


def _no_tangent(x: Array) -> Any:
    return jnp.zeros_like(x) if jnp.issubdtype(x.dtype, jnp.inexact) else np.zeros(x.shape, jax.dtypes.float0)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Transposed:
    """A' as an operator."""

    A: Any

    @property
    def n(self) -> int:
        return self.A.n

    @property
    def dtype(self) -> Any:
        return self.A.dtype

    def matvec(self, x: Array) -> Array:
        return self.A.transpose_matvec(x)

    def transpose_matvec(self, x: Array) -> Array:
        return self.A.matvec(x)


@dataclass(frozen=True)
class TransposedSolver:
    """The solver of A, used for A' with the same factors."""

    solver: Any

    def solve(self, factor: Any, A: Transposed, b: Array) -> tuple[Array, Outcome]:
        return self.solver.solve_transpose(factor, A.A, b)

    def solve_transpose(self, factor: Any, A: Transposed, c: Array) -> tuple[Array, Outcome]:
        return self.solver.solve(factor, A.A, c)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Factorization(Generic[Factor]):
    """A matrix with its factors: solve many right-hand sides, also with A', and get log|det A|. Made by `factorize`.

    Every method is differentiable with respect to A and b, in every mode, and reuses the factors.
    """

    A: Any
    factor: Factor
    solver: Any = field(metadata={"static": True})
    origin: str = field(metadata={"static": True})
    mode: Mode = field(metadata={"static": True})

    def solve(self, b: Inexact[Array, " n *k"]) -> Solution[Inexact[Array, " n *k"]]:
        """x of A x = b, as `linear_solve`."""
        return self._solve(self.A, b, self.solver)

    def solve_transpose(self, b: Inexact[Array, " n *k"]) -> Solution[Inexact[Array, " n *k"]]:
        """x of A' x = b (never conjugated), with the same factors."""
        return self._solve(Transposed(self.A), b, TransposedSolver(self.solver))

    def logdet(self) -> Float[Array, ""]:
        """log|det A|, as in d log|det A| = Re tr(A^-1 dA).

        **Cost**: a sum over the factors' diagonal; its derivative takes n transpose solves. NaN for a failed factorization.
        """
        if not hasattr(self.solver, "log_determinant"):
            refuse(
                "Factorization.logdet",
                f"factors by {self.solver}",
                "a direct solver",
                "Use LU(), Cholesky() or SparseDirect().",
                TypeError,
            )
        return _log_determinant(self.solver, self.factor, self.A)

    def _solve(self, A: Any, b: Any, solver: Any) -> Solution[Any]:
        b = _right_hand_side(b, A)
        run: Any = _solve if self.mode == "reverse" else tangent_solve
        x, outcome = run(solver, self.factor, A, b)
        status = Status(outcome.code)
        stats = {
            "residual": outcome.residual,
            "iterations": outcome.iterations,
            "reciprocal_condition": outcome.reciprocal_condition,
        }
        return Solution(poison(x, status.ok), status, jax.lax.stop_gradient(stats), self.origin)


# With A' lam_k = e_k:  d log|det A| = tr(A^-1 dA) = sum_k e_k' A^-1 dA e_k = sum_k lam_k' (dA e_k)      (Jacobi's formula)
@partial(jax.custom_jvp, nondiff_argnums=(0,))
def _log_determinant(solver: Any, factor: Any, _A: Any) -> Array:
    return solver.log_determinant(factor)


@_log_determinant.defjvp
def _log_determinant_jvp(solver: Any, primals: Any, tangents: Any) -> tuple[Array, Array]:
    (factor, A), (_, A_dot) = primals, tangents

    def term(k: Array) -> Array:
        e_k = jnp.zeros(A.n, A.dtype).at[k].set(1)
        lam_k, _ = tangent_solve(TransposedSolver(solver), factor, Transposed(A), e_k)
        _, dA_e_k = jax.jvp(lambda A: A.matvec(e_k), (A,), (A_dot,))
        return jnp.sum(lam_k * dA_e_k).real

    value = _log_determinant(solver, factor, A)
    return value, jnp.sum(jax.lax.map(term, jnp.arange(A.n)))


def linear_solve(
    A: Any, b: Inexact[Array, " n *k"], solver: Any = None, *, mode: Mode = "reverse"
) -> Solution[Inexact[Array, " n *k"]]:
    """Solve A x = b, with derivatives at the price of one more solve.

    Parameters
    ----------
    A
        Square matrix: an (n, n) array, a `Sparse` made by `SparsePattern.matrix`, a BCOO matrix with known indices, or a
        `MatrixFree` operator. Real or complex, float32 or float64, of the precision of b.
    b
        Right-hand side (n,), or k of them as columns (n, k). For batches of systems use `jax.vmap`.
    solver
        `LU` (default) or `Cholesky` for arrays, `SparseDirect` (default) for sparse matrices, `CG`, `MINRES` or `GMRES` for all.
        For `MatrixFree` the default is `CG` if it claims to be positive definite, `MINRES` if symmetric, else `GMRES`.
    mode
        ``"reverse"``: the adjoint rule, for `grad`, `vjp`, `jacrev`, `hessian`, `jvp(grad)`, `vmap`. ``"both"``: also plain
        forward mode, `jvp` and `jacfwd`.

    Returns
    -------
    solution
        `Solution` with ``value`` x, shaped as b; ``status``; ``stats``: ``residual`` (the backward error
        |b - A x| / (|A| |x| + |b|) for direct solvers, |b - A x| / |b| for iterative ones), ``iterations``, and
        ``reciprocal_condition`` (an estimate, of the equilibrated matrix; direct solvers only).

    Raises
    ------
    ValueError, TypeError
        For shapes, precisions, structures or solvers that do not fit, before any computing.

    Notes
    -----
    **Derivative**: with A' lam = x_bar (plain transpose, also for complex A): b_bar = lam, A_bar = -lam x', restricted to
    the pattern of a sparse A, and -(adjoint of p -> A(p) x)(lam) for a matrix-free one. Preconditioners are held
    constant. Derivatives of any order.

    **Status**: `NONFINITE_INPUT`, `SINGULAR`, `ILL_CONDITIONED`, `NOT_POSITIVE_DEFINITE`, `NOT_CONVERGED`,
    `RESIDUAL_TOO_LARGE`; then x is NaN, and so is every derivative through it. An adjoint solve that fails gives NaN derivatives.

    **Cost**: value and gradient take one factorization, one solve and one transpose solve; a Hessian-vector product adds
    two solves; a Hessian in P parameters takes one factorization, P + 1 solves and P + 1 transpose solves.

    Source: S. G. Johnson, Notes on Adjoint Methods for 18.335, MIT, 2006, equations (3) to (5).

    Examples
    --------
    >>> import jax, jax.numpy as jnp, adjoint
    >>> A = lambda p: jnp.array([[2.0 + p, 1.0], [0.0, 4.0]])
    >>> g = lambda p: adjoint.linear_solve(A(p), jnp.array([3.0, 4.0])).value[0]  # g(p) = 2 / (2 + p)
    >>> value, gradient = jax.value_and_grad(g)(0.0)
    >>> round(float(value), 6), round(float(gradient), 6)
    (1.0, -0.5)
    """
    b = as_inexact_array("linear_solve", "b", b)
    return _bind(as_operator(A, b.dtype), A, b, solver, mode, "linear_solve").solve(b)


def factorize(A: Any, solver: Any = None, *, mode: Mode = "reverse") -> Factorization[Any]:
    """Factorize A once, for many solves with A and A'.

    Parameters
    ----------
    A
        (n, n) array, `Sparse` or BCOO matrix.
    solver, mode
        As for `linear_solve`.

    Returns
    -------
    factorization
        With `.solve(b)` and `.solve_transpose(b)`, each a `Solution`, and `.logdet()`. A pytree.

    Examples
    --------
    >>> import jax.numpy as jnp, adjoint
    >>> factors = adjoint.factorize(jnp.array([[2.0, 1.0], [0.0, 4.0]]))
    >>> factors.solve(jnp.array([3.0, 4.0])).value.tolist(), factors.solve_transpose(jnp.array([2.0, 5.0])).value.tolist()
    ([1.0, 1.0], [1.0, 1.0])
    >>> round(float(factors.logdet()), 5)  # log 8
    2.07944
    """
    if isinstance(A, MatrixFree):
        refuse(
            "factorize",
            "a MatrixFree operator",
            "a matrix with entries",
            "Call linear_solve for each b instead.",
            TypeError,
        )
    return _bind(as_operator(A, None), A, None, solver, mode, "factorize")


_SERVED_BY: dict[type, tuple[type, ...]] = {
    Dense: (LU, Cholesky, CG, MINRES, GMRES),
    Sparse: (SparseDirect, CG, MINRES, GMRES),
    BoundFunction: (GMRES, MINRES, CG),
}


def _bind(operator: Any, A: Any, b: Array | None, solver: Any, mode: Mode, where: str) -> Factorization[Any]:
    """The operator with a solver that serves it and its factors, in the common precision of A and b."""
    if mode not in ("reverse", "both"):
        refuse(where, f"mode = {mode!r}", '"reverse" or "both"', 'Use "both" for plain jvp or jacfwd.')
    if b is not None:
        operator = operator.astype(require_same_precision(where, ("A", operator.dtype), ("b", b.dtype)))
    served_by = _SERVED_BY[type(operator)]
    if solver is None:
        solver = _default_solver(A, served_by)
    if not isinstance(solver, served_by):
        given = f"{solver.__name__}, the class" if isinstance(solver, type) else f"{solver!r}"
        names = ", ".join(f"{s.__name__}()" for s in served_by)
        kind = {Dense: "a dense matrix", Sparse: "a sparse matrix", BoundFunction: "a MatrixFree operator"}[
            type(operator)
        ]
        refuse(where, f"solver = {given} for {kind}", f"one of {names}", "Leave it out for the default.", TypeError)
    origin = f"{where} with {type(solver).__name__} ({type(operator).__name__}, n = {operator.n}, {operator.dtype})"
    factor = solver.factor(jax.lax.stop_gradient(operator))
    if getattr(solver, "preconditioner", None) is not None:
        # From here on it is a leaf of the factor; the solver must stay hashable and free of traced values.
        solver = replace(solver, preconditioner=None)
    return Factorization(operator, factor, solver, origin, mode)


def _default_solver(A: Any, served_by: tuple[type, ...]) -> Any:
    if isinstance(A, MatrixFree):
        return CG() if A.positive_definite else MINRES() if A.symmetric else GMRES()
    return served_by[0]()


def _right_hand_side(b: Any, A: Any) -> Array:
    b = as_inexact_array("linear_solve", "b", b)
    n, dtype = A.n, A.dtype
    require_shape(
        "linear_solve",
        "b",
        b.shape,
        f"shape ({n},) or ({n}, k) to match A of shape ({n}, {n})",
        b.ndim in (1, 2) and b.shape[0] == n and b.size > 0,
        "For a batch of right-hand sides along the first axis use jax.vmap, or transpose b.",
    )
    if require_same_precision("linear_solve", ("A", dtype), ("b", b.dtype)) != dtype:
        refuse(
            "Factorization.solve",
            f"a {b.dtype} b with {dtype} factors",
            f"a {dtype} b",
            f"Factorize A.astype({b.dtype}).",
            TypeError,
        )
    return b.astype(dtype)
