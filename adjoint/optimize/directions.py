"""Directions in which a check of the derivative looks, and the sizes of the entries along them."""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from adjoint.optimize.problem import Domain
from adjoint.optimize.run import Run
from adjoint.optimize.stopping import STOPPING
from adjoint.status import Status


def sizes(run: Run, stalled: Bool[Array, ""]) -> Float[Array, " n"]:
    """The present sizes of the entries.

    Not what they have been: one that has become small may still count for much, and from far enough
    away every x seems to go to zero. It is zero where a run comes to rest so near to it.
    """
    x = jnp.abs(run.state.at.x)
    rounded = STOPPING.resized * STOPPING.rounded * jnp.finfo(x.dtype).eps
    return jnp.where(stalled & jnp.all(x <= rounded * run.reach), run.reach, x)


def in_sizes(run: Run, curvature: Float[Array, ""]) -> Float[Array, ""]:
    """The curvature of a check of the derivative, for a change of the entries by their sizes."""
    present = sizes(run, run.reason == Status.STALLED.code)
    changes = jnp.abs(run.derivative_check.direction)
    shares = jnp.where(changes > 0, changes / present, 0)
    share = jnp.max(shares, initial=0.0)
    return curvature / jnp.where(share > 0, share, jnp.inf) ** 2


def all_around(run: Run, stalled: Bool[Array, ""], domain: Domain) -> Float[Array, " n"]:
    """All entries changed by their sizes, downhill, but for those held at a bound."""
    at = run.state.at
    present = sizes(run, stalled)
    direction = jnp.where(at.derivative > 0, -present, present)
    return jnp.where(domain.free(at.x, -direction), direction, 0)


def most_to_gain(run: Run, domain: Domain) -> Float[Array, " n"]:
    """Where the method failed, if it did, and downhill in units of the entries' sizes.

    What there is to gain is along it.
    """
    state = run.state
    unit = jnp.where(run.reach > 0, run.reach, jnp.where(run.size > 0, run.size, 1))

    def normalized(v: Array) -> Array:
        length = jnp.max(jnp.abs(v) / unit, initial=0.0)
        return v / jnp.where(length > 0, length, 1)

    downhill = normalized(-run.scaled.derivative * unit**2)
    direction = downhill + jnp.where(state.failed, normalized(state.direction), 0)
    # An entry at a bound, which would pass it at once, stays there.
    return jnp.where(domain.free(state.at.x, -direction), direction, 0)


def inward(
    x: Float[Array, " n"], direction: Float[Array, " n"], domain: Domain
) -> Float[Array, " n"]:
    """The direction, turned around where the bounds leave no room along it."""
    return jnp.where(domain.longest(x, direction) > 0, direction, -direction)
