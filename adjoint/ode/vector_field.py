"""The user's equation as all methods work on it: flat y over s in [0, 1], dy/ds = F(s, y, p).

With t = t0 + s (t1 - t0) and F = (t1 - t0) f the ends are parameters like all others, and time may
run backwards; with jumps t(s) is linear between them only (`jumps.py`). An integral of g(t, y, p)
is one more group of states, with g as its slope.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float, PyTree

from adjoint.ode.jumps import Knots, Limits, share_of, time_and_rate
from adjoint.tracing import loops
from adjoint.tracing.traced_function import TracedFunction


class Parameters(NamedTuple):
    """All that F depends on beside s and y: arrays that have derivatives, and those that do not."""

    varying: list[Array]
    constant: list[Array]


@dataclass(frozen=True)
class VectorField:
    """F(s, y, p) as a traced program.

    Its leaves in order: what it closed over, p, what it closed over that is known, what is fixed;
    `counts` of the first three, and `varies` tells which leaves are varying parameters.
    """

    program: Any
    counts: tuple[int, int, int]
    varies: tuple[bool, ...]

    @classmethod
    def of(
        cls, function: Callable[..., Array], s: Array, y: Array, p: PyTree, fixed: PyTree = ()
    ) -> tuple["VectorField", Parameters]:
        """The field of function(s, y, p, fixed), and its parameters.

        These are the leaves of p and what the function closed over.
        """
        traced = TracedFunction.of(function, s, y, p, fixed)
        groups = (traced.closed_over, jax.tree.leaves(p), traced.known, jax.tree.leaves(fixed))
        moving = [
            jnp.issubdtype(jnp.result_type(leaf), jnp.inexact)
            for group in groups[:2]
            for leaf in group
        ]
        resting = [False for group in groups[2:] for _ in group]
        leaves = [leaf for group in groups for leaf in group]
        varies = (*moving, *resting)
        parameters = Parameters(
            [leaf for leaf, is_varying in zip(leaves, varies, strict=True) if is_varying],
            [leaf for leaf, is_varying in zip(leaves, varies, strict=True) if not is_varying],
        )
        return cls(
            traced.program, (len(groups[0]), len(groups[1]), len(groups[2])), varies
        ), parameters

    def __call__(
        self, s: Float[Array, ""], y: Float[Array, " n"], p: Parameters
    ) -> Float[Array, " n"]:
        varying = iter(p.varying)
        constant = iter(p.constant)
        leaves = iter(
            [next(varying) if is_varying else next(constant) for is_varying in self.varies]
        )
        closed_over, p_leaves, known = (
            [next(leaves) for _ in range(count)] for count in self.counts
        )
        return TracedFunction(closed_over, known, self.program)(s, y, p_leaves, list(leaves))


class Problem(NamedTuple):
    """dy/ds = F(s, y, p) from y0, sampled at s in [0, 1]; `split` parts y in (state, integral)."""

    field: VectorField
    y0: Float[Array, " n"]
    p: Parameters
    s: Float[Array, " samples"]
    split: Callable[[Array], tuple[PyTree, PyTree]]
    limits: Limits | None = None


def strongly_typed(tree: PyTree) -> PyTree:
    """The arrays without the weak types of Python's numbers, as states are within the steps."""
    return jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.result_type(leaf)), tree)


def _no_costs(_: Array) -> None:
    return None


def make_problem(
    f: TracedFunction,
    running_cost: TracedFunction | None,
    y0: PyTree,
    p: PyTree,
    ends: tuple[Array, Array],
    ends_vary: tuple[bool, bool],
    ts: Array | None,
    jumps: Array | None = None,
    jumps_vary: bool = False,
    max_step: float | None = None,
) -> Problem:
    """The flat problem of y' = f(t, y, p), and of a running cost's integral if there is one."""
    state, unravel = ravel_pytree(y0)
    dtype = state.dtype
    # Ends that were plain numbers have no derivative, and computing none saves its time.
    varying = tuple(t for t, varies in zip(ends, ends_vary, strict=True) if varies)
    fixed = tuple(t for t, varies in zip(ends, ends_vary, strict=True) if not varies)
    # What the functions know is fixed, too: it would cost a cotangent of its size in every step.
    known = [function.known for function in (f, running_cost) if function is not None]
    s = jnp.zeros(0, dtype) if ts is None else (ts - ends[0]) / (ends[1] - ends[0])
    limits = knots = None
    if jumps is not None or max_step is not None:
        knots = Knots.of(jnp.zeros(0, dtype) if jumps is None else jumps, *ends)
        limits = Limits(knots.times.size, max_step is not None)
        longest = jnp.asarray(jnp.inf if max_step is None else max_step, dtype) / jnp.abs(
            ends[1] - ends[0]
        )
        varying = (*varying, *[knots.times] * jumps_vary)
        fixed = (*fixed, *[knots.times] * (not jumps_vary))
        # Without derivatives, and last, where `Limits` finds them.
        fixed = (*fixed, *jax.lax.stop_gradient((knots.margin, longest, knots.shares)))
        if ts is not None and limits.jumps:
            s = jax.vmap(lambda t: share_of(t, knots, *ends))(ts)
    if running_cost is None:
        costs = jnp.zeros(0, dtype)
        unravel_costs: Callable[[Array], Any] = _no_costs
    else:
        like = jax.eval_shape(running_cost, ends[0], y0, p)
        costs, unravel_costs = ravel_pytree(
            jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, dtype), like)
        )

    def F(s: Array, y: Array, differentiated: PyTree, fixed: PyTree) -> Array:
        p, varying = differentiated
        known, resting = fixed
        still = iter(resting)
        moving = iter(varying)
        t0, t1 = (next(moving) if varies else next(still) for varies in ends_vary)
        t = t0 + s * (t1 - t0)
        y_of_t = unravel(y[: state.size])
        rate = t1 - t0
        if limits is not None and limits.jumps:
            times = next(moving) if jumps_vary else next(still)
            t, rate = time_and_rate(s, Knots(times, resting[-1], resting[-3]), t0, t1)
        slopes = [ravel_pytree(f.with_known(known[0])(t, y_of_t, p))[0]]
        if running_cost is not None:
            slopes.append(ravel_pytree(running_cost.with_known(known[1])(t, y_of_t, p))[0])
        return rate * jnp.concatenate(slopes).astype(dtype)

    def split(y: Array) -> tuple[PyTree, PyTree]:
        return unravel(y[: state.size]), unravel_costs(y[state.size :])

    flat = jnp.concatenate([state, costs])
    field, parameters = VectorField.of(F, jnp.zeros((), dtype), flat, (p, varying), (known, fixed))
    flat, parameters, s = loops.vary_alike((flat, parameters, s))
    return Problem(field, flat, parameters, s, split, limits)
