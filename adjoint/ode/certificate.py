"""How many digits of a gradient through an ODE to believe, by a solve of other steps.

The other steps suit three random tangents v = S w of the solution too, each of them cut into
pieces, so that f is seen at other times as well. With y* and v* the solution and the tangents along
them, three things are measured, as shares:

- the **disagreement** of the gradient g that the chosen sensitivity gives for a random functional c
  of y(1): g'w against c'v*, and of y(1) against y*(1). Steps that never saw a pulse of f, or that
  suit y and no derivative of it, show here.
- whether tangents are **derivatives**: differences (y(+d) - y(-d)) / 2d along the same steps, with
  (y0, p) moved by d w. Where f is smooth, what they differ from v by falls a hundredfold with each
  tenth of d. Where f jumps at a time, or at a state, that moves with y0 or p, derivatives of f lack
  what the moving jump adds, on all steps; differences do not, until d is too small to move the jump
  over a stage. Then the disagreement counts as 1.
- the **growth**: how many times a disturbance of the trajectory, relative to it, is larger at the
  end than where it began. The error control leaves disturbances of relative size rtol.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, PyTree

from adjoint.ode.discrete import Cotangents
from adjoint.ode.error_estimate import ENOUGH_DIGITS as ENOUGH_DIGITS
from adjoint.ode.integrate import integrate
from adjoint.ode.integrator import Integrator, State
from adjoint.ode.jumps import ROUNDINGS
from adjoint.ode.sensitivity import Sensitivity
from adjoint.ode.tangent_control import (
    Directions,
    Grid,
    TangentIntegrator,
    grid_for_tangents,
    random_numbers,
    unit_of,
)
from adjoint.ode.vector_field import Parameters
from adjoint.tracing import loops

# Random pairs of directions. A wrong gradient g with true one G is seen along a normal direction w
# as (g - G) . w: below a hundredth of |g - G| with probability 0.008, all three with 5e-7.
PAIRS = 3
# Each of the other steps is cut into so many pieces, as far as there are no more of them than
# MOST_PIECES: of Tsit5 f is seen then in 16 x 5 places of a step, nowhere further apart than 1/28
# of it.
PIECES = 16
LEAST_PIECES = 2
MOST_PIECES = 8192
# By which shares of w the data are moved. Their differences are wrong by d^2 times the third
# derivative.
MOVES = (1e-1, 1e-2, 1e-3, 1e-4, 1e-5)
# What is left of a difference falls a hundredfold from move to move. Less than SMOOTH of it is no
# sign of anything; a fall by more than SUDDEN is that of a jump which the smaller move does not
# reach; at the smallest move nothing should be left.
SMOOTH = 1e-3
SUDDEN = 3e3
NOTHING_LEFT = 1e-1
# In units of a move: how far away from the jumps that are given f is looked at.
WINDOW = 3.0


class Certificate(NamedTuple):
    """Digits of the gradient, and what limits them."""

    digits: Float[Array, ""]
    disagreement: Float[Array, ""]
    growth: Float[Array, ""]


def certify(
    integrator: Integrator, sensitivity: Sensitivity, y0: Array, p: Parameters
) -> Certificate:
    """The certificate of gradients through this solve by this sensitivity."""
    y0, p = jax.lax.stop_gradient((y0, p))
    none = jnp.zeros(0, y0.dtype)
    y1, _, record, outcome = integrate(integrator, y0, p, none, spacing=1)
    assert record is not None
    among = jnp.arange(record.states.y.shape[0]) < record.count
    peak = jnp.maximum(
        jnp.max(jnp.where(among[:, None], jnp.abs(record.states.y), 0), axis=0), jnp.abs(y1)
    )
    w = _directions(peak, p)
    grid = grid_for_tangents(integrator, y0, p)
    fine = _along(integrator, grid, y0, p, w)
    disagreement = _disagreement(integrator, sensitivity, y0, y1, p, w, fine)
    error_of_y = integrator.tolerances.rtol * integrator.tolerances.scaled(
        fine.y - y1, fine.y, peak
    )
    disagreement = jnp.maximum(disagreement, error_of_y)
    first = jax.tree.map(lambda all: all[0], w)
    is_smooth = _is_smooth(integrator, grid, y0, p, first)
    disagreement = jnp.where(is_smooth, disagreement, jnp.maximum(disagreement, 1))
    error = disagreement + fine.growth * integrator.tolerances.rtol
    error = jnp.where((outcome.code == 0) & grid.is_whole, error, jnp.nan)
    return Certificate(-jnp.log10(error), disagreement, fine.growth)


def _directions(peak: Array, p: Parameters) -> tuple[Array, list[Array]]:
    """Random directions of (y0, p), in the sizes that y reaches and those of p."""
    keys = iter(jax.random.split(jax.random.key(18063), 1 + len(p.varying)))

    def along(unit: Array) -> Array:
        return random_numbers(next(keys), (PAIRS, *unit.shape), unit.dtype) * unit[None]

    return along(unit_of(peak)), [along(unit_of(v)) for v in p.varying]


class _Fine(NamedTuple):
    """y(1), its tangents, and how much disturbances grow."""

    y: Float[Array, " n"]
    v: Float[Array, "pairs n"]
    growth: Float[Array, ""]


def _along(
    integrator: Integrator, grid: Grid, y0: Array, p: Parameters, w: tuple[Array, list[Array]]
) -> _Fine:
    """Along the pieces of the steps of the grid."""
    n, (y0_dot, varying_dot) = y0.size, w
    joint = TangentIntegrator.of(integrator, n)
    operands = Directions(p, varying_dot)
    start = jnp.concatenate([y0[None], y0_dot, jnp.abs(y0_dot)]).ravel()
    state = State(start, joint.field(jnp.zeros((), y0.dtype), start, operands))
    pieces = jnp.clip(MOST_PIECES // jnp.maximum(grid.count, 1), LEAST_PIECES, PIECES)

    def sizes(flat: Array) -> Array:
        rows = flat.reshape(-1, n)
        return jax.vmap(lambda v: integrator.tolerances.scaled(v, rows[0]))(rows[1 : 1 + PAIRS])

    def advance(i: Array, carry: PyTree) -> PyTree:
        state, least = carry
        k = i // pieces
        j = i % pieces
        left = grid.s[k]
        right = grid.s[k + 1]
        # Ends of steps may be jumps, which must be met exactly.
        first = jnp.where(j == 0, left, left + (right - left) * j / pieces)
        last = jnp.where(j == pieces - 1, right, left + (right - left) * (j + 1) / pieces)
        step = joint.step((first, last), state, operands)
        return State(step.y, step.slope), jnp.minimum(least, sizes(step.y))

    state, least = loops.fori_loop(0, grid.count * pieces, advance, (state, sizes(start)))
    rows = state.y.reshape(-1, n)
    return _Fine(rows[0], rows[1 : 1 + PAIRS], jnp.max(sizes(state.y) / least))


def _disagreement(
    integrator: Integrator,
    sensitivity: Sensitivity,
    y0: Array,
    y1: Array,
    p: Parameters,
    w: tuple[Array, list[Array]],
    fine: _Fine,
) -> Float[Array, ""]:
    """Of the gradient of random functionals with the tangents."""
    none = jnp.zeros(0, y0.dtype)
    _, memory = sensitivity.forward(integrator, y0, p, none)
    floor = integrator.tolerances.atol / integrator.tolerances.rtol
    functionals = (
        jax.random.normal(jax.random.key(1), (PAIRS, y1.size), y1.dtype)
        / (floor + jnp.abs(fine.y))[None]
    )

    def of_pair(pair: PyTree) -> Array:
        c, (y0_dot, varying_dot), v = pair
        # Of a size that does not matter to a sensitivity with tolerances of its own.
        scale = jnp.max(jnp.abs(c))
        bars = Cotangents(c / scale, jnp.zeros((0, c.size), c.dtype))
        gradient = sensitivity.backward(integrator, memory, y0, p, none, bars)
        parts = zip(gradient.varying, varying_dot, strict=True)
        found = scale * (
            gradient.y0 @ y0_dot + sum(jnp.vdot(bar, dot).astype(c.dtype) for bar, dot in parts)
        )
        return jnp.abs(found - c @ v) / jnp.abs(c @ v)

    return jnp.max(jax.lax.map(of_pair, (functionals, w, fine.v)))


def _is_smooth(
    integrator: Integrator, grid: Grid, y0: Array, p: Parameters, w: tuple[Array, list[Array]]
) -> Bool[Array, ""]:
    """Whether differences along w tend to the tangent as those of a smooth function do."""

    limits = integrator.limits

    def end(d: Array, move: Array) -> Array:
        varying = [v + (d * dot).astype(v.dtype) for v, dot in zip(p.varying, w[1], strict=True)]
        constant = p.constant
        if limits is not None and limits.jumps:
            # A jump that is given and the p that it is made of move by themselves here: f must not
            # see what is between them.
            constant = limits.with_margin(
                constant, WINDOW * move / (ROUNDINGS * jnp.finfo(d.dtype).eps)
            )
        there = Parameters(varying, constant)
        start = y0 + d * w[0]
        state = State(start, integrator.field(jnp.zeros_like(d), start, there))

        def advance(k: Array, state: State) -> State:
            step = integrator.step_to_transpose((grid.s[k], grid.s[k + 1]), state, there)
            return State(jnp.where(step.converged, step.y, jnp.nan), step.slope)

        return loops.fori_loop(0, grid.count, advance, state).y

    def what_is_left(move: Array) -> Array:
        zero = jnp.zeros_like(move)
        one = jnp.ones_like(move)
        y1, v = jax.jvp(lambda d: end(d, move), (zero,), (one,))
        ends = jax.vmap(lambda d: end(d, move))(jnp.stack([move, -move]))
        size = integrator.tolerances.scaled(v, y1)
        left = integrator.tolerances.scaled((ends[0] - ends[1]) / (2 * move) - v, y1)
        return left / jnp.where(size > 0, size, 1)

    left = jax.lax.map(what_is_left, jnp.asarray(MOVES, y0.dtype))
    falls_suddenly = (left[:-1] > SMOOTH) & (left[1:] < left[:-1] / SUDDEN)
    return ~(jnp.any(falls_suddenly) | (left[-1] > NOTHING_LEFT))
