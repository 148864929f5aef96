"""Derivative rules that serve both modes: a `jax.custom_vjp` stays as it is, its tangent beside it.

    solve = with_forward_mode(_solve, _solve_tangent)      # _solve.defvjp(_solve_fwd, _solve_bwd)

In both modes `fwd` runs once and leaves residuals; from these `tangent` makes y_dot = J x_dot, and
`bwd` makes x_bar = J' y_bar. `jax.custom_vjp` alone refuses forward mode. `jax.custom_jvp` alone
has no adjoint of its own, and on JAX 0.10.2 its rule is dropped where reverse mode splits off the
known part of a computation: inside `scan`, `fori_loop` and `map` second derivatives then come out
finite and wrong. The primitives of `adjoint.tracing.linear_map` keep a rule in every mode.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir
from jaxtyping import Array, Inexact, PyTree

from adjoint.inputs import refuse
from adjoint.tracing.linear_map import BoundRule, call_rule, is_inexact, run, spread
from adjoint.tracing.traced_function import TracedFunction

# rule(value, operands, tangents, fixed) -> tangent of the value; linear in the tangents, and
# differentiable in all the rest.
Tangent = Callable[[Array, PyTree, PyTree, PyTree], Array]


def with_forward_mode(
    rule: Any, tangent: Callable[[Any, PyTree, PyTree], PyTree]
) -> Callable[..., PyTree]:
    """The function of `rule` with derivatives in every mode and order, under every transformation.

    `rule` is a `jax.custom_vjp` whose first argument, a hashable plan, is in nondiff_argnums.
    `tangent(plan, residuals, dots)` makes the tangent of the value from what `fwd` left; dots are
    structured as the operands, None for what does not move, and so may be parts of the result.
    Higher derivatives are JAX's of `fwd`, `bwd` and `tangent`: `fwd` must therefore compute the
    value anew or by the returned function, never by `rule`, whose forward mode JAX refuses.
    """

    def call(plan: Any, *operands: PyTree) -> PyTree:
        leaves, structure = jax.tree.flatten(operands)
        nodes = jax.tree.leaves(operands, is_leaf=lambda node: isinstance(node, TracedFunction))
        is_new = any(isinstance(node, TracedFunction) for node in nodes)
        bound = BoundRule(rule.fun, rule.fwd, rule.bwd, tangent, plan, structure, is_new)
        like = jax.eval_shape(partial(run, of=bound, axes=()), *leaves)
        return jax.tree.unflatten(
            jax.tree.structure(like), call_rule.bind(*leaves, rule=bound, axes=())
        )

    return call


def attach_derivative(
    rule: Tangent, value: Inexact[Array, "..."], operands: PyTree, fixed: PyTree
) -> Inexact[Array, "..."]:
    """The value, bit by bit, with `rule` for its derivative with respect to the operands.

    `rule` must be hashable, and equal to the rule of the next such call (a frozen dataclass, or a
    function of a module). Tangents come as `jax.jvp` takes them, float0 for integers. `fixed` has
    no derivative. JAX transposes the tangent, so every mode and order works.
    """
    value, fixed = jax.lax.stop_gradient((value, fixed))
    return _attach(rule, value, operands, fixed)


def _attach(rule: Tangent, value: Array, operands: PyTree, fixed: PyTree) -> Array:
    leaves, structure = jax.tree.flatten((value, operands, fixed))
    parts = (_attached, _attached_fwd, None, _attached_tangent)
    bound = BoundRule(*parts, rule, structure, is_new=False)
    (value,) = call_rule.bind(*leaves, rule=bound, axes=())
    return value


def _attached(rule: Tangent, value: Array, operands: PyTree, fixed: PyTree) -> Array:
    return value


def _attached_fwd(
    rule: Tangent, value: Array, operands: PyTree, fixed: PyTree
) -> tuple[Array, PyTree]:
    value = _attach(rule, value, operands, fixed)
    return value, (value, operands, fixed)


def _attached_tangent(rule: Tangent, residuals: PyTree, dots: PyTree) -> Array:
    value, operands, fixed = residuals
    return rule(value, operands, instantiate(operands, dots[1]), fixed)


def instantiate(operands: PyTree, dots: PyTree) -> PyTree:
    """Tangents as `jax.jvp` takes them: zeros for None, float0 for integers."""

    def tangent(dot: PyTree, leaf: PyTree) -> PyTree:
        if not is_inexact(leaf):
            return np.zeros(jnp.shape(leaf), jax.dtypes.float0)
        return jnp.zeros_like(leaf) if dot is None else dot

    return jax.tree.map(tangent, dots, operands, is_leaf=lambda dot: dot is None)


def push_forward(
    function: Callable[..., PyTree], operands: Sequence[PyTree], dots: Sequence[PyTree]
) -> Any:
    """The tangent of function(*operands) along dots (None: no motion); None if nothing moves."""
    leaves, structure = jax.tree.flatten(tuple(operands))
    flat_dots = spread(tuple(dots), tuple(operands))
    moving = [k for k, dot in enumerate(flat_dots) if dot is not None and is_inexact(leaves[k])]
    if not moving:
        return None

    def of_moving(*moved: Array) -> PyTree:
        all_leaves = list(leaves)
        for k, leaf in zip(moving, moved, strict=True):
            all_leaves[k] = leaf
        return function(*jax.tree.unflatten(structure, all_leaves))

    return jax.jvp(of_moving, [leaves[k] for k in moving], [flat_dots[k] for k in moving])[1]


def forward_only(values: PyTree, where: str) -> PyTree:
    """The values, in reverse mode refused: a loop made them that JAX cannot transpose."""
    return jax.tree.map(
        lambda leaf: _forward_only.bind(leaf, where=where) if is_inexact(leaf) else leaf, values
    )


def _refuse_transpose(_: Any, __: Any, *, where: str) -> Any:
    refuse(
        where,
        "reverse mode through a derivative (reverse over reverse, or reverse over forward)",
        "reverse mode innermost",
        "Take second derivatives by forward mode of the gradient: jax.jacfwd(jax.grad(g)), "
        "jax.hessian(g) or adjoint.hvp(g, p, v).",
        NotImplementedError,
    )


_forward_only = Primitive("forward_only")
_forward_only.def_impl(lambda value, **_: value)
_forward_only.def_abstract_eval(lambda value, **_: value)
mlir.register_lowering(_forward_only, lambda _, value, **__: [value])
ad.deflinear2(_forward_only, _refuse_transpose)
batching.primitive_batchers[_forward_only] = lambda values, dims, **static: (
    _forward_only.bind(*values, **static),
    dims[0],
)
