"""linear_solve: x = A^-1 b, and its adjoint rule, to which every other solver reduces."""

from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Generic, Literal, Protocol, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Inexact, PyTree

from adjoint.inputs import as_inexact_array, refuse, require_mode, takes_jax_functions, warn_if_cut
from adjoint.linear.choice import bind, right_hand_side
from adjoint.linear.conversion import as_operator
from adjoint.linear.operators import MatrixFree, Operator
from adjoint.linear.outcome import Outcome
from adjoint.linear.solver_parts import SolverParts
from adjoint.solution import Solution, poison
from adjoint.status import Status
from adjoint.tracing import loops
from adjoint.tracing.programs import Static, compiled
from adjoint.tracing.rule import push_forward, with_forward_mode

Factor = TypeVar("Factor")


class Solver(Protocol):
    """What the rule needs of a solver; `adjoint.linear.dense` says what the methods mean."""

    def solve(self, factor: PyTree, A: Any, b: Array) -> tuple[Array, Outcome]: ...
    def solve_transpose(self, factor: PyTree, A: Any, c: Array) -> tuple[Array, Outcome]: ...


# The rule (Johnson, "Notes on adjoint methods for 18.335", MIT 2006; Bright, Edelman and Johnson,
# "Matrix calculus", MIT 18.063, 2025, section 6.3):
#
#     A x = b,   g = g(x),   x_bar = dg/dx
#     dA x + A dx = db      =>      dx = A^-1 (db - dA x)
#     dg = x_bar' dx = lam' (db - dA x)   with   A' lam = x_bar,  one solve with the same factors
#     b_bar = lam
#     A_bar = -(adjoint of  A -> A x)(lam), for a dense A:  -lam x'
#
# and in forward mode A x_dot = b_dot - A_dot x. A' is the plain transpose also for complex A: that
# is JAX's convention for cotangents.


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _solve(solver: Solver, factor: PyTree, A: Operator, b: Array) -> tuple[Array, Outcome]:
    return tangent_solve(solver, factor, A, b)


def _solve_fwd(solver: Solver, factor: PyTree, A: Operator, b: Array) -> tuple[PyTree, PyTree]:
    x, outcome = tangent_solve(solver, factor, A, b)
    return (x, outcome), (factor, A, x)


def _solve_bwd(
    solver: Solver, residuals: PyTree, cotangents: PyTree
) -> tuple[None, Operator, Array]:
    factor, A, x = residuals
    x_bar, _ = cotangents
    lam, _ = tangent_solve(TransposedSolver(solver), factor, Transposed(A), x_bar)
    _, adjoint_of_matvec = jax.vjp(lambda A: A.matvec(x), A)
    (A_bar,) = adjoint_of_matvec(-lam)
    return None, A_bar, lam


_solve.defvjp(_solve_fwd, _solve_bwd)


def _solve_tangent(solver: Solver, residuals: PyTree, dots: PyTree) -> tuple[Array | None, None]:
    factor, A, x = residuals
    _, A_dot, b_dot = dots
    moved = push_forward(lambda A: A.matvec(x), (A,), (A_dot,))
    c = b_dot if moved is None else -moved if b_dot is None else b_dot - moved
    return (None if c is None else tangent_solve(solver, factor, A, c)[0]), None


solve: Any = with_forward_mode(_solve, _solve_tangent)


def tangent_solve(solver: Solver, factor: PyTree, A: Operator, b: Array) -> tuple[Array, Outcome]:
    """A x = b as a linear map of b, in `lax.custom_linear_solve`: all parts of the rule end here.

    JAX differentiates it again in every mode, x_dot = A^-1 (b_dot - A_dot x): from it the rule has
    its higher derivatives. The outcome is carried along as further unknowns of the solution,
    because nothing else works on JAX 0.10.2: with has_aux, jacfwd fails on any use of the outcome.
    """
    fixed = jax.lax.stop_gradient(A)
    m = len(Outcome._fields)

    def apart(v: Array) -> tuple[Array, Array]:
        return v[:-m].reshape(b.shape), v[-m:]

    def together(x: Array, numbers: PyTree) -> Array:
        return jnp.concatenate(
            [x.ravel(), jnp.stack([jnp.asarray(number, b.dtype) for number in numbers])]
        )

    def with_outcome(solve: Any) -> PyTree:
        return lambda _, v: together(*solve(factor, fixed, apart(v)[0]))

    def matvec(v: Array) -> Array:
        x, numbers = apart(v)
        return together(A.matvec(x), numbers)

    solved = loops.custom_linear_solve(
        matvec,
        together(b, jnp.zeros(m)),
        solve=with_outcome(solver.solve),
        transpose_solve=with_outcome(solver.solve_transpose),
    )
    x, numbers = apart(solved)
    code, residual, iterations, reciprocal_condition = jax.lax.stop_gradient(numbers).real
    return x, Outcome(
        code.astype(jnp.int32), residual, iterations.astype(jnp.int32), reciprocal_condition
    )


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Transposed:
    """A' as an operator."""

    A: Any

    @property
    def n(self) -> int:
        return self.A.n

    @property
    def dtype(self) -> np.dtype:
        return self.A.dtype

    def astype(self, dtype: DTypeLike) -> "Transposed":
        return Transposed(self.A.astype(dtype))

    def matvec(self, x: Array) -> Array:
        return self.A.transpose_matvec(x)

    def transpose_matvec(self, x: Array) -> Array:
        return self.A.matvec(x)


@dataclass(frozen=True)
class TransposedSolver:
    """The solver of A, used for A' with the same factors."""

    solver: Any

    def solve(self, factor: PyTree, A: Transposed, b: Array) -> tuple[Array, Outcome]:
        return self.solver.solve_transpose(factor, A.A, b)

    def solve_transpose(self, factor: PyTree, A: Transposed, c: Array) -> tuple[Array, Outcome]:
        return self.solver.solve(factor, A.A, c)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Factorization(Generic[Factor]):
    """A matrix with its factors, made by `factorize`: solve with A and A', and get log|det A|.

    It solves for many right-hand sides. Every method is differentiable with respect to A and b, in
    every mode, and reuses the factors.
    """

    A: Any
    factor: Factor
    solver: Any = field(metadata={"static": True})
    origin: str = field(metadata={"static": True})

    def solve(self, b: Inexact[Array, " n *k"]) -> Solution[Inexact[Array, " n *k"]]:
        """x of A x = b, as `linear_solve`."""
        return self._solve(self.A, b, self.solver)

    def solve_transpose(self, b: Inexact[Array, " n *k"]) -> Solution[Inexact[Array, " n *k"]]:
        """x of A' x = b (never conjugated), with the same factors."""
        return self._solve(Transposed(self.A), b, TransposedSolver(self.solver))

    def logdet(self) -> Float[Array, ""]:
        """log|det A|, as in d log|det A| = Re tr(A^-1 dA).

        NaN for a failed factorization. **Cost**: of a dense matrix, another factorization; of a
        sparse one, a sum over the diagonal of the factors, and n transpose solves for its
        derivative.
        """
        if not hasattr(self.solver, "log_determinant"):
            refuse(
                "Factorization.logdet",
                f"factors by {self.solver}",
                "a direct solver",
                "Use LU(), Cholesky() or SparseDirect().",
                TypeError,
            )
        return self.solver.log_determinant(self.factor, self.A)

    def _solve(self, A: Any, b: Any, solver: Any) -> Solution[Any]:
        b = right_hand_side(b, A)
        factor, A, b = loops.vary_alike((self.factor, A, b))
        x, outcome = compiled(_solve_with, Static(solver), factor, A, b)
        return _solution(x, outcome, self.origin)


def _solve_with(known: Static, factor: PyTree, A: Any, b: Array) -> tuple[Array, Outcome]:
    """x, NaN where the solve failed, as a function of A and b."""
    x, outcome = solve(known.value, factor, A, b)
    return poison(x, outcome.code == 0), jax.lax.stop_gradient(outcome)


def _factor_and_solve(parts: SolverParts, A: Any, b: Array) -> tuple[Array, Outcome]:
    return _solve_with(Static(_without_preconditioner(parts.whole())), _factor(parts, A), A, b)


def _factor(parts: SolverParts, A: Any) -> PyTree:
    return parts.whole().factor(jax.lax.stop_gradient(A))


def _without_preconditioner(solver: Any) -> Any:
    """The solver when its preconditioner is a leaf of the factor.

    It must stay hashable and free of traced values.
    """
    has_one = getattr(solver, "preconditioner", None) is not None
    return replace(solver, preconditioner=None) if has_one else solver


def _solution(x: Array, outcome: Outcome, origin: str) -> Solution[Any]:
    stats = {
        "residual": outcome.residual,
        "iterations": outcome.iterations,
        "reciprocal_condition": outcome.reciprocal_condition,
    }
    return Solution(x, Status(outcome.code), stats, origin)


@takes_jax_functions("linear_solve")
def linear_solve(
    A: Any,
    b: Inexact[Array, " n *k"],
    solver: Any = None,
    *,
    mode: Literal["reverse", "both"] = "reverse",
) -> Solution[Inexact[Array, " n *k"]]:
    """Solve A x = b, with derivatives at the price of one more solve.

    Parameters
    ----------
    A
        Square matrix: an (n, n) array, a `Sparse` made by `SparsePattern.matrix`, a BCOO matrix
        with known indices, or a `MatrixFree` operator. Real or complex, float32 or float64, of the
        precision of b.
    b
        Right-hand side (n,), or k of them as columns (n, k). For batches of systems use `jax.vmap`.
    solver
        `LU` (default) or `Cholesky` for arrays, `SparseDirect` (default) for sparse matrices, `CG`,
        `MINRES` or `GMRES` for all. For `MatrixFree` the default is `CG` if it claims to be
        positive definite, `MINRES` if symmetric, else `GMRES`.
    mode
        Deprecated and without effect, to be removed after one release: every derivative works, in
        both modes.

    Returns
    -------
    solution
        `Solution` with ``value`` x, shaped as b; ``status``; ``stats``: ``residual`` (the backward
        error |b - A x| / (|A| |x| + |b|) for direct solvers, |b - A x| / |b| for iterative ones),
        ``iterations``, and ``reciprocal_condition`` (an estimate, of the equilibrated matrix;
        direct solvers only).

    Raises
    ------
    ValueError, TypeError
        For shapes, precisions, structures or solvers that do not fit, before any computing.

    Notes
    -----
    **Derivative**: with A' lam = x_bar (plain transpose, also for complex A): b_bar = lam, A_bar =
    -lam x', restricted to the pattern of a sparse A, and -(adjoint of p -> A(p) x)(lam) for a
    matrix-free one. Preconditioners are held constant. In forward mode A x_dot = b_dot - A_dot x.
    Derivatives of any order.

    **Status**: `NONFINITE_INPUT`, `SINGULAR`, `ILL_CONDITIONED`, `NOT_POSITIVE_DEFINITE`,
    `NOT_CONVERGED`, `RESIDUAL_TOO_LARGE`; then x is NaN, and so is every derivative through it. An
    adjoint solve that fails gives NaN derivatives.

    **Cost**: value and gradient take one factorization, one solve and one transpose solve; value
    and tangent take one factorization and two solves; a Hessian-vector product adds two solves; a
    Hessian in P parameters takes one factorization, P + 1 solves and P + 1 transpose solves.

    Source: S. G. Johnson, Notes on Adjoint Methods for 18.335, MIT, 2006, equations (3) to (5).

    Examples
    --------
    >>> import jax, jax.numpy as jnp, adjoint
    >>> A = lambda p: jnp.array([[2.0 + p, 1.0], [0.0, 4.0]])
    >>> g = lambda p: adjoint.linear_solve(A(p), jnp.array([3.0, 4.0])).value[
    ...     0
    ... ]  # g(p) = 2 / (2 + p)
    >>> value, gradient = jax.value_and_grad(g)(0.0)
    >>> round(float(value), 6), round(float(gradient), 6)
    (1.0, -0.5)
    """
    warn_if_cut("linear_solve", A=A, b=b)
    b = as_inexact_array("linear_solve", "b", b)
    require_mode("linear_solve", mode)
    operator, b = loops.vary_alike((as_operator(A, b.dtype, loops.axes_of(b)), b))
    operator, solver, origin = bind(operator, A, b, solver, "linear_solve")
    b = right_hand_side(b, operator)
    x, outcome = compiled(_factor_and_solve, SolverParts.of(solver, _vector(operator)), operator, b)
    return _solution(x, outcome, origin)


def factorize(
    A: Any, solver: Any = None, *, mode: Literal["reverse", "both"] = "reverse"
) -> Factorization[Any]:
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
    >>> (
    ...     factors.solve(jnp.array([3.0, 4.0])).value.tolist(),
    ...     factors.solve_transpose(jnp.array([2.0, 5.0])).value.tolist(),
    ... )
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
    require_mode("factorize", mode)
    warn_if_cut("factorize", A=A)
    operator, solver, origin = bind(as_operator(A, None), A, None, solver, "factorize")
    factor = compiled(_factor, SolverParts.of(solver, _vector(operator)), operator)
    return Factorization(operator, factor, _without_preconditioner(solver), origin)


def _vector(operator: Any) -> Array:
    """An example of what the operator is applied to."""
    return loops.vary_over(jnp.zeros(operator.n, operator.dtype), loops.axes_of(operator))
