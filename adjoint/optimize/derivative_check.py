"""Is the derivative that a method was given the derivative of the values it was given?

Along x + t d, for t shrinking from a small share of |x| to rounding: the difference f(x + t d) -
f(x) against the mean of the slopes at both ends (the trapezoidal rule, in error by t^3 f'''/12).
With a right derivative the mismatch shrinks until it is the noise of f; with a wrong one it shrinks
like t only. All points are on the side of x where the method may go.
"""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int32

from adjoint.optimize.problem import Domain
from adjoint.optimize.state import Evaluation, Iterate

# The t of the evaluations: eight of them from 1 down to 5e-7, of a step of this share of |x| (or of
# 1, at zero).
SHARES = 8.0 ** -np.arange(8)
REACH = 0.01
# A slope is wrong when it misses by this share; noise must be this far below it to tell.
MISMATCH = 0.1
CLARITY = 0.05
# From one t to the next what smooth terms miss shrinks by eight squared or more, and noise by
# chance only.
POWER = 32
# What a wrong derivative misses shrinks by eight; noise shrinks by half of that three times in a
# row in 3 of 100,000 cases.
STEADY = 4
# The share over which slopes tell the curvature at x: 4e-8 of |x|, about the root of rounding.
NEAR = 6
# Where values jump, the mismatch grows by eight, and four times it is the same jump but for this
# share.
JUMP = 4
EVEN = 0.01


class DerivativeCheck(NamedTuple):
    """Where a check of the derivative stands.

    Attributes
    ----------
    active
        Whether one is going on; `count` of its evaluations have been made.
    base, direction
        x, f and f' there, and d scaled to its reach.
    values, slopes
        What was found.
    """

    active: Bool[Array, ""]
    count: Int32[Array, ""]
    base: Iterate
    direction: Float[Array, " n"]
    values: Float[Array, " 8"]
    slopes: Float[Array, " 8"]

    @property
    def point(self) -> Float[Array, " n"]:
        """Where to evaluate next."""
        share = jnp.asarray(SHARES, self.base.x.dtype)[jnp.minimum(self.count, SHARES.size - 1)]
        return self.base.x + share * self.direction


class Finding(NamedTuple):
    """What a check of the derivative has found.

    Attributes
    ----------
    wrong
        Whether the derivative is not that of the values.
    at_floor
        Whether what a step could still gain is lost in the noise.
    noise
        The noise of f, absolute.
    curvature, bend
        d' f'' d at x, and the largest over stretches that a Newton step along d does not leave.
    """

    wrong: Bool[Array, ""]
    at_floor: Bool[Array, ""]
    noise: Float[Array, ""]
    curvature: Float[Array, ""]
    bend: Float[Array, ""]


def idle(x: Float[Array, " n"]) -> DerivativeCheck:
    """No check."""
    zero = jnp.zeros((), x.dtype)
    none = jnp.zeros(SHARES.shape, x.dtype)
    at = Iterate(x, zero, jnp.zeros_like(x))
    return DerivativeCheck(
        jnp.zeros((), bool), jnp.zeros((), jnp.int32), at, jnp.zeros_like(x), none, none
    )


def begin(
    base: Iterate, direction: Float[Array, " n"], size: Float[Array, ""], domain: Domain
) -> DerivativeCheck:
    """A check along a direction in which the bounds leave room; size is that of x, or 0."""
    length = domain.norm(direction)
    reach = REACH * jnp.where(size > 0, size, 1) / jnp.where(length > 0, length, 1)
    reach = jnp.minimum(reach, domain.longest(base.x, direction))
    start = idle(base.x)
    return start._replace(active=jnp.ones((), bool), base=base, direction=reach * direction)


def record(derivative_check: DerivativeCheck, evaluation: Evaluation) -> DerivativeCheck:
    """The check after one more evaluation."""
    k = derivative_check.count
    slope = evaluation.derivative @ derivative_check.direction
    return derivative_check._replace(
        count=k + 1,
        values=derivative_check.values.at[k].set(evaluation.value, mode="drop"),
        slopes=derivative_check.slopes.at[k].set(slope, mode="drop"),
    )


def complete(derivative_check: DerivativeCheck) -> Bool[Array, ""]:
    return derivative_check.count >= SHARES.size


def find(derivative_check: DerivativeCheck, domain: Domain) -> Finding:
    """What the evaluations say; on a complete check."""
    e = derivative_check
    t = jnp.asarray(SHARES, derivative_check.values.dtype)
    slope = e.base.derivative @ e.direction
    usable = jnp.isfinite(e.values) & jnp.isfinite(e.slopes)
    values = jnp.where(usable, e.values, e.base.value)
    slopes = jnp.where(usable, e.slopes, slope)
    difference = (values - e.base.value) / t
    mean = (slopes + slope) / 2
    # Just beyond a kink of f the slope there is the right one, and that of x belongs to the other
    # side.
    mismatch = jnp.minimum(jnp.abs(difference - mean), jnp.abs(difference - slopes))
    # At the shortest steps the mismatch is all noise, of values and of slopes, unless it still
    # shrinks like a power of t, or has always shrunk at least like t, as that of a slope that is
    # wrong by little does, or stays the same: f jumps at x.
    unknown = mismatch * t
    missed = (difference - mean) * t
    smooth = jnp.all(unknown[-3:-1] > POWER * unknown[-2:])
    steady = jnp.all(jnp.abs(missed[-4:-1]) > STEADY * jnp.abs(missed[-3:]))
    jump = jnp.ptp(missed[-4:]) <= EVEN * jnp.max(jnp.abs(missed[-4:]))
    known = smooth | steady | jump
    noise = jnp.maximum(
        domain.rounding(e.base.value), jnp.where(known, 0, 2 * jnp.max(unknown[-2:]))
    )
    slope_noise = jnp.abs(slopes[-1] - slopes[-2])
    uncertainty = 2 * noise / t + slope_noise
    size = jnp.maximum(jnp.abs(difference), jnp.maximum(jnp.abs(slopes), jnp.abs(slope)))
    clear = usable & (uncertainty <= CLARITY * size)
    off = clear & (mismatch > MISMATCH * size)
    # The mismatch of a right derivative is quadratic in t: from one t to the next it shrinks by
    # more than this half. That of a wrong one stays; where it grows as t shrinks, values jump, of
    # which no derivative knows.
    share = mismatch[1:] / jnp.where(mismatch[:-1] > 0, mismatch[:-1], 1)
    lasting = off[:-1] & off[1:] & (share > 1 / 2) & (share < JUMP)
    # What a Newton step would gain along d: from the curvature over each stretch that it does not
    # leave, or over the longest.
    bends = (slopes - slope) / t
    inside = usable & (bends * t >= jnp.abs(slope))
    bend = jnp.maximum(jnp.max(jnp.where(inside, bends, 0)), bends[0])
    gain = jnp.where(bend > 0, slope**2 / (2 * jnp.where(bend > 0, bend, 1)), jnp.inf)
    # It stays wrong as long as anything can be seen.
    ever_after = jnp.flip(jnp.cumprod(jnp.flip(off | ~clear))) > 0
    return Finding(
        wrong=jnp.any(lasting & ever_after[:-1]),
        at_floor=~jnp.any(clear) | (gain <= 10 * noise),
        noise=noise,
        curvature=bends[NEAR],
        bend=bend,
    )
