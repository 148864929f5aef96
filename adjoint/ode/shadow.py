"""The shadow of a trajectory: its segments, their tangents, and the adjoint system over them."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

import jax
import jax.core
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float, PyTree

from adjoint.ode import block_tridiagonal
from adjoint.ode.choice import choose
from adjoint.ode.integrate import Outcome, integrate
from adjoint.ode.integrator import Integrator
from adjoint.ode.runge_kutta import RungeKutta, Tolerances
from adjoint.ode.solve import Plan, solve_plan
from adjoint.ode.vector_field import Problem, make_problem
from adjoint.tracing import loops
from adjoint.tracing.traced_function import TracedFunction

# A chaotic flow forgets where it began, so the tangent from a fixed y0 is the wrong one: it grows.
# Of all tangents along the trajectory, its time running 1 + eta times as fast, the shadow is the
# smallest (Wang, Hu and Blonigan 2014, section 3):
#
#     minimize   int |v|^2 + alpha^2 eta^2 dt     subject to   v' = f_y v + f_p dp + eta f
#     d<g> = < g_y v + g_p dp + eta (g - <g>) >
#
# Here segment k of length h takes y_k to y_{k+1} and adds up q_k, the integral of g. With the exact
# derivatives of its steps, Phi_k = dy_{k+1}/dy_k and phi_k = (dy_{k+1}/dp) dp, and the stretch
# delta_k = h eta_k of the segment, that is
#
#     v_{k+1} - Phi_k v_k - f_{k+1} delta_k = phi_k,   C x = phi,   x = (v, delta),
#     x' D x = Sum |v_k|^2 + c^2 delta_k^2
#
# c is the root mean square of |f|: a stretch costs as much as the way that it makes (alpha = c h).
# Weights w_k, Sum w_k h = 1, make d<g> = a' x + Sum w_k (dq_k/dp) dp, with a = w_k dq_k/dy_k for
# v_k and w_k (g_{k+1} - <g>) for delta_k. Its transpose is one system for all parameters, block
# tridiagonal and positive definite:
#
#     C D^-1 C' lam = C D^-1 a,     d<g>/dp = Sum lam_k' dy_{k+1}/dp + w_k dq_k/dp

# The spread over so many parts of the time tells how uncertain the average is; one part at a time
# is in memory.
BLOCKS = 64


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Request:
    """The functions of the user as they were traced, and all else that is known when tracing."""

    f: TracedFunction
    running_cost: TracedFunction
    method: RungeKutta = field(metadata={"static": True})
    tolerances: Tolerances = field(metadata={"static": True})
    max_steps: int = field(metadata={"static": True})
    segments: int = field(metadata={"static": True})
    autonomous: bool = field(metadata={"static": True})

    def make_problem(
        self, y: PyTree, p: PyTree, t0: Array, t1: Array
    ) -> tuple[Integrator, Problem]:
        problem = make_problem(self.f, self.running_cost, y, p, (t0, t1), (False, False), None)
        return Integrator(problem.field, self.method, self.tolerances, self.max_steps), problem

    def advance(
        self, y: PyTree, p: PyTree, t0: Array, t1: Array
    ) -> tuple[Float[Array, " n+1"], Outcome]:
        """(y, integral of g) at t1 as one vector, to be differentiated forward, and how it went."""
        integrator, problem = self.make_problem(y, p, t0, t1)
        z, _, _, outcome = integrate(integrator, problem.y0, problem.p, problem.s)
        return z, outcome

    def advance_in_reverse(
        self, y: PyTree, p: PyTree, t0: Array, t1: Array
    ) -> Float[Array, " n+1"]:
        """(y, integral of g) at t1, to be differentiated backward."""
        integrator, problem = self.make_problem(y, p, t0, t1)
        plan = Plan(integrator, choose(integrator, problem.y0, problem.p, 0).sensitivity)
        return solve_plan(plan, problem)[0]


class Trajectory(NamedTuple):
    """Segment k goes from t[k], y[k] to t[k] + h, after[k]; q[k] is its integral of g."""

    t: Float[Array, " segments"]
    y: Float[Array, "segments n"]
    after: Float[Array, "segments n"]
    q: Float[Array, " segments"]
    outcomes: Outcome
    unravel: Callable[[Array], PyTree]


def trajectory_of(
    request: Request,
    unravel: Callable[[Array], PyTree],
    y: Array,
    p: PyTree,
    times: tuple[Array, Array, Array],
) -> tuple[Trajectory, Array, Array]:
    """The trajectory, its segments' lengths, and the first failure.

    After a failure segments of length 0 lose no time.
    """
    t0, begin, t1 = times
    length = (t1 - begin) / request.segments
    start, outcome = request.advance(unravel(y), p, t0, begin)

    def advance(carry: PyTree, t: Array) -> tuple[PyTree, PyTree]:
        y_k, code = carry
        y_k = jnp.where(code == 0, y_k, y)
        h = jnp.where(code == 0, length, 0)
        z, outcome = request.advance(unravel(y_k), p, t, t + h)
        return (z[:-1], jnp.where(code == 0, outcome.code, code)), (y_k, z[:-1], z[-1], outcome)

    t = begin + length * jnp.arange(request.segments)
    (_, code), (y_k, after, q, outcomes) = loops.scan(advance, (start[:-1], outcome.code), t)
    y_k = jnp.where(code == 0, y_k, y[None, :])
    h = jnp.where(code == 0, length, 0)
    return Trajectory(t, y_k, after, q, outcomes, unravel), h, code


def adjoint_of_shadow(
    request: Request, trajectory: Trajectory, p: PyTree, h: Array, w: Array, average: Array
) -> tuple[Float[Array, "segments n"], dict[str, Array]]:
    """lam, and the numbers that tell whether to believe it."""
    Phi, q_y = _tangents(request, trajectory, p, h)
    a = w[:, None] * q_y
    b = jnp.concatenate([a[1:], jnp.zeros_like(a[:1])]) - jnp.einsum("kij,kj->ki", Phi, a)
    e = jnp.zeros_like(b)
    tangent_error = jnp.zeros((), b.dtype)
    if request.autonomous:
        e, g_scaled, tangent_error = _stretching(request, trajectory, p, h, average, Phi)
        b = b - e * (w * g_scaled)[:, None]
    diagonal = jax.vmap(
        lambda Phi, e: jnp.eye(e.size, dtype=e.dtype) + Phi @ Phi.T + jnp.outer(e, e)
    )(Phi, e)
    lam = block_tridiagonal.solve(diagonal, -Phi[1:], b)
    left = b - block_tridiagonal.multiply(diagonal, -Phi[1:], lam)
    size = jnp.max(jnp.abs(b))
    growth = jnp.max(jnp.linalg.norm(Phi, axis=(1, 2)))
    residual = jnp.max(jnp.abs(left)) / jnp.where(size == 0, 1, size)
    return lam, {"segment_growth": growth, "tangent_error": tangent_error, "residual": residual}


def _tangents(
    request: Request, trajectory: Trajectory, p: PyTree, h: Array
) -> tuple[Float[Array, "segments n n"], Float[Array, "segments n"]]:
    """Phi_k = dy_{k+1}/dy_k, and dq_k/dy_k."""

    def tangents(t: Array, y: Array) -> Array:
        def along(direction: Array) -> Array:
            return jax.jvp(
                lambda y: request.advance(trajectory.unravel(y), p, t, t + h)[0], (y,), (direction,)
            )[1]

        return jax.vmap(along, out_axes=1)(jnp.eye(y.size, dtype=y.dtype))

    n = trajectory.y.shape[1]
    J = _by_blocks(jax.vmap(tangents), trajectory.t, trajectory.y).reshape(-1, n + 1, n)
    return J[:, :-1], J[:, -1]


def _stretching(
    request: Request, trajectory: Trajectory, p: PyTree, h: Array, average: Array, Phi: Array
) -> tuple[Float[Array, "segments n"], Float[Array, " segments"], Array]:
    """f_{k+1} / c, (g_{k+1} - <g>) / c, largest |f_{k+1} - Phi_k f_k| / c, zero for a flow."""

    def at(t: Array, y: Array) -> tuple[Array, Array]:
        y = trajectory.unravel(y)
        return ravel_pytree(request.f(t, y, p))[0], request.running_cost(t, y, p)

    before, _ = jax.vmap(at)(trajectory.t, trajectory.y)
    f, g = jax.vmap(at)(trajectory.t + h, trajectory.after)
    c = jnp.sqrt(jnp.mean(jnp.sum(f**2, axis=1)))
    # At rest there is no way along which to stretch, only what is left of the errors of the steps.
    error = request.tolerances.atol + request.tolerances.rtol * jnp.sqrt(
        jnp.mean(jnp.sum(trajectory.y**2, axis=1))
    )
    c = jnp.where(h * c > 100 * error, c, jnp.inf)
    defect = jnp.linalg.norm(f - jnp.einsum("kij,kj->ki", Phi, before), axis=1)
    return f / c, (g - average) / c, jnp.max(defect) / c


def gradients(
    request: Request, trajectory: Trajectory, p: PyTree, h: Array, w: Array, lam: Array
) -> PyTree:
    """The share of each block of time in d<g>/dp, stacked."""

    def of_block(*lanes: PyTree) -> PyTree:
        def pairing(p: PyTree) -> Array:
            def of_segment(t: Array, y: Array, w: Array, lam: Array) -> Array:
                z = request.advance_in_reverse(trajectory.unravel(y), p, t, t + h)
                return lam @ z[:-1] + w * z[-1]

            return jnp.sum(jax.vmap(of_segment)(*lanes))

        return jax.grad(pairing)(p)

    return _by_blocks(of_block, trajectory.t, trajectory.y, w, lam)


def _by_blocks(function: Callable[..., PyTree], *lanes: Float[Array, "segments ..."]) -> PyTree:
    """The function of each block's segments, stacked; block after block, to bound the memory."""
    return jax.lax.map(
        lambda lanes: function(*lanes), [x.reshape(BLOCKS, -1, *x.shape[1:]) for x in lanes]
    )
