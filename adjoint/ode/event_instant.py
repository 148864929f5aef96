"""What happens at the time of an event: the passage through it, jumps, and what is armed after."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int, PyTree

from adjoint.ode.event_model import HybridSystem, Watch, rounding
from adjoint.ode.event_search import TOUCH
from adjoint.status import Status, first_failure

# Event at t = tau + d, where tau, a number, was found on the interpolant and d = 0 but for its
# derivatives. With y the solution at tau and f' = f_t + f_y f, the solution near tau and the time
# of the event are
#
#     y(d) = y + d f + d^2 f' / 2,       c(tau + d, y(d)) = 0,      d by two Newton steps from 0
#
# and all derivatives up to the second follow from these by the chain rule; the first ones of the
# state after the jump are the saltation condition,
#
#     dy+ = (g_y + (f+ - g_y f- - g_t) c_y / (c_t + c_y f-)) dy-
#
# (Hiskens and Pai, IEEE Trans. Circuits Syst. I 47, 2000, section III; Galan, Feehery and Barton,
# Appl. Numer. Math. 31, 1999). Of two events at one time the second starts from where the first
# led, with a d of its own. The flow has a derivative there only if both orders give the same
# (Burden, Sastry, Koditschek and Revzen, SIAM J. Appl. Dyn. Syst. 15, 2016).


class Instant(NamedTuple):
    """One time at which events happen, while they happen.

    `waiting` are to come because their conditions reached zero at this time, `caused` because an
    earlier jump made them negative. `moved` are those that fired and whose conditions a jump
    changed. `fastest` is how fast each condition has changed since the last event, and `missed` how
    far from zero those that fired were: so much of them is rounding.
    """

    waiting: Bool[Array, " events"]
    caused: Bool[Array, " events"]
    fired: Bool[Array, " events"]
    moved: Bool[Array, " events"]
    fastest: Float[Array, " events"]
    missed: Float[Array, " events"]

    @classmethod
    def empty(cls, count: int, dtype: DTypeLike) -> "Instant":
        none = jnp.zeros(count, bool)
        nothing = jnp.zeros(count, dtype)
        return cls(none, none, none, none, nothing, nothing)

    @property
    def slow(self) -> Float[Array, " events"]:
        """Rates of the conditions that count as none."""
        return TOUCH * self.fastest

    @property
    def is_on(self) -> Bool[Array, ""]:
        return jnp.any(self.waiting | self.caused)

    def next(self) -> tuple[Int[Array, ""], Bool[Array, ""]]:
        """Which event comes next, and whether its condition reached zero by itself."""
        crosses = jnp.any(self.waiting)
        return jnp.argmax(jnp.where(crosses, self.waiting, self.caused)), crosses


class Passage(NamedTuple):
    """The time of an event, the state before its jump, and how its condition changes on the way."""

    t: Float[Array, ""]
    y: Float[Array, " n"]
    rate: Float[Array, ""]


def pass_through(
    system: HybridSystem, k: Array, t: Array, y: Array, crosses: Array, at_edge: Array
) -> Passage:
    """From close to the surface of event k onto it; where it does not cross, nothing but the same.

    At the edge of where the condition is defined it cannot be followed further: there c = its
    value.
    """
    rate_of_y = system.rate
    slope, curvature = jax.jvp(rate_of_y, (t, y), (jnp.ones_like(t), rate_of_y(t, y)))

    def near(d: Array) -> Array:
        return y + d * slope + d * d / 2 * curvature

    def condition(d: Array) -> Array:
        return system.conditions(t + d, near(d))[k]

    d = jnp.zeros_like(t)
    level = jax.lax.stop_gradient(jnp.where(at_edge, condition(d), 0))
    c_dot = d
    for _ in range(2):
        c, c_dot = jax.jvp(condition, (d,), (jnp.ones_like(d),))
        d = d - jnp.where(crosses, c - level, 0) / jnp.where(crosses & (c_dot != 0), c_dot, 1)
    return Passage(t + d, near(d), system.heading * c_dot)


def after_jump(
    system: HybridSystem,
    instant: Instant,
    watch: Watch,
    k: Array,
    passage: Passage,
    after: Array,
    size: Array,
) -> tuple[Instant, Array]:
    """What is still to come at this time after the jump of event k, and a status code."""
    t, before, after = jax.lax.stop_gradient((passage.t, passage.y, after))
    c_before = system.conditions(t, before)
    itself = jnp.arange(watch.armed.size) == k
    met = itself & instant.waiting
    missed = jnp.where(met, jnp.abs(c_before), instant.missed)
    zero = near_zero(instant, t, size, c_before)
    side = jnp.where(system.has_two_sides & ~watch.armed, jnp.sign(c_before), watch.side)
    c_before = side * c_before
    c_after = side * system.conditions(t, after)
    waiting = instant.waiting & ~itself
    fired = instant.fired | itself
    could_fire = ~waiting & ~itself & (c_before > zero)
    set_off = could_fire & (c_after < -zero)
    lands = could_fire & (jnp.abs(c_after) <= zero) & ~fired
    moved = instant.moved | (fired & (jnp.abs(c_after - c_before) > zero))
    caused = (instant.caused & ~itself) | (set_off & ~fired)
    status = first_failure(
        (Status.MAX_EVENTS, jnp.any(set_off & fired)), (Status.DEGENERATE, jnp.any(lands))
    )
    left = Instant(waiting, caused, fired, moved, instant.fastest, missed)
    return left, status.code


def near_zero(instant: Instant, t: Array, size: Array, c: Array) -> Float[Array, " events"]:
    """Conditions so small that their sign is rounding, their own or that of the time."""
    size = jnp.maximum(size, jnp.where(jnp.isfinite(c), jnp.abs(c), 0))
    return jnp.maximum(rounding(size + instant.fastest * jnp.abs(t)), 2 * instant.missed)


def rearm(
    system: HybridSystem, instant: Instant, watch: Watch, t: Array, y: Array, size: Array
) -> tuple[Watch, Bool[Array, ""]]:
    """What each event waits for after the last jump, and whether a state is past its condition."""
    t, y = jax.lax.stop_gradient((t, y))
    raw, raw_rate = system.condition_rates(t, y)
    zero = near_zero(instant, t, size, raw)
    two_sided = system.has_two_sides
    is_zero = jnp.abs(raw) <= zero
    # Of an event in both directions the side is where the condition is, or where it goes.
    goes_to = jnp.sign(
        jnp.where(is_zero, jnp.where(jnp.abs(raw_rate) > instant.slow, raw_rate, 0), raw)
    )
    turns = two_sided & (goes_to != 0) & (instant.fired | (~watch.armed & ~is_zero))
    side = jnp.where(turns, goes_to, watch.side)
    c = side * raw
    rate = side * raw_rate
    armed_again = (c > zero) | (is_zero & (rate > instant.slow))
    armed = jnp.where(instant.fired, armed_again, watch.armed | (c > zero))
    # A condition that the jump has not moved may be negative after it: the state has passed
    # through.
    beyond = instant.fired & instant.moved & (c < -zero)
    comes_to_rest = instant.fired & is_zero & (jnp.abs(rate) <= instant.slow)
    stopped = jnp.where(instant.fired, comes_to_rest, watch.stopped & ~armed)
    return Watch(armed, stopped, side), jnp.any(beyond)


def order_matters(
    system: HybridSystem,
    instant: Instant,
    watch: Watch,
    k: Array,
    t: Array,
    y: Array,
    size: Array,
) -> Bool[Array, ""]:
    """Whether another order of event k and those waiting gives another state or derivative."""
    t, y, p = jax.lax.stop_gradient((t, y, system.p))
    directions = _directions((t, y, p))
    yes = jnp.array(True)
    no = jnp.array(False)

    def in_turn(first: Array, second: Array) -> Callable[..., tuple[Array, Array]]:
        """The state at the time t in this order, and how `second` stands in between."""

        def result(t0: Array, y: Array, p: PyTree) -> tuple[Array, Array]:
            here = system.with_parameters(p)
            one = pass_through(here, first, t0, y, yes, no)
            middle = here.jump(first, one.t, one.y)
            c, rates = here.condition_rates(one.t, middle)
            two = pass_through(here, second, one.t, middle, yes, no)
            end = here.jump(second, two.t, two.y)
            # The events take place at two times: the results are compared at one.
            end = end + (t - two.t) * here.rate(two.t, end)
            still_falls = jnp.stack(
                [watch.side[second] * c[second], watch.side[second] * rates[second]]
            )
            return end, still_falls

        return result

    def differs(j: Array) -> Array:
        (one, stand_1), (one_dot, _) = jax.jvp(in_turn(k, j), (t, y, p), directions)
        (other, stand_2), (other_dot, _) = jax.jvp(in_turn(j, k), (t, y, p), directions)
        tolerances = system.tolerances
        slope = system.rate(t, y)
        unit = tolerances.atol + tolerances.rtol * jnp.maximum(jnp.abs(one), jnp.abs(other))
        same_state = jnp.all(jnp.abs(one - other) <= unit)
        scale = jnp.abs(one_dot) + jnp.abs(other_dot) + jnp.abs(directions[0] * slope) + jnp.abs(y)
        same_slope = jnp.all(
            jnp.abs(one_dot - other_dot) <= tolerances.rtol * scale + tolerances.atol
        )
        zero = tolerances.rtol * size
        stays = (jnp.abs(stand_1[0]) <= zero[j]) & (stand_1[1] < -instant.slow[j])
        stays = stays & (jnp.abs(stand_2[0]) <= zero[k]) & (stand_2[1] < -instant.slow[k])
        return ~(same_state & same_slope & stays)

    others = jnp.arange(watch.armed.size)
    return jnp.any(jax.vmap(differs)(others) & instant.waiting & (others != k))


def _directions(primals: PyTree) -> PyTree:
    """One random direction, each number in its own size, no part of which is there by chance."""
    rng = np.random.default_rng(0)

    def one(x: PyTree) -> PyTree:
        if not jnp.issubdtype(jnp.result_type(x), jnp.inexact):
            return np.zeros(jnp.shape(x), jax.dtypes.float0)
        drawn = jnp.asarray(rng.normal(size=jnp.shape(x)), jnp.result_type(x))
        return drawn * jnp.where(x == 0, 1, jnp.abs(x))

    return jax.tree.map(one, primals)


def is_transversal(instant: Instant, watch: Watch, k: Array, passage: Passage) -> Bool[Array, ""]:
    """Whether the condition of event k falls fast enough for its time to have a derivative."""
    rate = jax.lax.stop_gradient(passage.rate)
    return watch.side[k] * rate < -instant.slow[k]
