"""Whether the values along a run agree with its slopes: noise, and wrong derivatives, do not."""

from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from adjoint.optimize import lagrangian
from adjoint.optimize.problem import Iterate
from adjoint.optimize.run import Run

# A gain counts as seen when it is so many times the rounding of f.
SEEN = 100


def is_constrained(run: Run) -> bool:
    return hasattr(run.state, "multipliers")


def lagrangian_at(run: Run, at: Iterate, constraints: lagrangian.Constraints) -> Iterate:
    """What is stationary at a solution, and as noisy as f and the constraints together.

    It is f itself without constraints.
    """
    return (
        lagrangian.at_iterate(at, constraints, run.state.multipliers) if is_constrained(run) else at
    )


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


def unexplained(run: Run, left: Any, rounding: Array, first: Bool[Array, ""]) -> Float[Array, ""]:
    """By how much the Lagrangian changed beyond the slopes at both ends of a step.

    That is noise, if these are right. The change of a convex function is between the two; what
    misses their mean by more than both is no curvature.
    """
    at = run.state.at
    before = left.at
    if is_constrained(run):
        at = lagrangian_at(run, at, run.state.constraints)
        before = lagrangian_at(run, before, left.constraints)
    s = at.x - before.x
    slopes = jnp.stack([before.derivative @ s, at.derivative @ s])
    off = jnp.abs(at.value - before.value - jnp.mean(slopes))
    seen = ~first & (off > jnp.max(jnp.abs(slopes)) + 4 * rounding)
    return jnp.where(seen, off, 0)
