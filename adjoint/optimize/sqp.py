"""Sequential quadratic programming with second derivatives of the Lagrangian learned by BFGS."""

from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int32

from adjoint.optimize import lagrangian
from adjoint.optimize.lagrangian import Constraints, no_constraints, positive
from adjoint.optimize.problem import Domain, Evaluation, Iterate, Measure, Query
from adjoint.optimize.sqp_subproblem import PRICE, WORTH, Proposal, propose
from adjoint.tracing import loops

# Without constraints the first step is so long, in units of x, as that of
# `adjoint.optimize.descent`.
FIRST_STEP = 0.1
# A step brings this share of the decrease of the merit that its slope promises (Nocedal and Wright,
# section 3.1).
SUFFICIENT_DECREASE = 1e-4
# Interpolation keeps a step between these shares of the one before; where something is not a number
# it is the first.
SHORTEST_CUT = 0.1
LONGEST_CUT = 0.5
# Trials along one direction.
TRIALS = 8
# Powell's damping: the curvature along a step is at least this share of that known before (Nocedal
# and Wright, 18.3).
DAMPED = 0.2
# A change of the merit that slopes explain by less than this share, so many times in a row, is
# noise or a wrong derivative.
UNEXPLAINED = 10.0
CONTRADICTIONS = 3
# What is lost in rounding when it is no more than so many times that.
HIDDEN = 10


class SQPState(NamedTuple):
    """Where the method stands; see `adjoint.optimize.problem.State`.

    Attributes
    ----------
    constraints, multipliers
        Those of `at`; the multipliers of the subproblem there.
    weights
        The largest multipliers so far, doubled: the price of violations in the merit of the run.
    penalties
        Prices of violations in the merit of the line search.
    price
        Of violations in the subproblem, in units of the largest slope of f.
    hessian
        B, in units of x.
    updates
        Steps that B has learned from.
    unit
        Units of the entries of x.
    step
        The subproblem's solution, of which `point` is `share` or what a correction has made of it.
    slope
        Of the merit along `step`, at `at`.
    trials, contradictions
        Points asked for along it; those of them in a row at which values contradict slopes.
    contradicted_by
        By how much at the latest of them.
    """

    query: Int32[Array, ""]
    point: Float[Array, " n"]
    at: Iterate
    iterations: Int32[Array, ""]
    failed: Bool[Array, ""]
    started: Bool[Array, ""]
    constraints: Constraints
    multipliers: Float[Array, " m"]
    weights: Float[Array, " m"]
    penalties: Float[Array, " m"]
    price: Float[Array, ""]
    hessian: Float[Array, "n n"]
    updates: Int32[Array, ""]
    unit: Float[Array, " n"]
    step: Float[Array, " n"]
    share: Float[Array, ""]
    slope: Float[Array, ""]
    trials: Int32[Array, ""]
    contradictions: Int32[Array, ""]
    contradicted_by: Float[Array, ""]

    @property
    def direction(self) -> Float[Array, " n"]:
        return self.step

    @property
    def search_direction(self) -> Float[Array, " n"]:
        return self.step


@dataclass(frozen=True)
class SQP:
    """Minimize a quadratic model of the Lagrangian and search along that step.

    The model f'(x) d + d' B d / 2 is minimized within the constraints to first order, with B
    learned by damped BFGS from the Lagrangian and begun as a multiple of the squared inverse units
    of x: the sizes of its entries at the start, so that units do not matter. The merit is f plus
    the violations at prices above their multipliers. A whole step that breaks constraints by more
    than before is corrected once by what they have missed. Bounds hold at every point.

    Notes
    -----
    **Cost** per step: mostly one value and derivative of everything, and a quadratic program: 10 to
    20 times n^3 / 3 + n m^2 + m^3 / 3 operations, for up to some hundred unknowns. It runs on the
    host and compiled alike. Inner products measure how far a point is from being stationary; steps
    know none. **Units**: the run is the same whatever units f and the constraints have, and those
    of the entries of x where none starts at zero; `constraint_tolerance` of `minimize` is in the
    unit of the constraints.

    Source: Nocedal and Wright, Numerical Optimization, 2nd ed., sections 18.3 to 18.5.

    Examples
    --------
    >>> import jax.numpy as jnp, adjoint
    >>> on_the_circle = lambda x: jnp.sum(x**2) - 2
    >>> solution = adjoint.minimize(
    ...     jnp.sum, jnp.array([-2.0, 1.0]), adjoint.SQP(), equality=on_the_circle
    ... )
    >>> (
    ...     [round(float(v), 6) for v in adjoint.require(solution)],
    ...     round(float(solution.stats["multipliers"][0]), 6),
    ... )
    ([-1.0, -1.0], 0.5)
    """

    queries = (Query.VALUE,)
    patience = 1
    rates_have_units = False
    handles = ("bounds", "equality", "inequality")

    def init(self, x: Float[Array, " n"], domain: Domain, constraints: int = 0) -> SQPState:
        """The state that asks about x first."""
        x, zero, no = domain.project(x), jnp.zeros((), x.dtype), jnp.zeros((), bool)
        none = jnp.zeros(constraints, x.dtype)
        nothing = jnp.zeros_like(x)
        integer = jnp.zeros((), jnp.int32)
        return SQPState(
            query=integer,
            point=x,
            at=Iterate(x, jnp.asarray(jnp.inf, x.dtype), nothing),
            iterations=integer,
            failed=no,
            started=no,
            constraints=no_constraints(x, constraints),
            multipliers=none,
            weights=none,
            penalties=none,
            price=jnp.asarray(PRICE, x.dtype),
            hessian=jnp.eye(x.size, dtype=x.dtype),
            updates=integer,
            unit=jnp.ones_like(x),
            step=nothing,
            share=zero,
            slope=zero,
            trials=integer,
            contradictions=integer,
            contradicted_by=zero,
        )

    def step(self, state: SQPState, evaluation: Evaluation, domain: Domain) -> SQPState:
        """The state after the evaluation that it asked for; pure."""
        first = ~state.started
        judged = _judge(state, evaluation, domain)
        moves = first | judged.accepted
        begun = _begun(state, evaluation, domain)
        moved = _moved(state, evaluation, domain)
        moved = jax.tree.map(lambda a, b: jnp.where(first, a, b), begun, moved)
        corrects = ~moves & _misses(state, evaluation, domain)
        constraints = lagrangian.of_answer(evaluation)
        shifted = constraints.value - state.constraints.jacobian @ state.step
        following = jax.tree.map(lambda a, b: jnp.where(moves, a, b), moved, state)
        values = jnp.where(moves, constraints.value, shifted)
        proposal = loops.cond(
            moves | corrects,
            lambda: _propose(following, values, domain),
            lambda: _no_proposal(following),
        )
        turned = _look(following, proposal, domain)
        turned = turned._replace(failed=turned.failed | (first & ~lagrangian.finite(evaluation)))
        corrected = domain.project(state.at.x + proposal.step)
        stayed = _shorten(state, judged, jnp.where(corrects, corrected, jnp.nan), domain)
        state = jax.tree.map(lambda a, b: jnp.where(moves, a, b), turned, stayed)
        return state._replace(started=jnp.ones((), bool))

    def restart(self, state: SQPState, domain: Domain) -> SQPState:
        """The failed state with what it learned forgotten; as before if it learned nothing."""
        scale = jnp.max(jnp.abs(state.unit * state.at.derivative)) / FIRST_STEP
        identity = jnp.eye(state.unit.size, dtype=state.unit.dtype)
        fresh = state._replace(
            hessian=positive(scale) * identity, updates=jnp.zeros_like(state.updates)
        )
        proposal = _propose(fresh, fresh.constraints.value, domain)
        again = _look(fresh._replace(failed=jnp.zeros((), bool)), proposal, domain)
        known = (state.updates > 0) | (domain.noise > 0)
        return jax.tree.map(lambda a, b: jnp.where(known, a, b), again, state)

    def measure(self, state: SQPState, domain: Domain) -> Measure:
        """Of the Lagrangian, with the multipliers of the latest subproblem."""
        return lagrangian.measure(
            state.at, state.constraints, state.multipliers, state.weights, domain
        )


class _Judgement(NamedTuple):
    """What the merit at a trial point says.

    Attributes
    ----------
    accepted
        Whether the point becomes an iterate.
    cut
        Else the share of the trial step to try next.
    contradicted, off
        Whether values contradict slopes, and by how much.
    """

    accepted: Bool[Array, ""]
    cut: Float[Array, ""]
    contradicted: Bool[Array, ""]
    off: Float[Array, ""]


def _begun(state: SQPState, evaluation: Evaluation, domain: Domain) -> SQPState:
    """The start, with units of x and a first guess at second derivatives."""
    x = state.point
    constraints = lagrangian.of_answer(evaluation)
    unit = _units(x, domain)
    scale = jnp.max(jnp.abs(unit * evaluation.derivative)) / FIRST_STEP
    return state._replace(
        at=Iterate(x, evaluation.value, evaluation.derivative),
        constraints=constraints,
        unit=unit,
        hessian=positive(scale) * jnp.eye(x.size, dtype=x.dtype),
    )


def _units(x: Float[Array, " n"], domain: Domain) -> Float[Array, " n"]:
    """The entries' sizes; where one is zero, its bounds' width, or the largest size, or 1."""
    size = jnp.abs(x)
    largest = positive(jnp.max(size, initial=0.0))
    other = jnp.full_like(x, largest)
    if domain.lower is not None and domain.upper is not None:
        width = domain.upper - domain.lower
        other = jnp.where(jnp.isfinite(width) & (width > 0), width, other)
    return jnp.where(size > 0, size, other)


def _merit(value: Array, constraints: Array, penalties: Array, domain: Domain) -> Float[Array, ""]:
    return value + penalties @ lagrangian.violations(constraints, domain)


def _rounding(state: SQPState, domain: Domain) -> Float[Array, ""]:
    """Of the merit: of f, and of constraints as sums of terms as large as their slopes times x."""
    terms = jnp.abs(state.constraints.jacobian) @ jnp.abs(state.at.x)
    return domain.rounding(state.at.value) + 4 * jnp.finfo(terms.dtype).eps * (
        state.penalties @ terms
    )


def _judge(state: SQPState, evaluation: Evaluation, domain: Domain) -> _Judgement:
    constraints = lagrangian.of_answer(evaluation)
    rounding = _rounding(state, domain)
    finite = lagrangian.finite(evaluation)
    before = _merit(state.at.value, state.constraints.value, state.penalties, domain)
    change = _merit(evaluation.value, constraints.value, state.penalties, domain) - before
    promised = state.share * state.slope
    enough = change <= SUFFICIENT_DECREASE * promised + rounding
    blind = (jnp.abs(promised) <= HIDDEN * rounding) & (jnp.abs(change) <= HIDDEN * rounding)
    bend = change - promised
    cut = jnp.where(bend > 0, -promised / (2 * positive(bend)), LONGEST_CUT)
    cut = jnp.where(finite, jnp.clip(cut, SHORTEST_CUT, LONGEST_CUT), SHORTEST_CUT)
    # What a step gains or loses beyond its slope is its curvature, which a right model knows but
    # for a factor.
    scaled = state.share * state.step / state.unit
    known = jnp.abs(promised) + scaled @ (state.hessian @ scaled) / 2
    contradicted = finite & ~enough & (jnp.abs(change) > UNEXPLAINED * known + rounding)
    return _Judgement(finite & (enough | blind), cut, contradicted, jnp.abs(change))


def _moved(state: SQPState, evaluation: Evaluation, domain: Domain) -> SQPState:
    """With the point as the iterate, and with what the step tells about second derivatives."""
    constraints = lagrangian.of_answer(evaluation)
    s = state.point - state.at.x
    change = evaluation.derivative - state.at.derivative
    change = change + state.multipliers @ (constraints.jacobian - state.constraints.jacobian)
    hessian, learned = _learn(state.hessian, s / state.unit, state.unit * change, state.updates)
    return state._replace(
        at=Iterate(state.point, evaluation.value, evaluation.derivative),
        iterations=state.iterations + 1,
        constraints=constraints,
        price=jnp.where(_relieves(state, constraints, domain), state.price / 10, state.price),
        hessian=hessian,
        updates=state.updates + learned,
    )


def _relieves(state: SQPState, constraints: Constraints, domain: Domain) -> Bool[Array, ""]:
    """Whether violations shrink by a share to speak of, each in units of its slope."""
    rows = state.constraints.jacobian * state.unit[None, :]
    sizes = positive(jnp.max(jnp.abs(rows), axis=1, initial=0.0))
    before = jnp.sum(lagrangian.violations(state.constraints.value, domain) / sizes)
    after = jnp.sum(lagrangian.violations(constraints.value, domain) / sizes)
    return after <= WORTH * before


def _learn(
    B: Float[Array, "n n"], s: Float[Array, " n"], y: Float[Array, " n"], updates: Int32[Array, ""]
) -> tuple[Float[Array, "n n"], Bool[Array, ""]]:
    """BFGS with Powell's damping; B takes the scale of the first step that curves up."""
    s_y = s @ y
    eps = jnp.finfo(s.dtype).eps
    curved = s_y > eps * jnp.linalg.norm(s) * jnp.linalg.norm(y)
    scale = y @ y / positive(s_y)
    B = jnp.where((updates == 0) & curved, scale * jnp.eye(s.size, dtype=s.dtype), B)
    B_s = B @ s
    s_B_s = s @ B_s
    theta = jnp.where(s_y >= DAMPED * s_B_s, 1, (1 - DAMPED) * s_B_s / positive(s_B_s - s_y))
    r = theta * y + (1 - theta) * B_s
    s_r = s @ r
    usable = (s_B_s > 0) & (s_r > 0) & jnp.all(jnp.isfinite(r))
    updated = B - jnp.outer(B_s, B_s) / positive(s_B_s) + jnp.outer(r, r) / positive(s_r)
    return jnp.where(usable, (updated + updated.T) / 2, B), usable & (curved | (updates > 0))


def _propose(state: SQPState, values: Float[Array, " m"], domain: Domain) -> Proposal:
    """The step where constraints have these values and the slopes of the iterate."""
    constraints = Constraints(values, state.constraints.jacobian)
    price = jnp.maximum(PRICE, state.price)
    return propose(state.at, constraints, state.hessian, state.unit, price, domain)


def _no_proposal(state: SQPState) -> Proposal:
    nothing = jnp.zeros_like(state.step)
    zero = jnp.zeros_like(state.price)
    return Proposal(nothing, jnp.zeros_like(state.multipliers), zero, zero)


def _look(state: SQPState, proposal: Proposal, domain: Domain) -> SQPState:
    """Ask for the point that the subproblem at the iterate leads to."""
    size = jnp.abs(proposal.multipliers)
    penalties = jnp.maximum(size, (state.penalties + size) / 2)
    violated = lagrangian.violations(state.constraints.value, domain)
    left = lagrangian.violations(
        state.constraints.value + state.constraints.jacobian @ proposal.step, domain
    )
    slope = state.at.derivative @ proposal.step - penalties @ (violated - left)
    point = domain.project(state.at.x + proposal.step)
    eps = jnp.finfo(point.dtype).eps
    still = jnp.all(
        jnp.abs(proposal.step) <= 4 * eps * jnp.maximum(jnp.abs(state.at.x), eps * state.unit)
    )
    return state._replace(
        point=point,
        multipliers=proposal.multipliers,
        weights=jnp.maximum(state.weights, 2 * size),
        penalties=penalties,
        price=proposal.price,
        step=proposal.step,
        share=jnp.ones_like(slope),
        slope=slope,
        trials=jnp.zeros_like(state.trials),
        contradictions=jnp.zeros_like(state.trials),
        failed=state.failed | still | ~(slope < 0),
    )


def _misses(state: SQPState, evaluation: Evaluation, domain: Domain) -> Bool[Array, ""]:
    """Whether a whole step has been tried and breaks constraints by more than the iterate does."""
    constraints = lagrangian.of_answer(evaluation)
    before = jnp.max(lagrangian.violations(state.constraints.value, domain), initial=0.0)
    beyond = jnp.max(lagrangian.violations(constraints.value, domain), initial=0.0)
    return (state.trials == 0) & (beyond > before) & lagrangian.finite(evaluation)


def _shorten(
    state: SQPState, judged: _Judgement, corrected: Float[Array, " n"], domain: Domain
) -> SQPState:
    """The state that tries the corrected step, where there is one, or a shorter one."""
    trials = state.trials + 1
    contradictions = jnp.where(judged.contradicted, state.contradictions + 1, 0).astype(jnp.int32)
    ended = (trials >= TRIALS) | (contradictions >= CONTRADICTIONS)
    corrects = jnp.all(jnp.isfinite(corrected))
    share = jnp.where(corrects, state.share, judged.cut * state.share)
    shorter = domain.project(state.at.x + share * state.step)
    return state._replace(
        point=jnp.where(corrects, corrected, shorter),
        share=share,
        trials=trials,
        contradictions=contradictions,
        contradicted_by=jnp.where(judged.contradicted, judged.off, 0),
        failed=ended,
    )
