"""MMA: the method of moving asymptotes, for many unknowns within bounds and inequalities."""

from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.core
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int32

from adjoint.inputs import refuse
from adjoint.optimize import lagrangian, separable
from adjoint.optimize.lagrangian import Constraints, no_constraints
from adjoint.optimize.problem import Answer, Domain, Iterate, Measure, Request

# The distance of the asymptotes, as a share of upper - lower: at first, at least, and at most.
FIRST_WIDTH, SMALLEST_WIDTH, LARGEST_WIDTH = 0.5, 1e-12, 10.0
# What the distance is multiplied by where x_j has turned around and where it has gone on.
SHRINK, GROW = 0.7, 1.2
# A step goes at most this share of the way to the asymptotes.
MOVE = 0.9
# Curvature beyond that of the asymptotes: as shares of |f_j| and of their mean.
OPPOSITE, FLAT = 1e-3, 1e-5
# The price of a violation in the subproblem, in units of the objective's largest slope; ten times it while one remains.
PENALTY, LARGEST_PENALTY = 1e3, 1e7


class MMAState(NamedTuple):
    """Where MMA stands; see `adjoint.optimize.problem.State`.

    Attributes
    ----------
    constraints
        Those of `at`.
    multipliers
        Of the constraints, from the subproblem at `at`.
    weights
        The largest multipliers so far, doubled: the price of violations in the merit.
    previous
        The two iterates before `at`.
    width
        Distance of the asymptotes from x.
    penalty
        The price of violations in the subproblem.
    curvature
        What the approximations curve beyond their asymptotes, of f and of each constraint: rho of Svanberg (2002).
    approximations
        Of f - f(at) and of the constraints, at `point`.
    """

    request: Int32[Array, ""]
    point: Float[Array, " n"]
    at: Iterate
    iterations: Int32[Array, ""]
    stuck: Bool[Array, ""]
    started: Bool[Array, ""]
    constraints: Constraints
    multipliers: Float[Array, " m"]
    weights: Float[Array, " m"]
    previous: Float[Array, "2 n"]
    width: Float[Array, " n"]
    penalty: Float[Array, ""]
    curvature: Float[Array, "1+m"]
    approximations: Float[Array, "1+m"]

    @property
    def direction(self) -> Float[Array, " n"]:
        return self.point - self.at.x

    @property
    def search_direction(self) -> Float[Array, " n"]:
        return self.point - self.at.x


@dataclass(frozen=True)
class MMA:
    """Minimize convex separable approximations of f and h, one after the other, each of first order at the latest iterate.

    f and every inequality are approximated by r + sum_j p_j / (U_j - x_j) + q_j / (x_j - L_j), where p_j belongs to positive and
    q_j to negative derivatives. The asymptotes L and U move away from x_j while it goes on and towards it where it turns around.

    Raises
    ------
    ValueError
        Without finite bounds for every unknown, or with equations.

    Notes
    -----
    **Cost** per step: one value and derivative of everything, and 20 to 40 linear systems in the multipliers, n m^2 + m^3
    operations each: for many unknowns and up to a few hundred constraints. **Converges** linearly, which reaches the usual rtol
    of 1e-8 in some tens of steps; there is no proof that it does (`GCMMA` has one), and a run that turns in circles ends as
    `NOT_CONVERGED`. Where something is not a number the step is halved.

    Source: K. Svanberg, Int. J. Numer. Methods Eng. 24, 359-373 (1987), sections 3 and 4; the widths of section 5 of K. Svanberg,
    SIAM J. Optim. 12, 555-573 (2002).

    Examples
    --------
    >>> import jax.numpy as jnp, adjoint
    >>> weights = jnp.array([61.0, 37, 19, 7, 1])  # a cantilever of five boxes, Svanberg (1987), section 6.1
    >>> bend = lambda x: jnp.sum(weights / x**3) - 1
    >>> solution = adjoint.minimize(
    ...     lambda x: 0.0624 * jnp.sum(x), jnp.full(5, 5.0), adjoint.MMA(), bounds=(1.0, 10.0), inequality=bend
    ... )
    >>> round(float(solution.stats["value"]), 6), [round(float(v), 2) for v in adjoint.require(solution)]
    (1.339956, [6.02, 5.31, 4.49, 3.5, 2.15])
    """

    requests = (Request.VALUE,)
    handles = ("bounds", "inequality")

    def require(self, domain: Domain) -> None:
        """Refuse a domain that the method cannot work on."""
        require_finite_bounds(type(self).__name__, domain)

    def init(self, x: Float[Array, " n"], domain: Domain, constraints: int = 0) -> MMAState:
        """The state that asks about x first."""
        self.require(domain)
        x = domain.project(x)
        none = jnp.zeros(constraints, x.dtype)
        return MMAState(
            request=jnp.zeros((), jnp.int32),
            point=x,
            at=Iterate(x, jnp.asarray(jnp.inf, x.dtype), jnp.zeros_like(x)),
            iterations=jnp.zeros((), jnp.int32),
            stuck=jnp.zeros((), bool),
            started=jnp.zeros((), bool),
            constraints=no_constraints(x, constraints),
            multipliers=none,
            weights=none,
            previous=jnp.stack([x, x]),
            width=FIRST_WIDTH * span(domain),
            penalty=jnp.asarray(PENALTY, x.dtype),
            curvature=jnp.zeros(1 + constraints, x.dtype),
            approximations=jnp.zeros(1 + constraints, x.dtype),
        )

    def step(self, state: MMAState, answer: Answer, domain: Domain) -> MMAState:
        """The state after the answer that it asked for; pure."""
        first = ~state.started
        accepted, curvature = self._judge(state, answer, domain)

        def go_on(state: MMAState) -> MMAState:
            at_point = _moved(state, answer, domain)
            next_state = jax.tree.map(lambda a, b: jnp.where(accepted, a, b), at_point, state)
            return _look(next_state._replace(curvature=curvature), domain)

        def back(state: MMAState) -> MMAState:
            """Where something is not a number: half of the step; no step at all is no way on."""
            half = (state.at.x + state.point) / 2
            at = Iterate(state.point, answer.value, answer.derivative)
            at = jax.tree.map(lambda a, b: jnp.where(first, a, b), at, state.at)
            stuck = first | jnp.all(jnp.abs(half - state.at.x) <= smallest(half))
            return state._replace(point=half, at=at, stuck=stuck)

        stepped = jax.lax.cond(lagrangian.finite(answer), go_on, back, state)
        return stepped._replace(started=jnp.ones((), bool))

    def revive(self, state: MMAState, domain: Domain) -> MMAState:
        """Stuck: it knows no other way."""
        return state._replace(stuck=jnp.ones((), bool))

    def measure(self, state: MMAState, domain: Domain) -> Measure:
        """Of the Lagrangian, with the multipliers of the latest subproblem."""
        return lagrangian.measure(state.at, state.constraints, state.multipliers, state.weights, domain)

    def _judge(self, state: MMAState, answer: Answer, domain: Domain) -> tuple[Bool[Array, ""], Float[Array, "1+m"]]:
        """Whether the point becomes an iterate, and the curvature of the next approximations."""
        return jnp.ones((), bool), jnp.zeros_like(state.curvature)


def _moved(state: MMAState, answer: Answer, domain: Domain) -> MMAState:
    """With the point as the iterate."""
    first, x = ~state.started, state.point
    previous = jnp.where(first, jnp.stack([x, x]), jnp.stack([state.at.x, state.previous[0]]))
    return state._replace(
        at=Iterate(x, answer.value, answer.derivative),
        iterations=state.iterations + jnp.where(first, 0, 1).astype(jnp.int32),
        constraints=lagrangian.of_answer(answer),
        previous=previous,
        width=next_width(state.width, x, previous, domain),
    )


def require_finite_bounds(name: str, domain: Domain) -> None:
    """Asymptotes are placed by the bounds, so that every unknown needs both."""
    remedy = "Give the range that x can reasonably have, or use AugmentedLagrangian(), which needs none."
    if domain.lower is None or domain.upper is None:
        refuse(name, "no bounds", "finite bounds for every unknown", remedy)
    bounds = jnp.stack([domain.lower, domain.upper])
    if not isinstance(bounds, jax.core.Tracer) and not bool(jnp.all(jnp.isfinite(bounds))):
        refuse(name, "an infinite bound", "finite bounds for every unknown", remedy)


def smallest(x: Float[Array, " n"]) -> Float[Array, " n"]:
    """A step that rounding swallows."""
    return 4 * jnp.finfo(x.dtype).eps * jnp.abs(x)


def span(domain: Domain) -> Float[Array, " n"]:
    """upper - lower; 1 for an unknown that is fixed."""
    assert domain.lower is not None
    assert domain.upper is not None
    return jnp.where(domain.upper > domain.lower, domain.upper - domain.lower, 1)


def next_width(
    width: Float[Array, " n"], x: Float[Array, " n"], previous: Float[Array, "2 n"], domain: Domain
) -> Float[Array, " n"]:
    """The distance of the asymptotes: smaller where x_j has turned around, larger where it has gone on."""
    turn = (x - previous[0]) * (previous[0] - previous[1])
    factor = jnp.where(turn < 0, SHRINK, jnp.where(turn > 0, GROW, 1))
    return jnp.clip(factor * width, SMALLEST_WIDTH * span(domain), LARGEST_WIDTH * span(domain))


class Proposal(NamedTuple):
    """The minimizer of a subproblem, its multipliers, and the largest y, in units of the scaled constraints."""

    x: Float[Array, " n"]
    multipliers: Float[Array, " m"]
    excess: Float[Array, ""]
    approximations: Float[Array, "1+m"]


def propose(
    at: Iterate,
    constraints: Constraints,
    width: Float[Array, " n"],
    curvature: Float[Array, "1+m"],
    penalty: Float[Array, ""],
    domain: Domain,
) -> Proposal:
    """Minimize the approximations at x; `curvature` is what is added to them, rho of equation (5.4) of Svanberg (2002)."""
    assert domain.lower is not None
    assert domain.upper is not None
    x, movable = at.x, domain.upper > domain.lower
    slopes = jnp.concatenate([at.derivative[None, :], constraints.jacobian]) * (width * movable)[None, :]
    values = jnp.concatenate([jnp.zeros(1, x.dtype), constraints.value])
    largest = jnp.max(jnp.abs(slopes), axis=1)
    scale = jnp.maximum(largest, 1e-3 * jnp.abs(values))
    scale = jnp.where(scale > 0, scale, 1)
    extra = OPPOSITE * jnp.abs(slopes) + (curvature / 4)[:, None]
    low, high = jnp.maximum(domain.lower, x - MOVE * width), jnp.minimum(domain.upper, x + MOVE * width)
    problem = separable.Separable(
        p=(jnp.maximum(slopes, 0) + extra) / scale[:, None],
        q=(jnp.maximum(-slopes, 0) + extra) / scale[:, None],
        r=values / scale,
        lower=jnp.where(movable, (low - x) / width, -MOVE),
        upper=jnp.where(movable, (high - x) / width, MOVE),
        penalty=penalty,
    )
    found = separable.solve(problem)
    held_low, held_high = found.at_lower > found.h - problem.lower, found.at_upper > problem.upper - found.h
    h = jnp.where(held_low, problem.lower, jnp.where(held_high, problem.upper, found.h))
    reached = jnp.where(held_low, low, jnp.where(held_high, high, x + width * found.h))
    multipliers = jnp.where(found.multipliers > found.slack, found.multipliers, 0) * scale[0] / scale[1:]
    point = jnp.where(movable, domain.project(reached), x)
    return Proposal(point, multipliers, jnp.max(found.y, initial=0.0), problem.values(h) * scale)


def slope_sizes(at: Iterate, constraints: Constraints, width: Float[Array, " n"]) -> Float[Array, "1+m"]:
    """By how much f and the constraints change on the way to an asymptote, to first order, on average."""
    slopes = jnp.concatenate([at.derivative[None, :], constraints.jacobian]) * width[None, :]
    return jnp.mean(jnp.abs(slopes), axis=1)


def _look(state: MMAState, domain: Domain) -> MMAState:
    """The subproblem at the iterate: where to go and the multipliers here."""
    curvature = jnp.maximum(state.curvature, FLAT * slope_sizes(state.at, state.constraints, state.width))
    proposal = propose(state.at, state.constraints, state.width, curvature, state.penalty, domain)
    still = jnp.all(jnp.abs(proposal.x - state.at.x) <= smallest(state.at.x))
    violated = proposal.excess > jnp.sqrt(jnp.finfo(state.point.dtype).eps)
    return state._replace(
        point=proposal.x,
        multipliers=proposal.multipliers,
        weights=jnp.maximum(state.weights, 2 * proposal.multipliers),
        penalty=jnp.where(violated, jnp.minimum(10 * state.penalty, LARGEST_PENALTY), state.penalty),
        curvature=curvature,
        approximations=proposal.approximations,
        stuck=still,
    )
