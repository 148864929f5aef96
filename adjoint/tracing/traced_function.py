"""A user's function as data: what it closed over becomes leaves of a pytree that derivative rules can see."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.core
from jaxtyping import Array


@dataclass(frozen=True, eq=False)
class _Program:
    """A traced function; `constants` are its known constants, with None where a traced one belongs."""

    jaxpr: Any
    constants: tuple[Any, ...]


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class TracedFunction:
    """A function with one result as a pytree: its traced program, and the traced values that it closed over as leaves.

    A function that closes over traced values cannot cross the border of a derivative rule; its leaves can. What is known
    while tracing is no leaf, since nothing will ever be differentiated by it.
    """

    closed_over: list[Any]
    program: _Program = field(metadata={"static": True})

    @classmethod
    def of(cls, function: Callable[..., Array], *arguments: Any) -> "TracedFunction":
        closed = jax.make_jaxpr(function)(*arguments)
        traced = [isinstance(constant, jax.core.Tracer) for constant in closed.consts]
        known = tuple(None if is_traced else c for c, is_traced in zip(closed.consts, traced, strict=True))
        leaves = [c for c, is_traced in zip(closed.consts, traced, strict=True) if is_traced]
        return cls(leaves, _Program(closed.jaxpr, known))

    @property
    def captured(self) -> list[Any]:
        """All that was closed over, traced or known."""
        return [*self.closed_over, *(constant for constant in self.program.constants if constant is not None)]

    def __call__(self, *arguments: Any) -> Array:
        leaves = iter(self.closed_over)
        constants = [next(leaves) if constant is None else constant for constant in self.program.constants]
        (y,) = jax.core.eval_jaxpr(self.program.jaxpr, constants, *jax.tree.leaves(arguments))
        return y
