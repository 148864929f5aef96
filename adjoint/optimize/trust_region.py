"""Trust regions: the model minimized within a ball, exactly, and how far the next may reach.

min g . s + s' H s / 2 subject to |s| <= radius is solved in the basis of eigenvectors of H, where
it is an equation in one number, the multiplier lam: (H + lam) s = -g with H + lam semidefinite and
lam (radius - |s|) = 0 (Nocedal and Wright, Numerical Optimization, 2nd ed., theorem 4.1).
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int32

from adjoint.inner_products import Euclidean
from adjoint.optimize.line_search import CONTRADICTIONS, contradiction
from adjoint.optimize.problem import Domain, Evaluation, Iterate
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


class Judgement(NamedTuple):
    """Whether a trial step is accepted, and the radius from now on.

    Also the trials in a row at which f contradicts f', and by how much.
    """

    accepted: Bool[Array, ""]
    radius: Float[Array, ""]
    contradictions: Int32[Array, ""]
    contradicted_by: Float[Array, ""]


def judge(
    at: Iterate,
    evaluation: Evaluation,
    s: Float[Array, " n"],
    predicted: Float[Array, ""],
    radius: Float[Array, ""],
    contradictions: Int32[Array, ""],
    domain: Domain,
) -> Judgement:
    """What the evaluation at ``at.x + s`` says of the step and of the model's `predicted` decrease.

    Where f decreases by less than its rounding, the mean of the slopes at both ends is the
    decrease.
    """
    length = domain.norm(s)
    noise = domain.rounding(at.value)
    slope = at.derivative @ s
    slope_beyond = evaluation.derivative @ s
    finite = jnp.isfinite(evaluation.value) & jnp.all(jnp.isfinite(evaluation.derivative))
    decrease = at.value - evaluation.value
    blurred = (predicted <= BLURRED * noise) & (jnp.abs(decrease) <= BLURRED * noise)
    decrease = jnp.where(blurred, -(slope + slope_beyond) / 2, decrease)
    share = jnp.where(finite, decrease / jnp.where(predicted > 0, predicted, 1), -1)
    accepted = finite & (share >= SUFFICIENT_DECREASE)
    # The minimizer along s of the parabola through f, f' s and f beyond.
    bend = -decrease - slope
    cut = jnp.where(finite & (bend > 0), -slope / (2 * jnp.where(bend > 0, bend, 1)), SHORTEST_CUT)
    shrunk = length * jnp.clip(cut, SHORTEST_CUT, LONGEST_CUT)
    grown = jnp.where((share >= GOOD) & (length > 0.9 * radius), GROWTH * radius, radius)
    contradicted, off = contradiction(-decrease, slope, slope_beyond, noise)
    contradicted = finite & contradicted & ~accepted
    contradictions = jnp.where(contradicted, contradictions + 1, 0).astype(jnp.int32)
    # A step to where the model is at its minimum is not straight, but the slope at its end is no
    # larger.
    blur = jnp.where(finite & ~accepted & (jnp.abs(slope_beyond) <= jnp.abs(slope)), off, 0)
    return Judgement(accepted, jnp.where(share >= POOR, grown, shrunk), contradictions, blur)


def radius_collapsed(
    verdict: Judgement, radius: Float[Array, ""], size: Float[Array, ""]
) -> Bool[Array, ""]:
    """Whether no step within the radius would change such an x, or f does not do what f' says.

    The latter shows nearer and nearer.
    """
    collapsed = ~(radius > COLLAPSED * jnp.finfo(radius.dtype).eps * size)
    return collapsed | (verdict.contradictions >= CONTRADICTIONS)
