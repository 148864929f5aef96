"""BacksolveAdjoint: solution and adjoint integrated backwards, nothing stored. For teaching."""

from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from adjoint.ode.adjoint_steps import AdjointState, integrate_back
from adjoint.ode.continuous import (
    assemble,
    backward_integrator,
    held_between_jumps,
    moved,
    no_rates,
    own_tolerances,
    pull_field,
    scale_of,
)
from adjoint.ode.discrete import Cotangents, Gradient
from adjoint.ode.error_estimate import weights_of
from adjoint.ode.integrate import Outcome, integrate
from adjoint.ode.integrator import Integrator
from adjoint.ode.quadrature import stage_quadrature
from adjoint.ode.vector_field import Parameters

# z = (u, lam) from s = 1, where u = y(1), back to 0:
#
#     u' = F(s, u),    lam' = -F_y(s, u)' lam,    p_bar = integral of F_p(s, u)' lam ds
#
# (Chen, Rubanova, Bettencourt and Duvenaud, NeurIPS 2018, Algorithm 1.) What decays forward grows
# backward, so u need not come back to y0; how far it does not is measured here.


class Backward(NamedTuple):
    """The whole interval, and the parameters."""

    ends: tuple[Array, Array]
    p: Parameters


@dataclass(frozen=True)
class BacksolveField:
    """The slope of z = (u, lam)."""

    forward: Integrator

    def __call__(self, s: Array, z: Array, along: Backward) -> Float[Array, " 2n"]:
        return self.with_parameters(s, z, self.solution(s, along), along)[0]

    def solution(self, s: Array, along: Backward) -> Float[Array, "*nodes 0"]:
        """Nothing: u is a part of z."""
        return jnp.zeros((*s.shape, 0), s.dtype)

    def with_parameters(
        self, s: Array, z: Array, nothing: Array, along: Backward
    ) -> tuple[Float[Array, " 2n"], list[Array]]:
        """z' and F_p' lam."""
        u, lam = jnp.split(z, 2)
        s = held_between_jumps(self.forward, s, along.ends)
        F, u_bar, varying_bar = pull_field(self.forward, s, u, lam, along.p)
        return jnp.concatenate([F, -u_bar]), varying_bar

    def scales(self, largest: Array) -> Float[Array, " 2n"]:
        """What absolute tolerances are in units of: that of u is what it is in the solve."""
        _, of_lam = jnp.split(largest, 2)
        return jnp.concatenate([jnp.ones_like(of_lam), of_lam])

    def weighted(self, z: Array) -> Float[Array, " 2n"]:
        """(u, w lam)."""
        u, lam = jnp.split(z, 2)
        return jnp.concatenate([u, weights_of(lam) * lam])

    def jump(
        self, s: Array, ds: Array, z: Array, bar: Array, along: Backward
    ) -> tuple[Array, list[Array]]:
        """z and the gradient by p after the cotangent of a sample at s + ds."""
        u, lam = jnp.split(z, 2)
        lam_bar, varying_bar = moved(self.forward, s, ds, u, bar, along.p)
        return jnp.concatenate([u, lam + lam_bar]), varying_bar


@dataclass(frozen=True)
class BacksolveAdjoint:
    """The adjoint with the solution itself run backwards: no memory, wrong for what decays.

    It compares the start that it comes back to with y0, and returns NaN as the gradient where they
    differ too much.

    Parameters
    ----------
    rtol, atol
        Tolerances of the run back, as of `InterpolatingAdjoint`; None: those of the solve.
    reconstruction
        By how much, relative to y0, the start may be missed.

    Notes
    -----
    **Cost**: some solves, as of `InterpolatingAdjoint`; the memory of two states and a few
    gradients by p. `DiscreteAdjoint` with few checkpoints needs hardly more and is exact.

    Source: R. T. Q. Chen et al., Neural Ordinary Differential Equations, NeurIPS 2018, Algorithm 1;
    A. Gholaminejad, K. Keutzer, G. Biros, ANODE, IJCAI 2019, section 3, on why it fails.

    Examples
    --------
    >>> import jax, jax.numpy as jnp, adjoint
    >>> decay = lambda t, y, p: -p * y
    >>> g = lambda p: (
    ...     adjoint.ode_solve(
    ...         decay, jnp.array(1.0), p, 0.0, 1.0, sensitivity=adjoint.BacksolveAdjoint()
    ...     ).value
    ... )
    >>> round(float(jax.grad(g)(jnp.array(2.0))), 4)  # -exp(-2)
    -0.1353
    """

    rtol: float | None = None
    atol: float | None = None
    reconstruction: float = 1e-3

    def forward(
        self, integrator: Integrator, y0: Array, p: Parameters, s: Array
    ) -> tuple[tuple[Array, Array, Outcome], tuple[Array, Array]]:
        """The solve; its end and its samples are all that is kept."""
        y1, samples, _, outcome = integrate(integrator, y0, p, s)
        return (y1, samples, outcome), (y1, samples)

    def backward(
        self,
        integrator: Integrator,
        memory: tuple[Array, Array],
        y0: Array,
        p: Parameters,
        s: Array,
        bars: Cotangents,
    ) -> Gradient:
        """The gradient from the cotangents of what the solve returned."""
        y1, samples = memory
        scale = scale_of(bars)
        tolerances = own_tolerances(integrator, self.rtol, self.atol)
        backward = backward_integrator(integrator, BacksolveField(integrator), tolerances)
        z = jnp.concatenate([y1, bars.y1 / scale])
        jumps = Cotangents(z, bars.samples / scale)
        zeros = [jnp.zeros_like(v) for v in p.varying]
        sweep = AdjointState(
            z, jnp.abs(z), no_rates(p), zeros, jnp.asarray(s.size - 1), jnp.ones((), y0.dtype)
        )
        for ends in _intervals(integrator, p, y0.dtype):
            sweep = integrate_back(backward, stage_quadrature, Backward(ends, p), s, jumps, sweep)
        u, lam = jnp.split(sweep.lam, 2)
        came_back = jnp.max(jnp.abs(u - y0)) <= self.reconstruction * jnp.max(jnp.abs(y0))
        scale = jnp.where(jax.lax.stop_gradient(came_back), scale, jnp.nan)
        return assemble(integrator, scale, lam, sweep.varying, samples, y0, p, s, bars)


def _intervals(
    integrator: Integrator, p: Parameters, dtype: DTypeLike
) -> list[tuple[Array, Array]]:
    """The intervals between jumps, the last one first; one of no length is passed by."""
    zero = jnp.zeros((), dtype)
    one = jnp.ones((), dtype)
    if integrator.limits is None or integrator.limits.jumps == 0:
        return [(zero, one)]
    knots = [zero, *integrator.limits.shares(p.constant), one]
    starts = [integrator.after_jump((start, one), p)[0] for start in knots[:-1]]
    return list(zip(starts, knots[1:], strict=True))[::-1]
