"""A user's function as data: what it closed over becomes leaves that derivative rules see."""

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import jax
import jax.core
import jax.numpy as jnp
from jax.extend.core import ClosedJaxpr, DropVar, Jaxpr, Literal
from jaxtyping import Array, PyTree

from adjoint.inputs import refuse
from adjoint.tracing import loops
from adjoint.tracing.structure import Identity, IncomparableError, structure_of, value_of


class Program:
    """A traced function without the arrays that it closed over; equal to all that compute the same.

    `is_known` tells which of its constants were known when it was traced; `result` is the structure
    of what it returns.
    """

    def __init__(self, jaxpr: Any, is_known: tuple[bool, ...], result: Any):
        self.jaxpr = jaxpr
        self.is_known = is_known
        self.result = result
        # Now, and not when it is first compared: rules of derivatives may read what has changed by
        # then.
        try:
            self.structure: Hashable = (structure_of(jaxpr), is_known, value_of(result))
        except IncomparableError:
            self.structure = Identity(self)
        self._hash = hash(self.structure)

    def __hash__(self) -> int:
        return self._hash

    def __eq__(self, other: object) -> bool:
        if self is other:
            return True
        return (
            isinstance(other, Program)
            and self._hash == other._hash
            and self.structure == other.structure
        )


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class TracedFunction(loops.VariesByItself):
    """A function as a pytree: its traced program, and all that it closed over as leaves.

    A function that closes over traced values cannot cross the border of a derivative rule; its
    leaves can. What was `known` while tracing has no derivative, since nothing will ever be
    differentiated by it. Two traces of what computes the same, also of two functions, have one
    structure as pytrees: a compiled program is found again by it.
    """

    closed_over: list[PyTree]
    known: list[PyTree]
    program: Program = field(metadata={"static": True})

    @classmethod
    def of(cls, function: Callable[..., PyTree], *arguments: PyTree) -> "TracedFunction":
        make = partial(jax.make_jaxpr, return_shape=True)
        # A new function each time: JAX would hand out the last trace of the same one, whatever it
        # reads has become since.
        closed, shapes = make(lambda *a: function(*a))(*arguments)
        jaxpr = closed.jaxpr
        constants = closed.consts
        if loops.in_shard_map():
            axes = loops.axes_of(arguments, constants, closed.out_avals)
            types = jax.tree.map(
                lambda a: jax.typeof(loops.vary_over(_example(a), axes)), arguments
            )
            jaxpr, constants = _without_casts(jax.make_jaxpr(lambda *a: function(*a))(*types), axes)
        is_known = tuple(not isinstance(constant, jax.core.Tracer) for constant in constants)
        by_kind: dict[bool, list[PyTree]] = {True: [], False: []}
        for constant, known in zip(constants, is_known, strict=True):
            by_kind[known].append(constant)
        return cls(
            by_kind[False], by_kind[True], Program(jaxpr, is_known, jax.tree.structure(shapes))
        )

    @property
    def axes(self) -> loops.Axes:
        """Mesh axes over which its results vary from device to device, inside `shard_map`."""
        return loops.axes_of(self.captured, [v.aval for v in self.program.jaxpr.outvars])

    @property
    def captured(self) -> list[PyTree]:
        """All that was closed over, traced or known."""
        return [*self.closed_over, *self.known]

    def with_known(self, known: list[PyTree]) -> "TracedFunction":
        """The same with other arrays in the place of those that were known when it was traced."""
        return replace(self, known=known)

    def __call__(self, *arguments: PyTree) -> PyTree:
        traced = iter(self.closed_over)
        known = iter(jax.lax.stop_gradient(self.known))
        constants = [next(known if is_known else traced) for is_known in self.program.is_known]
        leaves = jax.tree.leaves(arguments)
        jaxpr = self.program.jaxpr
        leaves = loops.vary_as(leaves, [v.aval for v in jaxpr.invars])
        return jax.tree.unflatten(
            self.program.result, jax.core.eval_jaxpr(jaxpr, constants, *leaves)
        )


def _example(argument: PyTree) -> Array:
    return jnp.zeros(jnp.shape(argument), jnp.result_type(argument))


def _without_casts(closed: ClosedJaxpr, axes: loops.Axes) -> tuple[Jaxpr, list[PyTree]]:
    """The rest of a program when all that constants alone decide is computed here.

    The constants of that rest come with it. Inside `shard_map` a constant is cast where it meets
    what varies. Behind the door of a solver the transpose of that cast would be a sum over devices
    in every step.
    """
    flat = jax.make_jaxpr(partial(_evaluate, closed.jaxpr, closed.consts))(*closed.in_avals)
    values: dict[Any, Any] = dict(zip(flat.jaxpr.constvars, flat.consts, strict=True))
    remaining = []
    for eqn in flat.jaxpr.eqns:
        inputs = _variables(eqn.invars)
        if inputs and all(v in values for v in inputs) and not eqn.effects:
            values |= zip(eqn.outvars, _apply(flat.jaxpr, eqn, values), strict=True)
        else:
            remaining.append(eqn)
    used = {v for eqn in remaining for v in _variables(eqn.invars)} | set(
        _variables(flat.jaxpr.outvars)
    )
    constants = [v for v in values if v in used]
    for v in constants:
        is_differentiable = isinstance(values[v], jax.core.Tracer) and jnp.issubdtype(
            v.aval.dtype, jnp.inexact
        )
        if is_differentiable and not axes <= loops.axes_of(v.aval):
            refuse(
                "shard_map",
                f"a function that closes over a replicated {v.aval.str_short()} and uses it in a "
                "loop or branch",
                "an array that varies over the devices as the others do",
                'Pass it in the parameters p, or cast it: jax.lax.pcast(a, axis, to="varying").',
                NotImplementedError,
            )
    return flat.jaxpr.replace(constvars=constants, eqns=remaining), [values[v] for v in constants]


def _variables(atoms: Sequence[PyTree]) -> list[PyTree]:
    return [v for v in atoms if not isinstance(v, Literal)]


def _apply(jaxpr: Jaxpr, eqn: Any, values: dict[Any, Any]) -> list[PyTree]:
    """The results of one equation of the jaxpr, as many as it has."""
    names = jaxpr.debug_info.with_unknown_names()
    inputs = list(dict.fromkeys(_variables(eqn.invars)))
    kept = [v for v in eqn.outvars if not isinstance(v, DropVar)]
    alone = jaxpr.replace(constvars=inputs, invars=[], outvars=kept, eqns=[eqn], debug_info=names)
    found = iter(jax.core.eval_jaxpr(alone, [values[v] for v in inputs]))
    return [None if isinstance(v, DropVar) else next(found) for v in eqn.outvars]


def _evaluate(jaxpr: Jaxpr, constants: Sequence[PyTree], *arguments: PyTree) -> list[PyTree]:
    """What a jaxpr computes, with the functions inside that were jitted written out."""
    values: dict[Any, Any] = dict(
        zip((*jaxpr.constvars, *jaxpr.invars), (*constants, *arguments), strict=True)
    )

    def read(v: Any) -> PyTree:
        return v.val if isinstance(v, Literal) else values[v]

    for eqn in jaxpr.eqns:
        if eqn.primitive.name == "jit":
            inner = eqn.params["jaxpr"]
            found = _evaluate(inner.jaxpr, inner.consts, *map(read, eqn.invars))
        else:
            found = _apply(jaxpr, eqn, values)
        values |= zip(eqn.outvars, found, strict=True)
    return [read(v) for v in jaxpr.outvars]


def trace_at_door(
    functions: Sequence[Callable[..., PyTree] | None],
    arguments: tuple[PyTree, ...],
    *others: PyTree,
) -> tuple[list[PyTree], tuple[PyTree, ...], Any]:
    """The functions of the user, traced at these arguments; the arguments; the others.

    None stays None. Inside `shard_map` all of them vary alike, over the axes over which any of them
    or of what the functions return varies.
    """

    def trace() -> list[PyTree]:
        return [
            None if function is None else TracedFunction.of(function, *arguments)
            for function in functions
        ]

    if not loops.in_shard_map():
        return trace(), arguments, others
    arguments, others = loops.vary_alike((arguments, others))
    axes = loops.axes_of(arguments, others).union(
        *(traced.axes for traced in trace() if traced is not None)
    )
    arguments, others = loops.vary_over((arguments, others), axes)
    return trace(), arguments, others
