"""The adjoint back through one step of the solve, in as many steps of its own as it needs."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PyTree

from adjoint.ode.integrate import accept, while_if_any
from adjoint.ode.integrator import Integrator
from adjoint.ode.quadrature import AdjointStep, Rule
from adjoint.ode.runge_kutta import Tolerances
from adjoint.ode.step_adjoint import Cotangents
from adjoint.ode.tangent_control import FLOOR
from adjoint.tracing import loops

# The error of lam_i is to be less than
#
#     rtol |lam_i| + atol L_i + ROUNDINGS eps max over j L_j
#
# where L_i is the largest |lam_i| so far, or the share FLOOR of what it would gain on the whole
# interval at its rate: a component of y may be a small share of the output, and all that a
# parameter acts on. That of an array of p_bar is to be less than
#
#     rtol |p_bar| + atol max so far |F_p' (w lam)|
#
# whatever the unit of p. The weights w, of mixed signs, are those of `error_estimate.py`: with an
# output that is conserved F_p' lam itself would be nothing but errors.

# A component of lam that is zero but for rounding has no digits to be kept: where h |F_y| is about
# 1, the stages of a step leave a few roundings of the largest component in it.
ROUNDINGS = 4.0


class AdjointState(NamedTuple):
    """The adjoint on its way back: lam, p_bar so far, the next sample and the next step's size."""

    lam: Float[Array, " n"]
    # The largest |lam_i| so far, and of each array of p the largest |F_p' (w lam)|.
    largest: Float[Array, " n"]
    rates: list[Float[Array, ""]]
    varying: list[Array]
    j: Int[Array, ""]
    h: Float[Array, ""]


class _Inner(NamedTuple):
    s: Array
    sweep: AdjointState
    attempts: Array


def integrate_back(
    backward: Integrator,
    rule: Rule,
    along: PyTree,
    samples: Array,
    bars: Cotangents,
    sweep: AdjointState,
) -> AdjointState:
    """The adjoint at the start of a step of the solve from the one at its end."""
    start, end = along.ends

    def proceed(inner: _Inner) -> Array:
        going = jnp.all(jnp.isfinite(inner.sweep.lam)) & (inner.attempts < backward.max_steps)
        return (inner.s > start) & going

    def body(inner: _Inner) -> _Inner:
        sweep = _jump(backward, along, inner.s, samples, bars, inner.sweep)
        return _attempt(backward, rule, along, samples, inner._replace(sweep=sweep))

    inner = loops.while_loop(proceed, body, _Inner(end, sweep, jnp.zeros((), jnp.int32)))
    # Out of steps: no finite number may come of it.
    lam = jnp.where(inner.s > start, jnp.nan, inner.sweep.lam)
    return inner.sweep._replace(lam=lam)


def _jump(
    backward: Integrator,
    along: PyTree,
    s: Array,
    samples: Array,
    bars: Cotangents,
    sweep: AdjointState,
) -> AdjointState:
    """Add the cotangents of the samples at s."""
    if samples.size == 0:
        return sweep

    def is_here(carry: PyTree) -> Array:
        j = carry[-1]
        return (j >= 0) & (samples[jnp.maximum(j, 0)] >= s)

    def add(carry: PyTree) -> PyTree:
        lam, varying, j = carry
        lam, new = backward.field.jump(s, samples[j] - s, lam, bars.samples[j], along)
        return lam, [total + part for total, part in zip(varying, new, strict=True)], j - 1

    lam, varying, j = while_if_any(is_here, add, (sweep.lam, sweep.varying, sweep.j))
    return sweep._replace(lam=lam, varying=varying, j=j)


def _attempt(
    backward: Integrator, rule: Rule, along: PyTree, samples: Array, inner: _Inner
) -> _Inner:
    """One step back, at most to the next sample or the start of the interval."""
    sweep = inner.sweep
    s = inner.s
    stop = first = along.ends[0]
    if samples.size:
        sample = samples[jnp.maximum(sweep.j, 0)]
        stop = jnp.where((sweep.j >= 0) & (sample > first), sample, first)
    target = jnp.where(s - 1.01 * sweep.h <= stop, stop, s - sweep.h)
    span = (s, target)
    step = rule(backward, span, sweep.lam, along)
    total = [old + new for old, new in zip(sweep.varying, step.integral, strict=True)]
    largest = jnp.maximum(sweep.largest, jnp.maximum(jnp.abs(sweep.lam), jnp.abs(step.lam)))
    gain = FLOOR * jnp.abs(step.lam - sweep.lam) / (s - target)
    scales = backward.field.scales(jnp.maximum(largest, gain))
    rates = _rates(backward, s, sweep, along)
    errors = _scaled_errors(backward.tolerances, sweep, step, total, scales, rates)
    size = jax.lax.stop_gradient(jnp.max(jnp.stack(errors)))
    size = jnp.where(step.converged, size, jnp.inf)
    keep, h = accept(size, backward.method.order, s - target)
    # A step that was cut short says nothing against the size that was planned.
    h = jnp.where(keep, jnp.maximum(h, sweep.h), h)
    after = AdjointState(step.lam, largest, rates, total, sweep.j, h)
    before = sweep._replace(h=h)
    kept = jax.tree.map(lambda new, old: jnp.where(keep, new, old), after, before)
    return _Inner(jnp.where(keep, target, s), kept, inner.attempts + 1)


def _rates(
    backward: Integrator, s: Array, sweep: AdjointState, along: PyTree
) -> list[Float[Array, ""]]:
    """The largest |F_p' (w lam)| of each array of p, up to s."""
    (u,) = backward.field.solution(s[None], along)
    lam = jax.lax.stop_gradient(backward.field.weighted(sweep.lam))
    _, new = backward.field.with_parameters(s, lam, u, along)
    return [
        jnp.maximum(old, jnp.max(jnp.abs(jax.lax.stop_gradient(rate)), initial=0))
        for old, rate in zip(sweep.rates, new, strict=True)
    ]


def _scaled_errors(
    tolerances: Tolerances,
    sweep: AdjointState,
    step: AdjointStep,
    total: list[Array],
    scales: Array,
    rates: list[Array],
) -> list[Float[Array, ""]]:
    """The errors of lam and of each array of p_bar, in units of their tolerances."""
    size = jnp.maximum(jnp.abs(sweep.lam), jnp.abs(step.lam))
    rounding = ROUNDINGS * jnp.finfo(size.dtype).eps * jnp.max(scales)
    allowed = tolerances.rtol * size + tolerances.atol * scales + rounding
    # Nothing is wrong with nothing.
    sizes = [jnp.sqrt(jnp.mean((step.error / jnp.where(allowed > 0, allowed, 1)) ** 2))]
    parts = zip(total, sweep.varying, step.integral_error, rates, strict=True)
    for sum_new, sum_old, e, rate in parts:
        if e.size:
            size = jnp.maximum(jnp.max(jnp.abs(sum_new)), jnp.max(jnp.abs(sum_old)))
            allowed = tolerances.rtol * size + tolerances.atol * rate
            share = jnp.max(jnp.abs(e)) / jnp.where(allowed > 0, allowed, 1)
            sizes.append(share.astype(sweep.lam.dtype))
    return sizes
