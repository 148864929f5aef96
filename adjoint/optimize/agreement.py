"""Whether the values along a run agree with its slopes: noise, and wrong derivatives, do not."""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from adjoint.optimize import lagrangian
from adjoint.optimize.state import Constraints, Iterate, State

# A gain counts as seen when it is so many times the rounding of f.
SEEN = 100


def lagrangian_at(state: State, at: Iterate, constraints: Constraints) -> Iterate:
    """What is stationary at a solution, and as noisy as f and the constraints together.

    It is f itself without constraints.
    """
    if state.multipliers is None:
        return at
    return lagrangian.at_iterate(at, constraints, state.multipliers.values)


def lagrangian_of(state: State, other: State) -> Iterate:
    """The same at the iterate of another state of the method."""
    if other.multipliers is None:
        return other.at
    return lagrangian_at(state, other.at, other.multipliers.constraints)


def mismatch(
    known: Array, before: Iterate, at: Iterate, rounding: Array, first: Bool[Array, ""]
) -> Array:
    """What the step gained against the mean of the slopes at its ends.

    It is appended to what is known when it can be seen.
    """
    s = at.x - before.x
    slopes = jnp.stack([before.derivative @ s, at.derivative @ s])
    gain = at.value - before.value
    size = jnp.maximum(jnp.abs(gain), jnp.max(jnp.abs(slopes)))
    share = jnp.abs(gain - jnp.mean(slopes)) / jnp.where(size > 0, size, 1)
    seen = ~first & (size > SEEN * rounding) & jnp.isfinite(share)
    return jnp.where(seen, jnp.append(known[1:], share), known)


def unexplained(
    state: State, left: State, rounding: Array, first: Bool[Array, ""]
) -> Float[Array, ""]:
    """By how much the Lagrangian changed beyond the slopes at both ends of a step.

    That is noise, if these are right. The change of a convex function is between the two; what
    misses their mean by more than both is no curvature.
    """
    at = lagrangian_of(state, state)
    before = lagrangian_of(state, left)
    s = at.x - before.x
    slopes = jnp.stack([before.derivative @ s, at.derivative @ s])
    off = jnp.abs(at.value - before.value - jnp.mean(slopes))
    seen = ~first & (off > jnp.max(jnp.abs(slopes)) + 4 * rounding)
    return jnp.where(seen, off, 0)
