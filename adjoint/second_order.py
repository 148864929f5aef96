"""Products with second derivatives, whole or Gauss-Newton, for the price of two gradients.

No Hessian is ever formed.
"""

from collections.abc import Callable

import jax
from jaxtyping import Array, Float, PyTree


def hvp(f: Callable[[PyTree], Float[Array, ""]], p: PyTree, v: PyTree) -> PyTree:
    """H(p) v, the Hessian of f at p times v, as the forward derivative of the gradient along v.

    Parameters
    ----------
    f
        Scalar function of a pytree.
    p
        Point.
    v
        Direction, of the structure, shapes and dtypes of p.

    Returns
    -------
    product
        Like p.

    Notes
    -----
    **Cost**: through a linear solve, two more solves with the factors at hand. Source: Pearlmutter,
    Neural Computation 6, 1994.

    Examples
    --------
    >>> import jax.numpy as jnp, adjoint
    >>> adjoint.hvp(lambda p: jnp.sum(p**3), jnp.array([1.0, 2.0]), jnp.array([1.0, 0.0])).tolist()
    [6.0, 0.0]
    """
    return jax.jvp(jax.grad(f), (p,), (v,))[1]


def gauss_newton_product(r: Callable[[PyTree], PyTree], p: PyTree, v: PyTree) -> PyTree:
    """r'(p)' r'(p) v, the Hessian of |r|^2 / 2 at p without the second derivatives of r, times v.

    Parameters
    ----------
    r
        Function of a pytree that returns residuals: an array or a pytree of arrays.
    p
        Point.
    v
        Direction, of the structure, shapes and dtypes of p.

    Returns
    -------
    product
        Like p.

    Notes
    -----
    **Cost**: one forward and one reverse derivative of r. Source: N. N. Schraudolph, Neural
    Computation 14, 2002.

    Examples
    --------
    >>> import jax.numpy as jnp, adjoint
    >>> adjoint.gauss_newton_product(
    ...     lambda p: p**2, jnp.array([1.0, 2.0]), jnp.array([1.0, 1.0])
    ... ).tolist()  # (2 p)^2 v
    [4.0, 16.0]
    """
    r_v = jax.jvp(r, (p,), (v,))[1]
    return jax.vjp(r, p)[1](r_v)[0]
