"""Running a chain of steps backwards: from all states, equally distant ones, or binomially.

    x[k+1] = advance(k, x[k])          lam[k] = pull(k, x[k], lam[k+1])

All three call the same `pull` with the same states, in the same order.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PyTree

from adjoint.inputs import refuse
from adjoint.tracing import loops

Adjoint = TypeVar("Adjoint")
Advance = Callable[[Array, PyTree], PyTree]
Pull = Callable[[Array, PyTree, Adjoint], Adjoint]

# Up to here all states are stored when the user does not say how many: 64 MiB.
BYTES_FOR_ALL_STATES = 2**26


@dataclass(frozen=True)
class Schedule:
    """Which states a forward run keeps, every `spacing`-th, and how those between come back.

    They come back at once, or in `slots`.
    """

    spacing: int
    slots: int | None = None

    @classmethod
    def of(cls, checkpoints: int | None, most_steps: int, bytes_per_state: int) -> "Schedule":
        """The schedule with the fewest repeated steps that holds at most so many states.

        With every state there are no repeated steps; with about 2 sqrt(steps) each step is repeated
        once; with fewer the binomial schedule repeats r times what C(checkpoints + r, r) steps
        allow (Griewank and Walther, ACM Trans. Math. Softw. 26, 2000, Algorithm 799).
        """
        two_levels = max(math.isqrt(most_steps - 1) + 1, 1)
        if checkpoints is None:
            return cls(1 if most_steps * bytes_per_state <= BYTES_FOR_ALL_STATES else two_levels)
        if checkpoints >= most_steps:
            return cls(1)
        return cls(two_levels) if checkpoints >= 2 * two_levels else cls(most_steps, checkpoints)


def sweep_back(
    schedule: Schedule,
    advance: Advance,
    pull: Pull[Adjoint],
    kept: PyTree,
    count: Array | int,
    adjoint: Adjoint,
) -> Adjoint:
    """The adjoint at step 0 of `count` steps, from the states that the schedule kept."""
    if schedule.spacing == 1:
        return _back_through(pull, kept, 0, count, adjoint)

    def segment(i: Array, adjoint: Adjoint) -> Adjoint:
        q = segments - 1 - i
        first = q * schedule.spacing
        start = jax.tree.map(lambda a: a[q], kept)
        length = jnp.minimum(count - first, schedule.spacing)
        if schedule.slots is not None:
            return _binomial(
                schedule.slots,
                schedule.spacing,
                lambda k, x: advance(first + k, x),
                lambda k, x, lam: pull(first + k, x, lam),
                start,
                length,
                adjoint,
            )
        states = _all_states(advance, start, first, length, schedule.spacing)
        return _back_through(pull, states, first, length, adjoint)

    segments = (count + schedule.spacing - 1) // schedule.spacing
    return loops.fori_loop(0, segments, segment, adjoint)


def _back_through(
    pull: Pull[Adjoint], states: PyTree, first: Array | int, length: Array | int, adjoint: Adjoint
) -> Adjoint:
    """Backwards through states[0:length], of which states[0] starts step `first`."""

    def back(i: Array, adjoint: Adjoint) -> Adjoint:
        k = length - 1 - i
        return pull(first + k, jax.tree.map(lambda a: a[k], states), adjoint)

    return loops.fori_loop(0, length, back, adjoint)


def _all_states(
    advance: Advance, start: PyTree, first: Array | int, length: Array | int, room: int
) -> PyTree:
    """The states at steps first to first + length, in buffers with room for more."""
    buffers = jax.tree.map(lambda a: jnp.zeros((room, *a.shape), a.dtype), start)

    def forward(i: Array, carry: PyTree) -> PyTree:
        state, states = carry
        states = jax.tree.map(lambda all, new: all.at[i].set(new), states, state)
        # The state after the last step is not needed; computing it keeps the loop free of a branch.
        return advance(first + i, state), states

    _, states = loops.fori_loop(0, length, forward, (start, buffers))
    return states


def require_checkpoints(where: str, checkpoints: int | None) -> None:
    """Refuse a number of checkpoints that is none."""
    if checkpoints is not None and (not isinstance(checkpoints, int) or checkpoints < 1):
        refuse(
            where, f"checkpoints = {checkpoints!r}", "at least 1, or None", "None chooses by size."
        )


def _reach(slots: int, most: int) -> np.ndarray:
    """reach[s, r] = C(s + r, s): how many steps can be reversed.

    There are s states, the first among them, and r runs forward.
    """
    runs = 1
    while math.comb(slots + runs, slots) < most:
        runs += 1
    return np.array(
        [[min(math.comb(s + r, s), most) for r in range(runs + 2)] for s in range(slots + 1)],
        np.int32,
    )


def _binomial(
    slots: int,
    most: int,
    advance: Advance,
    pull: Pull[Adjoint],
    start: PyTree,
    length: Array | int,
    adjoint: Adjoint,
) -> Adjoint:
    """One step forward or backward; the states at `at` are the stack, slot 0 the start."""
    reach = jnp.asarray(_reach(slots, most))

    def next_checkpoint(k: Array, end: Array, top: Array) -> Array:
        """Where to store next on the way from k to end, or -1 for not at all."""
        s = slots - top
        steps = end - k
        # With r the fewest runs that so many steps need: C(s + r - 1, s) of them at most to the
        # left of the checkpoint, and C(s + r - 2, s - 1) to the right if there are as many.
        runs = jnp.sum(reach[s] < steps)
        left = jnp.minimum(
            reach[s, jnp.maximum(runs - 1, 0)], steps - reach[s - 1, jnp.maximum(runs - 1, 0)]
        )
        return jnp.where(
            (s > 1) & (steps > 1), k + jnp.clip(left, 1, jnp.maximum(steps - 1, 1)), -1
        )

    def proceed(carry: PyTree) -> Array:
        return carry[0] > 0

    def act(carry: PyTree) -> PyTree:
        end, top, at, states, k, state, target, adjoint = carry
        is_last = k == end - 1
        state, adjoint = loops.cond(
            is_last,
            lambda state, adjoint: (state, pull(k, state, adjoint)),
            lambda state, adjoint: (advance(k, state), adjoint),
            state,
            adjoint,
        )
        # Backward: the run begins anew at the last stored state that is still before the end.
        end = jnp.where(is_last, end - 1, end)
        top = jnp.where(is_last & (top > 0) & (at[top] == end), top - 1, top)
        state = jax.tree.map(lambda all, new: jnp.where(is_last, all[top], new), states, state)
        k = jnp.where(is_last, at[top], k + 1)
        # Forward: the target of this run is stored.
        is_stored = ~is_last & (k == target)
        top = top + is_stored
        at = at.at[top].set(jnp.where(is_stored, k, at[top]))
        states = jax.tree.map(
            lambda all, new: all.at[top].set(jnp.where(is_stored, new, all[top])), states, state
        )
        target = jnp.where(is_last | is_stored, next_checkpoint(k, end, top), target)
        return end, top, at, states, k, state, target, adjoint

    end = jnp.asarray(length, jnp.int32)
    zero = jnp.zeros((), jnp.int32)
    at = jnp.zeros(slots, jnp.int32)
    states = jax.tree.map(lambda a: jnp.zeros((slots, *a.shape), a.dtype).at[0].set(a), start)
    carry = (end, zero, at, states, zero, start, next_checkpoint(zero, end, zero), adjoint)
    return loops.while_loop(proceed, act, carry)[-1]
