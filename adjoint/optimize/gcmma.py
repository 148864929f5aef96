"""GCMMA: moving asymptotes with conservative approximations, convergent from everywhere."""

from dataclasses import dataclass

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from adjoint.optimize import lagrangian
from adjoint.optimize.mma import MMA, constraints_at, model_error, required_curvature
from adjoint.optimize.moving_asymptotes import slope_sizes
from adjoint.optimize.problem import Domain
from adjoint.optimize.state import Evaluation, Iterate, State

# The curvature to begin with, as a share of the slopes; and what of it is kept for the next
# iterate.
FIRST_CURVATURE = 0.1
KEPT = 0.1


@dataclass(frozen=True)
class GCMMA(MMA):
    """Moving asymptotes; a point is taken only if no approximation is below its function there.

    Else rho / 2 sum_j (x_j - x_k,j)^2 / (w_j^2 - (x_j - x_k,j)^2), with w the distance of the
    asymptotes, is raised in the approximations that were, and the subproblem at x_k solved again.
    So once within the constraints all iterates are, and f falls.

    Raises
    ------
    ValueError
        Without finite bounds for every unknown, or with equations.

    Notes
    -----
    **Cost** per step: that of `MMA` for each subproblem, mostly one or two. A point that is not
    taken is evaluated with its derivatives all the same. After twelve in a row that are not taken,
    the derivatives are checked.

    Source: K. Svanberg, SIAM J. Optim. 12, 555-573 (2002), sections 2 to 5.

    Examples
    --------
    >>> import jax.numpy as jnp, adjoint
    >>> nearest = lambda x: jnp.sum((x - jnp.array([0.3, 0.9])) ** 2)
    >>> within = lambda x: x[0] + x[1] - 1
    >>> x = adjoint.require(
    ...     adjoint.minimize(
    ...         nearest, jnp.zeros(2), adjoint.GCMMA(), bounds=(0.0, 1.0), inequality=within
    ...     )
    ... )
    >>> [round(float(v), 6) for v in x]
    [0.2, 0.8]
    """

    def _judge(
        self, state: State, evaluation: Evaluation, domain: Domain
    ) -> tuple[Bool[Array, ""], Float[Array, "1+m"]]:
        constraints = lagrangian.of_answer(evaluation)
        first = ~state.started
        memory = state.memory
        missed = model_error(state, evaluation)
        sizes = slope_sizes(
            Iterate(state.point, evaluation.value, evaluation.derivative), constraints, memory.width
        )
        eps = jnp.finfo(missed.dtype).eps
        before = jnp.concatenate([state.at.value[None], constraints_at(state).value])
        found = missed + memory.approximations
        rounding = 8 * eps * (jnp.abs(before) + jnp.abs(found) + sizes * state.point.size)
        rounding = rounding.at[0].max(domain.rounding(state.at.value))
        below = missed > rounding
        raised = jnp.where(below, required_curvature(state, missed), memory.curvature)
        accepted = first | ~jnp.any(below)
        kept = jnp.where(first, FIRST_CURVATURE * sizes, KEPT * memory.curvature)
        return accepted, jnp.where(accepted, kept, raised)
