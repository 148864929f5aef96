"""hybrid_solve: y' = f(t, y, p) with events at which the state jumps, and all derivatives."""

from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jax.typing import ArrayLike
from jaxtyping import Array, Float, PyTree

from adjoint.inputs import refuse, takes_jax_functions, warn_if_cut
from adjoint.ode.arguments import require_problem, require_sensitivity, runge_kutta
from adjoint.ode.discrete import DiscreteAdjoint
from adjoint.ode.event_model import Event, TracedEvent
from adjoint.ode.event_sequence import Request, run
from adjoint.ode.runge_kutta import Tolerances
from adjoint.ode.sensitivity import Sensitivity
from adjoint.ode.vector_field import strongly_typed
from adjoint.solution import Solution
from adjoint.status import Status
from adjoint.tracing.programs import compiled
from adjoint.tracing.traced_function import trace_at_door


class Hybrid(NamedTuple):
    """What `hybrid_solve` returns as its value.

    Attributes
    ----------
    y
        The state at t1, or after the terminal event that ended the solve before.
    times
        When the events happened, in their order; after the last one the time at which the solve
        ended.
    states
        The states right after each event, stacked; the state at the end after the last one.
    samples
        The states at ts, stacked; None without ts.

    Examples
    --------
    >>> import jax.numpy as jnp, adjoint
    >>> switch = adjoint.Event(lambda t, y, p: 0.5 - t, lambda t, y, p: y + 1)
    >>> found = adjoint.hybrid_solve(
    ...     lambda t, y, p: 0 * y,
    ...     jnp.array(1.0),
    ...     0.0,
    ...     0.0,
    ...     1.0,
    ...     switch,
    ...     max_events=2,
    ...     ts=[0.4, 0.5],
    ... ).value
    >>> [round(float(t), 6) for t in found.times], found.samples.tolist()
    ([0.5, 1.0], [1.0, 2.0])
    """

    y: PyTree
    times: Float[Array, " events"]
    states: PyTree
    samples: PyTree = None


@takes_jax_functions("hybrid_solve")
def hybrid_solve(
    f: Callable[..., PyTree],
    y0: PyTree,
    p: PyTree,
    t0: ArrayLike,
    t1: ArrayLike,
    events: Event | Sequence[Event],
    *,
    ts: ArrayLike | Sequence[float] | None = None,
    max_events: int = 16,
    solver: Any = None,
    rtol: float = 1e-6,
    atol: float = 1e-9,
    max_steps: int = 4096,
    sensitivity: Sensitivity | None = None,
    mode: Literal["reverse", "both"] = "reverse",
) -> Solution[Hybrid]:
    """Solve y' = f(t, y, p) with jumps y+ = jump(t, y-, p) when condition(t, y, p) falls through 0.

    Parameters
    ----------
    f, y0, p, t0, t1, solver, rtol, atol, max_steps, mode
        As for `ode_solve`; max_steps holds between two events. A mode that switches, such as a
        heater, is one more component of y with the rate 0, which the jump changes.
    events
        An `Event`, or several.
    ts
        Times between t0 and t1, in the direction of time, at which to return y as
        ``value.samples``. At the time of an event the sample is the state after it, and it has the
        derivative of that side. After a terminal event there is no state: NaN.
    max_events
        How many may happen; each of several at one time counts.
    sensitivity
        Between the events, as for `ode_solve`; None is `DiscreteAdjoint`.

    Returns
    -------
    solution
        `Solution` with ``value`` a `Hybrid` (y, times, states, samples); ``status``; ``stats``:
        ``events`` (how many), ``which`` (the number of each event in the list, -1 for none),
        ``steps``, and ``accumulation_time``: after `MAX_EVENTS` the time before which there are
        infinitely many events, NaN if they do not show one.

    Raises
    ------
    ValueError, TypeError
        When f, y0, the times, the events or the solver do not make a problem, before any solving.

    Notes
    -----
    **When an event fires**: at the first time at which its condition is zero or below (for
    direction 1 zero or above), located to 100 roundings of the time, after it has been positive: a
    condition that is not positive at t0, or right after the event, must be positive first. Steps
    suit the conditions as well as y. A condition that is NaN at t0 is `NONFINITE_INPUT`; one that
    becomes NaN, like a square root, may end at zero, which is the event; if it ends elsewhere,
    `STEP_UNDERFLOW`.

    **Several at one time** fire in the order of the list, each once, each from the state that the
    one before it left. If another order gives another state, or another derivative, or if one of
    them would keep another from happening, the answer would be arbitrary: `DEGENERATE`.

    **Cascades**: where a jump makes another condition that was positive negative, that event
    follows at the same time, as part of the same jump; `DEGENERATE` where the jump makes it zero,
    and `MAX_EVENTS` where it comes a second time at this time.

    **After its jump** the state may pass on through zero, as where a rate switches at a level. But
    a jump that moves the condition itself must not leave it negative, and a state that a jump has
    stopped at zero must not fall on, as a ball that does not rebound does through the floor:
    `DEGENERATE`. Let the jump switch a mode that keeps the state there. Events that follow each
    other ever faster, as the impacts of a ball that comes to rest, accumulate at a time beyond
    which there is no solution: `MAX_EVENTS`, and ``accumulation_time`` says when. End before that,
    or switch to a mode of rest.

    **Derivative**: with respect to y0, p, t0, t1, ts and what the functions close over, of all that
    is returned: the saltation condition. Hessians by `jax.jacfwd` of the gradient. The number and
    the order of the events are held constant; where several come at one time, first derivatives
    only are checked not to depend on their order.

    **Status**: as for `ode_solve`; `MAX_EVENTS` also when there are more than max_events;
    `DEGENERATE` also where a condition only touches zero, within the tolerance, so that the event
    may vanish; `OUT_OF_RANGE` when ts are not in order between t0 and t1.

    **Cost**: each interval is solved twice, to find the event and to arrive there. Samples are
    computed in each interval anew, so for many of them keep max_events close to what is needed.

    Source: I. A. Hiskens, M. A. Pai, Trajectory sensitivity analysis of hybrid systems, IEEE Trans.
    Circuits Syst. I 47, 2000; T. Park, P. I. Barton, ACM Trans. Model. Comput. Simul. 6, 1996; S.
    A. Burden, S. S. Sastry, D. E. Koditschek, S. Revzen, SIAM J. Appl. Dyn. Syst. 15, 2016.

    Examples
    --------
    >>> import jax, jax.numpy as jnp, adjoint
    >>> fall = lambda t, y, p: jnp.array([y[1], -9.81])
    >>> bounce = adjoint.Event(lambda t, y, p: y[0], lambda t, y, p: jnp.array([0.0, -p * y[1]]))
    >>> def first_impact(height):
    ...     return adjoint.hybrid_solve(
    ...         fall, jnp.array([height, 0.0]), 0.8, 0.0, 1.0, bounce
    ...     ).value.times[0]
    >>> # sqrt(2 h / g) and 1 / sqrt(2 g h)
    >>> round(float(first_impact(2.0)), 4), round(float(jax.grad(first_impact)(2.0)), 4)
    (0.6386, 0.1596)

    A ball that loses nine tenths of its speed comes to rest at 0.5519 s, after infinitely many
    impacts:

    >>> solution = adjoint.hybrid_solve(fall, jnp.array([1.0, 0.0]), 0.1, 0.0, 3.0, bounce)
    >>> solution.status, round(float(solution.stats["accumulation_time"]), 4)
    (Status.MAX_EVENTS, 0.5519)

    With a mode y[2], 1 in flight and 0 at rest, it rests from the first impact below 0.5 m/s on:

    >>> flight = lambda t, y, p: jnp.array([y[1], -9.81 * y[2], 0.0])
    >>> bounce = adjoint.Event(
    ...     lambda t, y, p: jnp.where(y[2] > 0, y[0], 1.0),
    ...     lambda t, y, p: jnp.where(y[1] < -0.5, jnp.array([0.0, -p * y[1], 1.0]), jnp.zeros(3)),
    ... )
    >>> solution = adjoint.hybrid_solve(flight, jnp.array([1.0, 0.0, 1.0]), 0.1, 0.0, 3.0, bounce)
    >>> (
    ...     solution.status,
    ...     int(solution.stats["events"]),
    ...     [round(float(v), 6) for v in solution.value.y],
    ... )
    (Status.SUCCESS, 2, [0.0, 0.0, 0.0])

    A thrown ball until it lands, with its height on the way, twice at the same time in a corner:

    >>> ballistic = lambda t, y, p: jnp.array([y[2], y[3], 0.0, -9.81])
    >>> landing = adjoint.Event(lambda t, y, p: y[1], terminal=True)
    >>> wall = adjoint.Event(
    ...     lambda t, y, p: y[0] - 3.0, lambda t, y, p: y.at[2].set(-p * y[2]), direction=1
    ... )
    >>> thrown = jnp.array([0.0, 0.0, 2.0, 9.81 * 0.75])
    >>> found = adjoint.hybrid_solve(
    ...     ballistic, thrown, 0.5, 0.0, 9.0, [landing, wall], ts=[0.5]
    ... ).value
    >>> [round(float(t), 6) for t in found.times[:3]], [round(float(v), 4) for v in found.y[2:]]
    ([1.5, 1.5, 1.5], [-1.0, -7.3575])
    >>> round(float(found.samples[0, 1]), 4)
    2.4525
    """
    events = (events,) if isinstance(events, Event) else tuple(events)
    require_problem("hybrid_solve", f, y0, p, t0, t1, rtol, atol, max_steps, mode)
    warn_if_cut("hybrid_solve", y0=y0, p=p)
    y0 = strongly_typed(y0)
    p = jax.tree.map(jnp.asarray, p)
    flat, unravel = ravel_pytree(y0)
    ends = (jnp.asarray(t0, flat.dtype), jnp.asarray(t1, flat.dtype))
    _require_events(events, max_events, ends[0], y0, p)
    times = jnp.zeros(0, flat.dtype) if ts is None else jnp.asarray(ts, flat.dtype)
    if times.ndim != 1 or (ts is not None and times.size == 0):
        remedy = "Pass a one-dimensional array."
        refuse("hybrid_solve", f"ts of shape {times.shape}", "a list of times", remedy)
    require_sensitivity("hybrid_solve", sensitivity)
    sensitivity = DiscreteAdjoint() if sensitivity is None else sensitivity
    method = runge_kutta("hybrid_solve", solver, None)
    tolerances = Tolerances(rtol, atol)
    functions = [f, *(function for event in events for function in (event.condition, event.jump))]
    traced, (start, y0, p), (end, times) = trace_at_door(
        functions, (ends[0], y0, p), ends[1], times
    )
    watched = tuple(
        TracedEvent(condition, jump, event.direction, event.terminal)
        for event, condition, jump in zip(events, traced[1::2], traced[2::2], strict=True)
    )
    request = Request(traced[0], watched, max_events, method, tolerances, max_steps, sensitivity)
    ended = compiled(run, request, y0, p, (start, end), times)
    stats = {
        "events": jnp.sum(ended.which >= 0),
        "which": ended.which,
        "steps": ended.steps,
        "accumulation_time": ended.accumulation,
    }
    stacked = jax.vmap(unravel)
    samples = None if ts is None else stacked(ended.samples)
    value = Hybrid(unravel(ended.y), ended.times, stacked(ended.states), samples)
    name = f"hybrid_solve with {method.solver.__name__} ({flat.size} states, {flat.dtype})"
    return Solution(value, Status(ended.code), stats, name)


def _require_events(
    events: tuple[Event, ...], max_events: int, t: Array, y0: PyTree, p: PyTree
) -> None:
    where = "hybrid_solve"
    if not events or not all(isinstance(event, Event) for event in events):
        refuse(
            where,
            f"events = {events!r}",
            "an Event or several",
            "Pass Event(condition, jump).",
            TypeError,
        )
    if not isinstance(max_events, int) or max_events < 1:
        refuse(
            where,
            f"max_events = {max_events!r}",
            "a positive integer",
            "It must be known when tracing.",
        )
    for k, event in enumerate(events):
        if event.direction not in (-1, 0, 1):
            expected = "-1 (falling), 1 (rising) or 0 (both)"
            refuse(
                where,
                f"event {k} with direction = {event.direction!r}",
                expected,
                "-1 is the default.",
            )
        if not isinstance(event.terminal, bool):
            given = f"event {k} with terminal = {event.terminal!r}"
            refuse(
                where,
                given,
                "True or False",
                "Only what is known when tracing can end a solve.",
                TypeError,
            )
        shape = jax.eval_shape(event.condition, t, y0, p).shape
        if shape != ():
            refuse(
                where,
                f"condition of event {k} with shape {shape}",
                "one number",
                "Make an Event for each condition.",
            )
        if event.jump is None:
            continue
        given, expected = (
            jax.tree.map(lambda leaf: tuple(leaf.shape), tree)
            for tree in (jax.eval_shape(event.jump, t, y0, p), y0)
        )
        if given != expected:
            refuse(
                where,
                f"jump of event {k} that returns {given}",
                f"{expected}, as y0",
                "Return a whole new state.",
            )
