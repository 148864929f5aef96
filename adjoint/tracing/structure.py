"""Whether two traced functions compute the same.

That is all that a jaxpr says, as a value that can be compared and hashed. Names of variables and
places in source files do not count. What has no value that can be compared, such as the function of
a callback, is equal to itself alone, and is kept alive by the value that names it, so that no other
can take its address.
"""

from collections.abc import Hashable
from typing import Any

import jax
import jax.core
import jax.numpy as jnp
import numpy as np
from jax.extend.core import ClosedJaxpr, DropVar, Jaxpr, Literal
from jaxtyping import PyTree

# Parameters of `custom_jvp` and `custom_vjp` that every trace makes anew; what they do is read off
# the derivatives themselves.
MADE_BY_TRACING = {
    "custom_jvp_call": {"jvp_jaxpr_fun"},
    "custom_vjp_call": {"fwd_jaxpr_thunk", "bwd", "out_trees"},
}


class IncomparableError(Exception):
    """A part of the program is of a trace still going on, or refuses to be traced.

    Nothing equals such a program.
    """


class Identity:
    """An object without a value of its own: equal to itself alone."""

    def __init__(self, held: object):
        self.held = held

    def __hash__(self) -> int:
        return id(self.held)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Identity) and self.held is other.held


def structure_of(jaxpr: Jaxpr, _inside: tuple[Hashable, ...] = ()) -> Hashable:
    """All that a jaxpr computes from its constants and arguments.

    `IncomparableError` if a part of it is being traced.
    """
    numbers: dict[Any, int] = {}

    def atom(v: Any) -> Hashable:
        if isinstance(v, Literal):
            return "literal", v.aval, _bytes(v.val)
        return numbers.setdefault(v, len(numbers)), v.aval

    def equation(eqn: Any) -> Hashable:
        made_by_tracing = MADE_BY_TRACING.get(eqn.primitive.name, set())
        parameters = tuple(
            (name, value_of(value, _inside))
            for name, value in eqn.params.items()
            if name not in made_by_tracing
        )
        rule = _derivative(jaxpr, eqn, _inside) if made_by_tracing else None
        inputs = tuple(map(atom, eqn.invars))
        outputs = tuple(map(atom, eqn.outvars))
        return eqn.primitive, inputs, outputs, parameters, eqn.ctx, frozenset(eqn.effects), rule

    inputs = tuple(map(atom, (*jaxpr.constvars, *jaxpr.invars)))
    equations = tuple(map(equation, jaxpr.eqns))
    return (
        len(jaxpr.constvars),
        inputs,
        equations,
        tuple(map(atom, jaxpr.outvars)),
        frozenset(jaxpr.effects),
    )


def value_of(value: Any, _inside: tuple[Hashable, ...] = ()) -> Hashable:
    """A value known when tracing: equal ones have one type, and are equal in all their parts."""
    if isinstance(value, jax.core.Tracer):
        raise IncomparableError
    if isinstance(value, ClosedJaxpr):
        return structure_of(value.jaxpr, _inside), tuple(
            value_of(constant) for constant in value.consts
        )
    if isinstance(value, Jaxpr):
        return structure_of(value, _inside)
    if isinstance(value, tuple | list):
        return type(value), tuple(value_of(part, _inside) for part in value)
    if isinstance(value, dict):
        return type(value), tuple((key, value_of(part, _inside)) for key, part in value.items())
    if isinstance(value, float | complex):
        # 0.0 == -0.0, and NaN is not NaN.
        return type(value), repr(value)
    if isinstance(value, jax.Array):
        return Identity(value)
    if hasattr(value, "__array__") and hasattr(value, "dtype"):
        # NumPy arrays may be written to: what counts is what stands in them now.
        return type(value), _bytes(value)
    try:
        hash(value)
    except TypeError:
        return Identity(value)
    return type(value), value


def _bytes(value: Any) -> Hashable:
    array = np.asarray(value)
    return (
        str(array.dtype),
        array.shape,
        array.tobytes() if array.dtype != object else Identity(value),
    )


def _derivative(jaxpr: Jaxpr, eqn: Any, inside: tuple[Hashable, ...]) -> Hashable:
    """What the rule of a `custom_jvp` or `custom_vjp` computes, read off its trace.

    A rule mostly calls its own function again: a call within itself is known by what it computes.
    """
    call = value_of(eqn.params["call_jaxpr"])
    if call in inside:
        return inside.index(call)
    arguments = list(dict.fromkeys(v for v in eqn.invars if not isinstance(v, Literal)))
    results = [v for v in eqn.outvars if not isinstance(v, DropVar)]
    names = jaxpr.debug_info.with_unknown_names()
    alone = jaxpr.replace(
        constvars=[], invars=arguments, outvars=results, eqns=[eqn], debug_info=names
    )

    def function(*values: PyTree) -> list[PyTree]:
        return jax.core.eval_jaxpr(alone, (), *values)

    def push(values: list[PyTree], dots: list[PyTree]) -> PyTree:
        return jax.jvp(function, values, dots)

    def pull(values: list[PyTree], bars: list[PyTree]) -> PyTree:
        return jax.vjp(function, *values)[1](bars)

    is_tangent = eqn.primitive.name == "custom_jvp_call"
    directions = arguments if is_tangent else results
    moving = [jnp.issubdtype(v.aval.dtype, jnp.inexact) for v in directions]
    still = [
        None if moves else np.zeros(v.aval.shape, jax.dtypes.float0)
        for v, moves in zip(directions, moving, strict=True)
    ]

    def differentiated(values: list[PyTree], moved: list[PyTree]) -> PyTree:
        given = iter(moved)
        along = [next(given) if fixed is None else fixed for fixed in still]
        return (push if is_tangent else pull)(values, along)

    moved = [_shape(v) for v, moves in zip(directions, moving, strict=True) if moves]
    try:
        traced = jax.make_jaxpr(differentiated)([_shape(v) for v in arguments], moved)
    except Exception as error:
        # A rule may refuse, and nobody may ask it.
        raise IncomparableError from error
    return value_of(traced, (*inside, call))


def _shape(v: Any) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(v.aval.shape, v.aval.dtype, weak_type=v.aval.weak_type)
