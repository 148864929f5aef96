"""How many digits of a gradient through an ODE can be believed: two derivatives of one number that share only the trajectory.

One is the tangent of the steps, S w, in a random direction w of (y0, p); the other is the continuous adjoint lam of a random
functional of y(1); the worst of a few pairs counts. For exact ones, at every s,

    I(s) = lam(s)' S(s) w + (what the integral of F_p' lam from s to 1 gives along w)

is one number, the derivative of the functional along w. How far I departs from it along the trajectory is the disagreement.
The growth is how many times a disturbance of the trajectory, relative to it, is larger at the end than where it began: the
error control leaves disturbances of relative size rtol, and where they grow to 1 the trajectory itself is not the one asked for.
"""

from dataclasses import replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from adjoint.ode.continuous import AdjointField, Along, Sweep, integrate_back
from adjoint.ode.discrete import Bars
from adjoint.ode.integrate import Integrator, State, integrate
from adjoint.ode.quadrature import rule_of_gauss
from adjoint.ode.vector_field import Parameters
from adjoint.tracing import loops

# Fewer digits than this are none.
ENOUGH_DIGITS = 1.0
PAIRS = 3


class Certificate(NamedTuple):
    """Digits of the gradient, and what limits them."""

    digits: Float[Array, ""]
    disagreement: Float[Array, ""]
    growth: Float[Array, ""]


def certify(integrator: Integrator, y0: Array, p: Parameters) -> Certificate:
    """The certificate of gradients through this solve; it costs some ten solves more, with all steps stored."""
    y0, p = jax.lax.stop_gradient((y0, p))
    y1, _, record, outcome = integrate(integrator, y0, p, jnp.zeros(0, y0.dtype), spacing=1)
    assert record is not None

    def examine(key: Array) -> tuple[Array, Array]:
        return _examine(integrator, record, y0, y1, p, key)

    disagreements, growths = jax.vmap(examine)(jax.random.split(jax.random.key(18063), PAIRS))
    disagreement, growth = jnp.max(disagreements), jnp.max(growths)
    error = disagreement + growth * integrator.tolerances.rtol
    error = jnp.where(outcome.code == 0, error, jnp.nan)
    return Certificate(-jnp.log10(error), disagreement, growth)


def _examine(
    integrator: Integrator, record: Any, y0: Array, y1: Array, p: Parameters, key: Array
) -> tuple[Array, Array]:
    """The disagreement and the growth of one pair of a direction and a functional."""
    w, functional = _directions(integrator, y0, y1, p, key)
    tangents = _tangents(integrator, record, y0, p, w)
    invariants = _invariants(integrator, record, p, functional, tangents, w[1])
    count = record.count
    steps = jnp.arange(integrator.most_steps + 1)
    expected = functional @ tangents[count]
    departure = jnp.where(steps <= count, jnp.abs(invariants - expected), 0)
    disagreement = jnp.max(departure) / jnp.abs(expected)
    # The root mean square weighs components by the tolerance, so that small ones count too.
    sizes = jax.vmap(lambda v, y: integrator.tolerances.scaled(v, y))
    states = jnp.concatenate([record.states.y, y1[None]]).at[count].set(y1)
    relative = jnp.where(steps <= count, sizes(tangents, states), jnp.inf)
    return disagreement, relative[count] / jnp.min(relative)


def _directions(integrator: Integrator, y0: Array, y1: Array, p: Parameters, key: Array) -> tuple[Any, Array]:
    """A random direction of (y0, p) and a random functional of y(1), in the units of the numbers themselves."""
    keys = iter(jax.random.split(key, 2 + len(p.varying)))
    floor = integrator.tolerances.atol / integrator.tolerances.rtol

    def like(v: Array) -> Array:
        return jax.random.normal(next(keys), v.shape, v.dtype)

    w = (like(y0) * (floor + jnp.abs(y0)), [like(v) * jnp.abs(v) for v in p.varying])
    return w, like(y1) / (floor + jnp.abs(y1))


def _tangents(integrator: Integrator, record: Any, y0: Array, p: Parameters, w: Any) -> Float[Array, "steps+1 n"]:
    """S w at the ends of all steps."""
    y0_dot, varying_dot = w

    def first_slope(y: Array, varying: list[Array]) -> Array:
        return integrator.field(jnp.zeros((), y.dtype), y, Parameters(varying, p.constant))

    _, slope_dot = jax.jvp(first_slope, (y0, p.varying), (y0_dot, varying_dot))

    def advance(k: Array, carry: Any) -> Any:
        state_dot, tangents = carry
        state = jax.tree.map(lambda all: all[k], record.states)

        def step(state: State, varying: list[Array]) -> State:
            step = integrator.step((record.grid[k], record.grid[k + 1]), state, Parameters(varying, p.constant))
            return State(step.y, step.slope)

        _, state_dot = jax.jvp(step, (state, p.varying), (state_dot, varying_dot))
        return state_dot, tangents.at[k + 1].set(state_dot.y)

    tangents = jnp.zeros((integrator.most_steps + 1, y0.size), y0.dtype).at[0].set(y0_dot)
    _, tangents = loops.fori_loop(0, record.count, advance, (State(y0_dot, slope_dot), tangents))
    return tangents


def _invariants(
    integrator: Integrator, record: Any, p: Parameters, functional: Array, tangents: Array, varying_dot: list[Array]
) -> Float[Array, " steps+1"]:
    """I at the ends of all steps."""
    size = jnp.max(jnp.abs(functional))
    bars = Bars(functional / size, jnp.zeros((0, functional.size), functional.dtype))
    backward = replace(integrator, field=AdjointField(integrator), steps=None)
    none = jnp.zeros(0, functional.dtype)

    def retreat(i: Array, carry: Any) -> Any:
        sweep, invariants = carry
        k = record.count - 1 - i
        state, ends = jax.tree.map(lambda all: all[k], record.states), (record.grid[k], record.grid[k + 1])
        step = integrator.step(ends, state, p)
        along = Along(ends, state.y, step.y, step.stages, p)
        sweep = integrate_back(backward, rule_of_gauss, along, none, bars, sweep)
        by_p = sum(jnp.vdot(total, dot) for total, dot in zip(sweep.varying, varying_dot, strict=True))
        return sweep, invariants.at[k].set(size * (sweep.lam @ tangents[k] + by_p))

    zeros = [jnp.zeros_like(v) for v in p.varying]
    sweep = Sweep(bars.y1, zeros, jnp.asarray(-1), jnp.ones((), functional.dtype))
    invariants = jnp.zeros(integrator.most_steps + 1, functional.dtype)
    invariants = invariants.at[record.count].set(functional @ tangents[record.count])
    _, invariants = loops.fori_loop(0, record.count, retreat, (sweep, invariants))
    return invariants
