"""The gradient of a discrete solve with its own error estimate, by better steps where needed.

Steps that suit the solution need not suit its derivatives: at rest, from zero, in a component that
rests beside one that moves, with controls at zero. The exact gradient of such steps is no gradient
of the solution (`error_estimate.py`).
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from adjoint.ode.checkpoints import Schedule, sweep_back
from adjoint.ode.error_estimate import (
    ENOUGH_BESIDE_SOLUTION,
    ENOUGH_DIGITS,
    Sizes,
    of_solution,
    shares,
    weights_of,
)
from adjoint.ode.integrate import Record
from adjoint.ode.integrator import Integrator, State
from adjoint.ode.step_adjoint import (
    AdjointState,
    Cotangents,
    Gradient,
    LinearizedStep,
    add,
    finish_at_start,
    start_of_sweep,
)
from adjoint.ode.tangent_control import ENOUGH, Grid, grid_for_tangents
from adjoint.ode.vector_field import Parameters
from adjoint.tracing import loops


class Estimated(NamedTuple):
    """The adjoint with the estimate of its error, and the sizes that it is compared with."""

    lam: AdjointState
    eps: State
    eps_varying: list[Array]
    sizes: Sizes


def estimated_sweep(
    schedule: Schedule,
    integrator: Integrator,
    record: Record,
    y0: Array,
    p: Parameters,
    s: Array,
    bars: Cotangents,
) -> tuple[Gradient, Array, list[Array], Array]:
    """The gradient of the steps, with its errors and that of the solution.

    The errors are shares of it, by y0 and by each array of p; that of the solution is a share of
    the solution.
    """

    weights = weights_of(y0)

    def advance(k: Array, state: State) -> State:
        step = integrator.step((record.grid[k], record.grid[k + 1]), state, p)
        return State(step.y, step.slope)

    def pull(k: Array, state: State, after: Estimated) -> Estimated:
        lam = after.lam
        ends = (record.grid[k], record.grid[k + 1])
        step = LinearizedStep.of(integrator, ends, state, p, s, bars, lam)
        none = jnp.zeros_like(step.stages)
        of_eps = (after.eps, none, step.inside.y1 + step.inside.datum)
        of_lam = step.bars_of(lam)
        of_weighted = jax.tree.map(lambda bar: jnp.broadcast_to(weights, bar.shape) * bar, of_lam)
        # Three cotangents of one linearized step: f is evaluated once.
        bars_of_step = jax.tree.map(lambda *bar: jnp.stack(bar), of_lam, of_eps, of_weighted)
        pulled = jax.vmap(step.transposed)(bars_of_step)
        of_lam, (eps, eps_varying), (_, weighted) = (
            jax.tree.map(lambda a, i=i: a[i], pulled) for i in range(3)
        )
        data = step.inside.datum + jnp.where(k == record.count - 1, bars.y1, 0)
        sizes = after.sizes.with_datum(lam.state.y, step.inside.datum)
        sizes = sizes.with_error(step.inside.y1, step.error, data, step.y1)
        before = step.pull(lam, *of_lam)
        added = [new - old for new, old in zip(before.varying, lam.varying, strict=True)]
        sizes = sizes.after_step(ends[1] - ends[0], before.state.slope, added, weighted, p.varying)
        return Estimated(before, eps, add(after.eps_varying, eps_varying), sizes)

    lam = start_of_sweep(y0, p, s, bars.y1)
    no_eps, no_varying = jax.tree.map(jnp.zeros_like, (lam.state, lam.varying))
    start = Estimated(lam, no_eps, no_varying, Sizes.at_end(bars.y1, p.varying))
    end = sweep_back(schedule, advance, pull, record.states, record.count, start)
    gradient = finish_at_start(integrator, y0, p, s, bars, end.lam)
    eps = end.lam._replace(state=end.eps, varying=end.eps_varying, s=jnp.zeros_like(s))
    no_bars = jax.tree.map(jnp.zeros_like, bars)
    eps = finish_at_start(integrator, y0, p, s, no_bars, eps)
    of_p = list(zip(p.varying, gradient.varying, eps.varying, strict=True))
    of_gradient = shares(end.sizes, (y0, gradient.y0, eps.y0), of_p)
    return gradient, *of_gradient, of_solution(end.sizes)


class _Attempt(NamedTuple):
    """A gradient with its errors, from `record`'s steps; the best so far, and the last grid's."""

    record: Record
    gradient: Gradient
    errors: Array
    enough: Array
    last: Array
    is_held: Array
    tries: Array


# Each halving doubles the steps, and mostly divides the error by 8 at least.
MOST_HALVINGS = 12


def repaired(
    schedule: Schedule,
    integrator: Integrator,
    record: Record,
    y0: Array,
    p: Parameters,
    s: Array,
    bars: Cotangents,
) -> Gradient:
    """The gradient of the steps, or, where that is wrong, of better ones.

    A gradient is wrong when its error is more than ENOUGH rtol, and more than that of the solution.
    Better steps are first those that suit a random tangent too, then halved ones as long as that
    helps. What is left wrong is NaN: on steps that the tangent did not suit, or with less than one
    digit.
    """
    enough = ENOUGH * integrator.tolerances.rtol
    finite = jnp.all(jnp.isfinite(bars.y1)) & jnp.all(jnp.isfinite(bars.samples))

    def is_wrong(now: _Attempt) -> Array:
        can_halve = (2 * now.record.count <= integrator.most_steps) & (
            now.tries < 2 + MOST_HALVINGS
        )
        # Errors that do not fall are no longer those of the steps.
        helps = (now.tries <= 2) | (now.last <= jnp.max(now.errors))
        is_open = (now.tries == 0) | ((now.tries == 1) | (can_halve & helps)) & ~(
            jnp.max(now.errors) <= now.enough
        )
        return is_open & finite

    def improve(now: _Attempt) -> _Attempt:
        record, is_held = _better_steps(schedule, integrator, now, y0, p)
        gradient, of_y0, of_p, of_y = estimated_sweep(schedule, integrator, record, y0, p, s, bars)
        errors = jnp.stack([of_y0, *(share.astype(of_y0.dtype) for share in of_p)])
        errors = jnp.where(jnp.isnan(errors), jnp.inf, errors)
        last = jnp.max(errors)
        # Steps that suit a tangent are not judged by those that did not.
        is_best = (now.tries == 0) | (is_held & ~now.is_held) | ~(last > jnp.max(now.errors))
        limit = jnp.clip(ENOUGH_BESIDE_SOLUTION * of_y, enough, 10**-ENOUGH_DIGITS)
        gradient, errors, accepted = jax.tree.map(
            lambda new, old: jnp.where(is_best, new, old),
            (gradient, errors, limit),
            (now.gradient, now.errors, now.enough),
        )
        return _Attempt(record, gradient, errors, accepted, last, is_held, now.tries + 1)

    none = Gradient(jnp.zeros_like(y0), [jnp.zeros_like(v) for v in p.varying], jnp.zeros_like(s))
    infinite = jnp.asarray(jnp.inf, y0.dtype)
    start = _Attempt(
        record,
        none,
        jnp.full(1 + len(p.varying), jnp.inf, y0.dtype),
        jnp.zeros_like(infinite),
        infinite,
        jnp.array(False),
        jnp.zeros((), jnp.int32),
    )
    # One body for the first sweep and those after: it is compiled once.
    end = loops.while_loop(is_wrong, improve, start)
    limit = jnp.where(end.is_held, 10**-ENOUGH_DIGITS, end.enough)
    believed = jax.lax.stop_gradient(end.errors <= limit)
    gradient = end.gradient
    return Gradient(
        jnp.where(believed[0], gradient.y0, jnp.nan),
        [jnp.where(ok, v, jnp.nan) for ok, v in zip(believed[1:], gradient.varying, strict=True)],
        gradient.s,
    )


def _better_steps(
    schedule: Schedule, integrator: Integrator, now: _Attempt, y0: Array, p: Parameters
) -> tuple[Record, Array]:
    """The steps of the next attempt, and whether one suits.

    They are the same at first, then those that suit a tangent, then halves.
    """
    grid = now.record.grid
    count = now.record.count

    # Loops of one turn or none: of a branch each element of a batch would pay both sides.
    def of_tangent(_: Grid) -> Grid:
        found = grid_for_tangents(integrator, y0, p)
        # Steps that came to no end are no better.
        return Grid(
            jnp.where(found.is_whole, found.s, grid),
            jnp.where(found.is_whole, found.count, count),
            found.is_whole,
        )

    def once(wanted: Array, body: Any, start: PyTree) -> PyTree:
        turn = loops.while_loop(
            lambda c: c[0], lambda c: (c[0] & False, body(c[1])), (wanted, start)
        )
        return turn[1]

    better = once(now.tries == 1, of_tangent, Grid(grid, count, now.is_held))
    halves = _halved(better.s)
    twice = 2 * better.count
    is_halved = now.tries >= 2
    better = better._replace(
        s=jnp.where(is_halved, halves, better.s), count=jnp.where(is_halved, twice, better.count)
    )

    def along(_: Record) -> Record:
        return integrate_along(integrator, better.s, better.count, y0, p, schedule.spacing)

    return once(now.tries >= 1, along, now.record), better.is_whole


def _halved(grid: Float[Array, " most_steps+1"]) -> Float[Array, " most_steps+1"]:
    """With a point in the middle of each step, as far as there is room."""
    i = jnp.arange(grid.size)
    left = grid[i // 2]
    right = grid[jnp.minimum(i // 2 + 1, grid.size - 1)]
    return jnp.where(i % 2 == 0, left, (left + right) / 2)


def integrate_along(
    integrator: Integrator, grid: Array, count: Array, y0: Array, p: Parameters, spacing: int
) -> Record:
    """The record of the steps with these ends."""
    start = State(y0, integrator.field(jnp.zeros_like(grid[0]), y0, p))
    rooms = -(-integrator.most_steps // spacing)
    kept = jax.tree.map(lambda a: jnp.zeros((rooms, *a.shape), a.dtype), start)

    def advance(k: Array, carry: PyTree) -> PyTree:
        state, kept = carry
        slot = k // spacing
        is_kept = k % spacing == 0
        kept = jax.tree.map(
            lambda all, new: all.at[slot].set(jnp.where(is_kept, new, all[slot])), kept, state
        )
        step = integrator.step_to_transpose((grid[k], grid[k + 1]), state, p)
        return State(step.y, step.slope), kept

    _, kept = loops.fori_loop(0, count, advance, (start, kept))
    return Record(grid, kept, count)
