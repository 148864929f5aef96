"""Line searches, one evaluation at a time; the one for the strong Wolfe conditions.

Along x + t d, with phi(t) = f(x + t d): find t with phi(t) <= phi(0) + c1 t phi'(0) and |phi'(t)|
<= c2 |phi'(0)|, by bracketing and cubic interpolation (Nocedal and Wright, Numerical Optimization,
2nd ed., algorithms 3.5 and 3.6, equation 3.59). Differences of phi below its noise decide nothing:
there the slopes alone do (W. W. Hager, H. Zhang, SIAM J. Optim. 16, 2005, equation 4.1).
"""

from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int32

from adjoint.inputs import refuse
from adjoint.optimize.state import choose

# An extrapolation goes at least and at most so many times as far, an interpolation keeps this share
# from either end.
SHORTEST_LEAP = 1.5
LONGEST_LEAP = 4.0
MARGIN = 0.1
# Back from a point where f is not finite.
RETREAT = 0.2
# So many trials in a row at which values contradict slopes that have changed by this share at most:
# noise, or a wrong derivative.
CONTRADICTIONS = 3
STRAIGHT = 0.5
# A gain and a change of f that are both no more than so many times the rounding of f; f may be what
# is left of larger terms. Then a slope that has fallen to this share is a step forward.
HIDDEN = 10
FLATTENED = 0.1


class Knot(NamedTuple):
    """phi and phi' at t."""

    t: Float[Array, ""]
    value: Float[Array, ""]
    slope: Float[Array, ""]


class WolfeState(NamedTuple):
    """Where a search for the strong Wolfe conditions stands.

    Attributes
    ----------
    t
        The next t to evaluate; where the search `ended` well, the t that was found.
    start, low, high
        t = 0; the best knot with enough decrease; the other end of the bracket, once there is one.
        The derivative of f at `low` is `low_derivative`.
    longest
        The largest t allowed.
    contradictions, contradicted_by
        Trials in a row at which phi contradicts phi', and by how much it did at the latest such
        trial.
    accepted, failed
        How it ended: `t` was the last evaluated one, or the one of `low` where `fell_back`.
    """

    t: Float[Array, ""]
    start: Knot
    low: Knot
    low_derivative: Float[Array, " n"]
    high: Knot
    bracketed: Bool[Array, ""]
    longest: Float[Array, ""]
    trials: Int32[Array, ""]
    contradictions: Int32[Array, ""]
    contradicted_by: Float[Array, ""]
    accepted: Bool[Array, ""]
    fell_back: Bool[Array, ""]
    failed: Bool[Array, ""]


class SearchState(Protocol):
    """What every search tells.

    Attributes
    ----------
    t
        The next t to evaluate; where it `accepted` one, the t that was found.
    accepted, failed
        How it ended, if it did: the t was the last evaluated one, or where it `fell_back` the one
        of `low`.
    low, low_derivative
        phi and phi' at the t that it fell back to, and the derivative of f there.
    contradicted_by
        How far phi was from what phi' says, where that made the search fail; else zero.
    """

    @property
    def t(self) -> Float[Array, ""]: ...
    @property
    def accepted(self) -> Bool[Array, ""]: ...
    @property
    def failed(self) -> Bool[Array, ""]: ...
    @property
    def fell_back(self) -> Bool[Array, ""]: ...
    @property
    def low(self) -> Knot: ...
    @property
    def low_derivative(self) -> Float[Array, " n"]: ...
    @property
    def contradicted_by(self) -> Float[Array, ""]: ...


class Search(Protocol):
    """How far to go along a direction; frozen, and pure."""

    def begin(
        self,
        value: Float[Array, ""],
        slope: Float[Array, ""],
        derivative: Float[Array, " n"],
        t: Float[Array, ""],
        longest: Float[Array, ""],
    ) -> Any:
        """A search that first tries t, from phi(0) = value and phi'(0) = slope < 0."""
        ...

    def advance(
        self,
        search: Any,
        value: Float[Array, ""],
        slope: Float[Array, ""],
        derivative: Float[Array, " n"],
        noise: Float[Array, ""],
    ) -> Any:
        """The search after phi and phi' at its t; differences below `noise` are not believed."""
        ...


@dataclass(frozen=True)
class StrongWolfe:
    """phi(t) <= phi(0) + c1 t phi'(0) and |phi'(t)| <= c2 |phi'(0)|, by cubic interpolation.

    Parameters
    ----------
    c1, c2
        0 < c1 < c2 < 1 (Nocedal and Wright, section 3.1).
    trials
        The most evaluations along one direction. Interpolation contracts a bracket by about three a
        trial: 15 are beyond rounding.

    Raises
    ------
    ValueError
        For shares that are not in order, or no trial.

    Examples
    --------
    >>> import jax.numpy as jnp, adjoint
    >>> accurate = adjoint.BFGS(search=adjoint.StrongWolfe(c2=0.1))
    >>> x = adjoint.require(
    ...     adjoint.minimize(lambda x: jnp.sum((x - 1) ** 4), jnp.zeros(2), accurate)
    ... )
    >>> [round(float(v), 2) for v in x]
    [1.0, 1.0]
    """

    c1: float = 1e-4
    c2: float = 0.9
    trials: int = 15

    def __post_init__(self) -> None:
        if not (0 < self.c1 < self.c2 < 1 and self.trials >= 1):
            refuse(
                "StrongWolfe",
                f"c1 = {self.c1}, c2 = {self.c2}, trials = {self.trials}",
                "0 < c1 < c2 < 1 and at least one trial",
                "1e-4 and 0.9 are usual.",
            )

    def begin(
        self,
        value: Float[Array, ""],
        slope: Float[Array, ""],
        derivative: Float[Array, " n"],
        t: Float[Array, ""],
        longest: Float[Array, ""],
    ) -> WolfeState:
        """A search that first tries t, from phi(0) = value and phi'(0) = slope < 0."""
        zero = jnp.zeros_like(value)
        no = jnp.zeros((), bool)
        origin = Knot(zero, value, slope)
        t = jnp.minimum(t, longest).astype(value.dtype)
        none = jnp.zeros((), jnp.int32)
        return WolfeState(
            t, origin, origin, derivative, origin, no, longest, none, none, zero, no, no, no
        )

    def advance(
        self,
        search: WolfeState,
        value: Float[Array, ""],
        slope: Float[Array, ""],
        derivative: Float[Array, " n"],
        noise: Float[Array, ""],
    ) -> WolfeState:
        """The search after phi and phi' at its t.

        `noise` is what differences of phi below are not to be believed.
        """
        t = search.t
        low = search.low
        start = search.start
        finite = jnp.isfinite(value) & jnp.isfinite(slope) & jnp.all(jnp.isfinite(derivative))
        enough = value <= start.value + self.c1 * t * start.slope + noise
        too_far = ~finite | ~enough | (value > low.value + noise)
        flat = jnp.abs(slope) <= self.c2 * jnp.abs(start.slope)
        at_limit = (t >= search.longest) & (slope < 0)
        # Where no more is to be gained than rounding may hide, values tell nothing, and slopes
        # still do.
        blind = (
            finite
            & (t * jnp.abs(start.slope) <= HIDDEN * noise)
            & (jnp.abs(value - start.value) <= HIDDEN * noise)
        )
        accepted = (~too_far & (flat | at_limit)) | (
            blind & (jnp.abs(slope) <= FLATTENED * jnp.abs(start.slope))
        )
        turned = ~too_far & (slope * jnp.where(search.bracketed, search.high.t - low.t, 1) >= 0)

        here = Knot(t, jnp.where(finite, value, jnp.inf), jnp.where(finite, slope, 0))
        new_low = choose(too_far, low, here)
        new_high = choose(too_far, here, choose(turned, low, search.high))
        bracketed = search.bracketed | too_far | turned
        trials = search.trials + 1
        spent = jnp.abs(new_high.t - new_low.t) <= 4 * jnp.finfo(t.dtype).eps * jnp.maximum(
            new_high.t, new_low.t
        )
        contradicted, off = contradiction(value - start.value, t * start.slope, t * slope, noise)
        contradictions = jnp.where(finite & contradicted, search.contradictions + 1, 0).astype(
            jnp.int32
        )
        blurred = contradictions >= CONTRADICTIONS
        ended = ~accepted & ((trials >= self.trials) | (bracketed & spent) | blurred)
        # A point that is lower by more than noise is a step forward even where no slope is flat
        # enough.
        fell_back = ended & (new_low.value < start.value - jnp.where(blurred, 10 * off, noise))
        following = jnp.where(bracketed, _interpolate(new_low, new_high), _extrapolate(low, here))
        return WolfeState(
            t=jnp.where(
                accepted, t, jnp.where(fell_back, new_low.t, jnp.minimum(following, search.longest))
            ),
            start=start,
            low=new_low,
            low_derivative=jnp.where(too_far, search.low_derivative, derivative),
            high=new_high,
            bracketed=bracketed,
            longest=search.longest,
            trials=trials,
            contradictions=contradictions,
            contradicted_by=jnp.where(finite & contradicted, off, search.contradicted_by),
            accepted=accepted | fell_back,
            fell_back=fell_back,
            failed=ended & ~fell_back,
        )


def contradiction(
    change: Float[Array, ""],
    slope: Float[Array, ""],
    slope_beyond: Float[Array, ""],
    noise: Float[Array, ""],
) -> tuple[Bool[Array, ""], Float[Array, ""]]:
    """Whether f's change over a step contradicts the slopes at its ends; and by how much.

    The slopes are taken times the step. Where the slope has hardly changed a smooth f is close to a
    line with that slope.
    """
    straight = jnp.abs(slope_beyond - slope) <= STRAIGHT * jnp.abs(slope)
    off = jnp.abs(change - (slope_beyond + slope) / 2)
    return straight & (off > jnp.abs(slope) + 10 * noise), off


def _cubic_minimum(a: Knot, b: Knot) -> Float[Array, ""]:
    """The minimizer of the cubic through two knots (equation 3.59); NaN where it has none."""
    width = b.t - a.t
    d1 = a.slope + b.slope - 3 * (b.value - a.value) / jnp.where(width == 0, 1, width)
    d2 = jnp.sign(width) * jnp.sqrt(d1**2 - a.slope * b.slope)
    denominator = b.slope - a.slope + 2 * d2
    return b.t - width * (b.slope + d2 - d1) / jnp.where(denominator == 0, jnp.nan, denominator)


def _interpolate(low: Knot, high: Knot) -> Float[Array, ""]:
    width = high.t - low.t
    t = _cubic_minimum(low, high)
    t = jnp.where(jnp.isfinite(t), t, low.t + 0.5 * width)
    share = jnp.clip((t - low.t) / jnp.where(width == 0, 1, width), MARGIN, 1 - MARGIN)
    return low.t + jnp.where(jnp.isfinite(high.value), share, RETREAT) * width


def _extrapolate(low: Knot, here: Knot) -> Float[Array, ""]:
    t = _cubic_minimum(low, here)
    leap = jnp.where(jnp.isfinite(t) & (t > here.t), t / here.t, LONGEST_LEAP)
    return here.t * jnp.clip(leap, SHORTEST_LEAP, LONGEST_LEAP)
