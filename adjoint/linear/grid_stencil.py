"""Operators on a structured grid that couple each node with its neighbors.

The unknowns are an array u of shape (components, *grid). A is kept as a stencil S of shape
(components, components, 3, .., 3, *grid):

    (A u)[a, i] = sum over b and k of S[a, b, k, i] u[b, i + k],   k in {-1, 0, 1}^d

It is read off from products with 3^d vectors per component, whose ones lie three nodes apart, as
columns of a sparse Jacobian are (Curtis, Powell and Reid, IMA J. Appl. Math. 13, 1974).
"""

from collections.abc import Iterator
from itertools import product
from math import prod

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from adjoint.linear.operators import Operator


def offsets(axes: int) -> Iterator[tuple[int, ...]]:
    """The k of a stencil, as indices 0, 1, 2."""
    return product(range(3), repeat=axes)


def apply(S: Array, u: Array) -> Array:
    """A u."""
    components, *grid = u.shape
    around = jnp.pad(u, [(0, 0)] + [(1, 1)] * len(grid))
    total = jnp.zeros((), u.dtype)
    for k in offsets(len(grid)):
        neighbors = around[(slice(None), *(slice(o, o + m) for o, m in zip(k, grid, strict=True)))]
        for b in range(components):
            total = total + S[(slice(None), b, *k)] * neighbors[b : b + 1]
    return total


def diagonal(S: Array) -> Array:
    components = S.shape[0]
    axes = (S.ndim - 2) // 2
    return jnp.stack([S[(a, a, *(1,) * axes)] for a in range(components)])


def dense_matrix(S: Array, grid: tuple[int, ...]) -> Array:
    """A as a matrix, with 1 for the diagonal of empty rows, which all finer levels left out."""
    shape = (S.shape[0], *grid)
    n = prod(shape)
    A = jax.vmap(lambda u: apply(S, u.reshape(shape)).ravel(), out_axes=1)(
        jnp.eye(n, dtype=S.dtype)
    )
    return A + jnp.diag(jnp.all(A == 0, axis=1).astype(A.dtype))


def stencil_of(A: Operator, grid: tuple[int, ...], components: int) -> tuple[Array, Array]:
    """S of A / size and size, the largest entry of A.

    The nodes are colored by their positions modulo 3, so that of one color each node has one among
    itself and its neighbors.
    """
    axes = len(grid)
    places = 3 ** np.arange(axes)[::-1]

    def color(k: tuple[int, ...]) -> Array:
        """That of node i + k at node i."""
        terms = [
            (jax.lax.broadcasted_iota(jnp.int32, grid, axis) + k[axis] - 1) % 3 * int(places[axis])
            for axis in range(axes)
        ]
        return sum(terms[1:], terms[0])

    def product_with(color_and_component: Array) -> Array:
        of_nodes = (color((1,) * axes) == color_and_component // components).astype(A.dtype)
        of_components = (jnp.arange(components) == color_and_component % components).astype(A.dtype)
        u = of_nodes[..., None] * of_components.reshape(*(1,) * axes, components)
        return jnp.moveaxis(A.matvec(u.ravel()).reshape(*grid, components), -1, 0)

    products = jax.lax.map(product_with, jnp.arange(3**axes * components))
    size = jnp.max(jnp.abs(products))
    dtype = jnp.complex64 if jnp.iscomplexobj(products) else jnp.float32
    products = (products / jnp.where(size > 0, size, 1)).astype(dtype)
    products = products.reshape(3**axes, components, components, *grid)
    along = [
        jnp.take_along_axis(products, color(k).reshape(1, 1, 1, *grid), axis=0)[0].swapaxes(0, 1)
        for k in offsets(axes)
    ]
    return jnp.stack(along, axis=2).reshape(components, components, *(3,) * axes, *grid), size
