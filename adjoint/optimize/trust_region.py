"""Trust regions: the model minimized within a ball, exactly, and how far the next may reach.

min g . s + s' H s / 2 subject to |s| <= radius is solved in the basis of eigenvectors of H, where
it is an equation in one number, the multiplier lam: (H + lam) s = -g with H + lam semidefinite and
lam (radius - |s|) = 0 (Nocedal and Wright, Numerical Optimization, 2nd ed., theorem 4.1).
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int32

from adjoint.inner_products import Euclidean
from adjoint.optimize.line_search import CONTRADICTIONS, contradiction
from adjoint.optimize.problem import Domain
from adjoint.optimize.state import Evaluation, Prediction, State
from adjoint.tracing import loops

# A step must bring this share of the decrease that the model promises.
SUFFICIENT_DECREASE = 1e-4
# Below the first share the radius shrinks, above the second it grows (Nocedal and Wright, algorithm
# 4.1).
POOR = 0.25
GOOD = 0.75
SHORTEST_CUT = 0.1
LONGEST_CUT = 0.5
GROWTH = 3.0
# Decreases are not to be believed when they are promised to be below so many times the rounding of
# f.
BLURRED = 10
# So many times the longest |x| so far, in units of its rounding, is the shortest radius.
COLLAPSED = 4
# Newton's method for the multiplier converges monotonically, in far fewer steps.
SECULAR_STEPS = 60


class Eigenbasis(NamedTuple):
    """Eigenvectors of H v = w M v as columns, M-orthonormal, and their w in ascending order."""

    values: Float[Array, " n"]
    vectors: Float[Array, "n n"]


def eigenbasis(H: Float[Array, "n n"], free: Bool[Array, " n"], domain: Domain) -> Eigenbasis:
    """Of the free entries' block; the held ones are apart, and their eigenvalues not the lowest."""
    block = free[:, None] & free[None, :]
    identity = jnp.eye(free.size, dtype=H.dtype)
    unit = jnp.ones_like(H[0]) if domain.unit is None else domain.unit
    H = unit[:, None] * (H + H.T) / 2 * unit[None, :]
    H = jnp.where(block, H, jnp.max(jnp.abs(H)) * identity)
    if isinstance(domain.inner_product, Euclidean):
        w, U = jnp.linalg.eigh(H)
        return Eigenbasis(w, unit[:, None] * U)
    L = jnp.linalg.cholesky(jnp.where(block, domain.matrix(H.dtype, free.size), identity))

    def solve(B: Array, transposed: bool) -> Array:
        return jax.scipy.linalg.solve_triangular(L, B, lower=True, trans=int(transposed))

    half = solve(H, False)
    w, U = jnp.linalg.eigh(solve(half.T, False))
    return Eigenbasis(w, solve(U, True))


def minimize_in_ball(
    w: Float[Array, " n"], b: Float[Array, " n"], radius: Float[Array, ""]
) -> tuple[Float[Array, " n"], Float[Array, ""]]:
    """y and lam that minimize b . y + sum w_i y_i^2 / 2 within |y| <= radius; w ascending.

    The hard case, b without a part along the lowest w < 0, included: there y goes to the sphere
    along it.
    """
    eps = jnp.finfo(w.dtype).eps
    # What is zero but for rounding would send a step far along the null space of H.
    null = jnp.abs(w) <= w.size * eps * jnp.max(jnp.abs(w))
    w = jnp.where(null, 0, w)
    b = jnp.where(null & (jnp.abs(b) <= w.size * eps * jnp.linalg.norm(b)), 0, b)
    least = jnp.maximum(-w[0], 0)
    gap = w + least

    def y_of(mu: Array) -> Array:
        d = gap + mu
        return -b / jnp.where(d > 0, d, 1) * (d > 0)

    # |y_i| alone fills the ball at the i-th of these: none is beyond the multiplier.
    mu = jnp.maximum(jnp.max(jnp.abs(b) / radius - gap), 0)

    def secular(state: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        mu, _, k = state
        y = y_of(mu)
        d = gap + mu
        norm = jnp.linalg.norm(y)
        slope = jnp.sum(y**2 / jnp.where(d > 0, d, 1))
        # Newton's method for 1/|y| = 1/radius, which is nearly linear in mu and concave.
        following = mu + norm**2 / jnp.where(slope > 0, slope, 1) * (norm - radius) / radius
        following = jnp.where((norm > radius) & (slope > 0), following, mu)
        return following, following > mu * (1 + 2 * eps), k + 1

    start = (mu, jnp.ones((), bool), jnp.zeros((), jnp.int32))
    mu = loops.while_loop(lambda s: s[1] & (s[2] < SECULAR_STEPS), secular, start)[0]
    y = y_of(mu)
    rest = jnp.maximum(radius**2 - y @ y, 0)
    hard = (mu == 0) & (w[0] < 0)
    return y.at[0].add(jnp.where(hard, jnp.sqrt(rest), 0)), mu + least


class Region(NamedTuple):
    """How far steps may go, and what is known of the latest.

    Attributes
    ----------
    radius
        In the norm of the inner product or in units.
    size
        The longest |x| so far, or the first radius.
    predicted
        The decrease of f that the model promises at the point that is tried.
    restarted
        Whether the radius has been reset since the last step.
    contradictions
        Trials in a row at which f contradicts f'.
    """

    radius: Float[Array, ""]
    size: Float[Array, ""]
    predicted: Float[Array, ""]
    restarted: Bool[Array, ""]
    contradictions: Int32[Array, ""]


def whole_region(x: Float[Array, " n"], domain: Domain) -> Region:
    """As far as x is long, from the start."""
    length = domain.norm(x)
    radius = jnp.where(length > 0, length, 1).astype(x.dtype)
    no = jnp.zeros((), bool)
    return Region(radius, radius, jnp.zeros((), x.dtype), no, jnp.zeros((), jnp.int32))


def widened(region: Region) -> Region:
    """As wide as at first, until the next step."""
    return region._replace(
        radius=region.size,
        restarted=jnp.ones((), bool),
        contradictions=jnp.zeros((), jnp.int32),
    )


def unknown(dtype: DTypeLike) -> Prediction:
    """Before second derivatives have come."""
    infinite = jnp.full((), jnp.inf, dtype)
    return Prediction(infinite, infinite)


class Judgement(NamedTuple):
    """Whether a trial point becomes the iterate, how far the next may reach, and noise.

    The latter is by how much f contradicts f', if it does.
    """

    accepted: Bool[Array, ""]
    region: Region
    contradicted_by: Float[Array, ""]


def judge(state: State, evaluation: Evaluation, region: Region, domain: Domain) -> Judgement:
    """What the evaluation says of the step and of the decrease that the model has predicted.

    Where f decreases by less than its rounding, the mean of the slopes at both ends is the
    decrease.
    """
    at = state.at
    s = state.point - at.x
    first = ~state.started
    predicted = region.predicted
    length = domain.norm(s)
    noise = domain.rounding(at.value)
    slope = at.derivative @ s
    slope_beyond = evaluation.derivative @ s
    finite = jnp.isfinite(evaluation.value) & jnp.all(jnp.isfinite(evaluation.derivative))
    decrease = at.value - evaluation.value
    blurred = (predicted <= BLURRED * noise) & (jnp.abs(decrease) <= BLURRED * noise)
    decrease = jnp.where(blurred, -(slope + slope_beyond) / 2, decrease)
    share = jnp.where(finite, decrease / jnp.where(predicted > 0, predicted, 1), -1)
    lowered = finite & (share >= SUFFICIENT_DECREASE)
    accepted = first | lowered
    # The minimizer along s of the parabola through f, f' s and f beyond.
    bend = -decrease - slope
    cut = jnp.where(finite & (bend > 0), -slope / (2 * jnp.where(bend > 0, bend, 1)), SHORTEST_CUT)
    shrunk = length * jnp.clip(cut, SHORTEST_CUT, LONGEST_CUT)
    grown = jnp.where(
        (share >= GOOD) & (length > 0.9 * region.radius), GROWTH * region.radius, region.radius
    )
    radius = jnp.where(first, region.radius, jnp.where(share >= POOR, grown, shrunk))
    contradicted, off = contradiction(-decrease, slope, slope_beyond, noise)
    contradicted = finite & contradicted & ~lowered
    # A step to where the model is at its minimum is not straight, but the slope at its end is no
    # larger.
    blur = jnp.where(finite & ~lowered & (jnp.abs(slope_beyond) <= jnp.abs(slope)), off, 0)
    return Judgement(
        accepted,
        region._replace(
            radius=radius,
            size=jnp.maximum(region.size, jnp.where(accepted, domain.norm(state.point), 0)),
            restarted=region.restarted & ~accepted,
            contradictions=jnp.where(contradicted, region.contradictions + 1, 0).astype(jnp.int32),
        ),
        blur,
    )


def radius_collapsed(region: Region) -> Bool[Array, ""]:
    """Whether no step within the radius would change such an x, or f does not do what f' says.

    The latter shows nearer and nearer.
    """
    radius = region.radius
    collapsed = ~(radius > COLLAPSED * jnp.finfo(radius.dtype).eps * region.size)
    return collapsed | (region.contradictions >= CONTRADICTIONS)
