"""Averages over a finite time: smooth weights, and how uncertain an average is, from its parts."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

# The weights rise over this share of the time, and fall over an equal one.
TAPER = 0.25
# The correlation of parts is followed over this share of the time.
BANDWIDTH = 0.25


def smooth_weights(count: int, h: Float[Array, ""]) -> Float[Array, " count"]:
    """Weights w_k of intervals of length h, sum of w_k h = 1: constant but for tapers at the ends.

    The tapers are infinitely smooth, so that the average of something periodic converges faster
    than any power of the time, and whole periods need not fit.
    """
    s = (jnp.arange(count) + 0.5) / count
    x = jnp.clip(jnp.minimum(s, 1 - s) / TAPER, max=1 - 1e-3)
    w = jax.nn.sigmoid(1 / (1 - x) - 1 / x)
    return (w / (jnp.sum(w) * h)).astype(h.dtype)


def standard_error(
    shares: Float[Array, " parts"], parts: Float[Array, "parts m"]
) -> Float[Array, " m"]:
    """The standard error of the parts' sum, whose expectations are as the shares.

    The shares add up to 1. By Parzen's lag window: errors that neighboring parts have with opposite
    signs, as those that come from cutting, almost vanish in it, and it is never negative (M. B.
    Priestley, Spectral Analysis and Time Series, 1981, section 6.2.3).
    """
    count = shares.size
    i = jnp.arange(count)
    lag = jnp.abs(i[:, None] - i[None, :]) / (BANDWIDTH * count)
    window = jnp.where(lag < 0.5, 1 - 6 * lag**2 * (1 - lag), 2 * jnp.clip(1 - lag, min=0) ** 3)
    left = parts - jnp.outer(shares, jnp.sum(parts, axis=0))
    # The expectation is estimated too; for independent parts it is known how much smaller that
    # makes the result.
    centering = jnp.eye(count) - shares[:, None]
    correction = jnp.sum(shares**2) / jnp.trace(
        window @ centering @ jnp.diag(shares**2) @ centering.T
    )
    variance = jnp.einsum("im,ij,jm->m", left, window, left) * correction
    return jnp.sqrt(jnp.maximum(variance, 0)).astype(parts.dtype)
