"""When the first event happens: steps that suit the conditions too, and the search in each step."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PyTree

from adjoint.ode.event_model import HybridSystem, Watch, rounding, without_derivative
from adjoint.ode.integrate import accept, first_step, step_underflows
from adjoint.ode.integrator import Integrator, State
from adjoint.ode.runge_kutta import RungeKutta, Step
from adjoint.status import Status, first_failure
from adjoint.tracing import loops

# The conditions are carried as states of their own, dz/dt = c_t + c_y f, so that the error control
# makes steps in which they are smooth (Carver, Math. Comput. Simul. 20, 1978; Park and Barton, ACM
# Trans. Model. Comput. Simul. 6, 1996). In such a step a few looks at c and dc/dt find all there
# is: c that changes its sign, and, where the slope does, a minimum in between.
LOOKS = 8
# At an event c must fall at this share of its fastest change since the last one, or it only
# touches.
TOUCH = 1e-6


class Found(NamedTuple):
    """The first event: its time, all events that fire there, and what was seen on the way.

    At the edge of where a condition is defined, y is the last state inside.
    """

    t: Float[Array, ""]
    y: Float[Array, " n"]
    hits: Bool[Array, " events"]
    at_edge: Bool[Array, ""]
    watch: Watch
    largest: Float[Array, " events"]
    fastest: Float[Array, " events"]
    code: Int[Array, ""]
    steps: Int[Array, ""]


class _Inside(NamedTuple):
    """What the looks inside one step have found up to the first event, at the share `s`."""

    s: Array
    hits: Array
    code: Array
    is_sound: Array
    watch: Watch
    largest: Array
    fastest: Array


class _Loop(NamedTuple):
    s: Array
    h: Array
    state: State
    steps: Array
    is_done: Array
    at: _Inside
    at_edge: Array


@dataclass(frozen=True, eq=False)
class _WatchedField:
    """dy/ds, and dc/ds of each condition in units of its size."""

    field: Any
    conditions: Callable[[Array, Array], Array]
    n: int
    unit: Array

    def __call__(self, s: Array, x: Array, p: PyTree) -> Float[Array, " n+events"]:
        y = x[: self.n]
        slope = self.field(s, y, p)
        _, rates = jax.jvp(self.conditions, (s, y), (jnp.ones_like(s), slope))
        return jnp.concatenate([slope, rates / self.unit])


@dataclass(frozen=True, eq=False)
class _Search:
    """The search from s = 0 to 1; c_of(s, y) are the conditions as they are."""

    integrator: Integrator
    p: PyTree
    c_of: Callable[[Array, Array], Array]
    system: HybridSystem
    t: tuple[Array, Array]
    size: Array

    @property
    def n(self) -> int:
        return self.integrator.field.n


def find(
    system: HybridSystem,
    method: RungeKutta,
    max_steps: int,
    t: tuple[Array, Array],
    y: Array,
    watch: Watch,
    size: Array,
    is_needed: Array,
) -> Found:
    """The first event after t[0], if any before t[1]; nothing here has a derivative."""
    t, y = jax.lax.stop_gradient((t, y))
    problem = system.problem(y, t, False)
    p = jax.lax.stop_gradient(problem.p)
    conditions = without_derivative(system.conditions, t[0], y)

    def c_of(s: Array, y: Array) -> Array:
        return conditions(t[0] + s * (t[1] - t[0]), y)

    zero = jnp.zeros((), y.dtype)
    slope = problem.field(zero, y, p)
    c, rates = jax.jvp(c_of, (zero, y), (jnp.ones_like(zero), slope))
    unit = jnp.abs(c) + jnp.abs(rates)
    unit = jnp.where((unit > 0) & jnp.isfinite(unit), unit, 1)
    field = _WatchedField(problem.field, c_of, y.size, unit)
    integrator = Integrator(field, method, system.tolerances, max_steps)
    search = _Search(integrator, p, c_of, system, t, size)
    plain = Integrator(problem.field, method, system.tolerances, max_steps)
    h = first_step(plain, State(y, slope), p)
    start = State(jnp.concatenate([y, jnp.ones_like(c)]), jnp.concatenate([slope, rates / unit]))
    return _run(search, start, h, watch, is_needed, max_steps)


def _run(
    search: _Search, start: State, h: Array, watch: Watch, is_needed: Array, most: int
) -> Found:
    zero = jnp.zeros((), h.dtype)
    none = jnp.zeros(watch.armed.shape, bool)
    count = jnp.zeros((), jnp.int32)
    at = _Inside(zero, none, count, jnp.array(True), watch, search.size * 0, search.size * 0)
    begin = _Loop(zero, h, start, count, ~is_needed, at, jnp.array(False))

    def proceed(loop: _Loop) -> Array:
        return (loop.s < 1) & (loop.steps < most) & ~loop.is_done

    end = loops.while_loop(proceed, lambda loop: _advance(search, loop), begin)
    t0, t1 = search.t
    ran_out = ~end.is_done & (end.s < 1)
    code = first_failure((Status.MAX_STEPS, ran_out), Status(end.at.code)).code
    t = t0 + end.at.s * (t1 - t0)
    seen = (end.at.largest, end.at.fastest / jnp.where(t1 == t0, 1, jnp.abs(t1 - t0)))
    y = end.state.y[: search.n]
    return Found(
        t, y, end.at.hits, end.at_edge, end.at.watch, *seen, code.astype(jnp.int32), end.steps
    )


def _advance(search: _Search, loop: _Loop) -> _Loop:
    """One attempt at a step, and the looks inside it."""
    integrator = search.integrator
    n = search.n
    s1 = jnp.where(loop.s + 1.01 * loop.h >= 1, jnp.ones_like(loop.s), loop.s + loop.h)
    step = integrator.step((loop.s, s1), loop.state, search.p)

    def look(s: Array) -> tuple[Array, Array]:
        def c_along(s: Array) -> Array:
            ends = (loop.s, s1)
            x = integrator.method.interpolate(ends, loop.state.y, step.y, step.stages, s)
            return search.c_of(s, x[:n])

        return jax.jvp(c_along, (s,), (jnp.ones_like(s),))

    inside, c0, slope0 = _look_inside(search, look, loop, s1)
    error = _error(search, loop.state.y, step, inside.largest)
    keep, h = accept(error, integrator.method.order, s1 - loop.s)
    keep = keep & inside.is_sound
    h = jnp.where(inside.is_sound, h, jnp.minimum(h, (s1 - loop.s) / 2))
    is_stuck = ~keep & step_underflows(h, loop.s)
    # The end of where a condition is defined, as of a square root: almost nothing is left of it.
    tolerance = search.system.tolerances.rtol * jnp.maximum(search.size, loop.at.largest)
    ends_here = is_stuck & loop.at.watch.armed & (c0 > 0) & (c0 <= tolerance) & (slope0 < 0)
    at_edge = jnp.any(ends_here)
    at = jax.tree.map(lambda new, old: jnp.where(keep, new, old), inside, loop.at)
    code = first_failure((Status.STEP_UNDERFLOW, is_stuck & ~at_edge), Status(at.code)).code
    at = at._replace(
        s=jnp.where(is_stuck, loop.s, at.s),
        hits=jnp.where(is_stuck, ends_here, at.hits),
        code=code,
    )
    is_done = is_stuck | (keep & (jnp.any(at.hits) | (code != 0)))
    state = jax.tree.map(
        lambda new, old: jnp.where(keep, new, old), State(step.y, step.slope), loop.state
    )
    return _Loop(jnp.where(keep, s1, loop.s), h, state, loop.steps + 1, is_done, at, at_edge)


def _error(search: _Search, x: Array, step: Step, largest: Array) -> Array:
    """The error of the state in units of the tolerance, or that of a condition if it is larger.

    A condition may be in any unit: its error is compared with the largest it has been.
    """
    n = search.n
    tolerances = search.integrator.tolerances
    of_state = tolerances.scaled(step.error[:n], x[:n], step.y[:n])
    size = jnp.maximum(search.size, largest)
    errors = jnp.abs(step.error[n:]) * search.integrator.field.unit
    of_conditions = jnp.max(errors / (tolerances.rtol * jnp.where(size > 0, size, 1)))
    error = jnp.maximum(of_state, of_conditions)
    is_finite = step.converged & jnp.all(jnp.isfinite(step.slope[:n])) & ~jnp.isnan(error)
    return jnp.where(is_finite, error, jnp.inf)


def _look_inside(
    search: _Search, look: Any, loop: _Loop, s1: Array
) -> tuple[_Inside, Array, Array]:
    """The first event in a step; also c and its slope at the start of the step."""
    points = jnp.linspace(loop.s, s1, LOOKS + 1)
    c, slope = jax.vmap(look)(points)
    largest = jnp.maximum(loop.at.largest, _largest(c[0]))
    size = jnp.maximum(search.size, jnp.maximum(largest, _largest(c)))
    tolerance = search.system.tolerances.rtol * size
    watch, armed, beyond = _arm(search, loop.at.watch, c, size, tolerance)
    c = watch.side[None] * c
    slope = watch.side[None] * slope
    turns = (slope[:-1] < 0) & (slope[1:] > 0) & armed[:-1]
    lowest_at, lowest = _minima(look, watch.side, points, turns)
    dips = turns & (lowest <= tolerance[None])
    # Row k: what happens between the looks k and k + 1.
    falls = armed[:-1] & ((c[1:] <= 0) | dips)
    is_event = jnp.any(falls, axis=1)
    first = jnp.where(jnp.any(is_event), jnp.argmax(is_event), LOOKS)
    before = jnp.arange(LOOKS + 1) <= first
    is_sound = ~jnp.any(jnp.isnan(c) & (jnp.arange(LOOKS + 1) <= first + 1)[:, None])
    largest = jnp.maximum(largest, _largest(jnp.where(before[:, None], c, 0)))
    fastest = jnp.maximum(loop.at.fastest, _largest(jnp.where(before[:, None], slope, 0)))
    is_beyond = jnp.any(beyond & before[:, None])
    row = jnp.minimum(first, LOOKS - 1)

    def locate() -> tuple[Array, Array, Array, Array]:
        right = jnp.where(dips[row], lowest_at[row], points[row + 1])
        grazes = dips[row] & (lowest[row] > -tolerance)
        return _locate(
            search, look, watch.side, points[row], right, falls[row], grazes, tolerance, fastest
        )

    none = jnp.zeros(falls.shape[1], bool)
    nowhere = (s1, none, jnp.array(False), fastest)
    s, hits, touches, fastest = loops.cond(jnp.any(is_event), locate, lambda: nowhere)
    code = first_failure((Status.DEGENERATE, is_beyond | touches)).code
    armed_then = jnp.where(jnp.any(is_event), armed[row], armed[-1])
    watch = Watch(armed_then, watch.stopped & ~armed_then, watch.side)
    return _Inside(s, hits, code, is_sound, watch, largest, fastest), c[0], slope[0]


def _largest(c: Array) -> Array:
    size = jnp.where(jnp.isfinite(c), jnp.abs(c), 0)
    return jnp.max(size.reshape(-1, c.shape[-1]), axis=0)


def _arm(
    search: _Search, watch: Watch, c: Array, size: Array, tolerance: Array
) -> tuple[Watch, Array, Array]:
    """The side of each event, when it is armed (a row a look), where a stopped one falls on.

    The first look is where the last step ended, or where a jump led: it has been judged there.
    """
    zero = jnp.where(watch.stopped, tolerance, rounding(size))
    later = c.at[0].set(0)
    leaves = jnp.abs(later) > zero[None]
    first = jnp.take_along_axis(later, jnp.argmax(leaves, axis=0)[None], axis=0)[0]
    is_free = search.system.has_two_sides & ~watch.armed & ~watch.stopped & jnp.any(leaves, axis=0)
    side = jnp.where(is_free, jnp.sign(first), watch.side)
    rises = side[None] * later > zero[None]
    armed = watch.armed[None] | (jnp.cumsum(rises, axis=0) > 0)
    beyond = watch.stopped[None] & ~armed & (side[None] * later < -zero[None])
    return Watch(watch.armed, watch.stopped, side), armed, beyond


def _minima(look: Any, side: Array, points: Array, turns: Array) -> tuple[Array, Array]:
    """Where, and how low, the minima between looks are: slopes turn from falling to rising."""
    left = jnp.broadcast_to(points[:-1, None], turns.shape)
    right = jnp.broadcast_to(points[1:, None], turns.shape)
    all_looks = jax.vmap(jax.vmap(look))

    def values(s: Array) -> tuple[Array, Array]:
        c, slope = (jnp.diagonal(found, axis1=1, axis2=2) for found in all_looks(s))
        return side[None] * c, side[None] * slope

    def proceed(carry: PyTree) -> Array:
        return jnp.any(turns) & (carry[-1] < jnp.finfo(points.dtype).nmant // 2 + 4)

    def halve(carry: PyTree) -> PyTree:
        left, right, count = carry
        middle = (left + right) / 2
        is_rising = values(middle)[1] >= 0
        left = jnp.where(is_rising, left, middle)
        right = jnp.where(is_rising, middle, right)
        return left, right, count + 1

    left, right, _ = loops.while_loop(proceed, halve, (left, right, 0))
    return right, values(right)[0]


def _locate(
    search: _Search,
    look: Any,
    side: Array,
    left: Array,
    right: Array,
    falls: Array,
    grazes: Array,
    tolerance: Array,
    fastest: Array,
) -> tuple[Array, Array, Array, Array]:
    """The first fall between two looks, and all events that fall there.

    Also whether one of them only touches zero, and the fastest changes up to there.
    """
    of_each = jax.vmap(look)

    def halve(_: object, bracket: PyTree) -> PyTree:
        left, right = bracket
        middle = (left + right) / 2
        fell = side * jnp.diagonal(of_each(middle)[0]) <= 0
        return jnp.where(fell, left, middle), jnp.where(fell, middle, right)

    start = (jnp.broadcast_to(left, right.shape), right)
    _, end = loops.fori_loop(0, jnp.finfo(left.dtype).nmant, halve, start)
    at = jnp.where(falls, jnp.where(grazes, right, end), jnp.inf)
    s = jnp.min(at)
    t0, t1 = search.t
    length = jnp.abs(t1 - t0)
    hits = falls & (at <= s + rounding(jnp.abs(t0) + length) / jnp.where(length > 0, length, 1))
    (_, slope), (_, bend) = jax.jvp(look, (s,), (jnp.ones_like(s),))
    slope = side * slope
    bend = side * bend
    # A parabola would turn slope^2 / (2 bend) below zero: that must be more than the tolerance.
    is_flat = slope**2 <= 2 * tolerance * jnp.maximum(bend, 0)
    fastest = jnp.maximum(fastest, _largest(slope))
    is_flat = is_flat | (slope >= -TOUCH * fastest)
    return s, hits, jnp.any(hits & (grazes | is_flat)), fastest
