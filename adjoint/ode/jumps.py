"""Times at which the right-hand side jumps, and a largest step: where steps must end.

With tau_1 <= ... <= tau_m the jumps between t0 and t1, s in [0, 1] runs through time piecewise
linearly,

    t(s) = tau_i + (s - sigma_i) (tau_(i+1) - tau_i) / (sigma_(i+1) - sigma_i)
    sigma_i = (tau_i - t0) / (t1 - t0)

with sigma_i held constant. The values are those of t0 + s (t1 - t0), but a jump stands still in s
while its time moves: the equation dy/ds = t'(s) f is smooth in tau, and its derivatives are those
of the solution, the difference of the slopes at the jump included: dy(tau+) / dtau = f(tau-) -
f(tau+) (Galan, Feehery and Barton, Appl. Numer. Math. 31, 1999, section 3). A step ends at each
sigma_i, from the left; the next one starts right after it, with the slope there.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float

from adjoint.inputs import refuse

# f is evaluated at least so many roundings of the larger end of time inside of each interval
# between jumps, so that a switch computed from t and a jump falls on the side it is meant to.
ROUNDINGS = 8.0


class Knots(NamedTuple):
    """The jumps in order.

    There are their times, which may have derivatives, their shares of t1 - t0, which have none, and
    how close in time f may come to them.
    """

    times: Float[Array, " jumps"]
    shares: Float[Array, " jumps"]
    margin: Float[Array, ""]

    @classmethod
    def of(cls, jumps: Array, t0: Array, t1: Array) -> "Knots":
        """Those outside of the interval lie at its ends."""
        shares = jax.lax.stop_gradient((jumps - t0) / (t1 - t0))
        shares = jnp.where(jnp.isfinite(shares), shares, 0)
        order = jnp.argsort(shares)
        shares = shares[order]
        times = jumps[order]
        times = jnp.where(shares <= 0, t0, jnp.where(shares >= 1, t1, times))
        margin = ROUNDINGS * jnp.finfo(shares.dtype).eps * jnp.maximum(jnp.abs(t0), jnp.abs(t1))
        return cls(times, jnp.clip(shares, 0, 1), jax.lax.stop_gradient(margin))


class Interval(NamedTuple):
    """Two jumps in a row, or an end of time and a jump."""

    times: tuple[Array, Array]
    shares: tuple[Array, Array]

    @property
    def rate(self) -> Array:
        """dt/ds."""
        length = self.shares[1] - self.shares[0]
        return (self.times[1] - self.times[0]) / jnp.where(length > 0, length, 1)


def interval_at(s: Array, knots: Knots, t0: Array, t1: Array) -> Interval:
    """The interval that s lies in; a jump itself belongs to the one before it."""
    k = jnp.sum((knots.shares < s) | (knots.shares <= 0))
    zero = jnp.zeros_like(s)
    one = jnp.ones_like(s)
    shares = jnp.concatenate([zero[None], knots.shares, one[None]])
    times = jnp.concatenate([t0[None], knots.times, t1[None]])
    return Interval((times[k], times[k + 1]), (shares[k], shares[k + 1]))


def time_and_rate(s: Array, knots: Knots, t0: Array, t1: Array) -> tuple[Array, Array]:
    """t(s), strictly between two jumps, and dt/ds."""
    inside = interval_at(s, knots, t0, t1)
    t = inside.times[0] + (s - inside.shares[0]) * inside.rate
    first, last = jax.lax.stop_gradient((jnp.minimum(*inside.times), jnp.maximum(*inside.times)))
    # A shift, so that the derivative of t stays.
    value = jax.lax.stop_gradient(t)
    middle = (first + last) / 2
    least = jnp.minimum(first + knots.margin, middle)
    most = jnp.maximum(last - knots.margin, middle)
    clipped = jnp.clip(value, least, most)
    return t + (clipped - value), inside.rate


def share_of(t: Array, knots: Knots, t0: Array, t1: Array) -> Array:
    """s at the time t."""
    inside = interval_at(jax.lax.stop_gradient((t - t0) / (t1 - t0)), knots, t0, t1)
    rate = inside.rate
    return inside.shares[0] + (t - inside.times[0]) / jnp.where(rate == 0, 1, rate)


@dataclass(frozen=True)
class Limits:
    """Where steps end at the latest: how many jumps there are, and whether there is a largest step.

    The last of the parameters that have no derivative are how close f may come to a jump, the
    largest step as a share, and the shares of the jumps.
    """

    jumps: int
    has_longest: bool

    def shares(self, constants: list[Array]) -> Float[Array, " jumps"]:
        """The jumps."""
        return constants[-1]

    def longest(self, constants: list[Array]) -> Float[Array, ""]:
        """The largest step."""
        return constants[-2]

    def with_margin(self, constants: list[Array], roundings: Array) -> list[Array]:
        """The constants with jumps that f comes no closer to than so many times what it does."""
        return [*constants[:-3], roundings * constants[-3], *constants[-2:]]

    def capped(self, h: Array, constants: list[Array]) -> Array:
        """A step of at most the largest length; the last before a stop may be stretched by 1 %."""
        return jnp.minimum(h, self.longest(constants) / 1.01) if self.has_longest else h

    def stop(self, s: Array, constants: list[Array]) -> Array:
        """The next jump after s, or 1."""
        if self.jumps == 0:
            return jnp.ones_like(s)
        shares = self.shares(constants)
        return jnp.min(jnp.where(shares > s, shares, 1))

    def start(self, s: Array, constants: list[Array]) -> tuple[Array, Bool[Array, ""]]:
        """Where a step from s starts: right after s if that is a jump."""
        is_jump = jnp.any(self.shares(constants) == s) & (s > 0) & (s < 1)
        return jnp.where(is_jump, jnp.nextafter(s, jnp.ones_like(s)), s), is_jump


def require_jumps(
    jumps: Any, max_step: float | None, steps: int | None, dtype: DTypeLike
) -> Array | None:
    """The times of jumps as an array; refuses what is none, and a largest step that is none."""
    if max_step is not None and (isinstance(max_step, jax.Array) or not max_step > 0):
        refuse(
            "ode_solve",
            f"max_step = {max_step!r}",
            "a positive number",
            "It must be known when tracing.",
        )
    if steps is not None and not (jumps is None and max_step is None):
        given = "steps with jumps or max_step"
        remedy = "Leave steps out, or solve up to each jump."
        refuse("ode_solve", given, "steps under error control", remedy)
    if jumps is None:
        return None
    if not isinstance(jumps, jax.Array):
        jumps = (
            jnp.stack([jnp.asarray(t, dtype) for t in jumps]) if len(jumps) else jnp.zeros(0, dtype)
        )
    if jumps.ndim != 1:
        refuse(
            "ode_solve",
            f"jumps of shape {jumps.shape}",
            "a list of times",
            "Pass a one-dimensional array.",
        )
    return jumps.astype(dtype) if jumps.size else None
