"""Lengths of vectors in the whole range of the numbers.

The squares of 1e20 in float32, or of 1e160 in float64, have no room in it. Vectors are divided by a
power of two before they are squared, which costs no rounding: the result for 2^k x is, bit by bit,
2^k times that for x. (LAPACK's dnrm2 has the same aim: Blue, A portable Fortran program to find the
Euclidean norm of a vector, ACM Trans. Math. Softw. 4, 1978.)
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Inexact


def power_of_two(size: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """The largest power of two <= a size that is not negative; 1 for 0, Inf and NaN."""
    bits = jnp.finfo(size.dtype).bits
    mantissa = int(jnp.finfo(size.dtype).nmant)
    integer = np.dtype(f"uint{bits}")
    exponent = np.array((2**bits - 1) - (2**mantissa - 1), integer)
    power = jax.lax.bitcast_convert_type(
        jax.lax.bitcast_convert_type(size, integer) & exponent, size.dtype
    )
    return jnp.where((power > 0) & jnp.isfinite(power), power, 1)


def norm(x: Inexact[Array, " n"]) -> Float[Array, ""]:
    """|x|, the 2-norm of all entries, NaN and Inf as they are."""
    size = jnp.abs(x)
    unit = power_of_two(jnp.max(size, initial=0))
    return unit * jnp.sqrt(jnp.sum((size / unit) ** 2))


def row_norms(A: Inexact[Array, "m n"]) -> Float[Array, " m"]:
    """|a| for every row a of A."""
    return jax.vmap(norm)(A)


def dot(x: Inexact[Array, " n"], y: Inexact[Array, " n"]) -> Float[Array, ""]:
    """Re x* y, right wherever it has room itself: the products of the entries need not have it."""
    a, b = (power_of_two(jnp.max(jnp.abs(v), initial=0)) for v in (x, y))
    return (jnp.vdot(x / a, y / b).real * a) * b


def root_of_dot(x: Inexact[Array, " n"], y: Inexact[Array, " n"]) -> Float[Array, ""]:
    """sqrt(Re x* y), also where the product itself has no room; 0 where it is negative."""
    a, b = (power_of_two(jnp.max(jnp.abs(v), initial=0)) for v in (x, y))
    # a b = (c d)^2 r with powers of two c, d and r = 1 or 2 each, so that a power of four costs no
    # rounding.
    c = power_of_two(jnp.sqrt(a))
    d = power_of_two(jnp.sqrt(b))
    rest = (a / c / c) * (b / d / d)
    return c * d * jnp.sqrt(jnp.maximum(rest * jnp.vdot(x / a, y / b).real, 0))


def length(x: Inexact[Array, ""], y: Inexact[Array, ""]) -> Float[Array, ""]:
    """sqrt(|x|^2 + |y|^2) of two numbers."""
    size = jnp.maximum(jnp.abs(x), jnp.abs(y))
    unit = power_of_two(size)
    return unit * jnp.sqrt((jnp.abs(x) / unit) ** 2 + (jnp.abs(y) / unit) ** 2)
