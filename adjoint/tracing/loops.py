"""Loops, branches and linear solves of JAX that also work inside `jax.shard_map`.

They pass its check of types (check_vma=True). There the type of an array says over which axes of
the mesh it varies from device to device. A constant varies over none, so that a loop from zeros to
something of the inputs has a state of two types, which JAX refuses. What enters is cast here to
what comes out. Outside of `shard_map` these are JAX's own functions.

A cast of what is being differentiated is a sum over devices when it is transposed. So all operands
of a solver are cast alike at its door, where that sum is the derivative that is wanted; behind it
only constants are cast.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Int, PyTree

# A state, and what a branch or a step returns beside it.
T = TypeVar("T")
R = TypeVar("R")
Index = int | Int[Array, ""]
Axes = frozenset[str]
# A state of n leaves is cast in at most n rounds, as each makes one more leaf vary; real ones take
# two.
ROUNDS = 16


def in_shard_map() -> bool:
    return bool(jax.sharding.get_abstract_mesh().manual_axes)


class VariesByItself:
    """A part of a pytree that knows the `axes` over which it varies, and is not cast."""

    @property
    def axes(self) -> Axes:
        raise NotImplementedError


def _is_by_itself(node: object) -> bool:
    return isinstance(node, VariesByItself)


def axes_of(*trees: PyTree) -> Axes:
    """The axes of the mesh over which any of the arrays, or of their types, varies."""
    if not in_shard_map():
        return frozenset()
    return frozenset().union(*map(_axes, jax.tree.leaves(trees, is_leaf=_is_by_itself)))


def _axes(leaf: Any) -> Axes:
    if isinstance(leaf, VariesByItself):
        return leaf.axes
    kind = (leaf if hasattr(leaf, "manual_axis_type") else jax.typeof(leaf)).manual_axis_type
    return frozenset() if kind is None else kind.varying


def vary_over(tree: T, axes: Axes) -> T:
    """The arrays as ones that vary over these axes, too."""

    def cast(leaf: Array) -> Array:
        missing = () if _is_by_itself(leaf) else tuple(sorted(axes - axes_of(leaf)))
        return jax.lax.pcast(leaf, missing, to="varying") if missing else leaf

    return jax.tree.map(cast, tree, is_leaf=_is_by_itself) if axes else tree


def example(n: int, dtype: DTypeLike, axes: Axes) -> Any:
    """The type of a vector that varies over these axes.

    A function transposed at one that does not would cast what it is applied to, and the transpose
    of that is a sum over devices.
    """
    return (
        jax.typeof(vary_over(jnp.zeros(n, dtype), axes))
        if axes
        else jax.ShapeDtypeStruct((n,), dtype)
    )


def vary_alike(tree: T, *others: PyTree) -> T:
    """The tree's arrays, each varying over all axes over which any of them or others varies."""
    return vary_over(tree, axes_of(tree, others))


def vary_as(tree: T, model: PyTree) -> T:
    """The arrays of the tree, each varying at least as the one in its place in the model."""
    return jax.tree.map(lambda leaf, like: vary_over(leaf, axes_of(like)), tree, model)


def _fixed_point(step: Callable[[T], T], start: T) -> T:
    """The start, cast until it varies as what one step makes of it."""
    for _ in range(ROUNDS):
        types = jax.eval_shape(step, start)
        if all(
            axes_of(new) <= axes_of(old)
            for new, old in zip(*map(jax.tree.leaves, (types, start)), strict=True)
        ):
            return start
        start = vary_as(start, types)
    return vary_alike(start, types)


def while_loop(proceed: Callable[[T], Array], body: Callable[[T], T], start: T) -> T:
    """`jax.lax.while_loop`."""
    if not in_shard_map():
        return jax.lax.while_loop(proceed, body, start)
    start = _fixed_point(body, jax.tree.map(jnp.asarray, start))
    return jax.lax.while_loop(proceed, lambda state: vary_as(body(state), start), start)


def fori_loop(lower: Index, upper: Index, body: Callable[[Array, T], T], start: T) -> T:
    """`jax.lax.fori_loop`."""
    if not in_shard_map():
        return jax.lax.fori_loop(lower, upper, body, start)
    # The counter is part of the state: it varies with its ends.
    first = vary_over(jnp.asarray(lower), axes_of(jnp.asarray(upper)))
    start = _fixed_point(partial(body, first), jax.tree.map(jnp.asarray, start))
    last = vary_over(jnp.asarray(upper), axes_of(first))
    fixed_ends = (
        (lower, upper) if isinstance(lower, int) and isinstance(upper, int) else (first, last)
    )
    return jax.lax.fori_loop(*fixed_ends, lambda k, state: vary_as(body(k, state), start), start)


def scan(
    body: Callable[[T, Any], tuple[T, R]],
    start: T,
    xs: PyTree = None,
    length: int | None = None,
    reverse: bool = False,
) -> tuple[T, R]:
    """`jax.lax.scan`."""
    if not in_shard_map():
        return jax.lax.scan(body, start, xs, length, reverse)
    first = jax.tree.map(lambda x: x[0], xs)
    start = _fixed_point(lambda state: body(state, first)[0], jax.tree.map(jnp.asarray, start))

    def cast(state: T, x: PyTree) -> tuple[T, R]:
        state, y = body(state, x)
        return vary_as(state, start), y

    return jax.lax.scan(cast, start, xs, length, reverse)


def cond(
    chosen: Bool[Array, ""], one: Callable[..., R], other: Callable[..., R], *operands: PyTree
) -> R:
    """`jax.lax.cond`."""
    if not in_shard_map():
        return jax.lax.cond(chosen, one, other, *operands)
    return jax.lax.cond(chosen, *_alike((one, other), operands), *operands)


def switch(index: Int[Array, ""], branches: list[Callable[..., R]], *operands: PyTree) -> R:
    """`jax.lax.switch`."""
    if not in_shard_map():
        return jax.lax.switch(index, branches, *operands)
    return jax.lax.switch(index, _alike(tuple(branches), operands), *operands)


def _alike(branches: tuple[Callable[..., R], ...], operands: PyTree) -> list[Callable[..., R]]:
    """The branches, each leaf of whose results varies as it does in any of them."""
    types = [jax.eval_shape(branch, *operands) for branch in branches]
    axes = [axes_of(*leaves) for leaves in zip(*map(jax.tree.leaves, types), strict=True)]

    def cast(branch: Callable[..., R]) -> Callable[..., R]:
        def run(*operands: PyTree) -> R:
            leaves, structure = jax.tree.flatten(branch(*operands))
            return jax.tree.unflatten(structure, map(vary_over, leaves, axes))

        return run

    return [cast(branch) for branch in branches]


def custom_linear_solve(
    matvec: Callable[[Array], Array],
    b: Array,
    solve: Callable[..., Array],
    transpose_solve: Callable[..., Array],
) -> Array:
    """`jax.lax.custom_linear_solve`."""
    if not in_shard_map():
        return jax.lax.custom_linear_solve(matvec, b, solve, transpose_solve)
    applied = (matvec, partial(solve, matvec), partial(transpose_solve, matvec))
    b = _fixed_point(
        lambda b: vary_alike(b, *(jax.eval_shape(function, b) for function in applied)), b
    )

    def cast(function: Callable[..., Array]) -> Callable[..., Array]:
        return lambda *arguments: vary_as(function(*arguments), b)

    return jax.lax.custom_linear_solve(cast(matvec), b, cast(solve), cast(transpose_solve))
