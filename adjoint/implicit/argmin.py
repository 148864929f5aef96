"""argmin: the minimizer of f(x, p), with or without constraints, and its derivatives by p.

Without constraints x(p) is a root of the gradient; with them, of the Karush-Kuhn-Tucker conditions
(Nocedal and Wright, Numerical Optimization, 2nd ed., theorem 12.1), whose derivative is that of the
minimizer where complementarity is strict (Fiacco, Introduction to Sensitivity and Stability
Analysis in Nonlinear Programming, 1983, theorem 3.2.2).
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, PyTree

from adjoint.implicit.host_solver import HostSolver
from adjoint.implicit.minimizer import QuasiNewton
from adjoint.implicit.newton import Newton
from adjoint.implicit.residual import RootProblem, ravel, ravel_size
from adjoint.implicit.root import find_root
from adjoint.implicit.symmetric_gradient import symmetric_gradient
from adjoint.inputs import describe, refuse, require_function, takes_jax_functions, warn_if_cut
from adjoint.linear.choice import LinearSolver
from adjoint.linear.dense import LU, Cholesky
from adjoint.norm import norm, power_of_two, row_norms
from adjoint.solution import Solution, poison
from adjoint.status import Status, first_failure
from adjoint.tracing import loops
from adjoint.tracing.host_batching import HostStructure
from adjoint.tracing.programs import Static, compiled
from adjoint.tracing.traced_function import TracedFunction, trace_at_door

# h_i and its multiplier are both zero when they are below this share of their sizes.
WEAK = 1e-7
# A constraint that a solver has left by less than this share of its size counts as active at first.
NEAR = 1e-4


class _KKTPoint(NamedTuple):
    """Unknowns of the conditions: x as the user has it, and all constraints' multipliers, flat."""

    x: PyTree
    multipliers: Array


class _Problem(NamedTuple):
    """min f(x, p) / unit subject to c_i(x, p) = 0, or <= 0 where it `may_be_slack`.

    `counts` holds how many of them are equations, and how many there are.
    """

    f: TracedFunction
    c: TracedFunction
    unit: Array
    counts: Static

    @property
    def may_be_slack(self) -> np.ndarray:
        equations, all_of_them = self.counts.value
        return np.arange(all_of_them) >= equations

    def objective(self, x: PyTree, p: PyTree) -> Array:
        return self.f(x, p) / self.unit

    def conditions(self, at: _KKTPoint, p: PyTree) -> _KKTPoint:
        """f_x + c_x' m = 0; and c = 0, or for an inequality c = 0 if m + c > 0, else m = 0."""

        def lagrangian(x: PyTree, given: PyTree) -> Array:
            m, p = given
            return self.objective(x, p) + m @ self.c(x, p)

        c = self.c(at.x, p)
        slack = jnp.asarray(self.may_be_slack & (at.multipliers + c <= 0), c.dtype)
        stationarity = symmetric_gradient(lagrangian, at.x, (at.multipliers, p))
        return _KKTPoint(stationarity, slack * at.multipliers + (1 - slack) * c)

    def of_flat(
        self, unknowns: HostStructure, p: PyTree
    ) -> tuple[Callable[[Array], Array], Callable[[Array], Array]]:
        """The objective and the constraints as functions of a flat x."""
        return (
            lambda x: self.objective(unknowns.unravel(x), p),
            lambda x: self.c(unknowns.unravel(x), p),
        )


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class _Descend:
    """Minimize without constraints, then Newton's method on the gradient."""

    solver: Any = field(metadata={"static": True})
    f: TracedFunction

    def find(self, root: RootProblem, x0: Array, p: PyTree) -> tuple[Array, Array]:
        if isinstance(self.solver, HostSolver):
            return self.solver.find(root, x0, p)
        # In a unit of its slope at the start, so that squares of derivatives have room.
        unit = power_of_two(norm(root.F(x0, p)))
        x, steps = self.solver.minimize(lambda x: self.f(root.unravel(x), p) / unit, x0)
        x, more = Newton().find(root, x, p)
        return x, steps + more


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class _DescendUnder:
    """Minimize under constraints, estimate multipliers, then solve the conditions by Newton."""

    solver: Any = field(metadata={"static": True})
    problem: _Problem
    unknowns: HostStructure = field(metadata={"static": True})

    def find(self, root: RootProblem, x0: Array, p: PyTree) -> tuple[Array, Array]:
        f, c = self.problem.of_flat(self.unknowns, p)
        n = self.unknowns.flat.shape[0]
        if isinstance(self.solver, HostSolver):
            x, steps = self.solver.find(replace(root, unravel=self.unknowns.unravel), x0[:n], p)
        else:
            x, steps = self.solver.minimize_under(f, c, self.problem.may_be_slack, x0[:n])
        m = _multipliers(jax.grad(f)(x), jax.jacrev(c)(x), c(x), self.problem.may_be_slack, x)
        at, more = Newton().find(root, jnp.concatenate([x, m]), p)
        return at, steps + more


def _multipliers(f_x: Array, c_x: Array, c: Array, may_be_slack: np.ndarray, x: Array) -> Array:
    """m that minimizes |f_x + c_x' m|, with m = 0 for inequalities that are not near zero."""
    near = ~may_be_slack | (c > -NEAR * (1 + row_norms(c_x) * norm(x)))
    m = jnp.linalg.lstsq((c_x * near[:, None]).T, -f_x)[0]
    return jnp.where(may_be_slack, jnp.maximum(m, 0), m) * near


class _Verdict(NamedTuple):
    status: Status
    active: Bool[Array, " m"]


def _examine(problem: _Problem, at: _KKTPoint, x0: PyTree, p: PyTree) -> _Verdict:
    """Are signs and complementarity strict, and is it a minimum?"""
    x = ravel(at.x)
    m = at.multipliers
    x0 = ravel(x0)
    f, c = problem.of_flat(HostStructure.of(at.x), p)
    c_x = jax.jacrev(c)(x)
    c_0 = c(x)
    H = jax.jacfwd(jax.grad(lambda x: f(x) + m @ c(x)))(x)
    row = row_norms(c_x)
    size = jnp.maximum(norm(x), norm(x - x0))
    at_zero = jnp.abs(c_0) <= WEAK * row * size
    no_force = jnp.abs(m) * row <= WEAK * (norm(jax.grad(f)(x)) + norm(H) * size)
    active = ~problem.may_be_slack | (m + c_0 > 0)
    weak = problem.may_be_slack & at_zero & no_force
    wrong_sign = problem.may_be_slack & ((~no_force & (m < 0)) | (~at_zero & (c_0 > 0)))
    # A strict minimum has as many negative eigenvalues of the matrix below as constraints (Nocedal
    # and Wright, theorem 16.3 and section 18.4); an inactive one is counted by its -1.
    A = c_x * active[:, None]
    K = jnp.block([[H, A.T], [A, -jnp.diag(jnp.where(active, 0.0, 1.0)).astype(x.dtype)]])
    negative = jnp.sum(jnp.linalg.eigvalsh(jnp.where(jnp.isfinite(K), K, 0)) < 0)
    status = first_failure(
        (Status.NOT_CONVERGED, jnp.any(wrong_sign)),
        (Status.DEGENERATE, jnp.any(weak)),
        (Status.NOT_POSITIVE_DEFINITE, negative != m.size),
    )
    return _Verdict(status, jnp.asarray(active))


@takes_jax_functions(
    "argmin",
    "argmin needs second derivatives, which adjoint.external has not; adjoint.minimize takes "
    "functions of NumPy "
    "with gradient=, or through adjoint.external, and finds the minimizer without its derivative.",
)
def argmin(
    objective: Callable[[PyTree, PyTree], Array],
    x0: PyTree,
    p: PyTree,
    solver: Any = None,
    *,
    equality: Callable[[PyTree, PyTree], PyTree] | None = None,
    inequality: Callable[[PyTree, PyTree], PyTree] | None = None,
    linear_solver: LinearSolver | None = None,
    mode: Literal["reverse", "both"] = "reverse",
) -> Solution[PyTree]:
    """Minimize f(x, p) over x under g(x, p) = 0 and h(x, p) <= 0, with derivatives by p.

    Parameters
    ----------
    objective
        f(x, p), a real scalar, twice differentiable. It may close over values that are being
        differentiated.
    x0
        Where to start, an array or a pytree of real arrays of one dtype.
    p
        Parameters: a pytree with at least one floating-point array.
    solver
        `QuasiNewton` (default), or a `HostSolver` of any minimizer, which returns x alone.
    equality, inequality
        g(x, p) = 0 and h(x, p) <= 0: arrays or pytrees of them, of any shape, also without entries.
        (The inequalities of SciPy are >= 0: change their signs.) Bounds are inequalities, too: h =
        x - upper and lower - x.
    linear_solver
        For the derivative (and the last steps): `Cholesky` (default), or `LU` (default with
        constraints), or `CG`, which uses products with the Hessian alone, for many unknowns without
        constraints.
    mode
        As for `root`.

    Returns
    -------
    solution
        `Solution` with ``value`` x, structured as x0; ``status``; ``stats`` as of `root` and, with
        constraints, ``equality_multipliers``, ``inequality_multipliers`` (not negative) and
        ``active`` (which inequalities hold with equality), flat arrays. Stats are not
        differentiated.

    Raises
    ------
    ValueError, TypeError
        When the functions do not make a minimization problem, before any solving.

    Notes
    -----
    **Derivative**: of the root of grad f, or of the conditions with the active inequalities as
    equations; of any order. Second derivatives of f are taken by forward mode of its gradient, so
    that f may hold an `ode_solve`. Near weakly active constraints it changes abruptly, and there is
    none where one is weakly active.

    **Status**: as of `root`, with `NOT_POSITIVE_DEFINITE` at a saddle or maximum, and `DEGENERATE`
    where an inequality is active with a multiplier of zero; `SINGULAR` where gradients of active
    constraints depend on each other.

    **Cost**: the minimization; a dense Hessian and its factors, unless `linear_solver` is
    iterative; with constraints also the eigenvalues of the conditions' matrix. One linear solve for
    the derivative.

    Source: Fiacco (1983), theorem 3.2.2.

    Examples
    --------
    >>> import jax, jax.numpy as jnp, adjoint
    >>> x = lambda p: (
    ...     adjoint.argmin(
    ...         lambda x, p: jnp.sum((x - p) ** 2),
    ...         jnp.zeros(2),
    ...         p,
    ...         inequality=lambda x, p: jnp.sum(x) - 1,
    ...     ).value
    ... )
    >>> value, jacobian = (
    ...     x(jnp.ones(2)),
    ...     jax.jacrev(x)(jnp.ones(2)),
    ... )  # the projection onto x_1 + x_2 <= 1
    >>> [round(float(v), 6) for v in value], [[round(float(v), 6) for v in row] for row in jacobian]
    ([0.5, 0.5], [[0.5, -0.5], [-0.5, 0.5]])
    """
    solver = QuasiNewton() if solver is None else solver
    if not isinstance(solver, QuasiNewton | HostSolver):
        refuse(
            "argmin",
            f"solver = {solver!r}",
            "QuasiNewton() or HostSolver(function)",
            "Leave it out.",
            TypeError,
        )
    for name, given in (
        ("objective", objective),
        ("equality", equality),
        ("inequality", inequality),
    ):
        if given is not None or name == "objective":
            require_function("argmin", name, given)
    warn_if_cut("argmin", x0=x0, p=p)
    f = _real_scalar(objective, x0, p)
    present = [c for c in (equality, inequality) if c is not None]
    sizes = [ravel_size(jax.eval_shape(lambda *a, c=c: c(*a), x0, p)) for c in present]
    k = sizes[0] if equality is not None else 0
    constraints = (lambda x, p: ravel([c(x, p) for c in present])) if sum(sizes) else None
    x0 = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.result_type(leaf)), x0)
    p = jax.tree.map(jnp.asarray, p)
    (f, c), (x0, p), _ = trace_at_door((f, constraints), (x0, p))
    if sum(sizes) == 0:
        linear_solver = Cholesky() if linear_solver is None else linear_solver
        gradient = partial(symmetric_gradient, f)
        found = find_root("argmin", gradient, x0, p, _Descend(solver, f), linear_solver, None, mode)
        if not present:
            return found
        return replace(
            found, stats=found.stats | _multiplier_stats(jnp.zeros(0), jnp.zeros(0, bool), 0)
        )
    fixed = jax.lax.stop_gradient((f, x0, p))
    problem = _Problem(f, c, compiled(_unit, *fixed), Static((k, sum(sizes))))
    return _constrained(
        problem, x0, p, solver, LU() if linear_solver is None else linear_solver, mode
    )


def _unit(f: TracedFunction, x0: PyTree, p: PyTree) -> Array:
    """The objective's slope at the start.

    In units of it the multipliers are of the size of the constraints' units.
    """
    slope = norm(ravel(symmetric_gradient(f, x0, p)))
    return jnp.where(jnp.isfinite(slope) & (slope > 0), slope, 1)


def _constrained(
    problem: _Problem,
    x0: PyTree,
    p: PyTree,
    solver: Any,
    linear_solver: LinearSolver | None,
    mode: Literal["reverse", "both"],
) -> Solution[PyTree]:
    equations, all_of_them = problem.counts.value
    start = _KKTPoint(x0, loops.vary_alike(jnp.zeros(all_of_them, problem.unit.dtype), x0))
    descend = _DescendUnder(solver, problem, HostStructure.of(x0))
    found = find_root("argmin", problem.conditions, start, p, descend, linear_solver, None, mode)
    verdict = compiled(_examine, *jax.lax.stop_gradient((problem, found.value, x0, p)))
    status = first_failure(found.status, verdict.status)
    multipliers = problem.unit * jax.lax.stop_gradient(found.value.multipliers)
    stats = found.stats | _multiplier_stats(multipliers, verdict.active, equations)
    return Solution(poison(found.value.x, status.ok), status, stats, found.origin)


def _multiplier_stats(multipliers: Array, active: Array, k: int) -> dict[str, Array]:
    """The first k of the constraints are equations."""
    return {
        "equality_multipliers": multipliers[:k],
        "inequality_multipliers": multipliers[k:],
        "active": active[k:],
    }


def _real_scalar(
    objective: Callable[..., PyTree], x0: PyTree, p: PyTree
) -> Callable[[PyTree, PyTree], Array]:
    shape: Any = jax.eval_shape(objective, x0, p)
    if not (
        hasattr(shape, "shape") and shape.shape == () and jnp.issubdtype(shape.dtype, jnp.floating)
    ):
        refuse(
            "argmin",
            f"an objective that returns {describe(shape)}",
            "a real scalar",
            "Return one number.",
            TypeError,
        )
    return objective
