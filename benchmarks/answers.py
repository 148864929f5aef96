"""What every competitor is asked, the scalar g to differentiate, and how far an answer is off."""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

VALUE = "value"
GRADIENT = "value and gradient"
PRODUCT = "Hessian-vector product"
# Relative difference from the right answer, above which a result is called wrong.
AGREEMENT = 1e-6


class Answers(NamedTuple):
    """g(p), its gradient and its Hessian times v."""

    value: float
    gradient: Float[np.ndarray, " parameters"]
    hessian_vector_product: Float[np.ndarray, " parameters"]


def objective(x: Float[Array, " n"]) -> Float[Array, ""]:
    """g = sqrt(n) |x|.

    Its derivative sqrt(n) x / |x| has entries of about 1, as the right-hand sides here have. So an
    iterative solver with an absolute tolerance can have the same one in the solve and in its
    adjoint.
    """
    return x.size**0.5 * jnp.linalg.norm(x)


def objective_derivatives(
    x: Float[np.ndarray, " n"], x_dot: Float[np.ndarray, " n"]
) -> tuple[float, Float[np.ndarray, " n"], Float[np.ndarray, " n"]]:
    """g, its gradient by x, and how that changes along x_dot; written out for the right answers."""
    norm = np.linalg.norm(x)
    root = x.size**0.5
    return float(root * norm), root * x / norm, root * (x_dot / norm - x * (x @ x_dot) / norm**3)


def relative_error(found: np.ndarray, expected: np.ndarray) -> float:
    """|found - expected| / |expected| in the 2-norm; infinite when a number found is not finite."""
    error = np.linalg.norm(np.asarray(found) - expected) / np.linalg.norm(expected)
    return float(error) if np.isfinite(error) else np.inf
