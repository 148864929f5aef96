"""A hybrid solve: one event after the other, with the flow in between, until the end."""

from dataclasses import dataclass, field
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Bool, Float, Int, PyTree

from adjoint.inputs import all_finite, none_is_nan
from adjoint.ode.event_instant import (
    Instant,
    after_jump,
    is_transversal,
    order_matters,
    pass_through,
    rearm,
)
from adjoint.ode.event_model import HybridSystem, TracedEvent, Watch, rounding
from adjoint.ode.event_search import find
from adjoint.ode.integrator import Integrator
from adjoint.ode.runge_kutta import RungeKutta, Tolerances
from adjoint.ode.sensitivity import Sensitivity
from adjoint.ode.solve import Plan, solve_plan
from adjoint.solution import poison
from adjoint.status import Status, first_failure
from adjoint.tracing import loops
from adjoint.tracing.traced_function import TracedFunction


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Request:
    """The functions of the user as they were traced, and all else that is known when tracing."""

    f: TracedFunction
    events: tuple[TracedEvent, ...]
    max_events: int = field(metadata={"static": True})
    method: RungeKutta = field(metadata={"static": True})
    tolerances: Tolerances = field(metadata={"static": True})
    max_steps: int = field(metadata={"static": True})
    sensitivity: Sensitivity = field(metadata={"static": True})


class Rhythm(NamedTuple):
    """When each event happened last, and the last times in between, the latest at the end."""

    last: Float[Array, " events"]
    intervals: Float[Array, "events 4"]


class Ended(NamedTuple):
    """The solve as flat arrays, one row for each event that may happen."""

    y: Float[Array, " n"]
    times: Float[Array, " events"]
    states: Float[Array, "events n"]
    samples: Float[Array, "samples n"]
    which: Int[Array, " events"]
    code: Int[Array, ""]
    steps: Int[Array, ""]
    accumulation: Float[Array, ""]


class _Now(NamedTuple):
    """Where the solve stands: right after an event, perhaps with others at the same time."""

    t: Array
    y: Array
    code: Array
    is_over: Array
    watch: Watch
    instant: Instant
    size: Array
    rhythm: Rhythm
    accumulation: Array
    samples: Array
    is_sampled: Array


class _Row(NamedTuple):
    t: Array
    y: Array
    which: Array
    steps: Array


def run(request: Request, y0: PyTree, p: PyTree, ends: tuple[Array, Array], ts: Array) -> Ended:
    """From ends[0] to ends[1] through all events."""
    flat, unravel = ravel_pytree(y0)
    t0, t1 = ends
    heading = jax.lax.stop_gradient(jnp.sign(t1 - t0))
    system = HybridSystem(request.f, request.events, unravel, p, request.tolerances, heading)
    count = len(request.events)
    dtype = flat.dtype
    c = jax.lax.stop_gradient(system.conditions(t0, flat))
    nothing = jnp.full(count, jnp.nan, dtype)
    start = _Now(
        t0,
        flat,
        _code_of_input((y0, ends, ts), p, c, ts, ends),
        jnp.array(False),
        system.first_watch(t0, flat, t1 - t0),
        Instant.empty(count, dtype),
        jnp.where(jnp.isfinite(c), jnp.abs(c), 0),
        Rhythm(nothing, jnp.full((count, 4), jnp.nan, dtype)),
        jnp.asarray(jnp.nan, dtype),
        jnp.zeros((ts.size, flat.size), dtype),
        jnp.zeros(ts.size, bool),
    )

    def advance(now: _Now, _: None) -> tuple[_Now, _Row]:
        return _advance(request, system, ends, ts, now)

    end, rows = loops.scan(advance, start, None, length=request.max_events + 1)
    has_more = (rows.which[-1] >= 0) | end.instant.is_on
    code = first_failure(Status(end.code), (Status.MAX_EVENTS, has_more)).code
    y, times, states, samples = poison((end.y, rows.t[:-1], rows.y[:-1], end.samples), code == 0)
    if ts.size:
        # After a terminal event there is no state.
        exists = heading * (ts - end.t) <= _same_time(end.t, t0)
        samples = jax.vmap(poison)(samples, jax.lax.stop_gradient(exists))
    accumulation = jnp.where(code == Status.MAX_EVENTS.code, end.accumulation, jnp.nan)
    steps = jnp.sum(rows.steps)
    return Ended(y, times, states, samples, rows.which[:-1], code, steps, accumulation)


def _code_of_input(
    inputs: Any, p: PyTree, c: Array, ts: Array, ends: tuple[Array, Array]
) -> Int[Array, ""]:
    # An infinite parameter, such as a bound that is not there, is a fair one.
    are_numbers = all_finite(inputs) & none_is_nan((p, c))
    shares = jnp.sign(ends[1] - ends[0]) * jnp.concatenate([ends[0][None], ts, ends[1][None]])
    in_order = jnp.all(jnp.diff(shares) >= 0)
    status = first_failure((Status.NONFINITE_INPUT, ~are_numbers), (Status.OUT_OF_RANGE, ~in_order))
    return jax.lax.stop_gradient(status.code)


def _same_time(t: Array, t0: Array) -> Float[Array, ""]:
    """Times this close cannot be told apart."""
    return jax.lax.stop_gradient(rounding(jnp.abs(t) + jnp.abs(t - t0)))


def _advance(
    request: Request, system: HybridSystem, ends: tuple[Array, Array], ts: Array, now: _Now
) -> tuple[_Now, _Row]:
    """To the next event and through it, or to the end."""
    goes_on = ~now.is_over & (now.code == 0)
    is_needed = goes_on & ~now.instant.is_on
    found = find(
        system,
        request.method,
        request.max_steps,
        (now.t, ends[1]),
        now.y,
        now.watch,
        now.size,
        is_needed,
    )
    instant, watch, size = _meet(now, found, is_needed)
    k, crosses = instant.next()
    happens = instant.is_on
    # A number where there is an event; else the time of the last one or of the end, as it varies.
    rests = now.instant.is_on | now.is_over
    tau = jnp.where(is_needed & happens, found.t, jnp.where(rests, now.t, ends[1]))
    y_tau, samples, outcome = _flow(request, system, now.t, now.y, tau, ts)
    at_edge = found.at_edge & is_needed
    # Both solves differ within the tolerance: enough to lead beyond the edge.
    y_tau = y_tau + jax.lax.stop_gradient(jnp.where(at_edge, found.y - y_tau, 0))
    passage = pass_through(system, k, tau, y_tau, happens & crosses, at_edge)
    after = jnp.where(happens, system.jump(k, passage.t, passage.y), passage.y)
    touches = happens & crosses & ~is_transversal(instant, watch, k, passage)
    ambiguous = jnp.array(False)
    if len(request.events) > 1:
        several = happens & crosses & (jnp.sum(instant.waiting) > 1)
        arguments = (system, instant, watch, k, tau, y_tau, size)
        ambiguous = loops.cond(several, lambda: order_matters(*arguments), lambda: jnp.array(False))
    left, code_of_jump = after_jump(system, instant, watch, k, passage, after, size)
    is_complete = happens & ~left.is_on
    armed, beyond = rearm(system, left, watch, passage.t, after, size)
    ends_here = jnp.any(left.fired & system.is_terminal)
    watch = _where(is_complete, armed, watch)
    rhythm, accumulation, is_too_fast = _listen(system, now, k, happens, passage.t, ends)
    status = first_failure(
        Status(now.code),
        Status(found.code),
        Status(outcome.code),
        (Status.DEGENERATE, touches | ambiguous),
        Status(jnp.where(happens, code_of_jump, 0)),
        (Status.DEGENERATE, is_complete & beyond & ~ends_here),
        (Status.MAX_EVENTS, is_too_fast),
    )
    chosen = _sampled_here(system, ts, now, passage.t, happens, ends[0])
    is_over = now.is_over | ~happens | (is_complete & ends_here)
    empty = Instant.empty(len(request.events), size.dtype)._replace(fastest=left.fastest)
    state = _Now(
        passage.t,
        after,
        jax.lax.stop_gradient(status.code),
        is_over,
        watch,
        _where(left.is_on & happens, left, empty),
        size,
        rhythm,
        accumulation,
        jnp.where(chosen[:, None], samples, now.samples),
        now.is_sampled | chosen,
    )
    which = jnp.where(happens, k, -1).astype(jnp.int32)
    return state, _Row(passage.t, after, which, found.steps)


def _where(condition: Array, new: PyTree, old: PyTree) -> PyTree:
    return jax.tree.map(lambda new, old: jnp.where(condition, new, old), new, old)


def _meet(now: _Now, found: PyTree, is_needed: Array) -> tuple[Instant, Watch, Array]:
    """The instant that the search has found, or the one that is still on."""
    fresh = Instant.empty(now.size.size, now.size.dtype)._replace(
        waiting=found.hits, fastest=found.fastest
    )
    instant = _where(is_needed, fresh, now.instant)
    watch = _where(is_needed, found.watch, now.watch)
    return instant, watch, jnp.maximum(now.size, found.largest)


def _flow(
    request: Request, system: HybridSystem, t: Array, y: Array, tau: Array, ts: Array
) -> tuple[Array, Array, Any]:
    """The solution at tau, and at ts, for those outside of the interval at its nearer end."""
    problem = system.problem(y, (t, tau), True)
    if ts.size:
        length = tau - t
        share = (ts - t) / jnp.where(length == 0, 1, length)
        inside = jnp.clip(share, 0, 1)
        # A sample that rounding has put outside of the interval keeps its derivative.
        problem = problem._replace(s=share + jax.lax.stop_gradient(inside - share))
    integrator = Integrator(problem.field, request.method, request.tolerances, request.max_steps)
    return solve_plan(Plan(integrator, request.sensitivity), problem)


def _sampled_here(
    system: HybridSystem, ts: Array, now: _Now, t: Array, happens: Array, t0: Array
) -> Bool[Array, " samples"]:
    """The samples between two events; one at the time of an event belongs after it."""
    is_before = system.heading * (ts - t) < -_same_time(t, t0)
    return jax.lax.stop_gradient(~now.is_sampled & (is_before | ~happens))


# Events accumulate when their intervals shrink by ratios r that are alike, by this share of r and
# of 1 - r. The solve is as good as there when they are shorter than the cube root of a rounding of
# the time: a condition rises by their square between two events, and soon no more than a rounding.
ALIKE = 0.1


def _listen(
    system: HybridSystem,
    now: _Now,
    k: Array,
    happens: Array,
    t: Array,
    ends: tuple[Array, Array],
) -> tuple[Rhythm, Float[Array, ""], Bool[Array, ""]]:
    """The times of event k so far; where they accumulate; whether the solve is as good as there.

    Intervals that shrink by the ratio r end at t + dt r / (1 - r), after infinitely many events
    (Zeno behaviour: Zhang, Johansson, Lygeros and Sastry, Int. J. Robust Nonlinear Control 11,
    2001).
    """
    t, (t0, t1) = jax.lax.stop_gradient((t, ends))
    rhythm = now.rhythm
    interval = jnp.abs(t - rhythm.last[k])
    intervals = jnp.concatenate([rhythm.intervals[k, 1:], interval[None]])
    itself = (jnp.arange(now.size.size) == k) & happens
    heard = Rhythm(
        jnp.where(itself, t, rhythm.last),
        jnp.where(itself[:, None], intervals[None], rhythm.intervals),
    )
    ratios = intervals[1:] / intervals[:-1]
    r = ratios[-1]
    largest = jnp.max(ratios)
    alike = largest - jnp.min(ratios) <= ALIKE * jnp.minimum(largest, 1 - largest)
    shrink = (largest < 1) & alike
    end = t + system.heading * interval * r / jnp.where(shrink, 1 - r, 1)
    repeats = interval <= _same_time(t, t0)
    is_limit = (shrink | repeats) & (system.heading * (t1 - end) >= 0)
    size = jnp.maximum(jnp.abs(t), jnp.abs(t - t0))
    is_close = interval < jnp.finfo(t.dtype).eps ** (1 / 3) * size
    accumulation = jnp.where(happens, jnp.where(shrink & is_limit, end, jnp.nan), now.accumulation)
    accumulation = jnp.where(happens & repeats, t, accumulation)
    return heard, accumulation, happens & (repeats | (shrink & is_limit & is_close))
