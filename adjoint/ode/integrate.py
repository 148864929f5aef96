"""The loop over steps from s = 0 to 1, which samples on the way and records what adjoints need."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PyTree

from adjoint.ode.integrator import Integrator, State
from adjoint.ode.runge_kutta import Step
from adjoint.ode.vector_field import Parameters
from adjoint.status import Status, first_failure
from adjoint.tracing import loops


class Record(NamedTuple):
    """The accepted steps: their count + 1 ends, and the states at every so-manieth of them."""

    grid: Float[Array, " most_steps+1"]
    states: Any
    count: Int[Array, ""]


class Outcome(NamedTuple):
    """How it went; `stiff` counts the steps of an explicit method at its stability limit."""

    code: Int[Array, ""]
    accepted: Int[Array, ""]
    rejected: Int[Array, ""]
    stiff: Int[Array, ""]


class _Loop(NamedTuple):
    s: Array
    h: Array
    state: State
    count: Array
    rejected: Array
    stiff: Array
    stuck: Array
    samples: Array
    sampled: Array
    grid: Any
    kept: PyTree


# h |F_y| above which a step of an explicit method is at its stability limit: 3.3 to 3.5 on the
# negative axis for those of order 5 (Hairer and Wanner, Solving ODEs II, 2nd ed., section IV.2).
STABILITY_LIMIT = 2.5


def integrate(
    integrator: Integrator,
    y0: Array,
    p: Parameters,
    s_of_samples: Array,
    spacing: int | None = None,
) -> tuple[Array, Array, Record | None, Outcome]:
    """The states at s = 1 and at the samples, and, with `spacing`, the record of the steps.

    The record holds the states at this spacing.
    """
    most = integrator.most_steps
    start = State(y0, integrator.field(jnp.zeros((), y0.dtype), y0, p))
    h = (
        first_step(integrator, start, p)
        if integrator.steps is None
        else jnp.asarray(1 / integrator.steps, y0.dtype)
    )
    zero = jnp.zeros((), y0.dtype)
    count = jnp.zeros((), jnp.int32)
    grid = kept = None
    if spacing is not None:
        grid = jnp.zeros(most + 1, y0.dtype)
        kept = jax.tree.map(lambda a: jnp.zeros((-(-most // spacing), *a.shape), a.dtype), start)
    samples = jnp.zeros((s_of_samples.size, y0.size), y0.dtype)
    # Samples at the very start belong to no step.
    at_start = s_of_samples <= 0
    if s_of_samples.size:
        first = jax.vmap(lambda s: integrator.at_start(y0, s, p))(
            jnp.where(at_start, s_of_samples, 0)
        )
        samples = jnp.where(at_start[:, None], first, samples)
    sampled = jnp.sum(at_start, dtype=jnp.int32)
    loop = _Loop(
        zero, h, start, count, count, count, jnp.array(False), samples, sampled, grid, kept
    )

    def proceed(loop: _Loop) -> Array:
        return (loop.s < 1) & (loop.count + loop.rejected < most) & ~loop.stuck

    def body(loop: _Loop) -> _Loop:
        return _advance(integrator, p, s_of_samples, spacing, loop)

    loop = loops.while_loop(proceed, body, loop)
    failure = Status.STEP_UNDERFLOW if integrator.steps is None else Status.DIVERGED
    status = first_failure((failure, loop.stuck), (Status.MAX_STEPS, loop.s < 1))
    record = None
    if spacing is not None:
        record = Record(jax.lax.stop_gradient(loop.grid), loop.kept, loop.count)
    outcome = Outcome(status.code, loop.count, loop.rejected, loop.stiff)
    return loop.state.y, loop.samples, record, jax.lax.stop_gradient(outcome)


def _advance(
    integrator: Integrator, p: Parameters, s_of_samples: Array, spacing: int | None, loop: _Loop
) -> _Loop:
    """One attempt at a step."""
    h_tried = loop.h
    stop = jnp.ones_like(loop.s)
    if integrator.limits is not None:
        constants = integrator.constants(p)
        h_tried = integrator.limits.capped(loop.h, constants)
        stop = integrator.limits.stop(loop.s, constants)
    # The last step ends at the stop; one that would leave a sliver is stretched.
    is_last = loop.s + 1.01 * h_tried >= stop
    s1 = jnp.where(is_last, stop, loop.s + h_tried)
    if integrator.steps is not None:
        s1 = ((loop.count + 1) / integrator.steps).astype(loop.s.dtype)
    s = (loop.s, s1)
    step = integrator.step(s, loop.state, p)
    keep, h = judge(integrator, loop.state.y, step, s1 - loop.s, h_tried)
    grid = loop.grid
    kept = loop.kept
    if spacing is not None:
        # What a rejected step writes is overwritten by the next one.
        grid = grid.at[loop.count + 1].set(s1)
        kept = jax.tree.map(
            lambda all, new: all.at[loop.count // spacing].set(new), kept, _every(spacing, loop)
        )
    samples, sampled, found = _sample(integrator, p, s_of_samples, s, step, keep, loop)
    # A step that cannot be sampled is made anew, shorter; so are its samples.
    keep = keep & found
    h = jnp.where(found, h, h_tried / 2)
    if integrator.limits is not None:
        # A step that was cut short says nothing against the size that was planned.
        h = jnp.where(keep & is_last, jnp.maximum(h, h_tried), h)
    sampled = jnp.where(found, sampled, loop.sampled)
    state = jax.tree.map(
        lambda new, old: jnp.where(keep, new, old), State(step.y, step.slope), loop.state
    )
    stuck = ~keep & step_underflows(h, loop.s)
    if integrator.steps is not None:
        stuck = ~step.converged | ~found | ~jnp.all(jnp.isfinite(state.y))
    return _Loop(
        jnp.where(keep, s1, loop.s),
        h,
        state,
        loop.count + keep,
        loop.rejected + ~keep,
        loop.stiff + (keep & (step.stiffness > STABILITY_LIMIT)),
        stuck,
        samples,
        sampled,
        grid,
        kept,
    )


def _every(spacing: int, loop: _Loop) -> PyTree:
    """The state to write into its slot: what is there already, but for every so-manieth step."""
    if spacing == 1:
        return loop.state
    is_kept = loop.count % spacing == 0
    slot = loop.count // spacing
    return jax.tree.map(lambda all, new: jnp.where(is_kept, new, all[slot]), loop.kept, loop.state)


def _sample(
    integrator: Integrator,
    p: Parameters,
    s_of_samples: Array,
    s: tuple[Array, Array],
    step: Step,
    keep: Array,
    loop: _Loop,
) -> tuple[Array, Array, Array]:
    """Fill in the samples inside this step if it is kept; how many now, and if all were found."""
    last = s_of_samples.size
    if last == 0:
        return loop.samples, loop.sampled, jnp.array(True)

    def is_inside(carry: PyTree) -> Array:
        _, j, _ = carry
        return keep & (j < last) & (s_of_samples[jnp.minimum(j, last - 1)] <= s[1])

    def fill(carry: PyTree) -> PyTree:
        samples, j, found = carry
        y, is_good = integrator.sample(s, loop.state, step.y, step.stages, s_of_samples[j], p)
        return samples.at[j].set(y), j + 1, found & is_good

    return while_if_any(is_inside, fill, (loop.samples, loop.sampled, jnp.array(True)))


def while_if_any(
    proceed: Callable[[Any], Array], body: Callable[[Any], Any], start: PyTree
) -> PyTree:
    """`jax.lax.while_loop` for what mostly takes no turn.

    Of a body that is the same in every turn, as that of a single sample, XLA computes all it can
    ahead of the loop, wanted or not.
    """
    return loops.cond(
        proceed(start),
        lambda start: loops.while_loop(proceed, body, start),
        lambda start: start,
        start,
    )


def judge(
    integrator: Integrator, y: Array, step: Step, h: Array, h_tried: Array
) -> tuple[Array, Array]:
    """Whether a step is kept, and the next one's size, by the elementary controller.

    That is diffrax's default, too.
    """
    if integrator.steps is not None:
        return jnp.array(True), h_tried
    error = integrator.tolerances.scaled(*jax.lax.stop_gradient((step.error, y, step.y)))
    error = jnp.where(step.converged & jnp.all(jnp.isfinite(step.slope)), error, jnp.inf)
    return accept(error, integrator.method.order, h)


def step_underflows(h: Array, s: Array) -> Array:
    """Whether s + h is mostly rounding, where the codes of Hairer and Wanner stop, too."""
    precision = jnp.finfo(h.dtype)
    return h <= jnp.maximum(10 * precision.eps * s, precision.tiny**0.5)


def accept(error: Array, order: int, h: Array) -> tuple[Array, Array]:
    """A step whose error, in units of the tolerance, is at most 1 is kept.

    Factors are 0.2 to 10 from step to step.
    """
    error = jnp.where(jnp.isfinite(error), error, jnp.inf)
    keep = error < 1
    factor = 0.9 * error ** (-1 / order)
    factor = jnp.where(keep, jnp.clip(factor, 1.0, 10.0), jnp.clip(factor, 0.2, 0.9))
    return keep, jax.lax.stop_gradient(h * factor)


def first_step(integrator: Integrator, start: State, p: Parameters) -> Float[Array, ""]:
    """The first step's size: Hairer, Norsett, Wanner, Solving ODEs I, 2nd ed., section II.4."""
    (y, slope), p = jax.lax.stop_gradient((start, p))
    if integrator.mass is not None:
        # A tiny share of the interval; slopes are no rates here, and the controller soon finds the
        # size.
        return jnp.asarray(1e-6, y.dtype)
    scaled = integrator.tolerances.scaled
    order = integrator.method.order
    size = scaled(y, y)
    rate = scaled(slope, y)
    is_tiny = (size < 1e-5) | (rate < 1e-5)
    h0 = jnp.where(is_tiny, 1e-6, 0.01 * size / jnp.where(is_tiny, 1, rate))
    curvature = scaled(integrator.field(h0, y + h0 * slope, p) - slope, y) / h0
    largest = jnp.maximum(rate, curvature)
    h1 = jnp.where(largest <= 1e-15, jnp.maximum(1e-6, 1e-3 * h0), (0.01 / largest) ** (1 / order))
    h = jnp.minimum(jnp.minimum(100 * h0, h1), 1)
    return jnp.where(jnp.isfinite(h), h, 1e-6).astype(y.dtype)
