"""Diagonals of second derivatives, learned from how slopes change along the steps."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

# What is left at least of second derivatives that a step has not confirmed.
FORGET = 0.1
# Those of the entries of f' by themselves are believed where they have missed less than this share
# of what the others have.
CONVINCING = 0.25


class DiagonalHessian(NamedTuple):
    """Two guesses at the diagonals of second derivatives, of f and each constraint, in spans.

    A span is upper - lower.

    Attributes
    ----------
    averaged
        The least change of those before with s' D s = s' y, for the latest step s and the change y
        of f'.
    per_entry
        y_j / s_j: right where f is a sum of functions of one x_j each, and anything else where it
        is far from that.
    missed
        |y - D s| / |y| of the two at the latest step, before they knew of it.
    """

    averaged: Float[Array, "1+m n"]
    per_entry: Float[Array, "1+m n"]
    missed: Float[Array, "2 1+m"]

    @property
    def better(self) -> Float[Array, "1+m n"]:
        """Of each function those that foretell its slopes."""
        return jnp.where(
            (self.missed[1] < CONVINCING * self.missed[0])[:, None], self.per_entry, self.averaged
        )


def learn(
    hessian: DiagonalHessian, y: Float[Array, "1+m n"], s: Float[Array, " n"]
) -> DiagonalHessian:
    """What the changes y of the slopes along the step s tell; both in spans."""
    shortest = jnp.sqrt(jnp.finfo(s.dtype).eps)
    moved = jnp.abs(s) > shortest
    far = jnp.max(jnp.abs(s)) > shortest
    squares = s**2
    missed = jnp.linalg.norm(
        y[None] - jnp.stack([hessian.averaged, hessian.per_entry]) * s[None, None, :], axis=2
    )
    size = jnp.linalg.norm(y, axis=1)[None, :]
    seen = y @ s
    explained = hessian.averaged @ squares
    more = (seen - explained)[:, None] * (squares / jnp.where(far, squares @ squares, 1))[None, :]
    less = jnp.clip(seen / jnp.where(explained > 0, explained, 1), FORGET, 1)
    averaged = jnp.where(
        (seen > explained)[:, None], hessian.averaged + more, less[:, None] * hessian.averaged
    )
    ratios = y / jnp.where(moved, s, 1)[None, :]
    per_entry = jnp.where(moved[None, :], jnp.maximum(ratios, 0), hessian.per_entry)
    learned = DiagonalHessian(averaged, per_entry, missed / jnp.where(size > 0, size, 1))
    return jax.tree.map(lambda a, b: jnp.where(far, a, b), learned, hessian)
