"""shadowing_sensitivity: averages of chaotic flows and their derivatives by the shadow."""

from collections.abc import Callable
from typing import Any, NoReturn

import jax
import jax.core
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jax.interpreters import partial_eval
from jaxtyping import Array, Float, PyTree

from adjoint.inputs import all_finite, none_is_nan, refuse, takes_jax_functions, warn_if_cut
from adjoint.ode.arguments import require_problem, runge_kutta
from adjoint.ode.choice import at_stability_limit
from adjoint.ode.runge_kutta import Tolerances
from adjoint.ode.shadow import BLOCKS, Request, adjoint_of_shadow, gradients, trajectory_of
from adjoint.ode.time_average import smooth_weights, standard_error
from adjoint.ode.vector_field import strongly_typed
from adjoint.solution import Solution, poison
from adjoint.status import Status, first_failure
from adjoint.tracing.programs import compiled
from adjoint.tracing.traced_function import trace_at_door

# The tangent of a segment must carry the velocity at its start to that at its end, to this share of
# the mean velocity. On the Lorenz attractor gradients were wrong by 0.05 % at an error of 4e-4, by
# 2 % at 4e-3, and by 80 % at 8e-2.
LARGEST_TANGENT_ERROR = 1e-3


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
    """The average <g> of g(t, y, p) along y' = f(t, y, p), and d<g>/dp, chaotic or not.

    The derivative is that of the average over infinite time. The gradient is part of the result,
    and the only one there is: `jax.grad` of this function is refused. The derivative of an average
    over a finite time, which `jax.grad` through `ode_solve` gives, grows like the distance of
    neighbors in a chaotic flow and has nothing to do with d<g>/dp.

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
    y0 = strongly_typed(y0)
    p = jax.tree.map(jnp.asarray, p)
    times = tuple(jnp.asarray(t, dtype) for t in times)
    _check_parameters(p)
    method = runge_kutta(where, solver, None)
    autonomous = not _uses_time(f, running_cost, y0, p)
    (slope, cost), (begin, y0, p), later = trace_at_door(
        (f, running_cost), (times[0], y0, p), *times[1:]
    )
    request = Request(
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
    request: Request, y0: PyTree, p: PyTree, t0: Array, begin: Array, t1: Array
) -> Solution[Any]:
    y0, p = _undifferentiated((y0, p))
    flat, unravel = ravel_pytree(y0)
    trajectory, h, code = trajectory_of(request, unravel, flat, p, (t0, begin, t1))
    w = smooth_weights(request.segments, (t1 - begin) / request.segments)
    average = w @ trajectory.q
    lam, checks = adjoint_of_shadow(request, trajectory, p, h, w, average)
    blocks = gradients(request, trajectory, p, h, w, lam)
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


@jax.custom_vjp
def _undifferentiated(x: PyTree) -> PyTree:
    return x


def _refuse_derivative(_: PyTree) -> NoReturn:
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


def _uses_first(function: Callable[..., PyTree], *arguments: PyTree) -> bool:
    jaxpr = jax.make_jaxpr(function)(*arguments).jaxpr
    _, used = partial_eval.dce_jaxpr(jaxpr, [True] * len(jaxpr.outvars))
    return used[0]
