"""How far an iterate is from the conditions of Karush, Kuhn and Tucker.

The iterate has multipliers; all methods for constraints share this.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from adjoint.optimize.problem import Domain, Measure
from adjoint.optimize.state import Constraints, Evaluation, Iterate, Multipliers, State

# Slopes of violated constraints cancel when what is left is this share of them.
TRAPPED = 1e-3


def positive(value: Array) -> Array:
    """The value where it is positive, else 1: a scale to divide by."""
    return jnp.where(value > 0, value, 1)


def no_constraints(x: Float[Array, " n"], count: int) -> Constraints:
    """Room for so many."""
    return Constraints(jnp.zeros(count, x.dtype), jnp.zeros((count, x.size), x.dtype))


def no_multipliers(x: Float[Array, " n"], count: int) -> Multipliers:
    """Zeros, for so many constraints."""
    none = jnp.zeros(count, x.dtype)
    return Multipliers(no_constraints(x, count), none, none)


def with_values(multipliers: Multipliers, values: Float[Array, " m"]) -> Multipliers:
    """With other values, and the price of violations raised where it is too low for these."""
    weights = jnp.maximum(multipliers.weights, 2 * jnp.abs(values))
    return multipliers._replace(values=values, weights=weights)


def constrained_measure(state: State, domain: Domain) -> Measure:
    """Of the Lagrangian, with the latest multipliers of a method for constraints."""
    assert state.multipliers is not None
    return measure(state.at, state.multipliers, domain)


def of_answer(evaluation: Evaluation) -> Constraints:
    """Those of an evaluation, none where it has none."""
    if evaluation.constraints is None or evaluation.jacobian is None:
        return no_constraints(evaluation.derivative, 0)
    return Constraints(evaluation.constraints, evaluation.jacobian)


def finite(evaluation: Evaluation) -> Bool[Array, ""]:
    """Whether all of an evaluation is numbers."""
    return jnp.all(jnp.stack([jnp.all(jnp.isfinite(leaf)) for leaf in jax.tree.leaves(evaluation)]))


def violations(constraints: Float[Array, " m"], domain: Domain) -> Float[Array, " m"]:
    """|g| of the equations and the positive part of h <= 0."""
    is_equation = jnp.arange(constraints.size) < domain.equalities
    return jnp.where(is_equation, jnp.abs(constraints), jnp.maximum(constraints, 0))


def row_norms(jacobian: Float[Array, "m n"], domain: Domain) -> Float[Array, " m"]:
    """The dual norm of every constraint's derivative."""
    return jax.vmap(domain.dual_norm)(jacobian)


def measure(at: Iterate, multipliers: Multipliers, domain: Domain) -> Measure:
    """Stationarity and complementarity in one norm, the worst violation, f + weights . violations.

    The multiplier of an inequality counts as much of the stationarity as the constraint is away
    from zero, in lengths of x up to 1: by the same measure `Domain.projected_derivative` takes
    bounds.
    """
    constraints = multipliers.constraints
    added = multipliers.values @ constraints.jacobian
    projected = domain.projected_derivative(at.x, at.derivative + added)
    sizes = row_norms(constraints.jacobian, domain)
    is_equation = jnp.arange(constraints.value.size) < domain.equalities
    away = jnp.where(is_equation, 0, jnp.maximum(-constraints.value, 0))
    slack = jnp.abs(multipliers.values) * jnp.minimum(sizes, away)
    violated = violations(constraints.value, domain)
    return Measure(
        jnp.sqrt(domain.dual_norm(projected) ** 2 + slack @ slack),
        jnp.max(violated, initial=0.0),
        at.value + multipliers.weights @ violated,
        projected,
        domain.dual_norm(added),
    )


def at_iterate(at: Iterate, constraints: Constraints, values: Float[Array, " m"]) -> Iterate:
    """The value of the Lagrangian and its derivative in place of those of f."""
    value = at.value + values @ constraints.value
    return Iterate(at.x, value, at.derivative + values @ constraints.jacobian)


def infeasible_stationary(
    x: Float[Array, " n"], multipliers: Multipliers, domain: Domain
) -> Bool[Array, ""]:
    """Whether the violation is stationary where there is some: no small change of x lowers it.

    That of sum c_i^2 / 2 over the violated constraints, or of sum |lambda_i c_i| over those that
    are violated or met: their slopes cancel each other, but for `TRAPPED` of the sum of their
    sizes. For convex constraints the second is a proof that no x satisfies all of them.
    """
    constraints = multipliers.constraints
    values = multipliers.values
    violated = violations(constraints.value, domain)
    sizes = row_norms(constraints.jacobian, domain)
    signed = jnp.where(violated > 0, constraints.value, 0)
    # Where sum |lambda_i c_i| has a kink, on a constraint, its slope is any multiple of that
    # constraint's up to lambda_i.
    is_equation = jnp.arange(violated.size) < domain.equalities
    met = jnp.abs(constraints.value) <= TRAPPED * sizes
    holds_back = (signed * values > 0) | (met & (is_equation | (values > 0)))
    weighted = jnp.where(holds_back, values, 0)

    def cancels(weights: Float[Array, " m"]) -> Bool[Array, ""]:
        left = domain.dual_norm(domain.projected_derivative(x, weights @ constraints.jacobian))
        violates = jnp.any(weights * violated != 0)
        return violates & (left <= TRAPPED * (jnp.abs(weights) @ sizes))

    return cancels(signed) | cancels(weighted)
