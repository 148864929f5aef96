"""Newton's method for F(x, p) = 0, damped, with any linear solver: the default of `root`.

A solver of this folder has one method, `find(problem, x0, p) -> x, steps`, that is never
differentiated and need not judge its own success: `root` examines what it returns.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Inexact, Int32, PyTree

from adjoint.implicit.regularity import typical_size
from adjoint.implicit.residual import JacobianAction, RootProblem
from adjoint.inputs import require_tolerance_and_limit
from adjoint.linear.equilibrated import Equilibrated, Scaled, Scales, scales_of
from adjoint.linear.iterative import CG, GMRES, MINRES
from adjoint.linear.krylov import Krylov
from adjoint.linear.multigrid import Multigrid
from adjoint.linear.outcome import Outcome, probe_vector
from adjoint.norm import norm
from adjoint.tracing import loops

# Share of the decrease predicted by the linear model that a step must bring (Nocedal and Wright,
# section 11.2).
SUFFICIENT_DECREASE = 1e-4
# After 40 halvings a step is below 1e-12 of the Newton step: nothing along it decreases the
# residual.
HALVINGS = 40
# A linear system is solved to FORCING (|F| / |F before|)^2, relative to |F|, and at least to
# LOOSEST.
FORCING = 0.9
LOOSEST = 0.1
# A preconditioner built from F_x is built anew when a step takes so many times the linear
# iterations of the first one with it.
OUTDATED = 2
# Where the derivative says nothing (F_x = 0 at the start), x is moved by this share of its size to
# look elsewhere.
KICK = 0.05


class _State(NamedTuple):
    x: Array
    F: Array
    steps: Int32[Array, ""]
    done: Bool[Array, ""]
    # What the steps hand on from one to the next.
    kept: PyTree


@dataclass(frozen=True)
class Newton:
    """x <- x - t F_x^-1 F with the longest t = 1, 1/2, 1/4, ... that decreases |F| enough.

    |F| is in the sizes of its terms. Where F_x is singular, the steepest-descent (Cauchy) step of
    |F|^2 takes the place of the Newton step, so a singular Jacobian at the start does no harm. As
    the method of `minimize`, F_x is the Hessian, the step is kept within a trust region, and
    `minimize` has a tolerance and a limit of its own.

    Parameters
    ----------
    rtol
        Stop when the full step is at most rtol max(|x|, |x - x0|), entry by entry. Convergence is
        quadratic: the error is then about its square. For an entry that is zero its size is that at
        which it would matter in F.
    max_steps
        Limit on the number of steps.

    Notes
    -----
    Steps, damping and test do not depend on the units of the equations and of the unknowns.

    **Cost** per step: one Jacobian, one factorization, one solve, one to a few residuals. Source:
    Nocedal and Wright, Numerical Optimization, 2nd ed., section 11.2.

    Examples
    --------
    >>> import jax.numpy as jnp, adjoint
    >>> x = adjoint.require(
    ...     adjoint.root(
    ...         lambda x, p: jnp.arctan(x) - p,
    ...         jnp.array([10.0]),
    ...         jnp.array([0.5]),
    ...         adjoint.Newton(),
    ...     )
    ... )
    >>> round(float(x[0]), 6)  # tan 0.5
    0.546302
    """

    rtol: float = 1e-10
    max_steps: int = 100

    def __post_init__(self) -> None:
        require_tolerance_and_limit(type(self).__name__, self.rtol, self.max_steps, (1e-10, 100))

    def find(
        self, problem: RootProblem, x0: Inexact[Array, " n"], p: PyTree
    ) -> tuple[Inexact[Array, " n"], Int32[Array, ""]]:
        F = problem.F

        def advance(s: _State) -> _State:
            step, scales, kept = self._step(problem, s, p, typical_size(s.x, x0))
            t, F_new, decreased = _line_search(lambda x: F(x, p), s.x, s.F, step, scales.rows)
            x = jnp.where(decreased, s.x + t * step, s.x)
            size = jnp.maximum(typical_size(x, x0), jnp.where(scales.known, scales.columns, 0))
            small = jnp.all(jnp.abs(step) <= self._tolerance(x.dtype) * size)
            done = small | ~decreased | ~jnp.any(F_new != 0)
            return _State(x, jnp.where(decreased, F_new, s.F), s.steps + 1, done, kept)

        F0 = F(x0, p)
        done = ~jnp.any(F0 != 0) | ~jnp.all(jnp.isfinite(F0))
        start = _State(x0, F0, jnp.zeros((), jnp.int32), done, self._prepare(problem, x0, p))
        end = loops.while_loop(lambda s: ~s.done & (s.steps < self.max_steps), advance, start)
        return end.x, end.steps

    def _tolerance(self, dtype: DTypeLike) -> float:
        # In float32 a step of 1e-10 of x does not exist.
        return max(self.rtol, 32 * float(jnp.finfo(dtype).eps))

    def _prepare(self, problem: RootProblem, x0: Array, p: PyTree) -> PyTree:
        """What the first step is handed."""
        return ()

    def _step(
        self, problem: RootProblem, s: _State, p: PyTree, size: Array
    ) -> tuple[Array, Scales, Any]:
        """The step from s, for unknowns of this size, and the sizes by which F is measured.

        Those of the linear system: what an iteration leaves of F is small in these only.
        """
        J = problem.jacobian(s.x, p)
        solver = Equilibrated(problem.linear_solver)
        scales = scales_of(J, size)
        factor = solver.factor(J, scales)
        scales = scales._replace(rows=factor.rows)
        step, outcome = solver.solve(factor, J, -s.F)
        return _regular_step(problem, s, p, scales, step, outcome), scales, ()


@dataclass(frozen=True)
class NewtonKrylov(Newton):
    """`Newton` by GMRES from products with F_x alone: memory of a few vectors, no Jacobian.

    As the method of `minimize`, the steps are found by conjugate gradients within a trust region,
    from products with the Hessian, preconditioned by the inner product or by `preconditioner`; of
    the settings, these two and `forcing` count.

    Parameters
    ----------
    rtol, max_steps
        As for `Newton`.
    forcing
        Smallest relative residual to which a linear system is solved. Far from the solution an
        exact step is wasted, so the first ones are solved to 0.1 and the others to about the square
        of what the last step left of |F|; the last steps contract the error by about this factor
        each.
    restart
        Length of a GMRES cycle: restart + 1 vectors are stored.
    preconditioner
        Function v -> M v close to F_x^-1 v, used in every step; or a `Multigrid`, which is built
        from F_x at the start, and again when a step takes twice the linear iterations for each
        decade of the residual.

    Notes
    -----
    With ``linear_solver=CG()`` or ``MINRES()``, for a symmetric F_x, the steps are found by that
    method, and by its preconditioner if none is given here.

    Source: Knoll and Keyes, Jacobian-free Newton-Krylov methods, J. Comput. Phys. 193, 2004; the
    residuals: Eisenstat and Walker, SIAM J. Sci. Comput. 17, 1996, choice 2.

    Examples
    --------
    >>> import jax.numpy as jnp, adjoint
    >>> cube = lambda x, p: x + 0.1 * jnp.roll(x, 1) ** 3 - p
    >>> x = adjoint.require(
    ...     adjoint.root(cube, jnp.zeros(4), 1.1 * jnp.ones(4), adjoint.NewtonKrylov())
    ... )
    >>> [round(float(v), 6) for v in x]
    [1.0, 1.0, 1.0, 1.0]
    """

    forcing: float = 1e-4
    restart: int = 30
    preconditioner: Callable[[Array], Array] | Multigrid | None = None

    def _prepare(self, problem: RootProblem, x0: Array, p: PyTree) -> PyTree:
        shapes = jax.eval_shape(lambda x: self._built(problem, JacobianAction(problem.F, x, p)), x0)
        nothing = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
        zero = jnp.zeros((), x0.real.dtype)
        return _Kept(zero, nothing, zero, jnp.ones((), bool))

    def _step(
        self, problem: RootProblem, s: _State, p: PyTree, size: Array
    ) -> tuple[Array, Scales, Any]:
        J = JacobianAction(problem.F, s.x, p)
        inner = self._inner(problem)
        solver = Equilibrated(inner)
        scales = scales_of(J, size)
        unprepared = solver.with_preconditioner(None, scales)
        scales = scales._replace(rows=unprepared.rows)
        F_norm = norm(s.F / scales.rows)
        tolerance = jnp.clip(
            FORCING * (F_norm / s.kept.norm) ** 2, self.forcing, max(self.forcing, LOOSEST)
        )
        built = loops.cond(s.kept.outdated, lambda: self._built(problem, J), lambda: s.kept.M)
        M = built if isinstance(inner.preconditioner, Multigrid) else inner.factor(J)
        step, outcome = solver.solve_to(unprepared._replace(factor=M), J, -s.F, tolerance)
        pace = outcome.iterations / -jnp.log10(tolerance)
        usual = jnp.where(s.kept.outdated, pace, s.kept.pace)
        outdated = (outcome.code != 0) | (pace > OUTDATED * usual)
        kept = _Kept(F_norm, built, usual, outdated)
        return _regular_step(problem, s, p, scales, step, outcome), scales, kept

    def _built(self, problem: RootProblem, J: JacobianAction) -> Any:
        """A preconditioner that is worth keeping for further steps, or nothing."""
        inner = self._inner(problem)
        return inner.factor(J) if isinstance(inner.preconditioner, Multigrid) else ()

    def _inner(self, problem: RootProblem) -> Krylov:
        """The solver of a step: the derivative's if made for symmetric operators, else GMRES."""
        chosen = problem.linear_solver
        if isinstance(chosen, CG | MINRES):
            M = chosen.preconditioner if self.preconditioner is None else self.preconditioner
            return replace(chosen, atol=0.0, rtol=self.forcing, preconditioner=M)
        return GMRES(self.forcing, restart=self.restart, preconditioner=self.preconditioner)


class _Kept(NamedTuple):
    """What goes from step to step.

    That is |F| before (zero at the start), the preconditioner if it was built from F_x, the linear
    iterations for each decade of the residual in the first step with it, and whether it is to be
    built anew.
    """

    norm: Array
    M: PyTree
    pace: Array
    outdated: Bool[Array, ""]


def _regular_step(
    problem: RootProblem, s: _State, p: PyTree, scales: Scales, step: Array, outcome: Outcome
) -> Array:
    """The Newton step where F_x is regular, else Cauchy's."""
    regular = (outcome.code == 0) & jnp.all(jnp.isfinite(step))
    return loops.cond(
        regular, lambda: step, lambda: _cauchy_step(JacobianAction(problem.F, s.x, p), s.F, scales)
    )


def _cauchy_step(J: JacobianAction, F: Array, scales: Scales) -> Array:
    """The minimizer of |F + F_x s| along s = -F_x' F, in the sizes of F and x.

    Where that is zero or not finite, it is a kick.
    """
    scaled = Scaled(J, scales.rows, scales.columns)
    G = F / scales.rows
    g = scaled.transpose_matvec(G.conj()).conj()
    g_norm = norm(g)
    direction = g / jnp.where(g_norm > 0, g_norm, 1)
    curvature = norm(scaled.matvec(direction))
    step = -(g_norm / jnp.where(curvature > 0, curvature, 1) ** 2) * direction
    usable = (curvature > 0) & jnp.all(jnp.isfinite(step))
    kick = KICK * jnp.asarray(probe_vector(F.size), F.dtype)
    return scales.columns * jnp.where(usable, step, kick)


def _line_search(
    F: Callable[[Array], Array], x: Array, F_x: Array, step: Array, rows: Array
) -> tuple[Array, Array, Array]:
    """The longest t = 2^-k for which |F(x + t step)| is finite and decreases enough.

    |F| is in the sizes of the rows. F there, and whether there is such a t, come with it.
    """
    F_norm = norm(F_x / rows)

    def enough(t: Array, F_t: Array) -> Array:
        return norm(F_t / rows) <= (1 - SUFFICIENT_DECREASE * t) * F_norm

    def halve(state: PyTree) -> PyTree:
        t, _, k = state
        return 0.5 * t, F(x + 0.5 * t * step), k + 1

    one = jnp.ones((), F_norm.dtype)
    start = (one, F(x + step), jnp.zeros((), jnp.int32))
    t, F_t, _ = loops.while_loop(lambda s: ~enough(s[0], s[1]) & (s[2] < HALVINGS), halve, start)
    return t, F_t, enough(t, F_t)
