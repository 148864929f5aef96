"""How a solve ended, and the limits of what is believed: the same for every method."""

from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int32

from adjoint.status import Status

# An estimated reciprocal condition number below SINGULAR_LIMIT unit roundoffs is that of a matrix
# which is singular to working precision; below ILL_CONDITIONED_LIMIT unit roundoffs, not even one
# digit is certain.
SINGULAR_LIMIT = 1.0
ILL_CONDITIONED_LIMIT = 8.0


class Outcome(NamedTuple):
    """How a solve ended, as arrays."""

    code: Int32[Array, ""]
    residual: Float[Array, ""]
    iterations: Int32[Array, ""]
    reciprocal_condition: Float[Array, ""]


def condition_code(reciprocal_condition: Any, unit_roundoff: float, xp: Any = jnp) -> Any:
    """The status code of a reciprocal condition; 0 is also a factorization that broke down."""
    singular = reciprocal_condition < SINGULAR_LIMIT * unit_roundoff
    ill = reciprocal_condition < ILL_CONDITIONED_LIMIT * unit_roundoff
    return xp.where(
        singular,
        Status.SINGULAR.code,
        xp.where(ill, Status.ILL_CONDITIONED.code, Status.SUCCESS.code),
    )


def residual_limit(dtype: DTypeLike) -> float:
    """The largest normwise backward error |b - A x| / (|A| |x| + |b|) of a solve that is believed.

    A backward-stable solve leaves a small multiple of the unit roundoff; 1e3 unit roundoffs (2e-13
    in float64, 1e-4 in float32) mean that the vector belongs to another matrix.
    """
    return 1e3 * float(jnp.finfo(dtype).eps)


def probe_vector(n: int) -> np.ndarray:
    """A fixed vector of entries 1 to 2 in size, of mixed signs: to start condition estimates."""
    k = np.arange(1, n + 1)
    golden_ratio = 0.6180339887498949
    return (1.0 + np.modf(k * golden_ratio)[0]) * np.where(
        np.modf(k * golden_ratio**2 * 7.0)[0] < 0.5, -1.0, 1.0
    )
