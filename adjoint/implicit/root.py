"""root: x with F(x, p) = 0, by any solver, and its derivatives by the implicit function theorem."""

import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree

from adjoint.implicit.host_solver import OptimistixRootFinder
from adjoint.implicit.newton import Newton, NewtonKrylov
from adjoint.implicit.regularity import Examination, examine
from adjoint.implicit.residual import JacobianAction, RootProblem, trace_residual
from adjoint.inputs import none_is_nan, refuse, require_mode, takes_jax_functions, warn_if_cut
from adjoint.linear.choice import LinearSolver
from adjoint.linear.dense import LU, Cholesky
from adjoint.linear.equilibrated import Equilibrated
from adjoint.linear.iterative import GMRES
from adjoint.linear.krylov import Krylov
from adjoint.linear.solve import Solver, Transposed, TransposedSolver, tangent_solve
from adjoint.linear.solver_parts import SolverParts
from adjoint.linear.sparse import SparseDirect
from adjoint.linear.sparse_pattern import SparsePattern
from adjoint.solution import Solution, poison
from adjoint.status import Status
from adjoint.tracing.programs import Static, compiled
from adjoint.tracing.rule import push_forward, with_forward_mode
from adjoint.tracing.traced_function import TracedFunction

# The rule, for x(p) with F(x(p), p) = 0:
#
#     F_x dx + F_p dp = 0      =>      dx = -F_x^-1 F_p dp
#     g = g(x):  dg = x_bar' dx = -lam' F_p dp   with   F_x' lam = x_bar,  one transpose solve
#     p_bar = -(adjoint of  p -> F(x, p))(lam)
#     and in forward mode   F_x x_dot = -F_p p_dot
#
# (Johnson, "Notes on adjoint methods for 18.335", MIT 2006, section 2; Griewank and Walther,
# Evaluating Derivatives, 2nd ed., section 15.3.) It does not depend on how x was found: x enters as
# a number, with the factors of F_x at x.


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _root(linear_solver: Solver, factor: PyTree, F: TracedFunction, x: Array, p: PyTree) -> Array:
    return x


def _root_fwd(
    linear_solver: Solver, factor: PyTree, F: TracedFunction, x: Array, p: PyTree
) -> tuple[Array, PyTree]:
    # Of the rule's own making, so that its derivatives of higher order see how x moves.
    x = root_at(linear_solver, factor, F, x, p)
    return x, (factor, F, x, p)


def _root_bwd(
    linear_solver: Solver, residuals: PyTree, x_bar: Array
) -> tuple[None, TracedFunction, None, PyTree]:
    factor, F, x, p = residuals
    F_x = Transposed(JacobianAction(F, x, p))
    lam, _ = tangent_solve(TransposedSolver(linear_solver), factor, F_x, x_bar)
    _, adjoint_of_F = jax.vjp(lambda F, p: F(x, p), F, p)
    F_bar, p_bar = adjoint_of_F(-lam)
    return None, F_bar, None, p_bar


_root.defvjp(_root_fwd, _root_bwd)


def _root_tangent(linear_solver: Solver, residuals: PyTree, dots: PyTree) -> Array | None:
    factor, F, x, p = residuals
    _, F_dot, _, p_dot = dots
    moved = push_forward(lambda F, p: F(x, p), (F, p), (F_dot, p_dot))
    return (
        None
        if moved is None
        else tangent_solve(linear_solver, factor, JacobianAction(F, x, p), -moved)[0]
    )


root_at: Any = with_forward_mode(_root, _root_tangent)


@takes_jax_functions("root")
def root(
    residual: Callable[[PyTree, PyTree], PyTree],
    x0: PyTree,
    p: PyTree,
    solver: Any = None,
    *,
    linear_solver: LinearSolver | None = None,
    jacobian_pattern: SparsePattern | None = None,
    mode: Literal["reverse", "both"] = "reverse",
) -> Solution[PyTree]:
    """Solve F(x, p) = 0 for x, with derivatives with respect to p at the price of one linear solve.

    Parameters
    ----------
    residual
        F(x, p): as many equations as unknowns, in the dtype of x. x and p are pytrees, p as given
        here. It may close over constants, and over values that are being differentiated.
    x0
        Where to start, an array or a pytree of arrays of one dtype, which x has too. The derivative
        by x0 is zero.
    p
        Parameters: a pytree with at least one floating-point array.
    solver
        `Newton` (default), `NewtonKrylov`, `HostSolver` for any function on NumPy arrays, or a
        solver of optimistix. It is never differentiated.
    linear_solver
        For the derivative (and the steps of `Newton`): `LU` (default), `Cholesky`, `SparseDirect`
        (default with `jacobian_pattern`), or `GMRES`, `MINRES`, `CG`, which use products with F_x
        alone (default with `NewtonKrylov`).
    jacobian_pattern
        Where F_x may be nonzero; its entries are found by products with F_x for groups of columns
        that share no row.
    mode
        Deprecated and without effect, as for `linear_solve`.

    Returns
    -------
    solution
        `Solution` with ``value`` x, structured as x0; ``status``; ``stats``: ``iterations``,
        ``residual`` (|F(x)|), ``correction`` (the Newton step left at x, relative to x, in the
        worst entry; by an iteration, where F_x shows one unit of all entries, relative to the
        largest of x), ``nonlinearity`` (how far F departs from its linear model within the error of
        x; above 0.1 x is a fold). None but ``residual`` depends on the units of F and x.

    Raises
    ------
    ValueError, TypeError
        When F, x0 and p do not make a root problem, before any solving.

    Notes
    -----
    **Derivative**: p_bar = -(adjoint of p -> F(x, p))(lam) with F_x' lam = x_bar, at the x that was
    found; in forward mode F_x x_dot = -F_p p_dot. Of any order.

    **Status**: `NOT_CONVERGED` when x is not a root, whatever found it; `SINGULAR` or
    `ILL_CONDITIONED` when F_x is; `DEGENERATE` at a fold; `NONFINITE_INPUT` for NaN, and for an
    infinite parameter that makes F infinite (one that does not, such as a bound that is not there,
    is a parameter as any other). Then x is NaN, and so is every derivative.

    **Cost**: one factorization of F_x at the root, by which the root is examined and all
    derivatives are taken.

    Source: S. G. Johnson, Notes on Adjoint Methods for 18.335, MIT, 2006, section 2.

    Examples
    --------
    >>> import jax, jax.numpy as jnp, adjoint
    >>> x = lambda p: adjoint.root(lambda x, p: x**3 + x - p, jnp.array([1.0]), p).value[0]
    >>> value, gradient = jax.value_and_grad(x)(jnp.array([10.0]))
    >>> round(float(value), 6), round(float(gradient[0]), 6)  # 1 / (3 x^2 + 1)
    (2.0, 0.076923)
    """
    return find_root("root", residual, x0, p, solver, linear_solver, jacobian_pattern, mode)


def find_root(
    where: str,
    residual: Callable[[PyTree, PyTree], PyTree],
    x0: PyTree,
    p: PyTree,
    solver: Any,
    linear_solver: LinearSolver | None,
    pattern: SparsePattern | None,
    mode: Literal["reverse", "both"],
) -> Solution[PyTree]:
    """`root` for all that comes down to one: `where` is the name that messages give it."""
    require_mode(where, mode)
    solver = _solver(where, solver)
    warn_if_cut(where, x0=x0, p=p)
    p = jax.tree.map(jnp.asarray, p)
    F, start, p, unknowns = trace_residual(where, residual, x0, p)
    linear_solver = _linear_solver(where, linear_solver, solver, pattern, start.size)
    parts = tuple(SolverParts.of(part, start) for part in (solver, linear_solver))
    # Two programs: the search, which is never differentiated, and the rule, which then is all that
    # is compiled for a gradient.
    fixed = jax.lax.stop_gradient((F, start, p, parts))
    x, steps, found = compiled(_search, Static((unknowns, pattern)), *fixed)
    if getattr(linear_solver, "preconditioner", None) is not None:
        # From here on it is a leaf of the factor; the rule must stay hashable and free of traced
        # values.
        linear_solver = replace(linear_solver, preconditioner=None)
    rule = Static((Equilibrated(linear_solver), unknowns))
    value = compiled(_differentiate, rule, F, p, x, found.factor, found.status)
    stats = {
        "iterations": steps,
        "residual": found.residual,
        "correction": found.correction,
        "nonlinearity": found.nonlinearity,
    }
    solvers = (
        f"{type(getattr(solver, 'solver', solver)).__name__} and {type(linear_solver).__name__}"
    )
    origin = f"{where} with {solvers} ({start.size} unknowns, {start.dtype})"
    return Solution(value, found.status, jax.lax.stop_gradient(stats), origin)


def _search(
    statement: Static,
    F: TracedFunction,
    start: Array,
    p: PyTree,
    parts: tuple[SolverParts, SolverParts],
) -> tuple[Array, Array, Examination]:
    """A root, the steps to it, and what is found out about it."""
    unknowns, pattern = statement.value
    solver, linear_solver = (part.whole() for part in parts)
    problem = RootProblem(F, unknowns.unravel, linear_solver, pattern)
    # From a NaN no iteration goes on.
    begin = poison(start, none_is_nan((F.captured, p)))
    x, steps = solver.find(problem, begin, p)
    return x, steps, examine(problem, x, start, p)


def _differentiate(
    rule: Static, F: TracedFunction, p: PyTree, x: Array, factor: PyTree, status: Status
) -> PyTree:
    """The root as a function of F and p; NaN, as are its derivatives, where the search failed."""
    linear_solver, unknowns = rule.value
    # p and not x alone: a select in the residual would answer a NaN with a clean zero.
    F, p = poison((F, p), status.ok)
    x = root_at(linear_solver, factor, F, jax.lax.stop_gradient(x), p)
    return unknowns.unravel(poison(x, status.ok))


def _solver(where: str, solver: Any) -> Any:
    if solver is None:
        return Newton()
    # Importing optimistix takes long; who has one of its solvers has imported it.
    optimistix: Any = sys.modules.get("optimistix")
    if optimistix is not None and isinstance(
        solver,
        optimistix.AbstractRootFinder
        | optimistix.AbstractLeastSquaresSolver
        | optimistix.AbstractMinimiser,
    ):
        return OptimistixRootFinder(solver)
    if not hasattr(solver, "find") or isinstance(solver, type | str):
        refuse(
            where,
            f"solver = {solver!r}",
            "Newton(), NewtonKrylov(), HostSolver(function) or a solver of optimistix",
            "Leave it out for Newton().",
            TypeError,
        )
    return solver


def _linear_solver(
    where: str,
    linear_solver: LinearSolver | None,
    solver: Any,
    pattern: SparsePattern | None,
    n: int,
) -> LinearSolver:
    """The linear solver asked for, or the one that fits; refuses what does not fit together."""
    if pattern is not None and pattern.n != n:
        refuse(
            where,
            f"a jacobian_pattern of size {pattern.n} for {n} unknowns",
            "one size",
            "Number the flattened x0.",
        )
    if linear_solver is None:
        linear_solver = (
            SparseDirect()
            if pattern is not None
            else GMRES()
            if isinstance(solver, NewtonKrylov)
            else LU()
        )
    if isinstance(linear_solver, SparseDirect) and pattern is None:
        refuse(
            where,
            "SparseDirect() without jacobian_pattern",
            "the pattern of F_x",
            "Pass jacobian_pattern=SparsePattern(...).",
        )
    if not isinstance(linear_solver, LU | Cholesky | SparseDirect | Krylov):
        refuse(
            where,
            f"linear_solver = {linear_solver!r}",
            "LU(), Cholesky(), SparseDirect(), CG(), MINRES() or GMRES()",
            "Leave it out for the default.",
            TypeError,
        )
    return linear_solver
