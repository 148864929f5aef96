"""Events and the system that has them: conditions, jumps and rates on flat states."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Bool, Float, PyTree

from adjoint.ode.runge_kutta import Tolerances
from adjoint.ode.vector_field import Problem, make_problem
from adjoint.tracing import loops
from adjoint.tracing.traced_function import TracedFunction


@dataclass(frozen=True)
class Event:
    """What happens when condition(t, y, p) falls through zero: then y becomes jump(t, y, p).

    Parameters
    ----------
    condition
        condition(t, y, p), one number. It may depend on t alone: ``p - t`` is an event at the time
        p.
    jump
        jump(t, y, p), the state after the event, structured as y. None: the state goes on; only the
        time is wanted.
    direction
        -1 (default): the condition falls from above zero; 1: it rises from below; 0: both.
    terminal
        The solve ends at this event, after its jump.

    Examples
    --------
    >>> import adjoint
    >>> impact = adjoint.Event(lambda t, y, p: y[0], lambda t, y, p: y.at[1].set(-p * y[1]))
    >>> top = adjoint.Event(lambda t, y, p: y[1])
    >>> landing = adjoint.Event(lambda t, y, p: y[0], terminal=True)
    >>> wraps = adjoint.Event(lambda t, y, p: y[0] - 6.0, lambda t, y, p: y - 6.0, direction=1)
    """

    condition: Callable[..., Any]
    jump: Callable[..., PyTree] | None = None
    direction: Literal[-1, 0, 1] = -1
    terminal: bool = False


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class TracedEvent:
    """An `Event` whose functions are traced."""

    condition: TracedFunction
    jump: TracedFunction | None
    direction: int = field(metadata={"static": True})
    terminal: bool = field(metadata={"static": True})


class Watch(NamedTuple):
    """What each event waits for.

    An armed event fires when side * condition falls through zero; side is 1 or -1. One that is not
    armed must be positive first. A stopped one was brought to rest at zero by its own jump: it must
    rise before it falls.
    """

    armed: Bool[Array, " events"]
    stopped: Bool[Array, " events"]
    side: Float[Array, " events"]


@dataclass(frozen=True, eq=False)
class HybridSystem:
    """y' = f(t, y, p) with events, for flat states y; heading is -1 where time runs backwards."""

    f: TracedFunction
    events: tuple[TracedEvent, ...]
    unravel: Callable[[Array], PyTree]
    p: PyTree
    tolerances: Tolerances
    heading: Float[Array, ""]

    @property
    def has_two_sides(self) -> Bool[np.ndarray, " events"]:
        return np.array([event.direction == 0 for event in self.events])

    @property
    def is_terminal(self) -> Bool[np.ndarray, " events"]:
        return np.array([event.terminal for event in self.events])

    def with_parameters(self, p: PyTree) -> "HybridSystem":
        return replace(self, p=p)

    def rate(self, t: Array, y: Array) -> Float[Array, " n"]:
        return ravel_pytree(self.f(t, self.unravel(y), self.p))[0].astype(y.dtype)

    def conditions(self, t: Array, y: Array) -> Float[Array, " events"]:
        state = self.unravel(y)
        values = [jnp.asarray(event.condition(t, state, self.p)) for event in self.events]
        return jnp.stack([value.astype(y.dtype) for value in values])

    def condition_rates(self, t: Array, y: Array) -> tuple[Array, Array]:
        """The conditions and their rates c_t + c_y f, in the direction of the solve."""
        c, rates = jax.jvp(self.conditions, (t, y), (jnp.ones_like(t), self.rate(t, y)))
        return c, self.heading * rates

    def jump(self, k: Array, t: Array, y: Array) -> Float[Array, " n"]:
        """The state after the jump of event k."""

        def apply(event: TracedEvent) -> Callable[[Array, Array], Array]:
            if event.jump is None:
                return lambda t, y: y
            after = event.jump
            return lambda t, y: ravel_pytree(after(t, self.unravel(y), self.p))[0].astype(y.dtype)

        return loops.switch(k, [apply(event) for event in self.events], t, y)

    def problem(self, y: Array, ends: tuple[Array, Array], ends_vary: bool) -> Problem:
        """The flow between two events as an initial value problem over s in [0, 1]."""
        vary = (ends_vary, ends_vary)
        return make_problem(self.f, None, self.unravel(y), self.p, ends, vary, None)

    def first_watch(self, t: Array, y: Array, length: Array) -> Watch:
        """At the start: events whose condition is positive are armed."""
        t, y, length = jax.lax.stop_gradient((t, y, length))
        c = jnp.where(self._is_rounding(t, y, length), 0, self.conditions(t, y))
        side = jnp.asarray(
            [1.0 if event.direction <= 0 else -1.0 for event in self.events], y.dtype
        )
        side = jnp.where(self.has_two_sides & (c < 0), -1, side)
        return Watch(side * c > 0, jnp.zeros(c.shape, bool), side)

    def _is_rounding(self, t: Array, y: Array, length: Array) -> Bool[Array, " events"]:
        """Whether c does not shrink on the way to where its rate makes it zero, a rounding of t.

        So it is with sin(t + pi) at t = 0, a rounding of zero. A height of 1e-30 shrinks.
        """
        c, rates = self.condition_rates(t, y)
        slope = self.heading * rates
        steps = jnp.where(slope == 0, 0, -c / jnp.where(slope == 0, 1, slope))
        rate = self.rate(t, y)
        led_to = jax.vmap(lambda d: self.conditions(t + d, y + d * rate))(steps)
        is_short = jnp.abs(steps) <= rounding(jnp.abs(t) + jnp.abs(length))
        return is_short & (slope != 0) & (jnp.abs(jnp.diagonal(led_to)) >= jnp.abs(c) / 2)


# Roundings of the time to which an event is located, and of a condition that counts as zero: as in
# CVODE (tau = 100 u (|t| + |h|); Hindmarsh et al., User Documentation for CVODE, "Rootfinding").
ROUNDINGS = 100


def rounding(x: Array) -> Array:
    """What cannot be told from zero beside numbers of this size."""
    return ROUNDINGS * jnp.finfo(x.dtype).eps * x


def without_derivative(function: Callable[..., Array], *arguments: Any) -> Callable[..., Array]:
    """The function, with all that it closed over held constant."""
    traced = TracedFunction.of(function, *arguments)
    return jax.lax.stop_gradient(traced)
