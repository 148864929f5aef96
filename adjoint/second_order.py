"""Products with second derivatives, at the price of two gradients and without ever forming a Hessian."""

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
    **Cost**: through a linear solve, two more solves with the factors at hand. Source: Pearlmutter, Neural Computation 6, 1994.

    Examples
    --------
    >>> import jax.numpy as jnp, adjoint
    >>> adjoint.hvp(lambda p: jnp.sum(p**3), jnp.array([1.0, 2.0]), jnp.array([1.0, 0.0])).tolist()
    [6.0, 0.0]
    """
    return jax.jvp(jax.grad(f), (p,), (v,))[1]
