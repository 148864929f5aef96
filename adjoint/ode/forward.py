"""ForwardSensitivity: the variational equations beside the solve.

It gives all derivatives with respect to few parameters at once.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float, PyTree

from adjoint.ode.discrete import Cotangents, Gradient
from adjoint.ode.integrate import Outcome, integrate
from adjoint.ode.integrator import Integrator
from adjoint.ode.tangent_control import ENOUGH_OF_STEP, integrate_with_tangents, unit_of
from adjoint.ode.vector_field import Parameters

# S = d(y, samples)/d(y0, p) as columns S e_i, each the tangent in one direction:
#
#     dS/ds = F_y S + F_p,       dg = g_y S d(y0, p),       (y0, p)_bar = S' y_bar
#
# (Hairer, Norsett and Wanner, Solving ODEs I, 2nd ed., section I.14.) The sample points move their
# own samples only, so that one column holds their derivatives.


@dataclass(frozen=True)
class ForwardSensitivity:
    """Derivatives with respect to all parameters by the variational equations, beside the solve.

    Notes
    -----
    **Cost**: one tangent of the solve for each number in y0 and p, all in one run, whatever the
    number of outputs; no memory of the trajectory. The one to take for few parameters and many
    outputs.

    The error control of the steps covers S too, in units of its own and with 10 rtol, so that S is
    right where y rests and limits no step. With equal steps (``steps``) S is the exact derivative
    of the steps, as from `DiscreteAdjoint`.

    Source: E. Hairer, S. P. Norsett, G. Wanner, Solving Ordinary Differential Equations I, 2nd ed.,
    section I.14.

    Examples
    --------
    >>> import jax, jax.numpy as jnp, adjoint
    >>> decay = lambda t, y, p: -p * y
    >>> g = lambda p: (
    ...     adjoint.ode_solve(
    ...         decay, jnp.array(1.0), p, 0.0, 1.0, sensitivity=adjoint.ForwardSensitivity()
    ...     ).value
    ... )
    >>> round(float(jax.grad(g)(jnp.array(2.0))), 4)  # -exp(-2)
    -0.1353
    """

    def forward(
        self, integrator: Integrator, y0: Array, p: Parameters, s: Array
    ) -> tuple[tuple[Array, Array, Outcome], Array]:
        """The solve with all its tangents."""
        value, S = sensitivities(integrator, y0, p, s)
        return value, S

    def backward(
        self, integrator: Integrator, S: Array, y0: Array, p: Parameters, s: Array, bars: Cotangents
    ) -> Gradient:
        """S' applied to the cotangents."""
        _, unravel = ravel_pytree((y0, p.varying))
        y0_bar, varying_bar = unravel(S[:-1] @ jnp.concatenate([bars.y1, bars.samples.ravel()]))
        rates = S[-1, y0.size :].reshape(s.size, y0.size)
        return Gradient(y0_bar, varying_bar, jnp.sum(rates * bars.samples, axis=1))


def sensitivities(
    integrator: Integrator, y0: Array, p: Parameters, s: Array
) -> tuple[tuple[Array, Array, Outcome], Float[Array, "columns+1 outputs"]]:
    """The solve, and S' with a row for each number in (y0, p.varying), the last for the samples."""
    if integrator.steps is None:
        return _controlled(integrator, y0, p, s)
    return _along(integrator, y0, p, s)


def _along(
    integrator: Integrator, y0: Array, p: Parameters, s: Array
) -> tuple[tuple[Array, Array, Outcome], Float[Array, "columns+1 outputs"]]:
    """S as the tangents of the steps that the solve takes."""
    flat, unravel = ravel_pytree((y0, p.varying))

    def tangents(direction: Array) -> tuple[PyTree, Array]:
        y0_dot, varying_dot = unravel(direction[:-1])

        def solve(y0: Array, varying: list[Array], s: Array) -> tuple[Array, Array, Outcome]:
            y1, samples, _, outcome = integrate(integrator, y0, Parameters(varying, p.constant), s)
            return y1, samples, outcome

        primals = (y0, p.varying, s)
        dots = (y0_dot, varying_dot, jnp.full_like(s, direction[-1]))
        value, (y1_dot, samples_dot, _) = jax.jvp(solve, primals, dots)
        return value, jnp.concatenate([y1_dot, samples_dot.ravel()])

    return jax.vmap(tangents, out_axes=(None, 0))(jnp.eye(flat.size + 1, dtype=y0.dtype))


def _controlled(
    integrator: Integrator, y0: Array, p: Parameters, s: Array
) -> tuple[tuple[Array, Array, Outcome], Float[Array, "columns+1 outputs"]]:
    """S in the error test of the steps: those that suit y alone may be too long for it."""
    flat, unravel = ravel_pytree((y0, p.varying))
    # Columns are in the units of their parameter, so that one tolerance fits them all.
    unit = unit_of(flat)
    directions = jax.vmap(unravel)(jnp.diag(unit))
    end, samples, _, outcome = integrate_with_tangents(
        integrator, y0, p, directions, s, slack=ENOUGH_OF_STEP
    )
    S = jnp.concatenate([end.v[:, None], jnp.moveaxis(samples.v, 1, 0)], axis=1)
    S = S.reshape(flat.size, -1) / unit[:, None]
    rates = jax.vmap(lambda s, y: integrator.rate(s, y, p))(s, samples.y) if s.size else samples.y
    last = jnp.concatenate([jnp.zeros_like(y0), rates.ravel()])
    return (end.y, samples.y, outcome), jnp.concatenate([S, last[None]])
