"""The subproblem of SQP, in units without a scale.

It is a quadratic model within the constraints to first order.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from adjoint.optimize import lagrangian, quadratic_program
from adjoint.optimize.lagrangian import positive
from adjoint.optimize.problem import Domain
from adjoint.optimize.quadratic_program import QuadraticProgram
from adjoint.optimize.state import Constraints, Iterate
from adjoint.tracing import loops

# No step is longer than so many times x, or its unit.
LONGEST = 10.0
# The price of violations, in units of the largest slope of f, and at most; ten times as much where
# that leaves less than this share of the violations, and a tenth after a step that does.
PRICE = 10.0
LARGEST_PRICE = 1e9
WORTH = 0.9
# A linear constraint is missed when what is left of it is more than this share of it or of its
# slope.
MISSED = 1e-6


class Proposal(NamedTuple):
    """The solution of a subproblem.

    Attributes
    ----------
    step, multipliers
        In the units of x, and of f per unit of the constraints.
    price
        Of violations, in units of the largest slope of f.
    left
        The sum of the violations that it leaves, in units of their slopes.
    """

    step: Float[Array, " n"]
    multipliers: Float[Array, " m"]
    price: Float[Array, ""]
    left: Float[Array, ""]


class _Subproblem(NamedTuple):
    """A quadratic program in units of x, of the largest slope of f and of each constraint's."""

    program: QuadraticProgram
    scale: Float[Array, ""]
    sizes: Float[Array, " m"]


def propose(
    at: Iterate,
    constraints: Constraints,
    hessian: Float[Array, "n n"],
    unit: Float[Array, " n"],
    price: Float[Array, ""],
    domain: Domain,
) -> Proposal:
    """The step that minimizes the model.

    Violations cost as much as it takes to remove what can be removed. So multipliers have the size
    of the forces of the constraints, and not of a price that is beyond all of them: where
    constraints contradict each other to first order, ten times the price removes no more of them.
    """
    problem = _scaled(at, constraints, hessian, unit, domain)
    missed = MISSED * jnp.sum(jnp.maximum(jnp.abs(problem.program.values), MISSED))

    def pays(carry: tuple[Proposal, Bool[Array, ""]]) -> Bool[Array, ""]:
        best, goes_on = carry
        return goes_on & (best.left > missed) & (best.price < LARGEST_PRICE)

    def raise_price(carry: tuple[Proposal, Bool[Array, ""]]) -> tuple[Proposal, Bool[Array, ""]]:
        best, _ = carry
        dearer = _solve(problem, 10 * best.price, domain)
        better = dearer.left < WORTH * best.left
        return jax.tree.map(lambda a, b: jnp.where(better, a, b), dearer, best), better

    worst = jnp.full_like(price, jnp.inf)
    none = Proposal(jnp.zeros_like(at.x), jnp.zeros_like(constraints.value), price / 10, worst)
    best = loops.while_loop(pays, raise_price, (none, jnp.ones((), bool)))[0]
    return best._replace(step=unit * best.step)


def _scaled(
    at: Iterate,
    constraints: Constraints,
    hessian: Float[Array, "n n"],
    unit: Float[Array, " n"],
    domain: Domain,
) -> _Subproblem:
    rows = constraints.jacobian * unit[None, :]
    sizes = positive(jnp.max(jnp.abs(rows), axis=1, initial=0.0))
    scale = positive(jnp.max(jnp.abs(unit * at.derivative)))
    reach = LONGEST * jnp.maximum(1, jnp.abs(at.x) / unit)
    lower = -reach
    upper = reach
    if domain.lower is not None and domain.upper is not None:
        lower = jnp.maximum(lower, (domain.lower - at.x) / unit)
        upper = jnp.minimum(upper, (domain.upper - at.x) / unit)
    program = QuadraticProgram(
        hessian=hessian / scale,
        derivative=unit * at.derivative / scale,
        rows=rows / sizes[:, None],
        values=constraints.value / sizes,
        least=jnp.zeros_like(sizes),
        price=jnp.ones_like(sizes),
        lower=lower,
        upper=upper,
    )
    return _Subproblem(program, scale, sizes)


def _solve(problem: _Subproblem, price: Float[Array, ""], domain: Domain) -> Proposal:
    """Its solution where all violations have this price."""
    is_equation = jnp.arange(problem.sizes.size) < domain.equalities
    program = problem.program
    prices = jnp.full_like(problem.sizes, price)
    least = jnp.where(is_equation, -prices, 0)
    found = quadratic_program.solve(program._replace(least=least, price=prices))
    at_low = found.at_low > found.room_low
    at_high = found.at_high > found.room_high
    step = jnp.where(at_low, program.lower, jnp.where(at_high, program.upper, found.d))
    slack = ~is_equation & (found.multipliers <= found.below)
    left = lagrangian.violations(program.rows @ step + program.values, domain)
    return Proposal(
        step=step,
        multipliers=jnp.where(slack, 0, found.multipliers) * problem.scale / problem.sizes,
        price=price,
        left=jnp.sum(left),
    )
