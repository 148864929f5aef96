"""Solutions of the discrete Bratu problem: below the fold, at it, and around it."""

from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

import adjoint
from problems.reaction_diffusion import Square


def temperature(
    square: Square, lam: Float[Array, ""], c: Float[Array, "points points"]
) -> adjoint.Solution[Float[Array, "points points"]]:
    """The lower, stable solution u of F(u, lambda, c) = 0, to which Newton rises from u = 0."""
    start = jnp.zeros((square.points, square.points))
    return adjoint.root(square.reaction_diffusion, start, (lam, c), jacobian_pattern=square.pattern)


def peak_temperature(
    square: Square, lam: Float[Array, ""], c: Float[Array, "points points"]
) -> Float[Array, ""]:
    """u(1/2, 1/2) as a function of lambda and c, to differentiate; NaN past the turning point."""
    return square.peak(temperature(square, lam, c).value)


def turning_point(
    square: Square, c: Float[Array, "points points"]
) -> adjoint.Solution[
    tuple[Float[Array, "points points"], Float[Array, "points points"], Float[Array, ""]]
]:
    """(u, v, lambda*) at the discrete turning point, by the extended system, regular there."""

    def extended(state: Any, c: Array) -> Any:
        u, v, lam = state
        F, F_u_v = jax.jvp(lambda u: square.reaction_diffusion(u, (lam, c)), (u,), (v,))
        return F, F_u_v, jnp.sum(square.middle * v) - 1.0

    dome = square.dome()
    # Published for c = 1: the peak is 1.39 there.
    start = (1.39 * dome, dome, 6.8 / jnp.mean(c))
    return adjoint.root(extended, start, c, jacobian_pattern=square.fold_pattern)


def reaction_of_peak(
    square: Square,
    peak: Float[Array, ""],
    start: tuple[Float[Array, "points points"], Float[Array, ""]],
) -> adjoint.Solution[tuple[Float[Array, "points points"], Float[Array, ""]]]:
    """(u, lambda) of the solution with this peak, c = 1, on both sides of the turning point.

    There is one for every peak.
    """

    def bordered(state: Any, peak: Array) -> Any:
        u, lam = state
        return square.reaction_diffusion(u, (lam, jnp.ones_like(u))), square.peak(u) - peak

    return adjoint.root(bordered, start, peak, jacobian_pattern=square.branch_pattern)


def branch(
    square: Square, peaks: Float[np.ndarray, " peaks"]
) -> Iterator[tuple[float, Float[np.ndarray, "points points"]]]:
    """(lambda, u) for ascending peaks, each from the one before; through the turning point."""
    solve = jax.jit(lambda peak, start: reaction_of_peak(square, peak, start))
    # For small u, -lap(u) = lambda: the dome's share of it gives a good first lambda.
    state = (peaks[0] * square.dome(), jnp.asarray(2 * np.pi**2 * peaks[0]))
    for peak in peaks:
        state = adjoint.require(solve(jnp.asarray(peak), state))
        yield float(state[1]), np.asarray(state[0])


def limit_of_scaled_slope(
    square: Square, u: Float[Array, "points points"], lam_star: Float[Array, ""]
) -> Float[Array, ""]:
    """lim slope sqrt(lambda* - lambda) = 1 / sqrt(2 k), k = -d^2 lambda / d peak^2 at the fold.

    The fold is (u, lambda*).
    """

    def lam(peak: Array) -> Array:
        return reaction_of_peak(square, peak, (u, lam_star)).value[1]

    return 1 / jnp.sqrt(-2 * jax.hessian(lam)(square.peak(u)))
