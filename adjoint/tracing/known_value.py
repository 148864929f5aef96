"""A value that was found by other means and carries a derivative rule: the JVP-able core of the rules for roots and the like.

`jax.custom_jvp` would do, but for one thing: on JAX 0.10.2 its rule is dropped where reverse mode splits off the known part of
a computation, and inside `scan`, `fori_loop` and `map` the second derivative then takes the value for a constant: finite and
wrong. A primitive of our own keeps its rule in every mode and order.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir
from jaxtyping import Array, Inexact, PyTree

# rule(value, operands, tangents, fixed) -> tangent of the value; linear in the tangents, differentiable in all the rest.
Rule = Callable[[Array, PyTree, PyTree, PyTree], Array]


def attach_derivative(
    rule: Rule, value: Inexact[Array, "..."], operands: PyTree, fixed: PyTree
) -> Inexact[Array, "..."]:
    """The value, bit by bit, with `rule` for its derivative with respect to the operands, in every mode and order.

    `rule` must be hashable, and equal to the rule of the next such call (a frozen dataclass, or a function of a module). Tangents
    come as `jax.jvp` takes them, float0 for integers. `fixed` has no derivative.
    """
    value, fixed = jax.lax.stop_gradient((value, fixed))
    leaves, structure = jax.tree.flatten((operands, fixed))
    count = len(jax.tree.leaves(operands))
    varies = tuple(k < count and jnp.issubdtype(jnp.result_type(leaf), jnp.inexact) for k, leaf in enumerate(leaves))
    return _known.bind(value, *leaves, rule=rule, structure=structure, varies=varies, axes=())


# The operands of the primitive are the value and the leaves of (operands, fixed), `varies` telling which have tangents. `axes`
# holds, from the innermost `vmap` to the outermost, which leaves have a leading axis for it; the value always has one.
_known = Primitive("known_value")
_known.def_impl(lambda value, *_, **__: value)
_known.def_abstract_eval(lambda value, *_, **__: value)
mlir.register_lowering(_known, mlir.lower_fun(lambda value, *_, **__: value, multiple_results=False))


def _jvp(primals: Any, tangents: Any, *, rule: Rule, structure: Any, varies: Any, axes: Any) -> tuple[Array, Array]:
    _, *leaves = primals
    value = _known.bind(*primals, rule=rule, structure=structure, varies=varies, axes=axes)
    dots = [ad.instantiate_zeros(dot) for dot, is_varying in zip(tangents[1:], varies, strict=True) if is_varying]

    def value_dot(value: Array, leaves: list[Array], dots: list[Array]) -> Array:
        operands, fixed = jax.tree.unflatten(structure, leaves)
        own, remaining = jax.tree.leaves(operands), iter(dots)
        tangents = [
            next(remaining) if is_varying else np.zeros(jnp.shape(leaf), jax.dtypes.float0)
            for leaf, is_varying in zip(own, varies[: len(own)], strict=True)
        ]
        return rule(value, operands, jax.tree.unflatten(jax.tree.structure(operands), tangents), fixed)

    for has_axis in axes:
        dots_have = [axis for axis, is_varying in zip(has_axis, varies, strict=True) if is_varying]
        value_dot = jax.vmap(value_dot, in_axes=(0, list(has_axis), dots_have))
    return value, value_dot(value, leaves, dots)


def _batch(arrays: Any, dims: Any, *, axes: Any, **parameters: Any) -> tuple[Array, int]:
    (size,) = {a.shape[d] for a, d in zip(arrays, dims, strict=True) if d is not None}
    value = batching.bdim_at_front(arrays[0], dims[0], size)
    mapped = [d is not None for d in dims[1:]]
    leaves = [
        jnp.moveaxis(a, d, 0) if is_mapped else a for a, d, is_mapped in zip(arrays[1:], dims[1:], mapped, strict=True)
    ]
    has_axis = tuple(0 if is_mapped else None for is_mapped in mapped)
    return _known.bind(value, *leaves, axes=(*axes, has_axis), **parameters), 0


ad.primitive_jvps[_known] = _jvp
batching.primitive_batchers[_known] = _batch
