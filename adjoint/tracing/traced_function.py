"""A user's function as data: what it closed over becomes leaves of a pytree that derivative rules can see."""

from collections.abc import Callable, Hashable
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import jax
import jax.core
import jax.numpy as jnp
from jax.extend.core import ClosedJaxpr, DropVar, Jaxpr, Literal
from jaxtyping import Array

from adjoint.tracing import loops
from adjoint.tracing.structure import Identity, IncomparableError, structure_of, value_of


class Program:
    """A traced function without the arrays that it closed over; equal to all that compute the same.

    `is_known` tells which of its constants were known when it was traced; `result` is the structure of what it returns.
    """

    def __init__(self, jaxpr: Any, is_known: tuple[bool, ...], result: Any):
        self.jaxpr = jaxpr
        self.is_known = is_known
        self.result = result
        # Now, and not when it is first compared: rules of derivatives may read what has changed by then.
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
        return isinstance(other, Program) and self._hash == other._hash and self.structure == other.structure


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class TracedFunction:
    """A function as a pytree: its traced program, and all that it closed over as leaves.

    A function that closes over traced values cannot cross the border of a derivative rule; its leaves can. What was `known` while
    tracing has no derivative, since nothing will ever be differentiated by it. Two traces of what computes the same, also of
    two functions, have one structure as pytrees: a compiled program is found again by it.
    """

    closed_over: list[Any]
    known: list[Any]
    program: Program = field(metadata={"static": True})

    @classmethod
    def of(cls, function: Callable[..., Any], *arguments: Any) -> "TracedFunction":
        # A new function each time: JAX would hand out the last trace of the same one, whatever it reads has become since.
        make = partial(jax.make_jaxpr, return_shape=True)
        closed, shapes = make(lambda *a: function(*a))(*arguments)
        jaxpr, constants = closed.jaxpr, closed.consts
        if loops.in_shard_map():
            axes = loops.axes_of(arguments, constants, closed.out_avals)
            types = jax.tree.map(lambda a: jax.typeof(loops.vary_over(_example(a), axes)), arguments)
            closed, shapes = make(lambda *a: function(*a))(*types)
            jaxpr, constants = _without_constants(closed)
        is_known = tuple(not isinstance(constant, jax.core.Tracer) for constant in constants)
        by_kind: dict[bool, list[Any]] = {True: [], False: []}
        for constant, known in zip(constants, is_known, strict=True):
            by_kind[known].append(constant)
        return cls(by_kind[False], by_kind[True], Program(jaxpr, is_known, jax.tree.structure(shapes)))

    @property
    def captured(self) -> list[Any]:
        """All that was closed over, traced or known."""
        return [*self.closed_over, *self.known]

    def with_known(self, known: list[Any]) -> "TracedFunction":
        """The same with other arrays in the place of those that were known when it was traced."""
        return replace(self, known=known)

    def __call__(self, *arguments: Any) -> Any:
        traced, known = iter(self.closed_over), iter(jax.lax.stop_gradient(self.known))
        constants = [next(known if is_known else traced) for is_known in self.program.is_known]
        leaves, jaxpr = jax.tree.leaves(arguments), self.program.jaxpr
        leaves = loops.vary_as(leaves, [v.aval for v in jaxpr.invars])
        return jax.tree.unflatten(self.program.result, jax.core.eval_jaxpr(jaxpr, constants, *leaves))


def _example(argument: Any) -> Array:
    return jnp.zeros(jnp.shape(argument), jnp.result_type(argument))


def _without_constants(closed: ClosedJaxpr) -> tuple[Jaxpr, list[Any]]:
    """The rest of a jaxpr when all that constants alone decide is computed here, and the constants of that rest.

    Inside `shard_map` a constant is cast where it meets what varies. Behind the door of a solver that cast would be
    a sum over devices in every transposed step.
    """
    values: dict[Any, Any] = dict(zip(closed.jaxpr.constvars, closed.consts, strict=True))
    remaining = []
    for eqn in closed.jaxpr.eqns:
        inputs = [v for v in eqn.invars if not isinstance(v, Literal)]
        if inputs and all(v in values for v in inputs) and not eqn.effects:
            names = closed.jaxpr.debug_info.with_unknown_names()
            results = [v for v in eqn.outvars if not isinstance(v, DropVar)]
            alone = closed.jaxpr.replace(constvars=inputs, invars=[], outvars=results, eqns=[eqn], debug_info=names)
            values |= zip(results, jax.core.eval_jaxpr(alone, [values[v] for v in inputs]), strict=True)
        else:
            remaining.append(eqn)
    used = {v for eqn in remaining for v in eqn.invars if not isinstance(v, Literal)}
    used |= {v for v in closed.jaxpr.outvars if not isinstance(v, Literal)}
    constants = [v for v in values if v in used]
    return closed.jaxpr.replace(constvars=constants, eqns=remaining), [values[v] for v in constants]
