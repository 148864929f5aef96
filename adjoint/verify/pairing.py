"""<x, y> = Re sum x y of pytrees, and the random vectors that linear maps are tested with."""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree
from numpy.typing import ArrayLike

from adjoint.inputs import describe, refuse


def drawer(where: str, name: str, template: PyTree) -> Callable[[np.random.Generator], PyTree]:
    """A function that draws standard normal numbers that look like the template."""
    leaves, structure = jax.tree.flatten(template)
    for leaf in leaves:
        if not jnp.issubdtype(jnp.result_type(leaf), jnp.inexact):
            remedy = "Pass an example of the tangents, which are floating-point or complex."
            refuse(
                where,
                f"{name} with {describe(leaf)}",
                "floating-point or complex arrays",
                remedy,
                TypeError,
            )
    if sum(int(np.size(leaf)) for leaf in leaves) == 0:
        refuse(
            where, f"{name} without numbers", "at least one array", f"Pass an example of {name}."
        )

    def draw(generator: np.random.Generator) -> PyTree:
        drawn = []
        for leaf in leaves:
            dtype = jnp.result_type(leaf)
            numbers = generator.normal(size=np.shape(leaf))
            if jnp.issubdtype(dtype, jnp.complexfloating):
                numbers = numbers + 1j * generator.normal(size=np.shape(leaf))
            drawn.append(jnp.asarray(numbers, dtype))
        return jax.tree.unflatten(structure, drawn)

    return draw


def product(
    where: str, name: str, function: Callable[[PyTree], PyTree], x: PyTree, like: PyTree
) -> PyTree:
    """function(x), after checking that it looks like `like`."""
    product = function(x)
    given = jax.tree.structure(product)
    expected = jax.tree.structure(like)
    if given != expected:
        refuse(
            where,
            f"{name} of structure {given}",
            f"structure {expected}",
            "Pass examples that match the maps.",
        )
    for a, b in zip(jax.tree.leaves(product), jax.tree.leaves(like), strict=True):
        if np.shape(a) != np.shape(b):
            remedy = "Pass examples v and w that match the maps."
            refuse(where, f"{name} of shape {np.shape(a)}", f"shape {np.shape(b)}", remedy)
        if np.iscomplexobj(a) != np.iscomplexobj(b):
            remedy = "A real input has a real cotangent."
            refuse(
                where, f"{name} as {describe(a)}", f"numbers like {describe(b)}", remedy, TypeError
            )
    return product


def _wide(x: ArrayLike) -> np.ndarray:
    # Summed in double precision, so that the pairing itself adds no error to single-precision maps.
    return np.asarray(x).astype(np.complex128 if np.iscomplexobj(x) else np.float64)


def pair(x: PyTree, y: PyTree) -> float:
    """Re sum x y."""
    leaves = zip(jax.tree.leaves(x), jax.tree.leaves(y), strict=True)
    return float(sum(np.sum(_wide(a) * _wide(b)).real for a, b in leaves))


def spread(x: PyTree, y: PyTree) -> float:
    """The root mean square of Re sum x y, were the signs of its terms random."""
    leaves = zip(jax.tree.leaves(x), jax.tree.leaves(y), strict=True)
    return math.sqrt(sum(float(np.sum(np.abs(_wide(a) * _wide(b)) ** 2)) for a, b in leaves))


def conjugate(x: PyTree) -> PyTree:
    """x* in double precision."""
    return jax.tree.map(lambda a: np.conj(_wide(a)), x)


def combine(a: float, x: PyTree, b: float, y: PyTree) -> PyTree:
    """a x + b y in the dtypes of x."""
    return jax.tree.map(
        lambda s, t: jnp.asarray(a * _wide(s) + b * _wide(t), jnp.result_type(s)), x, y
    )


def epsilon(tree: PyTree) -> float:
    """The unit roundoff of the coarsest leaf."""
    return max(float(jnp.finfo(jnp.result_type(leaf)).eps) for leaf in jax.tree.leaves(tree))
