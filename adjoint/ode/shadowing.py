"""shadowing_sensitivity: long-time averages of chaotic flows and their derivatives, by least
squares shadowing.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import jax
import jax.core
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jax.interpreters import partial_eval
from jaxtyping import Array, Float, PyTree

from adjoint.inputs import all_finite, none_is_nan, refuse, takes_jax_functions, warn_if_cut
from adjoint.ode import block_tridiagonal
from adjoint.ode.arguments import require_problem, runge_kutta
from adjoint.ode.choice import at_stability_limit, choose
from adjoint.ode.integrate import Integrator, Outcome, integrate
from adjoint.ode.runge_kutta import RungeKutta, Tolerances
from adjoint.ode.solve import Plan, solve_plan
from adjoint.ode.time_average import smooth_weights, standard_error
from adjoint.ode.vector_field import Problem, pose, strongly_typed
from adjoint.solution import Solution, poison
from adjoint.status import Status, first_failure
from adjoint.tracing import loops
from adjoint.tracing.programs import compiled
from adjoint.tracing.traced_function import TracedFunction, trace_at_door

# A chaotic flow forgets where it began, so the tangent from a fixed y0 is the wrong one: it grows.
# Of all tangents along the trajectory, its time running 1 + eta times as fast, the shadow is the
# smallest (Wang, Hu and Blonigan 2014, section 3):  minimize   int |v|^2 + alpha^2 eta^2 dt
# subject to   v' = f_y v + f_p dp + eta f d<g> = < g_y v + g_p dp + eta (g - <g>) >  Here segment k
# of length h takes y_k to y_{k+1} and adds up q_k, the integral of g. With the exact derivatives of
# its steps, Phi_k = dy_{k+1}/dy_k and phi_k = (dy_{k+1}/dp) dp, and the stretch delta_k = h eta_k
# of the segment, that is  v_{k+1} - Phi_k v_k - f_{k+1} delta_k = phi_k,   C x = phi,   x = (v,
# delta),   x' D x = Sum |v_k|^2 + c^2 delta_k^2  c is the root mean square of |f|: a stretch costs
# as much as the way that it makes (alpha = c h). Weights w_k, Sum w_k h = 1, make d<g> = a' x + Sum
# w_k (dq_k/dp) dp, with a = w_k dq_k/dy_k for v_k and w_k (g_{k+1} - <g>) for delta_k. Its
# transpose is one system for all parameters, block tridiagonal and positive definite:  C D^-1 C'
# lam = C D^-1 a,     d<g>/dp = Sum lam_k' dy_{k+1}/dp + w_k dq_k/dp

# The spread over so many parts of the time tells how uncertain the average is; one part at a time
# is in memory.
BLOCKS = 64
# The tangent of a segment must carry the velocity at its start to that at its end, to this share of
# the mean velocity. On the Lorenz attractor gradients were wrong by 0.05 % at an error of 4e-4, by
# 2 % at 4e-3, and by 80 % at 8e-2.
LARGEST_TANGENT_ERROR = 1e-3


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class _Request:
    """The functions of the user as they were traced, and all else that is known when tracing."""

    f: TracedFunction
    running_cost: TracedFunction
    method: RungeKutta = field(metadata={"static": True})
    tolerances: Tolerances = field(metadata={"static": True})
    max_steps: int = field(metadata={"static": True})
    segments: int = field(metadata={"static": True})
    autonomous: bool = field(metadata={"static": True})

    def pose(self, y: PyTree, p: PyTree, t0: Array, t1: Array) -> tuple[Integrator, Problem]:
        problem = pose(self.f, self.running_cost, y, p, (t0, t1), (False, False), None)
        return Integrator(problem.field, self.method, self.tolerances, self.max_steps), problem

    def advance(
        self, y: PyTree, p: PyTree, t0: Array, t1: Array
    ) -> tuple[Float[Array, " n+1"], Outcome]:
        """(y, integral of g) at t1 as one vector, to be differentiated forward, and how it went."""
        integrator, problem = self.pose(y, p, t0, t1)
        z, _, _, outcome = integrate(integrator, problem.y0, problem.p, problem.s)
        return z, outcome

    def advance_in_reverse(
        self, y: PyTree, p: PyTree, t0: Array, t1: Array
    ) -> Float[Array, " n+1"]:
        """(y, integral of g) at t1, to be differentiated backward."""
        integrator, problem = self.pose(y, p, t0, t1)
        plan = Plan(integrator, choose(integrator, problem.y0, problem.p, 0).sensitivity)
        return solve_plan(plan, problem)[0]


@takes_jax_functions("shadowing_sensitivity")
def shadowing_sensitivity(
    f: Callable[..., PyTree],
    y0: PyTree,
    p: PyTree,
    t0: float,
    t1: float,
    *,
    running_cost: Callable[..., Array],
    transient: float,
    segments: int,
    solver: Any = None,
    rtol: float = 1e-6,
    atol: float = 1e-9,
    max_steps: int = 4096,
) -> Solution[tuple[Float[Array, ""], PyTree]]:
    """The average <g> over t of g(t, y, p) along y' = f(t, y, p), and d<g>/dp of the average over
    infinite time, chaotic or not.

    The gradient is part of the result, and the only one there is: `jax.grad` of this function is
    refused. The derivative of an average over a finite time, which `jax.grad` through `ode_solve`
    gives, grows like the distance of neighbors in a chaotic flow and has nothing to do with
    d<g>/dp.

    Parameters
    ----------
    f
        f(t, y, p), structured as y. Where neither f nor g depends on t the shadow may run faster or
        slower than the trajectory; where f does, as with a periodic forcing, it keeps its time.
    y0
        The state at t0: an array or a pytree of floating-point arrays of one dtype. The average
        does not depend on it, except for the choice among several attractors.
    p
        Parameters, a pytree of floating-point arrays. Derivatives are taken with respect to all of
        it, and to nothing else.
    t0, t1
        The ends, numbers.
    running_cost
        g(t, y, p), a number.
    transient
        The time in which the flow reaches its attractor; averages are taken from t0 + transient to
        t1.
    segments
        How many segments of equal length this time is cut into, rounded up to a multiple of 64. In
        a segment a tangent should not grow more than about a thousand times (``segment_growth``),
        or the errors of the steps grow too much with it.
    solver, rtol, atol
        As in `ode_solve`.
    max_steps
        At most so many attempts at a step in the transient, and in each segment.

    Returns
    -------
    solution
        `Solution` with ``value`` the pair (average, gradient), the gradient like p; ``status``;
        ``stats``: ``average_error`` and ``gradient_error``, the standard errors of both for the
        finite time, the latter of all numbers of p as one vector in the order of
        `jax.flatten_util.ravel_pytree`; ``segment_growth``, the largest factor by which a tangent
        grows in a segment; ``tangent_error``, how far tangents are from carrying f along, relative;
        ``residual`` of the linear system, relative.

    Raises
    ------
    ValueError, TypeError
        When f, y0, p, g, the times or the solver do not make a problem, before any solving; when it
        is differentiated.

    Notes
    -----
    **Average**: weighted in time, with weights that rise from zero and fall to zero smoothly over a
    quarter of the time each.

    **Derivative**: of the average over infinite time, approximated by the shadow; its error
    decreases like one over the root of the time. The standard errors come from the spread and
    correlation of 64 parts of the time, 16 of which should be longer than the memory of the flow;
    that of the gradient is cautious, on the Lorenz attractor 2 to 14 times the error. They do not
    cover what shadowing itself leaves out: at bifurcations, and where stable and unstable
    directions touch, it is biased, or there is no derivative. d<z>/drho of the Lorenz attractor at
    rho = 28 comes out as 1.017; long averages have the slope 1.002. With a conserved quantity the
    average depends on y0, and the gradient is that with the least change of the state. The
    frequency of a forcing that f takes from t shifts its phase without bound: make the clock a
    state of f.

    **Status**: of the solves as in `ode_solve`; `NONFINITE_INPUT`; `UNTRUSTED` when the steps do
    not carry tangents along well enough: take more segments or smaller tolerances, or an implicit
    solver where an explicit one is at its stability limit; `ILL_CONDITIONED` when segments are far
    too long, or there is no shadow. Then the value is NaN.

    **Cost**: O(N n^3) operations and 3 N n^2 numbers for n states and N segments; the solve twice,
    n tangents of it, and one gradient by p. Outside of `jax.jit` it is compiled once, and found
    again by what f computes.

    Source: Q. Wang, R. Hu, P. Blonigan, J. Comput. Phys. 267, 2014, with the exact derivatives of
    segments in place of midpoint differences, as in P. Blonigan, Q. Wang, J. Comput. Phys. 354,
    2018.

    Examples
    --------
    >>> import jax.numpy as jnp, adjoint
    >>> def lorenz(t, y, rho):
    ...     return jnp.array(
    ...         [10 * (y[1] - y[0]), y[0] * (rho - y[2]) - y[1], y[0] * y[1] - 8 / 3 * y[2]]
    ...     )
    >>> height = lambda t, y, rho: y[2]
    >>> solution = adjoint.shadowing_sensitivity(
    ...     lorenz,
    ...     jnp.ones(3),
    ...     jnp.array(28.0),
    ...     0.0,
    ...     130.0,
    ...     running_cost=height,
    ...     transient=30.0,
    ...     segments=512,
    ... )
    >>> average, gradient = adjoint.require(solution)
    >>> round(float(average)), round(float(gradient), 1)
    (24, 1.0)
    """
    where = "shadowing_sensitivity"
    times = _check(t0, t1, transient, segments)
    dtype = require_problem(where, f, y0, p, t0, t1, rtol, atol, max_steps, "reverse")
    warn_if_cut(where, y0=y0, p=p)
    y0, p = strongly_typed(y0), jax.tree.map(jnp.asarray, p)
    times = tuple(jnp.asarray(t, dtype) for t in times)
    _check_parameters(p)
    method = runge_kutta(where, solver, None)
    autonomous = not _uses_time(f, running_cost, y0, p)
    (slope, cost), (begin, y0, p), later = trace_at_door(
        (f, running_cost), (times[0], y0, p), *times[1:]
    )
    request = _Request(
        slope,
        cost,
        method,
        Tolerances(rtol, atol),
        max_steps,
        -(-segments // BLOCKS) * BLOCKS,
        autonomous,
    )
    return compiled(_solve_request, request, y0, p, begin, *later)


def _solve_request(
    request: _Request, y0: PyTree, p: PyTree, t0: Array, begin: Array, t1: Array
) -> Solution[Any]:
    y0, p = _undifferentiated((y0, p))
    flat, unravel = ravel_pytree(y0)
    trajectory, h, code = _trajectory(request, unravel, flat, p, (t0, begin, t1))
    w = smooth_weights(request.segments, (t1 - begin) / request.segments)
    average = w @ trajectory.q
    lam, checks = _adjoint(request, trajectory, p, h, w, average)
    blocks = _gradients(request, trajectory, p, h, w, lam)
    gradient = jax.tree.map(lambda leaf: jnp.sum(leaf, axis=0), blocks)
    parts = jax.vmap(lambda block: ravel_pytree(block)[0])(blocks)
    shares, parts_of_average = (
        jnp.sum(x.reshape(BLOCKS, -1), axis=1) for x in (w * h, w * trajectory.q)
    )
    (average_error,) = standard_error(shares, parts_of_average[:, None])
    stats = {
        "average_error": average_error,
        "gradient_error": standard_error(shares, parts),
        **checks,
    }
    are_numbers = all_finite(y0) & none_is_nan(p)
    is_solved = (checks["residual"] < jnp.finfo(flat.dtype).eps ** 0.5) & jnp.all(
        jnp.isfinite(parts)
    )
    is_at_limit = at_stability_limit(jax.tree.map(jnp.sum, trajectory.outcomes))
    is_accurate = (checks["tangent_error"] < LARGEST_TANGENT_ERROR) & ~is_at_limit
    status = first_failure(
        (Status.NONFINITE_INPUT, ~are_numbers),
        Status(code),
        (Status.ILL_CONDITIONED, ~is_solved),
        (Status.UNTRUSTED, ~is_accurate),
    )
    value = _undifferentiated(poison((average, gradient), status.ok))
    origin = (
        f"shadowing_sensitivity ({flat.size} states, {request.segments} segments, {flat.dtype})"
    )
    return Solution(value, status, stats, origin)


class _Trajectory(NamedTuple):
    """The ends of the segments; segment k goes from t[k], y[k] to t[k] + h, after[k], with the
    integral q[k] of g.
    """

    t: Float[Array, " segments"]
    y: Float[Array, "segments n"]
    after: Float[Array, "segments n"]
    q: Float[Array, " segments"]
    outcomes: Outcome
    unravel: Callable[[Array], PyTree]


def _trajectory(
    request: _Request,
    unravel: Callable[[Array], PyTree],
    y: Array,
    p: PyTree,
    times: tuple[Array, Array, Array],
) -> tuple[_Trajectory, Array, Array]:
    """The trajectory, the lengths of its segments, and the first failure; after a failure segments
    of length 0 lose no time.
    """
    t0, begin, t1 = times
    length = (t1 - begin) / request.segments
    start, outcome = request.advance(unravel(y), p, t0, begin)

    def advance(carry: Any, t: Array) -> tuple[Any, Any]:
        y_k, code = carry
        y_k, h = jnp.where(code == 0, y_k, y), jnp.where(code == 0, length, 0)
        z, outcome = request.advance(unravel(y_k), p, t, t + h)
        return (z[:-1], jnp.where(code == 0, outcome.code, code)), (y_k, z[:-1], z[-1], outcome)

    t = begin + length * jnp.arange(request.segments)
    (_, code), (y_k, after, q, outcomes) = loops.scan(advance, (start[:-1], outcome.code), t)
    y_k, h = jnp.where(code == 0, y_k, y[None, :]), jnp.where(code == 0, length, 0)
    return _Trajectory(t, y_k, after, q, outcomes, unravel), h, code


def _adjoint(
    request: _Request, trajectory: _Trajectory, p: PyTree, h: Array, w: Array, average: Array
) -> tuple[Float[Array, "segments n"], dict[str, Array]]:
    """lam, and the numbers that tell whether to believe it."""
    Phi, q_y = _tangents(request, trajectory, p, h)
    a = w[:, None] * q_y
    b = jnp.concatenate([a[1:], jnp.zeros_like(a[:1])]) - jnp.einsum("kij,kj->ki", Phi, a)
    e, tangent_error = jnp.zeros_like(b), jnp.zeros((), b.dtype)
    if request.autonomous:
        e, g_scaled, tangent_error = _stretching(request, trajectory, p, h, average, Phi)
        b = b - e * (w * g_scaled)[:, None]
    diagonal = jax.vmap(
        lambda Phi, e: jnp.eye(e.size, dtype=e.dtype) + Phi @ Phi.T + jnp.outer(e, e)
    )(Phi, e)
    lam = block_tridiagonal.solve(diagonal, -Phi[1:], b)
    left = b - block_tridiagonal.multiply(diagonal, -Phi[1:], lam)
    size = jnp.max(jnp.abs(b))
    growth = jnp.max(jnp.linalg.norm(Phi, axis=(1, 2)))
    residual = jnp.max(jnp.abs(left)) / jnp.where(size == 0, 1, size)
    return lam, {"segment_growth": growth, "tangent_error": tangent_error, "residual": residual}


def _tangents(
    request: _Request, trajectory: _Trajectory, p: PyTree, h: Array
) -> tuple[Float[Array, "segments n n"], Float[Array, "segments n"]]:
    """Phi_k = dy_{k+1}/dy_k, and dq_k/dy_k."""

    def tangents(t: Array, y: Array) -> Array:
        def along(direction: Array) -> Array:
            return jax.jvp(
                lambda y: request.advance(trajectory.unravel(y), p, t, t + h)[0], (y,), (direction,)
            )[1]

        return jax.vmap(along, out_axes=1)(jnp.eye(y.size, dtype=y.dtype))

    n = trajectory.y.shape[1]
    J = _by_blocks(jax.vmap(tangents), trajectory.t, trajectory.y).reshape(-1, n + 1, n)
    return J[:, :-1], J[:, -1]


def _stretching(
    request: _Request, trajectory: _Trajectory, p: PyTree, h: Array, average: Array, Phi: Array
) -> tuple[Float[Array, "segments n"], Float[Array, " segments"], Array]:
    """f_{k+1} / c, (g_{k+1} - <g>) / c, and the largest |f_{k+1} - Phi_k f_k| / c, which is zero
    for a flow.
    """

    def at(t: Array, y: Array) -> tuple[Array, Array]:
        y = trajectory.unravel(y)
        return ravel_pytree(request.f(t, y, p))[0], request.running_cost(t, y, p)

    before, _ = jax.vmap(at)(trajectory.t, trajectory.y)
    f, g = jax.vmap(at)(trajectory.t + h, trajectory.after)
    c = jnp.sqrt(jnp.mean(jnp.sum(f**2, axis=1)))
    # At rest there is no way along which to stretch, only what is left of the errors of the steps.
    error = request.tolerances.atol + request.tolerances.rtol * jnp.sqrt(
        jnp.mean(jnp.sum(trajectory.y**2, axis=1))
    )
    c = jnp.where(h * c > 100 * error, c, jnp.inf)
    defect = jnp.linalg.norm(f - jnp.einsum("kij,kj->ki", Phi, before), axis=1)
    return f / c, (g - average) / c, jnp.max(defect) / c


def _gradients(
    request: _Request, trajectory: _Trajectory, p: PyTree, h: Array, w: Array, lam: Array
) -> PyTree:
    """The share of each block of time in d<g>/dp, stacked."""

    def of_block(*lanes: Any) -> PyTree:
        def pairing(p: PyTree) -> Array:
            def of_segment(t: Array, y: Array, w: Array, lam: Array) -> Array:
                z = request.advance_in_reverse(trajectory.unravel(y), p, t, t + h)
                return lam @ z[:-1] + w * z[-1]

            return jnp.sum(jax.vmap(of_segment)(*lanes))

        return jax.grad(pairing)(p)

    return _by_blocks(of_block, trajectory.t, trajectory.y, w, lam)


def _by_blocks(function: Callable[..., PyTree], *lanes: Float[Array, "segments ..."]) -> PyTree:
    """The function of the segments of each block, stacked; one block after the other, to bound the
    memory.
    """
    return jax.lax.map(
        lambda lanes: function(*lanes), [x.reshape(BLOCKS, -1, *x.shape[1:]) for x in lanes]
    )


@jax.custom_vjp
def _undifferentiated(x: PyTree) -> PyTree:
    return x


def _refuse_derivative(_: PyTree) -> Any:
    refuse(
        "shadowing_sensitivity",
        "a derivative of its result",
        "a call without jax.grad around it",
        "The gradient is part of the result: average, gradient = "
        "adjoint.require(shadowing_sensitivity(...)).",
        TypeError,
    )


_undifferentiated.defvjp(_refuse_derivative, lambda _, bar: (bar,))


def _check(t0: float, t1: float, transient: float, segments: int) -> tuple[float, float, float]:
    """The times t0, t0 + transient and t1."""
    where = "shadowing_sensitivity"
    for name, t in (("t0", t0), ("t1", t1), ("transient", transient)):
        if isinstance(t, jax.core.Tracer) or jnp.ndim(t) != 0:
            refuse(
                where,
                f"{name} = {t!r}",
                "a number",
                "Times have no derivative here; pass a Python float.",
                TypeError,
            )
    if not transient >= 0 or not t1 > t0 + transient:
        given = f"t0 = {t0}, transient = {transient}, t1 = {t1}"
        refuse(
            where,
            given,
            "t0 <= t0 + transient < t1",
            "The average is taken from t0 + transient to t1.",
        )
    if not isinstance(segments, int) or segments < 1:
        refuse(
            where,
            f"segments = {segments!r}",
            "a positive integer",
            "Segments of a few steps of the solver are usual.",
        )
    return float(t0), float(t0 + transient), float(t1)


def _check_parameters(p: PyTree) -> None:
    others = sorted(
        {
            str(leaf.dtype)
            for leaf in jax.tree.leaves(p)
            if not jnp.issubdtype(leaf.dtype, jnp.floating)
        }
    )
    if others or not jax.tree.leaves(p):
        given = f"p with {' and '.join(others) or 'no arrays'}"
        remedy = "Convert them; what shall have no derivative f may close over."
        refuse("shadowing_sensitivity", given, "real floating-point arrays", remedy, TypeError)


def _uses_time(f: Callable[..., PyTree], g: Callable[..., Array], y: PyTree, p: PyTree) -> bool:
    """Whether f depends on t; g may not when f does not."""
    cost = jax.tree.leaves(jax.eval_shape(g, 0.0, y, p))
    if [leaf.shape for leaf in cost] != [()]:
        given = f"running_cost that returns shapes {[leaf.shape for leaf in cost]}"
        refuse("shadowing_sensitivity", given, "one number", "Call it once for each quantity.")
    f_uses, g_uses = (_uses_first(function, 0.0, y, p) for function in (f, g))
    if g_uses and not f_uses:
        given = "a running_cost that depends on t with an f that does not"
        remedy = "The phase of a free flow drifts: make the clock a state of f."
        refuse("shadowing_sensitivity", given, "both or only f to depend on t", remedy)
    return f_uses


def _uses_first(function: Callable[..., PyTree], *arguments: Any) -> bool:
    jaxpr = jax.make_jaxpr(function)(*arguments).jaxpr
    _, used = partial_eval.dce_jaxpr(jaxpr, [True] * len(jaxpr.outvars))
    return used[0]
