"""The two primitives of derivative rules: a function of a rule, and its derivative as a linear map.

    call_rule     y = f(x);     its tangent is the rule's `forward`, then `linear_map`
    linear_map    J x_dot, or with `is_adjoint` J' y_bar: each is the transpose of the other

They are for `adjoint.tracing.rule`; arrays are flat lists here.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import jax
import jax.core
import jax.numpy as jnp
import numpy as np
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir
from jaxtyping import Array, PyTree

# Of each `vmap`, from the innermost to the outermost: which arrays have a leading axis for it.
# What they make has it always.
Axes = tuple[tuple[bool, ...], ...]


def is_inexact(leaf: PyTree) -> bool:
    return jnp.issubdtype(jnp.result_type(leaf), jnp.inexact)


def spread(tree: PyTree, like: PyTree) -> list[PyTree]:
    """The leaves of a tree in the order of those of `like`; one None may stand for a subtree."""
    flat: list[PyTree] = []

    def add(leaf: PyTree, part: PyTree) -> None:
        count = len(jax.tree.leaves(part))
        flat.extend([None] * count if leaf is None else [leaf])

    jax.tree.map(add, tree, like, is_leaf=lambda leaf: leaf is None)
    return flat


@jax.tree_util.register_static
@dataclass(frozen=True)
class _Residuals:
    """How residuals are put together: from operands, by their number, and what was computed."""

    structure: Any
    places: tuple[int | None, ...]

    @property
    def kept(self) -> tuple[int, ...]:
        return tuple(sorted({place for place in self.places if place is not None}))

    def build(self, arrays: Sequence[PyTree]) -> PyTree:
        """From the computed ones, then the operands that are kept."""
        computed = sum(place is None for place in self.places)
        rest = iter(arrays[:computed])
        operands = dict(zip(self.kept, arrays[computed:], strict=True))
        leaves = [next(rest) if place is None else operands[place] for place in self.places]
        return jax.tree.unflatten(self.structure, leaves)


@dataclass(frozen=True)
class BoundRule:
    """The functions of a rule on flat arrays, for one plan and one structure of the operands.

    `is_new`: a user's function is among the operands, another one in every call.
    """

    value: Callable[..., PyTree]
    forward: Callable[..., PyTree]
    backward: Callable[..., PyTree] | None
    tangent: Callable[..., PyTree]
    plan: Any
    structure: Any
    is_new: bool

    def run(self, *leaves: PyTree) -> PyTree:
        return self.value(self.plan, *jax.tree.unflatten(self.structure, leaves))

    def run_forward(self, *leaves: PyTree) -> tuple[PyTree, list[PyTree], _Residuals]:
        """What the function returns, the computed residuals, and the way to put all together.

        Residuals that are operands are not made again: under `vmap` they keep what they share.
        """
        value, residuals = self.forward(self.plan, *jax.tree.unflatten(self.structure, leaves))
        parts, structure = jax.tree.flatten(residuals)
        place_of = {id(leaf): place for place, leaf in enumerate(leaves)}
        places = tuple(place_of.get(id(part)) for part in parts)
        computed = [
            jnp.asarray(part) for part, place in zip(parts, places, strict=True) if place is None
        ]
        return value, computed, _Residuals(structure, places)

    def run_with_tangent(
        self, moving: tuple[bool, ...], *arrays: PyTree
    ) -> tuple[PyTree, list[PyTree]]:
        """What the function returns and its tangent, from operands and the tangents there are."""
        leaves = arrays[: len(moving)]
        dots = arrays[len(moving) :]
        value, computed, residuals = self.run_forward(*leaves)
        built = residuals.build([*computed, *(leaves[place] for place in residuals.kept)])
        return value, self.push(moving, built, dots, value)

    def push(
        self, moving: tuple[bool, ...], residuals: PyTree, dots: Sequence[Array], like: PyTree
    ) -> list[Array]:
        """The tangents of the inexact leaves of `like`, which the function returns."""
        rest = iter(dots)
        operand_dots = jax.tree.unflatten(
            self.structure, [next(rest) if moves else None for moves in moving]
        )
        found = spread(self.tangent(self.plan, residuals, operand_dots), like)
        pairs = zip(found, jax.tree.leaves(like), strict=True)
        return [
            jnp.zeros(leaf.shape, leaf.dtype) if dot is None else dot
            for dot, leaf in pairs
            if is_inexact(leaf)
        ]

    def pull(
        self, moving: tuple[bool, ...], residuals: PyTree, bars: Sequence[Array], like: PyTree
    ) -> list[Array]:
        """The cotangents of the operands that move."""
        assert self.backward is not None
        rest = iter(bars)
        leaves, structure = jax.tree.flatten(like)
        all_bars = [
            next(rest) if is_inexact(a) else np.zeros(a.shape, jax.dtypes.float0) for a in leaves
        ]
        found = tuple(self.backward(self.plan, residuals, jax.tree.unflatten(structure, all_bars)))
        flat = spread(found, jax.tree.unflatten(self.structure, range(len(moving))))
        return [bar for bar, moves in zip(flat, moving, strict=True) if moves]


@dataclass(frozen=True)
class _Map:
    """J x_dot from `count` residuals and the tangents; J' y_bar from cotangents if `is_adjoint`.

    `moving` are the operands with tangents; `value` is structure and leaves of what is returned.
    """

    rule: BoundRule
    moving: tuple[bool, ...]
    residuals: _Residuals
    count: int
    value: tuple[Any, tuple[jax.ShapeDtypeStruct, ...]]
    is_adjoint: bool = False

    @property
    def is_new(self) -> bool:
        return self.rule.is_new

    def run(self, *arrays: PyTree) -> list[Array]:
        residuals = self.residuals.build(arrays[: self.count])
        apply = self.rule.pull if self.is_adjoint else self.rule.push
        return apply(self.moving, residuals, arrays[self.count :], jax.tree.unflatten(*self.value))


def _mapped(function: Callable[..., PyTree], axes: Axes) -> Callable[..., PyTree]:
    for has_axis in axes:
        function = jax.vmap(function, in_axes=tuple(0 if has else None for has in has_axis))
    return function


def _program(function: Callable[..., PyTree]) -> Callable[..., PyTree]:
    """One program, traced once; outside of `jit` what is new in every call would pile up."""
    compiled = jax.jit(function, static_argnames=("of", "axes"))

    def choose(*arrays: PyTree, of: Any, axes: Axes) -> PyTree:
        is_traced = any(isinstance(array, jax.core.Tracer) for array in arrays)
        return (compiled if is_traced or not of.is_new else function)(*arrays, of=of, axes=axes)

    return choose


@_program
def run(*arrays: PyTree, of: Any, axes: Axes) -> PyTree:
    return _mapped(of.run, axes)(*arrays)


@_program
def _forward(*leaves: PyTree, of: BoundRule, axes: Axes) -> PyTree:
    return _mapped(of.run_forward, axes)(*leaves)


call_rule = Primitive("rule")
_linear_map = Primitive("linear_map")
for _primitive in (call_rule, _linear_map):
    _primitive.multiple_results = True


@call_rule.def_impl
def _call_impl(*leaves: PyTree, rule: BoundRule, axes: Axes) -> list[Array]:
    return jax.tree.leaves(run(*leaves, of=rule, axes=axes))


@_linear_map.def_impl
def _map_impl(*arrays: PyTree, map: _Map, axes: Axes, like: PyTree) -> list[Array]:
    return run(*arrays, of=map, axes=axes)


@call_rule.def_abstract_eval
def _call_types(*avals: PyTree, **static: Any) -> list[PyTree]:
    return jax.make_jaxpr(partial(_call_impl, **static))(*avals).out_avals


# Not traced: a tangent that reverse mode never computes may have none.
_linear_map.def_abstract_eval(lambda *_, like, **__: list(like))
mlir.register_lowering(call_rule, mlir.lower_fun(_call_impl, multiple_results=True))
mlir.register_lowering(_linear_map, mlir.lower_fun(_map_impl, multiple_results=True))


def _call_jvp(
    primals: Sequence[PyTree], tangents: Sequence[PyTree], *, rule: BoundRule, axes: Axes
) -> PyTree:
    moving = tuple(type(tangent) is not ad.Zero for tangent in tangents)
    dots = [tangent for tangent, moves in zip(tangents, moving, strict=True) if moves]
    has_axis = [[has for has, moves in zip(level, moving, strict=True) if moves] for level in axes]
    if rule.backward is None:
        all_axes = tuple((*level, *of_dots) for level, of_dots in zip(axes, has_axis, strict=True))
        value, found = _mapped(partial(rule.run_with_tangent, moving), all_axes)(*primals, *dots)
        out = jax.tree.leaves(value)
    else:
        value, computed, residuals = _forward(*primals, of=rule, axes=axes)
        out, structure = jax.tree.flatten(value)
        shapes = tuple(
            jax.ShapeDtypeStruct(jnp.shape(o)[len(axes) :], jnp.result_type(o)) for o in out
        )
        arrays = [*computed, *(primals[place] for place in residuals.kept)]
        all_axes = tuple(
            (*(True for _ in computed), *(level[place] for place in residuals.kept), *of_dots)
            for level, of_dots in zip(axes, has_axis, strict=True)
        )
        derivative = _Map(rule, moving, residuals, len(arrays), (structure, shapes))
        like = tuple(jax.typeof(o).to_tangent_aval() for o in out if is_inexact(o))
        found = _linear_map.bind(*arrays, *dots, map=derivative, axes=all_axes, like=like)
    rest = iter(found)
    return out, [
        next(rest) if is_inexact(o) else ad.Zero(jax.typeof(o).to_tangent_aval()) for o in out
    ]


def _map_jvp(
    primals: Sequence[PyTree], tangents: Sequence[PyTree], *, map: _Map, axes: Axes, like: PyTree
) -> PyTree:
    count = map.count
    bind = partial(_linear_map.bind, map=map, axes=axes, like=like)
    parts: list[PyTree] = []
    if any(type(tangent) is not ad.Zero for tangent in tangents[count:]):
        dots = [ad.instantiate_zeros(tangent) for tangent in tangents[count:]]
        parts.append(bind(*primals[:count], *dots))
    moving = [k for k in range(count) if type(tangents[k]) is not ad.Zero]
    if moving:

        def of_residuals(*moved: PyTree) -> list[Array]:
            arrays = list(primals)
            for k, residual in zip(moving, moved, strict=True):
                arrays[k] = residual
            return run(*arrays, of=map, axes=axes)

        dots = [tangents[k] for k in moving]
        parts.append(jax.jvp(of_residuals, [primals[k] for k in moving], dots)[1])
    return bind(*primals), [sum(dots[1:], start=dots[0]) for dots in zip(*parts, strict=True)]


def _map_transpose(
    cotangents: Sequence[PyTree], *arrays: PyTree, map: _Map, axes: Axes, like: PyTree
) -> list[PyTree]:
    count = map.count
    bars = [ad.instantiate_zeros(cotangent) for cotangent in cotangents]
    transposed = replace(map, is_adjoint=not map.is_adjoint)
    all_axes = tuple((*level[:count], *(True for _ in bars)) for level in axes)
    avals = [a.aval if ad.is_undefined_primal(a) else jax.typeof(a) for a in arrays[count:]]
    # What is the same in all lanes of a `vmap` has the sum of their cotangents.
    shared = [
        [k for k, level in enumerate(reversed(axes)) if not level[count + i]]
        for i in range(len(avals))
    ]
    sizes = jnp.shape(bars[0])[: len(axes)] if bars else ()
    like = tuple(
        _with_axes(aval, {place: sizes[place] for place in places})
        for aval, places in zip(avals, shared, strict=True)
    )
    found = _linear_map.bind(*arrays[:count], *bars, map=transposed, axes=all_axes, like=like)
    summed = [
        jnp.sum(bar, places) if places else bar for bar, places in zip(found, shared, strict=True)
    ]
    is_linear = [ad.is_undefined_primal(array) for array in arrays[count:]]
    return [None] * count + [
        bar if is_in else None for bar, is_in in zip(summed, is_linear, strict=True)
    ]


def _with_axes(aval: Any, sizes: dict[int, int]) -> PyTree:
    """The type of an array with further axes, the first of them first."""
    for place, size in sizes.items():
        shape = (*aval.shape[:place], size, *aval.shape[place:])
        (aval,) = jax.make_jaxpr(
            lambda a, shape=shape, place=place: jnp.broadcast_to(jnp.expand_dims(a, place), shape)
        )(aval).out_avals
    return aval


def _batch_call(arrays: PyTree, dims: Any, *, rule: BoundRule, axes: Axes) -> PyTree:
    arrays, has_axis = _axis_in_front(arrays, dims)
    out = call_rule.bind(*arrays, rule=rule, axes=(*axes, has_axis))
    return out, [0] * len(out)


def _batch_map(arrays: PyTree, dims: Any, *, map: _Map, axes: Axes, like: PyTree) -> PyTree:
    arrays, has_axis = _axis_in_front(arrays, dims)
    (size,) = {jnp.shape(a)[0] for a, has in zip(arrays, has_axis, strict=True) if has}
    like = tuple(_with_axes(aval, {0: size}) for aval in like)
    out = _linear_map.bind(*arrays, map=map, axes=(*axes, has_axis), like=like)
    return out, [0] * len(out)


def _axis_in_front(arrays: PyTree, dims: Any) -> tuple[list[PyTree], tuple[bool, ...]]:
    moved = [a if d is None else jnp.moveaxis(a, d, 0) for a, d in zip(arrays, dims, strict=True)]
    return moved, tuple(d is not None for d in dims)


ad.primitive_jvps[call_rule] = _call_jvp
ad.primitive_jvps[_linear_map] = _map_jvp
ad.primitive_transposes[_linear_map] = _map_transpose
batching.primitive_batchers[call_rule] = _batch_call
batching.primitive_batchers[_linear_map] = _batch_map
