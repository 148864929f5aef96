"""Lengths of vectors in the whole range of the numbers.

The squares of 1e20 in float32, or of 1e160 in float64, have no room in it. Where squares leave the
range, vectors are divided by a power of two before they are squared. That costs no rounding: the
result for 2^k x is, bit by bit, 2^k times that for x. (LAPACK's dnrm2 has the same aim: Blue, A
portable Fortran program to find the Euclidean norm of a vector, ACM Trans. Math. Softw. 4, 1978.)
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Inexact

from adjoint.tracing import loops


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
    square = _product(x, x)

    def scaled() -> Array:
        size = jnp.abs(x)
        unit = power_of_two(jnp.max(size, initial=0))
        return unit * jnp.sqrt(jnp.sum((size / unit) ** 2))

    return loops.cond(_has_room(square, x.size), lambda: jnp.sqrt(square), scaled)


def _product(x: Inexact[Array, " n"], y: Inexact[Array, " n"]) -> Float[Array, ""]:
    """Re x* y, in the precision of x."""
    return jnp.vdot(x, y, precision=jax.lax.Precision.HIGHEST).real


def _has_room(product: Float[Array, ""], count: int) -> Bool[Array, ""]:
    """Whether a sum of so many products is right: none has left the range that would count."""
    limits = jnp.finfo(product.dtype)
    least = max(count, 1) * float(limits.tiny) / float(limits.eps)
    return (jnp.abs(product) >= least) & (jnp.abs(product) < jnp.inf)


def row_norms(A: Inexact[Array, "m n"]) -> Float[Array, " m"]:
    """|a| for every row a of A."""
    return jax.vmap(norm)(A)


def dot(x: Inexact[Array, " n"], y: Inexact[Array, " n"]) -> Float[Array, ""]:
    """Re x* y, right wherever it has room itself: the products of the entries need not have it."""
    product = _product(x, y)

    def scaled() -> Array:
        a, b = (power_of_two(jnp.max(jnp.abs(v), initial=0)) for v in (x, y))
        return (_product(x / a, y / b) * a) * b

    return loops.cond(_has_room(product, x.size), lambda: product, scaled)


def root_of_dot(x: Inexact[Array, " n"], y: Inexact[Array, " n"]) -> Float[Array, ""]:
    """sqrt(Re x* y), also where the product itself has no room; 0 where it is negative."""
    product = _product(x, y)

    def scaled() -> Array:
        a, b = (power_of_two(jnp.max(jnp.abs(v), initial=0)) for v in (x, y))
        # a b = (c d)^2 r with powers of two c, d and r = 1 or 2 each, so that a power of four costs
        # no rounding.
        c = power_of_two(jnp.sqrt(a))
        d = power_of_two(jnp.sqrt(b))
        rest = (a / c / c) * (b / d / d)
        return c * d * jnp.sqrt(jnp.maximum(rest * _product(x / a, y / b), 0))

    plain = lambda: jnp.sqrt(jnp.maximum(product, 0))  # noqa: E731
    return loops.cond(_has_room(product, x.size), plain, scaled)


def length(x: Inexact[Array, ""], y: Inexact[Array, ""]) -> Float[Array, ""]:
    """sqrt(|x|^2 + |y|^2) of two numbers."""
    size = jnp.maximum(jnp.abs(x), jnp.abs(y))
    unit = power_of_two(size)
    return unit * jnp.sqrt((jnp.abs(x) / unit) ** 2 + (jnp.abs(y) / unit) ** 2)
