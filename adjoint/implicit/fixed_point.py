"""fixed_point: x = step(x, p) by Picard's or Anderson's iteration, and its derivative.

The derivative takes GMRES or the transposed iteration.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Inexact, Int32, PyTree

from adjoint.implicit.residual import RootProblem
from adjoint.implicit.root import find_root
from adjoint.inputs import refuse, require_tolerance_and_limit, takes_jax_functions
from adjoint.linear.choice import LinearSolver
from adjoint.linear.iterative import GMRES
from adjoint.linear.krylov import Krylov
from adjoint.norm import norm, row_norms
from adjoint.solution import Solution
from adjoint.tracing import loops


@dataclass(frozen=True)
class Picard:
    """x <- step(x, p), as it stands: converges where step contracts, by that factor per step.

    Parameters
    ----------
    rtol
        Stop when |step(x) - x| is at most rtol max(|x|, |x - x0|), in the 2-norm.
    max_steps
        Limit on the number of steps.

    Examples
    --------
    >>> import jax.numpy as jnp, adjoint
    >>> x = adjoint.fixed_point(
    ...     lambda x, p: jnp.cos(p * x), jnp.ones(1), jnp.ones(1), adjoint.Picard()
    ... )
    >>> round(float(adjoint.require(x)[0]), 6)  # Dottie's number
    0.739085
    """

    rtol: float = 1e-12
    max_steps: int = 10_000

    def __post_init__(self) -> None:
        require_tolerance_and_limit(type(self).__name__, self.rtol, self.max_steps, (1e-12, 10_000))

    def find(
        self, problem: RootProblem, x0: Inexact[Array, " n"], p: PyTree
    ) -> tuple[Inexact[Array, " n"], Int32[Array, ""]]:
        return self._iterate(problem, x0, p, lambda history, x, r: (history, x + r), ())

    def _iterate(
        self,
        problem: RootProblem,
        x0: Array,
        p: PyTree,
        advance: Callable[..., Any],
        history: PyTree,
    ) -> tuple[Array, Array]:
        """x <- advance(history, x, r), r = step(x) - x, until r is small, with the last step."""

        class State(NamedTuple):
            x: Array
            history: Any
            steps: Array
            done: Bool[Array, ""]

        # In float32 a step of 1e-12 of x does not exist.
        rtol = max(self.rtol, 8 * float(jnp.finfo(x0.dtype).eps))

        def proceed(s: State) -> Array:
            return ~s.done & (s.steps < self.max_steps)

        def body(s: State) -> State:
            r = -problem.F(s.x, p)
            history, x = advance(s.history, s.x, r)
            size = jnp.maximum(norm(s.x), norm(s.x - x0))
            r_norm = norm(r)
            small = r_norm <= rtol * size
            return State(
                jnp.where(small, s.x + r, x), history, s.steps + 1, small | ~jnp.isfinite(r_norm)
            )

        end = loops.while_loop(
            proceed, body, State(x0, history, jnp.zeros((), jnp.int32), jnp.zeros((), bool))
        )
        return end.x, end.steps


@dataclass(frozen=True)
class Anderson(Picard):
    """Anderson's acceleration: the last iterates' combination of least residual, stepped once.

    Needs far fewer steps than `Picard`, and often converges where that does not. On a linear step
    it is GMRES.

    Parameters
    ----------
    rtol, max_steps
        As for `Picard`.
    memory
        Number of earlier iterates combined; 2 memory vectors are stored.

    Notes
    -----
    Source: Walker and Ni, Anderson acceleration for fixed-point iterations, SIAM J. Numer. Anal.
    49, 2011, equation (2.2).

    Examples
    --------
    >>> import jax.numpy as jnp, adjoint
    >>> solution = adjoint.fixed_point(
    ...     lambda x, p: p - 2.0 * x, jnp.zeros(1), jnp.ones(1)
    ... )  # Picard diverges
    >>> round(float(adjoint.require(solution)[0]), 6)
    0.333333
    """

    max_steps: int = 1000
    memory: int = 5

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.memory < 1:
            refuse("Anderson", f"memory = {self.memory}", "a positive integer", "5 is usual.")

    def find(
        self, problem: RootProblem, x0: Inexact[Array, " n"], p: PyTree
    ) -> tuple[Inexact[Array, " n"], Int32[Array, ""]]:
        m = min(self.memory, x0.size)

        class History(NamedTuple):
            """Differences of the last iterates and their residuals, as rows; zero where none is."""

            dx: Array
            dr: Array
            x: Array
            r: Array
            count: Array

        def advance(h: History, x: Array, r: Array) -> tuple[History, Array]:
            row = (h.count - 1) % m
            known = h.count > 0
            dx = jnp.where(known, h.dx.at[row].set(x - h.x), h.dx)
            dr = jnp.where(known, h.dr.at[row].set(r - h.r), h.dr)
            # min |r - gamma dr|; rows of different size would hide the small ones from the cut of
            # the least squares.
            size = row_norms(dr)
            scale = jnp.where(size > 0, size, 1)
            r_norm = norm(r)
            unit = jnp.where(r_norm > 0, r_norm, 1)
            gamma = jnp.linalg.lstsq((dr / scale[:, None]).T, r / unit, rcond=1e-12)[0] * (
                unit / scale
            )
            accelerated = x + r - gamma @ (dx + dr)
            x_new = jnp.where(jnp.all(jnp.isfinite(accelerated)), accelerated, x + r)
            return History(dx, dr, x, r, h.count + 1), x_new

        empty = jnp.zeros((m, x0.size), x0.dtype)
        start = History(empty, empty, x0, jnp.zeros_like(x0), jnp.zeros((), jnp.int32))
        return self._iterate(problem, x0, p, advance, start)


@dataclass(frozen=True)
class TransposedIteration(Krylov):
    """lam <- step_x' lam + x_bar: the adjoint by the same kind of iteration as the fixed point.

    As a linear solver: A y = c with A = I - S by y <- y + (c - A y). Converges where `Picard` does,
    at the same rate, and stores three vectors.

    Parameters
    ----------
    rtol, atol, max_steps, preconditioner
        As for `GMRES`; the default limit of steps is 10 n, at least 1000.

    Notes
    -----
    **Status**: `NOT_CONVERGED`. Source: Christianson, Reverse accumulation and attractive fixed
    points, Optim. Methods Softw. 3, 1994.

    Examples
    --------
    >>> import jax, jax.numpy as jnp, adjoint
    >>> x = lambda p: adjoint.fixed_point(
    ...     lambda x, p: jnp.cos(p * x), jnp.ones(1), p, linear_solver=adjoint.TransposedIteration()
    ... ).value[0]
    >>> round(float(jax.grad(x)(jnp.ones(1))[0]), 6)  # -x sin x / (1 + sin x)
    -0.297474
    """

    needs_spectrum: ClassVar[bool] = True

    def _limit(self, n: int) -> int:
        return self.max_steps or max(10 * n, 1000)

    def _cycle(
        self,
        A: Callable[[Array], Array],
        M: Callable[[Array], Array],
        r: Array,
        target: Array,
        steps_left: Array,
    ) -> tuple[Array, Array]:
        # All in one cycle: on the way down the residual of a nonsymmetric operator may grow for a
        # while.
        def proceed(state: tuple[Array, Array, Array]) -> Array:
            _, r, step = state
            r_norm = norm(r)
            return (r_norm > target) & (step < steps_left) & jnp.isfinite(r_norm)

        def advance(state: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
            y, r, step = state
            d = M(r)
            return y + d, r - A(d), step + 1

        y, _, steps = loops.while_loop(
            proceed, advance, (jnp.zeros_like(r), r, jnp.zeros((), jnp.int32))
        )
        return y, steps


@takes_jax_functions("fixed_point")
def fixed_point(
    step: Callable[[PyTree, PyTree], PyTree],
    x0: PyTree,
    p: PyTree,
    solver: Any = None,
    *,
    linear_solver: LinearSolver | None = None,
    mode: Literal["reverse", "both"] = "reverse",
) -> Solution[PyTree]:
    """Solve x = step(x, p) for x, with derivatives by p at the price of one linear solve.

    Parameters
    ----------
    step
        As the `residual` of `root`, but returns the next x, structured as x.
    x0, p, mode
        As for `root`.
    solver
        `Anderson` (default), `Picard`, or any solver of `root`.
    linear_solver
        For the derivative: `GMRES` (default), `TransposedIteration`, or any linear solver of
        `root`.

    Returns
    -------
    solution
        As of `root`, for the residual x - step(x, p).

    Raises
    ------
    ValueError, TypeError
        When step, x0 and p do not make a fixed-point problem, before any solving.

    Notes
    -----
    **Derivative**: p_bar = (adjoint of p -> step(x, p))(lam) with lam = step_x' lam + x_bar; of any
    order.

    **Status**: as of `root`. An iteration that stopped short of a fixed point is `NOT_CONVERGED`.

    **Cost**: the iteration, two linear solves to examine its result, and one transposed one for the
    derivative.

    Source: Christianson (1994); Griewank and Walther, Evaluating Derivatives, 2nd ed., section
    15.3.

    Examples
    --------
    >>> import jax, jax.numpy as jnp, adjoint
    >>> x = lambda p: adjoint.fixed_point(lambda x, p: 0.5 * (x + p / x), jnp.ones(1), p).value[0]
    >>> value, gradient = jax.value_and_grad(x)(jnp.array([4.0]))
    >>> round(float(value), 6), round(float(gradient[0]), 6)  # sqrt(p), 1 / (2 sqrt(p))
    (2.0, 0.25)
    """

    def residual(x: PyTree, p: PyTree) -> PyTree:
        x_new = step(x, p)
        _require_same_structure(x_new, x)
        return jax.tree.map(jnp.subtract, x, x_new)

    solver = Anderson() if solver is None else solver
    linear_solver = GMRES() if linear_solver is None else linear_solver
    return find_root("fixed_point", residual, x0, p, solver, linear_solver, None, mode)


def _require_same_structure(x_new: PyTree, x: PyTree) -> None:
    given, expected = (
        (jax.tree.structure(t), [jnp.shape(leaf) for leaf in jax.tree.leaves(t)])
        for t in (x_new, x)
    )
    if given != expected:
        refuse(
            "fixed_point",
            f"step(x, p) with {given[0]} of shapes {given[1]}",
            f"{expected[0]} of shapes {expected[1]}, as x",
            "A step returns the next x.",
        )
