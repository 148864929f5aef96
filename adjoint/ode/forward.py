"""ForwardSensitivity: the variational equations beside the solve; all derivatives with respect to few parameters at once."""

from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float

from adjoint.ode.discrete import Bars, Gradient
from adjoint.ode.integrate import Integrator, Outcome, integrate
from adjoint.ode.runge_kutta import Tolerances
from adjoint.ode.vector_field import Parameters, VectorField

# S = d(y, samples)/d(y0, p) as columns S e_i, each the tangent in one direction:
#
#     dS/ds = F_y S + F_p,       dg = g_y S d(y0, p),       (y0, p)_bar = S' y_bar
#
# (Hairer, Norsett and Wanner, Solving ODEs I, 2nd ed., section I.14.) The sample points move their own samples only, so that
# one column holds their derivatives.


@dataclass(frozen=True)
class ForwardSensitivity:
    """Derivatives with respect to all parameters by the variational equations, beside the solve.

    Notes
    -----
    **Cost**: one tangent of the solve for each number in y0 and p, all in one run, whatever the number of outputs; no memory
    of the trajectory. The one to take for few parameters and many outputs.

    With an explicit solver the error control of the steps covers S too; with an implicit one, or with equal steps, S is the exact
    derivative of the steps, as from `DiscreteAdjoint`.

    Source: E. Hairer, S. P. Norsett, G. Wanner, Solving Ordinary Differential Equations I, 2nd ed., section I.14.

    Examples
    --------
    >>> import jax, jax.numpy as jnp, adjoint
    >>> decay = lambda t, y, p: -p * y
    >>> g = lambda p: adjoint.ode_solve(decay, jnp.array(1.0), p, 0.0, 1.0, sensitivity=adjoint.ForwardSensitivity()).value
    >>> round(float(jax.grad(g)(jnp.array(2.0))), 4)  # -exp(-2)
    -0.1353
    """

    def remember(
        self, integrator: Integrator, y0: Array, p: Parameters, s: Array
    ) -> tuple[tuple[Array, Array, Outcome], Array]:
        """The solve with all its tangents."""
        value, S = sensitivities(integrator, y0, p, s)
        return value, S

    def pull_back(self, integrator: Integrator, S: Array, y0: Array, p: Parameters, s: Array, bars: Bars) -> Gradient:
        """S' applied to the cotangents."""
        _, unravel = ravel_pytree((y0, p.varying))
        y0_bar, varying_bar = unravel(S[:-1] @ jnp.concatenate([bars.y1, bars.samples.ravel()]))
        rates = S[-1, y0.size :].reshape(s.size, y0.size)
        return Gradient(y0_bar, varying_bar, jnp.sum(rates * bars.samples, axis=1))


def sensitivities(
    integrator: Integrator, y0: Array, p: Parameters, s: Array
) -> tuple[tuple[Array, Array, Outcome], Float[Array, "columns+1 outputs"]]:
    """The solve, and S' with one row for each number in (y0, p.varying) and a last one for the sample points."""
    if integrator.steps is None and not integrator.method.is_implicit:
        return _controlled(integrator, y0, p, s)
    return _along(integrator, y0, p, s)


def _along(
    integrator: Integrator, y0: Array, p: Parameters, s: Array
) -> tuple[tuple[Array, Array, Outcome], Float[Array, "columns+1 outputs"]]:
    """S as the tangents of the steps that the solve takes."""
    flat, unravel = ravel_pytree((y0, p.varying))

    def tangents(direction: Array) -> tuple[Any, Array]:
        y0_dot, varying_dot = unravel(direction[:-1])

        def solve(y0: Array, varying: list[Array], s: Array) -> tuple[Array, Array, Outcome]:
            y1, samples, _, outcome = integrate(integrator, y0, Parameters(varying, p.constant), s)
            return y1, samples, outcome

        primals, dots = (y0, p.varying, s), (y0_dot, varying_dot, jnp.full_like(s, direction[-1]))
        value, (y1_dot, samples_dot, _) = jax.jvp(solve, primals, dots)
        return value, jnp.concatenate([y1_dot, samples_dot.ravel()])

    return jax.vmap(tangents, out_axes=(None, 0))(jnp.eye(flat.size + 1, dtype=y0.dtype))


class _Directions(NamedTuple):
    """Parameters, and one direction of them for each column of S."""

    p: Parameters
    varying_dot: list[Array]


@dataclass(frozen=True)
class _VariationalField:
    """The slopes of y and of the columns of S, as rows of one flat vector."""

    field: VectorField
    n: int

    def __call__(self, s: Array, rows: Array, directions: _Directions) -> Float[Array, " rows*n"]:
        p = directions.p
        rows = rows.reshape(-1, self.n)

        def F(y: Array, varying: list[Array]) -> Array:
            return self.field(s, y, Parameters(varying, p.constant))

        slope, tangent = jax.linearize(F, rows[0], p.varying)
        return jnp.concatenate([slope[None], jax.vmap(tangent)(rows[1:], directions.varying_dot)]).ravel()


@dataclass(frozen=True)
class _VariationalTolerances(Tolerances):
    """The error of y, or that of S if it is larger."""

    n: int

    def scaled(self, error: Array, *ys: Array) -> Float[Array, ""]:
        scaled = super().scaled
        return jnp.maximum(
            scaled(error[: self.n], *(y[: self.n] for y in ys)), scaled(error[self.n :], *(y[self.n :] for y in ys))
        )


def _controlled(
    integrator: Integrator, y0: Array, p: Parameters, s: Array
) -> tuple[tuple[Array, Array, Outcome], Float[Array, "columns+1 outputs"]]:
    """S under the error control of the solve: at the stability limit of an explicit method tangents of steps are no derivatives."""
    flat, unravel = ravel_pytree((y0, p.varying))
    # Columns are in the units of their parameter, so that one tolerance fits them all.
    unit = jax.lax.stop_gradient(jnp.where(flat == 0, 1, jnp.abs(flat)))
    y0_dot, varying_dot = jax.vmap(unravel)(jnp.diag(unit))
    n, count = y0.size, 1 + flat.size
    field = _VariationalField(integrator.field, n)
    tolerances = _VariationalTolerances(integrator.tolerances.rtol, integrator.tolerances.atol, n)
    joint = replace(integrator, field=field, tolerances=tolerances)
    start = jnp.concatenate([y0[None], y0_dot]).ravel()
    directions: Any = _Directions(p, varying_dot)
    rows1, rows_of_samples, _, outcome = integrate(joint, start, directions, s)
    rows1, rows_of_samples = rows1.reshape(count, n), rows_of_samples.reshape(s.size, count, n)
    y1, samples = rows1[0], rows_of_samples[:, 0]
    S = jnp.concatenate([rows1[1:, None], jnp.moveaxis(rows_of_samples[:, 1:], 1, 0)], axis=1)
    S = S.reshape(flat.size, -1) / unit[:, None]
    rates = jax.vmap(lambda s, y: integrator.rate(s, y, p))(s, samples) if s.size else samples
    last = jnp.concatenate([jnp.zeros_like(y1), rates.ravel()])
    return (y1, samples, outcome), jnp.concatenate([S, last[None]])
