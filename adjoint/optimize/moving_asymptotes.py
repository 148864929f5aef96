"""Moving asymptotes: where they stand, and the separable approximations that they make."""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float

from adjoint.optimize import separable
from adjoint.optimize.problem import Domain
from adjoint.optimize.state import Constraints, Iterate

# The distance of the asymptotes, as a share of upper - lower: at first, at least, and at most.
FIRST_WIDTH = 0.5
SMALLEST_WIDTH = 1e-12
LARGEST_WIDTH = 3.0
# What the distance is multiplied by where x_j has turned around and where it has gone on.
SHRINK = 0.7
GROW = 1.5
# A step goes at most this share of the way to the asymptotes.
MOVE = 0.9
# Curvature beyond that of the asymptotes: as shares of |f_j| and of their mean.
OPPOSITE = 1e-3
FLAT = 1e-5


def span(domain: Domain) -> Float[Array, " n"]:
    """upper - lower; 1 for an unknown that is fixed."""
    assert domain.lower is not None
    assert domain.upper is not None
    return jnp.where(domain.upper > domain.lower, domain.upper - domain.lower, 1)


def next_width(
    width: Float[Array, " n"], x: Float[Array, " n"], previous: Float[Array, "2 n"], domain: Domain
) -> Float[Array, " n"]:
    """The asymptotes' distance: smaller where x_j turned around, larger where it has gone on."""
    turn = (x - previous[0]) * (previous[0] - previous[1])
    factor = jnp.where(turn < 0, SHRINK, jnp.where(turn > 0, GROW, 1))
    return jnp.clip(factor * width, SMALLEST_WIDTH * span(domain), LARGEST_WIDTH * span(domain))


def slopes(at: Iterate, constraints: Constraints) -> Float[Array, "1+m n"]:
    """f' and c'."""
    return jnp.concatenate([at.derivative[None, :], constraints.jacobian])


def slope_sizes(
    at: Iterate, constraints: Constraints, width: Float[Array, " n"]
) -> Float[Array, "1+m"]:
    """How much f and the constraints change up to an asymptote, to first order, on average."""
    return jnp.mean(jnp.abs(slopes(at, constraints) * width[None, :]), axis=1)


class Proposal(NamedTuple):
    """A subproblem's minimizer, multipliers, and largest y in units of the scaled constraints."""

    x: Float[Array, " n"]
    multipliers: Float[Array, " m"]
    excess: Float[Array, ""]
    approximations: Float[Array, "1+m"]


def propose(
    at: Iterate,
    constraints: Constraints,
    width: Float[Array, " n"],
    curvature: Float[Array, "1+m"],
    hessian: Float[Array, "1+m n"],
    penalty: Float[Array, ""],
    domain: Domain,
) -> Proposal:
    """Minimize the approximations at x, with `curvature` added.

    That is rho of equation (5.4) of Svanberg (2002).
    """
    assert domain.lower is not None
    assert domain.upper is not None
    x = at.x
    movable = domain.upper > domain.lower
    slope = slopes(at, constraints) * (width * movable)[None, :]
    values = jnp.concatenate([jnp.zeros(1, x.dtype), constraints.value])
    missing = jnp.maximum(
        hessian * ((width / span(domain) * movable) ** 2)[None, :] - 2 * jnp.abs(slope), 0
    )
    extra = OPPOSITE * jnp.abs(slope) + (curvature[:, None] + missing) / 4
    scale = jnp.maximum(
        jnp.max(jnp.abs(slope) + (curvature[:, None] + missing) / 4, axis=1), 1e-3 * jnp.abs(values)
    )
    scale = jnp.where(scale > 0, scale, 1)
    low = jnp.maximum(domain.lower, x - MOVE * width)
    high = jnp.minimum(domain.upper, x + MOVE * width)
    problem = separable.Separable(
        p=(jnp.maximum(slope, 0) + extra) / scale[:, None],
        q=(jnp.maximum(-slope, 0) + extra) / scale[:, None],
        r=values / scale,
        lower=jnp.where(movable, (low - x) / width, -MOVE),
        upper=jnp.where(movable, (high - x) / width, MOVE),
        penalty=penalty,
    )
    found = separable.solve(problem)
    held_low = found.at_lower > found.h - problem.lower
    held_high = found.at_upper > problem.upper - found.h
    h = jnp.where(held_low, problem.lower, jnp.where(held_high, problem.upper, found.h))
    reached = jnp.where(held_low, low, jnp.where(held_high, high, x + width * found.h))
    multipliers = (
        jnp.where(found.multipliers > found.slack, found.multipliers, 0) * scale[0] / scale[1:]
    )
    point = jnp.where(movable, domain.project(reached), x)
    return Proposal(point, multipliers, jnp.max(found.y, initial=0.0), problem.values(h) * scale)
