"""One step of the adjoint equation together with the integral of F_p' lam over it, which is the step's part of p_bar.

One pull at a stage gives both F_y' lam, of which the step is made, and F_p' lam, whose sum with the weights of the Runge-Kutta
method is the integral: the quadrature of an explicit step costs no evaluation of its own.
"""

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from adjoint.ode.integrate import Integrator


class Field(Protocol):
    """The slope of the adjoint, lam, or of (u, lam) where the solution runs back with it."""

    def __call__(self, s: Array, lam: Array, along: Any) -> Array:
        """The slope at s."""
        ...

    def solution(self, s: Float[Array, " nodes"], along: Any) -> Float[Array, "nodes ..."]:
        """What `with_parameters` needs of the solution at these s."""
        ...

    def with_parameters(self, s: Array, lam: Array, u: Array, along: Any) -> tuple[Array, list[Array]]:
        """The slope at s, and F_p' lam."""
        ...


class AdjointStep(NamedTuple):
    """lam at the end of a step and its error, the integral of F_p' lam and its error."""

    lam: Float[Array, " n"]
    error: Float[Array, " n"]
    integral: list[Array]
    integral_error: list[Array]
    converged: Bool[Array, ""]


# A step of the adjoint with its quadrature: (backward, (start, end), lam, along) -> AdjointStep. A step goes back, so that
# its h is negative and the integral is minus the sum of h b_i F_p' lam_i.
Rule = Callable[[Integrator, tuple[Array, Array], Array, Any], AdjointStep]


def rule_of_stages(backward: Integrator, s: tuple[Array, Array], lam: Array, along: Any) -> AdjointStep:
    """The integral and its error by the weights of the Runge-Kutta method at its own stages."""
    return _by_stages(backward, s, lam, along)[0]


def _by_stages(
    backward: Integrator, s: tuple[Array, Array], lam: Array, along: Any
) -> tuple[AdjointStep, Float[Array, "stages n"]]:
    """The step, and the slopes of its stages times h."""
    if backward.method.is_implicit:
        return _implicit(backward, s, lam, along)
    return _explicit(backward, s, lam, along)


def _explicit(
    backward: Integrator, s: tuple[Array, Array], lam: Array, along: Any
) -> tuple[AdjointStep, Float[Array, "stages n"]]:
    """By one copy of the field, in a loop: of six copies in a row XLA makes kernels that compute the same parts several times."""
    tableau, h, dtype = backward.method.tableau, s[1] - s[0], lam.dtype
    a, c = _full_tableau(tableau)

    def stage(k: Array, row: Any) -> tuple[Array, list[Array]]:
        a_i, s_i, u_i, i = row
        slope, rates = backward.field.with_parameters(s_i, lam + a_i @ k, u_i, along)
        return k.at[i].set(h * slope), rates

    at = s[0] + jnp.asarray(c, dtype) * h
    # All at once: one by one they would be interpolated in each kernel that needs them.
    u = backward.field.solution(at, along)
    k = jnp.zeros((tableau.num_stages, lam.size), dtype)
    k, rates = jax.lax.scan(stage, k, (jnp.asarray(a, dtype), at, u, jnp.arange(tableau.num_stages)))
    b, b_error = jnp.asarray(tableau.b_sol, dtype), jnp.asarray(tableau.b_error, dtype)
    integral, integral_error = _sum(-h * b, rates), _sum(-h * b_error, rates)
    return AdjointStep(lam + b @ k, b_error @ k, integral, integral_error, jnp.array(True)), k


def _implicit(
    backward: Integrator, s: tuple[Array, Array], lam: Array, along: Any
) -> tuple[AdjointStep, Float[Array, "stages n"]]:
    """The stages are known only when all iterations are done."""
    tableau, h, dtype = backward.method.tableau, s[1] - s[0], lam.dtype
    slope = backward.field(s[0], lam, along)
    step = backward.method.step(backward.field, backward.tolerances, s, lam, slope, along)
    a, c = _full_tableau(tableau)
    at, stages = s[0] + jnp.asarray(c, dtype) * h, lam[None, :] + jnp.asarray(a, dtype) @ step.stages
    rates = _rates(backward, at, stages, along)
    integral, error = (_sum(-h * jnp.asarray(b, dtype), rates) for b in (tableau.b_sol, tableau.b_error))
    return AdjointStep(step.y, step.error, integral, error, step.converged), step.stages


def _full_tableau(tableau: Any) -> tuple[np.ndarray, np.ndarray]:
    """a and c of all stages."""
    a = np.zeros((tableau.num_stages, tableau.num_stages))
    for i, row in enumerate(tableau.a_lower, start=1):
        a[i, :i] = row
    if tableau.a_diagonal is not None:
        a += np.diag(tableau.a_diagonal)
    return a, np.concatenate([[tableau.c1], tableau.c])


def _rates(backward: Integrator, s: Array, lam: Array, along: Any) -> list[Array]:
    """F_p' lam at each of s."""
    u = backward.field.solution(s, along)
    return jax.vmap(lambda s_i, lam_i, u_i: backward.field.with_parameters(s_i, lam_i, u_i, along)[1])(s, lam, u)


def _sum(weights: Array, rates: list[Array]) -> list[Array]:
    return [jnp.tensordot(weights, rate, axes=1) for rate in rates]


# Nodes (those not negative) and weights on [-1, 1] of the rule with 7 points: Kronrod, Nodes and Weights of Quadrature
# Formulas, 1965.
KRONROD_NODES = np.array([0.0, 0.4342437493468026, 0.7745966692414834, 0.9604912687080202])
KRONROD_WEIGHTS = np.array([0.4509165386584741, 0.4013974147759622, 0.2684880898683334, 0.1046562260264673])


def rule_of_gauss(backward: Integrator, s: tuple[Array, Array], lam: Array, along: Any) -> AdjointStep:
    """The integral by 7 points on the interpolant of lam, and its error.

    The error is the difference to the rule of the stages, which does not use the interpolant: for a stiff step that may be poor.
    """
    step, k = _by_stages(backward, s, lam, along)
    nodes = np.concatenate([-KRONROD_NODES[:0:-1], KRONROD_NODES])
    weights = np.concatenate([KRONROD_WEIGHTS[:0:-1], KRONROD_WEIGHTS]) / 2
    h = s[1] - s[0]
    at = s[0] + jnp.asarray((1 + nodes) / 2, lam.dtype) * h
    inside = jax.vmap(lambda s_i: backward.method.interpolate(s, lam, step.lam, k, s_i))(at)
    integral = _sum(-h * jnp.asarray(weights, lam.dtype), _rates(backward, at, inside, along))
    return step._replace(
        integral=integral,
        integral_error=[new - of_stages for new, of_stages in zip(integral, step.integral, strict=True)],
    )
