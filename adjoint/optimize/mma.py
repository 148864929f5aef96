"""MMA: the method of moving asymptotes, for many unknowns within bounds and inequalities."""

from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.core
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int32

from adjoint.inputs import refuse
from adjoint.optimize import lagrangian
from adjoint.optimize.diagonal_hessian import DiagonalHessian, learn
from adjoint.optimize.moving_asymptotes import (
    FIRST_WIDTH,
    FLAT,
    next_width,
    propose,
    slope_sizes,
    slopes,
    span,
)
from adjoint.optimize.problem import Domain, Measure
from adjoint.optimize.state import Constraints, Evaluation, Iterate, Query, State, begin, choose
from adjoint.tracing import loops

# A curvature that was too small becomes so many times what the point has asked for. A method stops
# after so many refused points in a row, which have raised it beyond all that a right derivative
# needs.
MARGIN = 1.1
MOST_REFUSED = 12
# The price of a violation in the subproblem, in units of the objective's largest slope; ten times
# it while one remains.
PENALTY = 1e3
LARGEST_PENALTY = 1e7


class MMAMemory(NamedTuple):
    """What the method knows; its multipliers are those of the subproblem at `State.at`.

    Attributes
    ----------
    previous
        The two iterates before `at`.
    width
        Distance of the asymptotes from x.
    refused
        Points in a row that have not become iterates.
    penalty
        The price of violations in the subproblem.
    curvature
        What the approximations curve beyond their asymptotes, of f and of each constraint: rho of
        Svanberg (2002).
    hessian
        Diagonals of the second derivatives of f and of each constraint.
    approximations
        Of f - f(at) and of the constraints, at `point`.
    """

    previous: Float[Array, "2 n"]
    width: Float[Array, " n"]
    refused: Int32[Array, ""]
    penalty: Float[Array, ""]
    curvature: Float[Array, "1+m"]
    hessian: DiagonalHessian
    approximations: Float[Array, "1+m"]


@dataclass(frozen=True)
class MMA:
    """Minimize convex separable approximations of f and h, one after the other.

    Each is of first order at the latest iterate. f and every inequality are approximated by r +
    sum_j p_j / (U_j - x_j) + q_j / (x_j - L_j), where p_j belongs to positive and q_j to negative
    derivatives. The asymptotes L and U move away from x_j while it goes on and towards it where it
    turns around. Where changes of the derivatives along the steps tell of more curvature than
    asymptotes give, p_j and q_j get what is missing: entry by entry where that has foretold the
    derivatives, as with sums of functions of one x_j each, or else spread evenly.

    Raises
    ------
    ValueError
        Without finite bounds for every unknown, or with equations.

    Notes
    -----
    **Cost** per step: one value and derivative of everything, and 20 to 40 linear systems in the
    multipliers, n m^2 + m^3 operations each: for many unknowns and up to a few hundred constraints.
    **Units**: the run is the same whatever units the entries of x, f and the constraints have, as
    widths and curvatures are in upper - lower; only `constraint_tolerance` of `minimize` is in the
    unit of the constraints. **Converges** linearly, which reaches the usual rtol of 1e-8 in some
    tens of steps; there is no proof that it does (`GCMMA` has one), and a run that turns in circles
    ends as `NOT_CONVERGED`. Where something is not a number the step is halved; where a constraint
    is broken whose approximation was far from it, the subproblem is solved again with more
    curvature.

    Source: K. Svanberg, Int. J. Numer. Methods Eng. 24, 359-373 (1987), sections 3 and 4; the
    widths of section 5 of K. Svanberg, SIAM J. Optim. 12, 555-573 (2002), but for larger steps
    outwards; the even diagonals as in M. Zhu, J. L. Nazareth, H. Wolkowicz, SIAM J. Optim. 9,
    1192-1204 (1999), the least change that satisfies the weak secant equation.

    Examples
    --------
    >>> import jax.numpy as jnp, adjoint
    >>> weights = jnp.array(
    ...     [61.0, 37, 19, 7, 1]
    ... )  # a cantilever of five boxes, Svanberg (1987), section 6.1
    >>> bend = lambda x: jnp.sum(weights / x**3) - 1
    >>> solution = adjoint.minimize(
    ...     lambda x: 0.0624 * jnp.sum(x),
    ...     jnp.full(5, 5.0),
    ...     adjoint.MMA(),
    ...     bounds=(1.0, 10.0),
    ...     inequality=bend,
    ... )
    >>> (
    ...     round(float(solution.stats["value"]), 6),
    ...     [round(float(v), 2) for v in adjoint.require(solution)],
    ... )
    (1.339956, [6.02, 5.31, 4.49, 3.5, 2.15])
    """

    queries = (Query.VALUE,)
    patience = 1
    rates_have_units = False
    handles = ("bounds", "inequality")

    def require(self, domain: Domain) -> None:
        """Refuse a domain that the method cannot work on."""
        require_finite_bounds(type(self).__name__, domain)

    def init(self, x: Float[Array, " n"], domain: Domain, constraints: int = 0) -> State:
        """The state that asks about x first."""
        self.require(domain)
        x = domain.project(x)
        straight = jnp.zeros((1 + constraints, x.size), x.dtype)
        memory = MMAMemory(
            previous=jnp.stack([x, x]),
            width=FIRST_WIDTH * span(domain),
            refused=jnp.zeros((), jnp.int32),
            penalty=jnp.asarray(PENALTY, x.dtype),
            curvature=jnp.zeros(1 + constraints, x.dtype),
            hessian=DiagonalHessian(straight, straight, jnp.zeros((2, 1 + constraints), x.dtype)),
            approximations=jnp.zeros(1 + constraints, x.dtype),
        )
        return begin(x, memory)._replace(multipliers=lagrangian.no_multipliers(x, constraints))

    def step(self, state: State, evaluation: Evaluation, domain: Domain) -> State:
        """The state after the evaluation that it asked for; pure."""
        first = ~state.started
        accepted, curvature = self._judge(state, evaluation, domain)

        def go_on(state: State) -> State:
            following = choose(accepted, _moved(state, evaluation, domain), state)
            refused = jnp.where(accepted, 0, state.memory.refused + 1).astype(jnp.int32)
            memory = following.memory._replace(curvature=curvature, refused=refused)
            return _look(following._replace(memory=memory), domain)

        def back(state: State) -> State:
            """Where something is not a number: half of the step; no step at all is no way on."""
            half = (state.at.x + state.point) / 2
            at = Iterate(state.point, evaluation.value, evaluation.derivative)
            failed = first | jnp.all(jnp.abs(half - state.at.x) <= smallest(half))
            return state._replace(point=half, at=choose(first, at, state.at), failed=failed)

        stepped = loops.cond(lagrangian.finite(evaluation), go_on, back, state)
        return stepped._replace(started=jnp.ones((), bool), direction=stepped.point - stepped.at.x)

    def restart(self, state: State, domain: Domain) -> State:
        """On with the same iterate where points have been refused; else it knows no other way."""
        memory = state.memory
        return state._replace(
            failed=memory.refused == 0,
            memory=memory._replace(refused=jnp.zeros((), jnp.int32)),
        )

    def measure(self, state: State, domain: Domain) -> Measure:
        """Of the Lagrangian, with the multipliers of the latest subproblem."""
        return lagrangian.constrained_measure(state, domain)

    def _judge(
        self, state: State, evaluation: Evaluation, domain: Domain
    ) -> tuple[Bool[Array, ""], Float[Array, "1+m"]]:
        """Whether the point becomes an iterate, and the curvature of the next approximations.

        Not where it breaks a constraint and that has missed its approximation by more than its
        whole change to first order: such an approximation knows nothing of the constraint there,
        and the next ones may lead ever farther away.
        """
        constraints = lagrangian.of_answer(evaluation)
        before = constraints_at(state)
        missed = model_error(state, evaluation)
        known = jnp.abs(before.jacobian) @ jnp.abs(state.point - state.at.x)
        values = jnp.abs(before.value) + jnp.abs(constraints.value)
        rounding = 8 * jnp.finfo(known.dtype).eps * values
        nonconservative = (constraints.value > 0) & (missed[1:] > known + rounding)
        accepted = ~state.started | ~jnp.any(nonconservative)
        curvature = state.memory.curvature
        raised = curvature.at[1:].set(
            jnp.where(nonconservative, required_curvature(state, missed)[1:], curvature[1:])
        )
        return accepted, jnp.where(accepted, 0, raised)


def constraints_at(state: State) -> Constraints:
    """Those of the iterate."""
    assert state.multipliers is not None
    return state.multipliers.constraints


def model_error(state: State, evaluation: Evaluation) -> Float[Array, "1+m"]:
    """How far the approximations are below f and the constraints at the point."""
    change = (evaluation.value - state.at.value)[None]
    found = jnp.concatenate([change, lagrangian.of_answer(evaluation).value])
    return found - state.memory.approximations


def required_curvature(state: State, missed: Float[Array, "1+m"]) -> Float[Array, "1+m"]:
    """A bit more than the curvature that lifts the approximations to the functions at the point."""
    memory = state.memory
    square = ((state.point - state.at.x) / memory.width) ** 2
    reach = jnp.sum(square / (1 - square)) / 2
    return MARGIN * (memory.curvature + missed / jnp.where(reach > 0, reach, 1))


def _moved(state: State, evaluation: Evaluation, domain: Domain) -> State:
    """With the point as the iterate."""
    assert state.multipliers is not None
    first = ~state.started
    memory = state.memory
    x = state.point
    previous = jnp.where(first, jnp.stack([x, x]), jnp.stack([state.at.x, memory.previous[0]]))
    at = Iterate(x, evaluation.value, evaluation.derivative)
    constraints = lagrangian.of_answer(evaluation)
    before = slopes(state.at, state.multipliers.constraints)
    changes = (slopes(at, constraints) - before) * span(domain)[None, :]
    learned = learn(memory.hessian, changes, (x - state.at.x) / span(domain))
    return state._replace(
        at=at,
        iterations=state.iterations + jnp.where(first, 0, 1).astype(jnp.int32),
        multipliers=state.multipliers._replace(constraints=constraints),
        memory=memory._replace(
            previous=previous,
            width=next_width(memory.width, x, previous, domain),
            hessian=choose(first, memory.hessian, learned),
        ),
    )


def require_finite_bounds(name: str, domain: Domain) -> None:
    """Asymptotes are placed by the bounds, so that every unknown needs both."""
    remedy = (
        "Give the range that x can reasonably have, or use AugmentedLagrangian(), which needs none."
    )
    if domain.lower is None or domain.upper is None:
        refuse(name, "no bounds", "finite bounds for every unknown", remedy)
    bounds = jnp.stack([domain.lower, domain.upper])
    if not isinstance(bounds, jax.core.Tracer) and not bool(jnp.all(jnp.isfinite(bounds))):
        refuse(name, "an infinite bound", "finite bounds for every unknown", remedy)


def smallest(x: Float[Array, " n"]) -> Float[Array, " n"]:
    """A step that rounding swallows."""
    return 4 * jnp.finfo(x.dtype).eps * jnp.abs(x)


def _look(state: State, domain: Domain) -> State:
    """The subproblem at the iterate: where to go and the multipliers here."""
    assert state.multipliers is not None
    memory = state.memory
    constraints = state.multipliers.constraints
    curvature = jnp.maximum(
        memory.curvature, FLAT * slope_sizes(state.at, constraints, memory.width)
    )
    proposal = propose(
        state.at,
        constraints,
        memory.width,
        curvature,
        memory.hessian.better,
        memory.penalty,
        domain,
    )
    still = jnp.all(jnp.abs(proposal.x - state.at.x) <= smallest(state.at.x))
    violated = proposal.excess > jnp.sqrt(jnp.finfo(state.point.dtype).eps)
    raised = jnp.minimum(10 * memory.penalty, LARGEST_PENALTY)
    return state._replace(
        point=proposal.x,
        failed=still | (memory.refused >= MOST_REFUSED),
        multipliers=lagrangian.with_values(state.multipliers, proposal.multipliers),
        memory=memory._replace(
            penalty=jnp.where(violated, raised, memory.penalty),
            curvature=curvature,
            approximations=proposal.approximations,
        ),
    )
