"""When a run may stop and call it a success: pure conditions on what is known of an iterate.

None of them depends on the units of f or x. A success promises that little is left to gain, and
neither the slope at the start nor the value there can promise that: from a start where f is 1e38,
everything below looks like zero.
"""

from dataclasses import dataclass
from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int32

from adjoint.status import Status

# Codes of runs that go on, beside those of `Status`, which are not negative.
RUNNING = -1
# Goes on unless a check of the derivative finds that f has come to zero.
UNLESS_ZERO = -2


@dataclass(frozen=True)
class Stopping:
    """Tolerances, all shares or counts; those without a source are held by `benchmarks.optimize`.

    Attributes
    ----------
    settled
        A change of any entry by its size changes f, to first order, by no more than this share of f
        (the relative gradient of J. E. Dennis, R. B. Schnabel, Numerical Methods for Unconstrained
        Optimization, section 7.2).
    predicted
        A step by second derivatives gains no more than this share of f (half of the squared Newton
        decrement; S. Boyd, L. Vandenberghe, Convex Optimization, section 9.5.1).
    zero
        f is zero beside what was gained since the start when it is no more than this share of its
        rounding.
    settled_recently
        The share, as `settled`, of what was gained since x has had its present size, where f is
        zero; slopes go with the square root of f.
    exact
        Where f is zero, Newton's step changes no entry by more than this share.
    rounded
        f is as exact as x allows where so many units in the last place of x change it by as much.
        Less will not do without second derivatives: terms beside which others seem to be zero, like
        those of penalties, hide these until they have come down to their rounding.
    fading
        A step leaves no more than this share of f: convergence that is faster than linear. And f is
        looked into again once it has come down to the square of this share of what it was.
    resized
        x has another size when one entry has grown, or all have shrunk, by this factor; or one has
        been as small for as many iterates as `passing` says, as one that passes zero is not.
    negligible
        Entries below this share of their largest size so far count as that large: the square root
        of rounding.
    idle_steps
        So many steps in a row that gain nothing end a run; so many at which f is zero beside what
        was gained have it looked into.
    relieved
        A step that makes the least violation smaller by no more than this share is none towards the
        constraints.
    circling_steps
        So many in a row without a new lowest merit end a run that is at the noise floor.
    at_floor, at_floor_by_prediction
        Noise hides slopes like its square root: these times the geometric mean of the noise and of
        f. Where second derivatives predict nothing it may be more.
    """

    settled: float = 1e-5
    predicted: float = 1e-8
    zero: float = 1e-2
    settled_recently: float = 1e-9
    exact: float = 1e-8
    rounded: float = 100.0
    fading: float = 1e-3
    resized: float = 10.0
    passing: int = 3
    negligible: float = 1.5e-8
    idle_steps: int = 5
    relieved: float = 1e-6
    circling_steps: int = 20
    at_floor: float = 100.0
    at_floor_by_prediction: float = 1000.0


STOPPING = Stopping()


class Evidence(NamedTuple):
    """What is known of an iterate.

    Attributes
    ----------
    value
        f.
    rounding
        What differences of f below are not to be believed.
    total, recent
        What was gained since the start, and since x has had its present size.
    slope, slope_here
        What a change of an entry by its largest size so far, or by its present one, changes f by,
        to first order.
    predicted
        What second derivatives say that a step gains; infinite where they are not known.
    newton_share
        The largest share of an entry by which Newton's step changes it; infinite where that is not
        known.
    faded
        Whether the latest step has left next to nothing of f, and has been no more than the
        rounding of the entries, or where all of x ends at zero, of entries as large as they have
        been.
    """

    value: Float[Array, ""]
    rounding: Float[Array, ""]
    total: Float[Array, ""]
    recent: Float[Array, ""]
    slope: Float[Array, ""]
    slope_here: Float[Array, ""]
    predicted: Float[Array, ""]
    newton_share: Float[Array, ""]
    faded: Bool[Array, ""]


def is_zero(value: Float[Array, ""], total: Float[Array, ""]) -> Bool[Array, ""]:
    """Whether f is nothing beside the rounding of what was gained since the start."""
    return jnp.abs(value) <= STOPPING.zero * jnp.finfo(value.dtype).eps * total


def predicts_nothing(evidence: Evidence) -> Bool[Array, ""]:
    """Whether second derivatives predict no gain to speak of."""
    least = jnp.maximum(STOPPING.predicted * jnp.abs(evidence.value), evidence.rounding)
    return evidence.predicted <= least


def is_settled(evidence: Evidence, knows_curvature: bool) -> Bool[Array, ""]:
    """Whether little is left to gain.

    It is held against f, or where f is zero against what was gained at this size of x.
    """
    eps = jnp.finfo(evidence.value.dtype).eps
    share = jnp.maximum(STOPPING.settled, jnp.sqrt(eps))
    beside_f = evidence.slope <= share * jnp.abs(evidence.value)
    if knows_curvature:
        beside_f = beside_f & predicts_nothing(evidence)
    recently = (
        evidence.slope_here <= jnp.maximum(STOPPING.settled_recently, 4 * eps) * evidence.recent
    )
    # A convex function with its minimum of zero at a distance d from x is d / |x| of its slope, or
    # less.
    near = jnp.abs(evidence.value) <= STOPPING.rounded * eps * evidence.slope_here
    newton = evidence.newton_share <= STOPPING.exact
    at_zero = (recently & near) | newton | evidence.faded
    return beside_f | (is_zero(evidence.value, evidence.total) & at_zero)


def vanishes(evidence: Evidence, curvature: Float[Array, ""]) -> Bool[Array, ""]:
    """Whether f is zero beside what a change of x by its size does, by the curvature of f.

    A minimum of zero where f'' is singular: the steps stay shares of the distance, so that none of
    them shows how near it is. Where f is steep its curvature is as large as f.
    """
    eps = jnp.finfo(evidence.value.dtype).eps
    change = STOPPING.rounded * eps
    at_zero = jnp.abs(evidence.value) <= change**2 * curvature
    flat = evidence.slope <= STOPPING.resized * change * curvature
    return at_zero & flat & is_zero(evidence.value, evidence.total)


def hides_slope(evidence: Evidence, knows_curvature: bool) -> Bool[Array, ""]:
    """Whether the slope is no more than noise can hide."""
    most = jnp.asarray(STOPPING.at_floor)
    if knows_curvature:
        most = jnp.where(predicts_nothing(evidence), STOPPING.at_floor_by_prediction, most)
    scale = jnp.maximum(jnp.abs(evidence.value), evidence.recent)
    return evidence.slope <= most * jnp.sqrt(evidence.rounding * scale)


def first_that_holds(*table: tuple[Status, Bool[Array, ""]]) -> Int32[Array, ""]:
    """The code of the first status whose condition holds, or `RUNNING`."""
    code = jnp.asarray(RUNNING, jnp.int32)
    for status, condition in reversed(table):
        code = jnp.where(condition, status.code, code)
    return code.astype(jnp.int32)
