"""Who takes part: our solvers and their peers, each x = solve(A, b) that JAX differentiates.

Every one gets the same assembled matrix and, as arguments of the compiled function, the index
arrays that it needs in its own format. What a peer can analyze once for a pattern is analyzed once,
as this library does. Peers are called as their public documentation shows; they are imported only
when they take part.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

import adjoint
from benchmarks.answers import GRADIENT, PRODUCT, VALUE, objective
from benchmarks.contest import Function
from benchmarks.linear.cases import Case
from benchmarks.machine import installed_version, memory_bytes

# Of the Krylov solvers, which run without preconditioner: tight enough for a gradient to 1e-6, and
# above the roundoff.
TOLERANCE = 1e-8


@dataclass(frozen=True)
class LinearSolver:
    """A way to solve A x = b.

    Attributes
    ----------
    name
        For the tables.
    solve
        ``solve(case, constants, A)``, x of A x = b; differentiable by JAX.
    ours
        Whether it is this library's.
    package
        What must be installed.
    constants
        What is made once for a case and passed to the compiled function.
    growth
        Time grows about like n**growth, to foresee what would take too long; of sparse factors
        rather too low, since small systems are mostly overhead.
    dense
        Whether it makes an (n, n) array.
    """

    name: str
    solve: Callable[[Case, Any, adjoint.Sparse], Array]
    ours: bool = False
    package: str = "jax"
    constants: Callable[[Case], Any] = lambda _: ()
    growth: float = 1.3
    dense: bool = False

    def obstacle(self, case: Case) -> str | None:
        """Why it cannot take part, or None."""
        if installed_version(self.package) is None:
            return f"the package {self.package} is not installed"
        # The matrix, its factors, and the cotangent of the matrix.
        need = 3 * 8.0 * case.n**2
        have = memory_bytes() or 8 * 2**30
        if self.dense and need > have / 3:
            return (
                f"dense arrays of {need / 2**30:.0f} GiB are too large for {have / 2**30:.0f} GiB "
                "of memory"
            )
        return None


def functions(solver: LinearSolver, case: Case) -> dict[str, tuple[Function, ...]]:
    """What is timed, as functions of (p, v, constants).

    Where there are several, the first that JAX supports counts.
    """

    def g(p: Array, constants: Any) -> Array:
        return objective(solver.solve(case, constants, case.matrix(p)))

    def forward_over_reverse(p: Array, v: Array, constants: Any) -> Array:
        return adjoint.hvp(lambda p: g(p, constants), p, v)

    def reverse_over_reverse(p: Array, v: Array, constants: Any) -> Array:
        return jax.grad(lambda p: jnp.vdot(jax.grad(g)(p, constants), v))(p)

    return {
        VALUE: (lambda p, _, constants: g(p, constants),),
        GRADIENT: (lambda p, _, constants: jax.value_and_grad(g)(p, constants),),
        PRODUCT: (forward_over_reverse, reverse_over_reverse),
    }


def _b(case: Case) -> Array:
    return jnp.asarray(case.right_hand_side)


def _sparse_direct(backend: Any) -> Callable[[Case, Any, adjoint.Sparse], Array]:
    return lambda case, _, A: adjoint.linear_solve(A, _b(case), adjoint.SparseDirect(backend)).value


def _dense_lu(case: Case, _: Any, A: adjoint.Sparse) -> Array:
    return adjoint.linear_solve(A.todense(), _b(case), adjoint.LU()).value


def _krylov(case: Case, _: Any, A: adjoint.Sparse) -> Array:
    operator = adjoint.MatrixFree(A.matvec, case.n, positive_definite=case.positive_definite)
    solver = (
        adjoint.CG(TOLERANCE) if case.positive_definite else adjoint.GMRES(TOLERANCE, restart=30)
    )
    return adjoint.linear_solve(operator, _b(case), solver).value


def _jax_spsolve(case: Case, constants: Any, A: adjoint.Sparse) -> Array:
    from jax.experimental.sparse.linalg import spsolve

    cols, indptr = constants
    return spsolve(A.values, cols, indptr, _b(case))


def _jnp_solve(case: Case, _: Any, A: adjoint.Sparse) -> Array:
    return jnp.linalg.solve(A.todense(), _b(case))


def _klujax(case: Case, constants: Any, A: adjoint.Sparse) -> Array:
    import klujax  # pyright: ignore[reportMissingImports]

    rows, cols = constants
    return klujax.solve(rows, cols, A.values, _b(case))


def _klujax_analyzed(case: Case, constants: Any, A: adjoint.Sparse) -> Array:
    import klujax  # pyright: ignore[reportMissingImports]

    rows, cols, symbolic = constants
    return klujax.solve_with_symbol(rows, cols, A.values, _b(case), symbolic)


def _klujax_analysis(case: Case) -> Any:
    import klujax  # pyright: ignore[reportMissingImports]

    rows, cols = _coordinates(case)
    return rows, cols, klujax.analyze(rows, cols, case.n)


def _coordinates(case: Case) -> Any:
    return jnp.asarray(case.pattern.rows), jnp.asarray(case.pattern.cols)


def _compressed(case: Case) -> Any:
    return jnp.asarray(case.pattern.cols), jnp.asarray(case.pattern.indptr)


def _lineax(case: Case, _: Any, A: adjoint.Sparse) -> Array:
    import lineax

    b = _b(case)
    tags = lineax.positive_semidefinite_tag if case.positive_definite else ()
    operator = lineax.FunctionLinearOperator(A.matvec, jax.eval_shape(lambda: b), tags)
    limit = 10 * case.n
    if case.positive_definite:
        solver: Any = lineax.CG(TOLERANCE, TOLERANCE, max_steps=limit)
    else:
        solver = lineax.GMRES(TOLERANCE, TOLERANCE, restart=30, max_steps=limit)
    return lineax.linear_solve(operator, b, solver, throw=False).value


SOLVERS: tuple[LinearSolver, ...] = (
    LinearSolver("adjoint SparseDirect, SuperLU", _sparse_direct("superlu"), ours=True),
    LinearSolver(
        "adjoint SparseDirect, PARDISO", _sparse_direct("pardiso"), ours=True, package="pypardiso"
    ),
    LinearSolver("adjoint LU, dense", _dense_lu, ours=True, growth=3.0, dense=True),
    LinearSolver("adjoint GMRES or CG, matrix-free", _krylov, ours=True, growth=1.75),
    LinearSolver("jax spsolve", _jax_spsolve, constants=_compressed),
    LinearSolver("klujax solve", _klujax, package="klujax", constants=_coordinates),
    LinearSolver(
        "klujax solve_with_symbol", _klujax_analyzed, package="klujax", constants=_klujax_analysis
    ),
    LinearSolver("jnp.linalg.solve, dense", _jnp_solve, growth=3.0, dense=True),
    LinearSolver("lineax GMRES or CG, matrix-free", _lineax, package="lineax", growth=1.75),
)
PEERS = ("pypardiso", "klujax", "lineax", "pymoto")
