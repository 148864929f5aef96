"""hybrid_solve: y' = f(t, y, p) with events, at which the state jumps; derivatives also of the times of the events."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float, PyTree

from adjoint.inputs import refuse
from adjoint.ode.discrete import DiscreteAdjoint
from adjoint.ode.integrate import Integrator, State, first_step, is_nothing, judge
from adjoint.ode.runge_kutta import RungeKutta, Tolerances
from adjoint.ode.solve import Plan, require_problem, require_sensitivity, runge_kutta, solve_plan, strongly_typed
from adjoint.ode.vector_field import Problem, pose
from adjoint.solution import Solution, Status, poison
from adjoint.tracing import loops
from adjoint.tracing.programs import compiled
from adjoint.tracing.traced_function import TracedFunction, trace_at_door

# Event at t = tau + d, where tau, a number, was found on the interpolant and d = 0 but for its derivatives. With y the solution
# at tau and f' = f_t + f_y f, the solution near tau and the time of the event are
#
#     y(d) = y + d f + d^2 f' / 2,       c(tau + d, y(d)) = 0,      d by two Newton steps from 0
#
# and all derivatives up to the second follow from these by the chain rule; the first ones of the state after the jump are
# the saltation condition, dy+ = (g_y + (f+ - g_y f- - g_t) c_y / (c_t + c_y f-)) dy- (Hiskens and Pai, IEEE Trans. Circuits
# Syst. I 47, 2000, section III; Galan, Feehery and Barton, Appl. Numer. Math. 31, 1999).


@dataclass(frozen=True)
class Event:
    """Something that happens when condition(t, y, p) falls through zero from above: then y becomes jump(t, y, p).

    Parameters
    ----------
    condition
        A number, positive before the event. For a crossing upwards change its sign.
    jump
        The state after the event, structured as y. None: the state goes on; only the time is wanted.

    Examples
    --------
    >>> import adjoint
    >>> impact = adjoint.Event(lambda t, y, p: y[0], lambda t, y, p: y.at[1].set(-p * y[1]))
    """

    condition: Callable[..., Any]
    jump: Callable[..., PyTree] | None = None


class Hybrid(NamedTuple):
    """What `hybrid_solve` returns as its value.

    Attributes
    ----------
    y
        The state at t1.
    times
        When the events happened, in their order; t1 after the last one.
    states
        The states right after the events, stacked; the state at t1 after the last one.

    Examples
    --------
    >>> import jax.numpy as jnp, adjoint
    >>> switch = adjoint.Event(lambda t, y, p: 0.5 - t, lambda t, y, p: y + 1)
    >>> found = adjoint.hybrid_solve(lambda t, y, p: -y, jnp.array(1.0), 0.0, 0.0, 1.0, switch, max_events=2).value
    >>> [round(float(t), 6) for t in found.times]
    [0.5, 1.0]
    """

    y: PyTree
    times: Float[Array, " events"]
    states: PyTree


class _Segment(NamedTuple):
    """Where the search for an event stands."""

    s: Array
    h: Array
    state: State
    steps: Array
    found: Array
    which: Array
    stuck: Array
    largest: Array


# Inside each step the condition is looked at so many times: two crossings between two looks are missed.
LOOKS = 8
# At an event c must fall at this share of its largest value in the time since the last event, or it touches zero only.
TOUCH = 1e-6


def hybrid_solve(
    f: Callable[..., PyTree],
    y0: PyTree,
    p: PyTree,
    t0: Any,
    t1: Any,
    events: Event | Sequence[Event],
    *,
    max_events: int = 16,
    solver: Any = None,
    rtol: float = 1e-6,
    atol: float = 1e-9,
    max_steps: int = 4096,
    sensitivity: Any = None,
    mode: Literal["reverse", "both"] = "reverse",
) -> Solution[Hybrid]:
    """Solve y' = f(t, y, p) with jumps y+ = jump(t, y-, p) when condition(t, y, p) = 0.

    Parameters
    ----------
    f, y0, p, t0, t1, solver, rtol, atol, max_steps, mode
        As for `ode_solve`; max_steps holds between two events. A mode that switches, such as a heater, is one more component of
        y with the rate 0, which the jump changes.
    events
        An `Event`, or several of which the first to come happens.
    max_events
        How many may happen.
    sensitivity
        Between the events, as for `ode_solve`; None is `DiscreteAdjoint`.

    Returns
    -------
    solution
        `Solution` with ``value`` a `Hybrid` (y, times, states); ``status``; ``stats``: ``events`` (how many), ``which`` (the
        number of each event in the list, -1 for none), ``steps``.

    Raises
    ------
    ValueError, TypeError
        When f, y0, the ends, the events or the solver do not make a problem, before any solving.

    Notes
    -----
    **Derivative**: with respect to y0, p, t0 and t1, of all that is returned: the saltation condition. Hessians by `jax.jacfwd` of
    the gradient. The number and the order of the events are held constant.

    **Status**: as for `ode_solve`; `MAX_EVENTS` when there are more than max_events, as where a ball comes to rest; `DEGENERATE`
    where the condition only touches zero, so that the event may vanish.

    **Cost**: each interval is solved twice, to find the event and to arrive there.

    Source: I. A. Hiskens, M. A. Pai, Trajectory sensitivity analysis of hybrid systems, IEEE Trans. Circuits Syst. I 47, 2000.

    Examples
    --------
    >>> import jax, jax.numpy as jnp, adjoint
    >>> fall = lambda t, y, p: jnp.array([y[1], -9.81])
    >>> bounce = adjoint.Event(lambda t, y, p: y[0], lambda t, y, p: jnp.array([0.0, -p * y[1]]))
    >>> def first_impact(height):
    ...     return adjoint.hybrid_solve(fall, jnp.array([height, 0.0]), 0.8, 0.0, 1.0, bounce).value.times[0]
    >>> round(float(first_impact(2.0)), 4), round(float(jax.grad(first_impact)(2.0)), 4)  # sqrt(2 h / g), 1 / sqrt(2 g h)
    (0.6386, 0.1596)
    """
    events = (events,) if isinstance(events, Event) else tuple(events)
    require_problem("hybrid_solve", f, y0, p, t0, t1, rtol, atol, max_steps, mode)
    y0, p = strongly_typed(y0), jax.tree.map(jnp.asarray, p)
    flat, _ = ravel_pytree(y0)
    ends = (jnp.asarray(t0, flat.dtype), jnp.asarray(t1, flat.dtype))
    _require_events(events, max_events, ends[0], y0, p)
    require_sensitivity("hybrid_solve", sensitivity)
    sensitivity = DiscreteAdjoint() if sensitivity is None else sensitivity
    method = runge_kutta("hybrid_solve", solver, None)
    functions = [f, *(function for event in events for function in (event.condition, event.jump))]
    traced, (start, y0, p), (end,) = trace_at_door(functions, (ends[0], y0, p), ends[1])
    request = _Request(
        traced[0],
        tuple(map(_TracedEvent, traced[1::2], traced[2::2])),
        max_events,
        method,
        Tolerances(rtol, atol),
        max_steps,
        sensitivity,
    )
    return compiled(_solve_request, request, y0, p, (start, end))


class _TracedEvent(NamedTuple):
    """An `Event` whose functions are traced."""

    condition: TracedFunction
    jump: TracedFunction | None


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class _Request:
    """The functions of the user as they were traced, and all else that is known when tracing."""

    f: TracedFunction
    events: tuple[_TracedEvent, ...]
    max_events: int = field(metadata={"static": True})
    method: RungeKutta = field(metadata={"static": True})
    tolerances: Tolerances = field(metadata={"static": True})
    max_steps: int = field(metadata={"static": True})
    sensitivity: Any = field(metadata={"static": True})


def _solve_request(request: _Request, y0: PyTree, p: PyTree, ends: tuple[Array, Array]) -> Solution[Hybrid]:
    flat, unravel = ravel_pytree(y0)

    def segment(carry: Any, _: None) -> Any:
        t, y, code, last = carry
        arrived = _segment(request, unravel, p, ends[1], t, y, last)
        code = jnp.where(code == 0, arrived.code, code)
        return (arrived.t, arrived.y, code, arrived.which), arrived

    start = (ends[0], flat, jnp.zeros((), jnp.int32), jnp.full((), -1, jnp.int32))
    (_, y, code, _), all = loops.scan(segment, start, None, length=request.max_events + 1)
    code = jnp.where((code == 0) & (all.which[-1] >= 0), Status.MAX_EVENTS.code, code)
    inputs = [leaf for leaf in jax.tree.leaves((y0, p, ends)) if jnp.issubdtype(jnp.result_type(leaf), jnp.inexact)]
    finite = jnp.all(jnp.stack([jnp.all(jnp.isfinite(leaf)) for leaf in inputs]))
    code = jax.lax.stop_gradient(jnp.where(finite, code, Status.NONFINITE_INPUT.code))
    y, times, states = poison((y, all.t[:-1], all.y[:-1]), code == 0)
    which = all.which[:-1]
    stats = {"events": jnp.sum(which >= 0), "which": which, "steps": jnp.sum(all.steps)}
    value = Hybrid(unravel(y), times, jax.vmap(unravel)(states))
    name = f"hybrid_solve with {request.method.solver.__name__} ({flat.size} states, {flat.dtype})"
    return Solution(value, Status(code), stats, name)


class _Arrived(NamedTuple):
    t: Array
    y: Array
    code: Array
    which: Array
    steps: Array


def _segment(request: _Request, unravel: Any, p: PyTree, t1: Array, t: Array, y: Array, last: Array) -> _Arrived:
    """From t to the next event and through it, or to t1."""
    fixed_request, *fixed = jax.lax.stop_gradient((request, p, t1, t, y))
    find: Any = partial(_find, fixed_request, unravel, *fixed)
    tau, which, code, steps, rate_of_touch = find(last)
    happens = which >= 0
    tau = jnp.where(happens, tau, t1)
    # tau is a number when there is an event, and t1 with its derivative when there is none.
    problem = pose(request.f, None, unravel(y), p, (t, tau), (True, True), None)
    integrator = _integrator(request, problem)
    y_tau, _, outcome = solve_plan(Plan(integrator, request.sensitivity), problem)
    code = jnp.where(code == 0, outcome.code, code)
    i = jnp.maximum(which, 0)

    def rate(t: Array, y: Array) -> Array:
        return ravel_pytree(request.f(t, unravel(y), p))[0]

    def condition(t: Array, y: Array) -> Array:
        return _conditions(request, unravel, t, y, p)[i]

    slope, curvature = jax.jvp(rate, (tau, y_tau), (jnp.ones_like(tau), rate(tau, y_tau)))

    def near(d: Array) -> Array:
        return y_tau + d * slope + d * d / 2 * curvature

    d = jnp.zeros_like(tau)
    c_dot = d
    for _ in range(2):
        c, c_dot = jax.jvp(lambda d: condition(tau + d, near(d)), (d,), (jnp.ones_like(d),))
        d = d - jnp.where(happens, c, 0) / jnp.where(happens & (c_dot != 0), c_dot, 1)
    touches = happens & ~(jnp.abs(c_dot) > rate_of_touch)
    code = jnp.where((code == 0) & touches, Status.DEGENERATE.code, code)
    before = near(d)
    jumps = [partial(_jump, event, unravel) for event in request.events]
    after = loops.switch(i, jumps, tau + d, before, p)
    return _Arrived(tau + d, jnp.where(happens, after, before), code.astype(jnp.int32), which, steps)


def _jump(event: _TracedEvent, unravel: Any, t: Array, y: Array, p: PyTree) -> Array:
    if event.jump is None:
        return y
    return ravel_pytree(event.jump(t, unravel(y), p))[0].astype(y.dtype)


def _conditions(request: _Request, unravel: Any, t: Array, y: Array, p: PyTree) -> Float[Array, " events"]:
    return jnp.stack([jnp.asarray(event.condition(t, unravel(y), p)) for event in request.events])


def _integrator(request: _Request, problem: Problem) -> Integrator:
    return Integrator(problem.field, request.method, request.tolerances, request.max_steps)


def _find(
    request: _Request, unravel: Any, p: PyTree, t1: Array, t: Array, y: Array, last: Array
) -> tuple[Array, Array, Array, Array, Array]:
    """When the first event happens and which it is (-1 for none), a status code, the number of steps, the rate of a touch."""
    problem = pose(request.f, None, unravel(y), p, (t, t1), (False, False), None)
    integrator, zero = _integrator(request, problem), jnp.zeros((), y.dtype)
    start = State(y, integrator.field(zero, y, problem.p))

    def time(s: Array) -> Array:
        return t + s * (t1 - t)

    def conditions(s: Array, y: Array) -> Array:
        return _conditions(request, unravel, time(s), y, p)

    def proceed(now: _Segment) -> Array:
        return (now.s < 1) & (now.which < 0) & (now.steps < request.max_steps) & ~now.stuck

    def body(now: _Segment) -> _Segment:
        s1 = jnp.where(now.s + 1.01 * now.h >= 1, jnp.ones_like(now.s), now.s + now.h)
        step = integrator.step((now.s, s1), now.state, problem.p)
        keep, h = judge(integrator, now.state.y, step, s1 - now.s, now.h)

        def inside(s: Array) -> Array:
            return integrator.method.interpolate((now.s, s1), now.state.y, step.y, step.stages, s)

        found, which, size = _first_crossing(conditions, inside, now.s, s1, last)
        state = jax.tree.map(lambda new, old: jnp.where(keep, new, old), State(step.y, step.slope), now.state)
        stuck = ~keep & is_nothing(h, now.s)
        which = jnp.where(keep, which, -1)
        largest = jnp.where(keep, jnp.maximum(now.largest, size), now.largest)
        return _Segment(jnp.where(keep, s1, now.s), h, state, now.steps + 1, found, which, stuck, largest)

    count = jnp.zeros((), jnp.int32)
    h, largest = first_step(integrator, start, problem.p), jnp.zeros(len(request.events), y.dtype)
    begin = _Segment(zero, h, start, count, zero, count - 1, jnp.array(False), largest)
    end = loops.while_loop(proceed, body, begin)
    failure = jnp.where(end.stuck, Status.STEP_UNDERFLOW.code, Status.MAX_STEPS.code)
    code = jnp.where((end.s < 1) & (end.which < 0), failure, Status.SUCCESS.code)
    tau = time(end.found)
    rate_of_touch = TOUCH * end.largest[jnp.maximum(end.which, 0)] / jnp.abs(tau - t)
    return tau, end.which, code, end.steps, rate_of_touch


def _first_crossing(conditions: Any, inside: Any, s0: Array, s1: Array, last: Array) -> tuple[Array, Array, Array]:
    """Where in a step the first condition falls through zero, which (-1 for none), and how large they all become."""
    looks = jnp.linspace(s0, s1, LOOKS + 1)
    c = jax.vmap(lambda s: conditions(s, inside(s)))(looks)
    # Right after an event its condition is zero but for rounding, and must rise before it can fall again.
    c = c.at[0].set(jnp.where((s0 == 0) & (jnp.arange(c.shape[1]) == last), 0, c[0]))
    falls = (c[:-1] > 0) & (c[1:] <= 0)
    first = jnp.argmax(jnp.any(falls, axis=1))

    def bisect(_: Any, bracket: Any) -> Any:
        left, right = bracket
        middle = (left + right) / 2
        fell = jnp.any(falls[first] & (conditions(middle, inside(middle)) <= 0))
        return jnp.where(fell, left, middle), jnp.where(fell, middle, right)

    def locate() -> tuple[Array, Array]:
        # Of several events between two looks the first: it is the one whose condition the bisection ends on.
        digits = jnp.finfo(s0.dtype).nmant
        left, right = loops.fori_loop(0, digits, bisect, (looks[first], looks[first + 1]))
        which = jnp.argmax(falls[first] & (conditions(right, inside(right)) <= 0))
        return (left + right) / 2, which.astype(jnp.int32)

    found, which = loops.cond(jnp.any(falls), locate, lambda: (s1, jnp.full((), -1, jnp.int32)))
    # What lies beyond the event is no part of the solution.
    is_before = (jnp.arange(LOOKS + 1) <= first) | ~jnp.any(falls)
    return found, which, jnp.max(jnp.where(is_before[:, None], jnp.abs(c), 0), axis=0)


def _require_events(events: tuple[Event, ...], max_events: int, t: Array, y0: PyTree, p: PyTree) -> None:
    where = "hybrid_solve"
    if not events or not all(isinstance(event, Event) for event in events):
        refuse(where, f"events = {events!r}", "an Event or several", "Pass Event(condition, jump).", TypeError)
    if not isinstance(max_events, int) or max_events < 1:
        refuse(where, f"max_events = {max_events!r}", "a positive integer", "It must be known when tracing.")
    for k, event in enumerate(events):
        shape = jax.eval_shape(event.condition, t, y0, p).shape
        if shape != ():
            refuse(
                where, f"condition of event {k} with shape {shape}", "one number", "Make an Event for each condition."
            )
        if event.jump is None:
            continue
        given, expected = (
            jax.tree.map(lambda leaf: tuple(leaf.shape), tree) for tree in (jax.eval_shape(event.jump, t, y0, p), y0)
        )
        if given != expected:
            refuse(where, f"jump of event {k} that returns {given}", f"{expected}, as y0", "Return a whole new state.")
