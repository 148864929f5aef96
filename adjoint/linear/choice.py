"""Which solver serves which matrix: the default, and the refusal of one that does not fit."""

from jaxtyping import Array

from adjoint.inputs import as_inexact_array, refuse, require_same_precision, require_shape
from adjoint.linear.conversion import BoundOperator
from adjoint.linear.dense import LU, Cholesky
from adjoint.linear.iterative import CG, GMRES, MINRES
from adjoint.linear.operators import BoundFunction, Dense, MatrixFree
from adjoint.linear.sparse import SparseDirect
from adjoint.linear.sparse_pattern import Sparse

LinearSolver = LU | Cholesky | SparseDirect | CG | MINRES | GMRES

# The default comes first.
_SERVED_BY: dict[type, tuple[type, ...]] = {
    Dense: (LU, Cholesky, CG, MINRES, GMRES),
    Sparse: (SparseDirect, CG, MINRES, GMRES),
    BoundFunction: (GMRES, MINRES, CG),
}


def bind(
    operator: BoundOperator, A: object, b: Array | None, solver: LinearSolver | None, where: str
) -> tuple[BoundOperator, LinearSolver, str]:
    """The operator in the precision of A and b, a solver that serves it, and both in words."""
    if b is not None:
        operator = operator.astype(
            require_same_precision(where, ("A", operator.dtype), ("b", b.dtype))
        )
        right_hand_side(b, operator)
    served_by = _SERVED_BY[type(operator)]
    if solver is None:
        solver = _default_solver(A, served_by)
    if not isinstance(solver, served_by):
        given = f"{solver.__name__}, the class" if isinstance(solver, type) else f"{solver!r}"
        names = ", ".join(f"{s.__name__}()" for s in served_by)
        kind = {
            Dense: "a dense matrix",
            Sparse: "a sparse matrix",
            BoundFunction: "a MatrixFree operator",
        }[type(operator)]
        refuse(
            where,
            f"solver = {given} for {kind}",
            f"one of {names}",
            "Leave it out for the default.",
            TypeError,
        )
    origin = (
        f"{where} with {type(solver).__name__} ({type(operator).__name__}, n = {operator.n}, "
        f"{operator.dtype})"
    )
    return operator, solver, origin


def _default_solver(A: object, served_by: tuple[type, ...]) -> LinearSolver:
    if isinstance(A, MatrixFree):
        return CG() if A.positive_definite else MINRES() if A.symmetric else GMRES()
    return served_by[0]()


def right_hand_side(b: object, A: BoundOperator) -> Array:
    """b in the precision of A; refuses one that does not fit."""
    b = as_inexact_array("linear_solve", "b", b)
    n = A.n
    dtype = A.dtype
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
