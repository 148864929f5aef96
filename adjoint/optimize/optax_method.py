"""Optimizers of optax as methods of `minimize`: their updates, with the stopping of all methods."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from types import CellType
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float, PyTree

from adjoint.optimize.problem import Domain, Measure, unconstrained_measure
from adjoint.optimize.state import Evaluation, Iterate, Query, State, begin, choose

# Momentum may lead uphill for as many steps as it remembers, 1 / (1 - b) of them: ten for the usual
# b = 0.9, and a hundred for 0.99. In units of `Stopping.idle_steps`, which are 5.
PATIENCE = 20


@dataclass(frozen=True)
class OptaxMethod:
    """x <- the nearest point within the bounds to x + the update of an optimizer of optax.

    Every point becomes an iterate, whether f falls or not. The optimizer sees x and the gradient
    (that of the inner product) in the structure of x0, so that masks and chains work, and f with
    its gradient where it asks for more. The run ends as with every method; its result is the best
    point where that is no success.
    """

    optimizer: optax.GradientTransformation

    queries = (Query.VALUE,)
    handles = ("bounds",)
    patience = PATIENCE
    rates_have_units = True

    def __repr__(self) -> str:
        """With the numbers that its functions close over, by which a checkpoint knows it again."""
        update = self.optimizer.update
        numbers = ", ".join(repr(value) for value in _closed_over(update, set()))
        return f"OptaxMethod({getattr(update, '__qualname__', type(update).__name__)}: {numbers})"

    def init(self, x: Float[Array, " n"], domain: Domain, constraints: int = 0) -> State:
        """The state that asks about x first."""
        x = domain.project(x)
        return begin(x, _strong(self.optimizer.init(domain.unravel(x))))

    def step(self, state: State, evaluation: Evaluation, domain: Domain) -> State:
        """The state after the evaluation; pure. What is not a number is no way on."""
        at = Iterate(state.point, evaluation.value, evaluation.derivative)
        finite = jnp.isfinite(evaluation.value) & jnp.all(jnp.isfinite(evaluation.derivative))
        moved = state._replace(
            at=at, iterations=state.iterations + jnp.where(state.started, 1, 0).astype(jnp.int32)
        )
        gradient = domain.unravel(domain.gradient(evaluation.derivative))
        extended = optax.with_extra_args_support(self.optimizer)
        updates, memory = extended.update(
            gradient, state.memory, domain.unravel(at.x), value=evaluation.value, grad=gradient
        )
        point = domain.project(at.x + ravel_pytree(updates)[0].astype(at.x.dtype))
        went_on = moved._replace(point=point, memory=_strong(memory))
        kept = jnp.where(state.started, state.at.value, evaluation.value)
        stayed = state._replace(
            failed=jnp.ones((), bool), at=state.at._replace(value=kept), point=state.at.x
        )
        following = choose(finite, went_on, stayed)
        return following._replace(
            started=jnp.ones((), bool), direction=following.point - following.at.x
        )

    def restart(self, state: State, domain: Domain) -> State:
        """Stuck: it knows no other way."""
        return state._replace(failed=jnp.ones((), bool))

    def measure(self, state: State, domain: Domain) -> Measure:
        """Dual norm of the projected derivative; there are no constraints."""
        return unconstrained_measure(state.at, domain)


def _strong(memory: PyTree) -> Any:
    """With dtypes that are told, as a loop wants them."""
    return jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.asarray(leaf).dtype), memory)


def _closed_over(value: object, seen: set[int]) -> Iterator[float | int | str | None]:
    """The numbers and names that a function closes over, and those of the functions among them."""
    if isinstance(value, float | int | str | None):
        yield value
        return
    if id(value) in seen:
        return
    seen.add(id(value))
    if isinstance(value, list | tuple):
        parts = list(value)
    else:
        parts = [cell.cell_contents for cell in _cells(value)]
        parts += [value.func, *value.args] if isinstance(value, partial) else []
        parts += [getattr(value, "__wrapped__", ())]
    for part in parts:
        yield from _closed_over(part, seen)


def _cells(function: object) -> list[CellType]:
    """Those of its closure that are not empty, as that of a name is which is never assigned."""
    return [cell for cell in getattr(function, "__closure__", None) or () if cell != CellType()]
