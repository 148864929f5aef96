"""SQP: sequential quadratic programming, SciPy's SLSQP, for small problems with constraints; on the host."""

import signal
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int32

from adjoint.optimize import lagrangian
from adjoint.optimize.answer_log import AnswerLog
from adjoint.optimize.continuation import History
from adjoint.optimize.driver import Step, Watch, ask, begin, go_on
from adjoint.optimize.lagrangian import Constraints, no_constraints
from adjoint.optimize.objective import Objective
from adjoint.optimize.problem import Answer, Domain, Iterate, Measure, Request
from adjoint.optimize.progress import examine, proceed
from adjoint.optimize.run import Limits, Run
from adjoint.optimize.stopping import RUNNING
from adjoint.run.checkpoint import Checkpoint
from adjoint.run.interruption import Interruption
from adjoint.solution import Status

# What SLSQP is told of a point where something is not a number: so many times the largest |f| so far above it.
FAR_ABOVE = 1e3
# A bound has a multiplier when x is closer to it than this share of x, or of 1: SLSQP may stop short of it by rounding.
NEAR = 1e-3


class SQPState(NamedTuple):
    """Where SLSQP stands, as far as is seen of it; see `adjoint.optimize.problem.State`.

    Attributes
    ----------
    constraints, multipliers
        Those of `at`.
    weights
        The largest multipliers so far, doubled: the price of violations in the merit.
    accepts, ends
        What SLSQP has done with `point`: made it an iterate, or given up.
    found
        The multipliers at `point`.
    """

    request: Int32[Array, ""]
    point: Float[Array, " n"]
    at: Iterate
    iterations: Int32[Array, ""]
    stuck: Bool[Array, ""]
    started: Bool[Array, ""]
    direction: Float[Array, " n"]
    constraints: Constraints
    multipliers: Float[Array, " m"]
    weights: Float[Array, " m"]
    accepts: Bool[Array, ""]
    ends: Bool[Array, ""]
    found: Float[Array, " m"]

    @property
    def search_direction(self) -> Float[Array, " n"]:
        return self.direction


@dataclass(frozen=True)
class SQP:
    """Minimize a quadratic model of the Lagrangian subject to the constraints to first order, and search along that step.

    The steps are those of SciPy's SLSQP. Whether they have led to a minimizer is measured here as for every method, with the
    multipliers that make the conditions of optimality hold best; what SLSQP says of itself is not believed.

    Notes
    -----
    **Cost** per step: mostly one value and derivative of everything, and n^3 operations: up to some hundred unknowns. Outside of
    `jit` only. A checkpoint holds all answers so far, which lead SLSQP to where it was. Inner products measure how far a point is
    from being stationary; steps know none.

    Source: D. Kraft, A Software Package for Sequential Quadratic Programming, DFVLR-FB 88-28 (1988).

    Examples
    --------
    >>> import jax.numpy as jnp, adjoint
    >>> on_the_circle = lambda x: jnp.sum(x**2) - 2
    >>> solution = adjoint.minimize(jnp.sum, jnp.array([-2.0, 1.0]), adjoint.SQP(), equality=on_the_circle)
    >>> [round(float(v), 6) for v in adjoint.require(solution)], round(float(solution.stats["multipliers"][0]), 6)
    ([-1.0, -1.0], 0.5)
    """

    requests = (Request.VALUE,)
    handles = ("bounds", "equality", "inequality")

    def init(self, x: Float[Array, " n"], domain: Domain, constraints: int = 0) -> SQPState:
        """The state that asks about x first."""
        x, no, none = domain.project(x), jnp.zeros((), bool), jnp.zeros(constraints, x.dtype)
        return SQPState(
            request=jnp.zeros((), jnp.int32),
            point=x,
            at=Iterate(x, jnp.asarray(jnp.inf, x.dtype), jnp.zeros_like(x)),
            iterations=jnp.zeros((), jnp.int32),
            stuck=no,
            started=no,
            direction=jnp.zeros_like(x),
            constraints=no_constraints(x, constraints),
            multipliers=none,
            weights=none,
            accepts=jnp.ones((), bool),
            ends=no,
            found=none,
        )

    def step(self, state: SQPState, answer: Answer, domain: Domain) -> SQPState:
        """The state after an answer with which SLSQP has done what the state says; pure."""
        here = (Iterate(state.point, answer.value, answer.derivative), lagrangian.of_answer(answer), state.found)
        there = (state.at, state.constraints, state.multipliers)
        at, constraints, multipliers = jax.tree.map(lambda a, b: jnp.where(state.accepts, a, b), here, there)
        downhill = -domain.projected_derivative(at.x, at.derivative + multipliers @ constraints.jacobian)
        return state._replace(
            at=at,
            iterations=state.iterations + jnp.where(state.accepts & state.started, 1, 0).astype(jnp.int32),
            stuck=state.ends,
            started=jnp.ones((), bool),
            direction=downhill,
            constraints=constraints,
            multipliers=multipliers,
            weights=jnp.maximum(state.weights, 2 * jnp.abs(multipliers)),
        )

    def revive(self, state: SQPState, domain: Domain) -> SQPState:
        """Stuck: it knows no other way."""
        return state._replace(stuck=jnp.ones((), bool))

    def measure(self, state: SQPState, domain: Domain) -> Measure:
        """Of the Lagrangian, with the multipliers that make it smallest."""
        return lagrangian.measure(state.at, state.constraints, state.multipliers, state.weights, domain)


def sqp_on_host(
    objective: Objective,
    method: SQP,
    x: Float[Array, " n"],
    domain: Domain,
    limits: Limits,
    max_seconds: float | None,
    callback: Callable[[Step], Any] | None,
    history: History,
    checkpoint: Checkpoint | None = None,
    stage: int = 0,
) -> Run:
    """The run that SLSQP asks for, as `adjoint.optimize.driver.on_host`; it goes on by being told again what it was told before."""
    log = AnswerLog(checkpoint, stage, objective, method, x, domain, limits)
    saved, seconds = log.load(), history[-1]["seconds"] if history else 0.0
    if saved is not None:
        history[:], seconds = saved
    files = None if checkpoint is None else log
    watch = Watch(domain, max_seconds, callback, history, files, time.monotonic() - seconds, -1)
    signals = () if callback is None and checkpoint is None else (signal.SIGINT, signal.SIGTERM)
    with Interruption(signals) as interruption, interruption.deferred():
        asked = _Asked(objective, method, x, domain, limits, watch, log, interruption)
        with suppress(_OverError):
            asked.run_slsqp()
    return asked.run


class _OverError(Exception):
    """The run is over, whatever SLSQP would do next."""


class _Asked:
    """What SLSQP asks, answered by the objective; the answer becomes part of the run when SLSQP has said what it is to it."""

    def __init__(
        self,
        objective: Objective,
        method: SQP,
        x: Array,
        domain: Domain,
        limits: Limits,
        watch: Watch,
        log: AnswerLog,
        interruption: Interruption,
    ):
        self.objective, self.method, self.domain, self.limits = objective, method, domain, limits
        self.watch, self.log, self.interruption = watch, log, interruption
        self.run = begin(method, x, domain, objective.constraint_count(x))
        self.latest: Answer | None = None
        self.accepted: Answer | None = None
        self.curvature = 1.0
        self.pending = False

    def run_slsqp(self) -> None:
        """SLSQP from the start, and from where it ends as long as it gets anywhere, as it may be led astray by what it knows.

        It begins with the identity for the second derivatives of the Lagrangian, so from the second time on f is in units of
        the curvature along the latest step: else its steps are so long that its search gives up, or creeps.
        """
        from scipy.optimize import minimize as scipy_minimize

        self.answer(np.asarray(self.run.state.point))
        self.settle(accepts=True)
        start, before, unit = np.asarray(self.run.state.at.x, float), -1, 1.0
        while before < int(self.run.state.iterations):
            before = int(self.run.state.iterations)
            ended = scipy_minimize(
                lambda x, unit=unit: float(self.answer(x).value) / unit,
                start,
                jac=lambda x, unit=unit: self.accept(x) / unit,
                method="SLSQP",
                bounds=None if self.domain.lower is None else list(zip(*self.bounds(), strict=True)),
                constraints=self.constraints(),
                # When to stop is not for SLSQP to decide.
                options={"ftol": np.finfo(float).tiny, "maxiter": 1_000_000},
            )
            if self.pending:
                self.settle(accepts=False)
            start, unit = ended.x, self.curvature
        self.answer(np.asarray(self.run.state.at.x), again=True)
        self.settle(accepts=False, ends=True)

    def bounds(self) -> tuple[np.ndarray, np.ndarray]:
        return np.asarray(self.domain.lower, float), np.asarray(self.domain.upper, float)

    def constraints(self) -> list[dict[str, Any]]:
        """As SciPy states them: equations, and what is not to be negative."""
        m, k = self.run.state.multipliers.size, self.domain.equalities
        parts = [("eq", slice(0, k), 1.0), ("ineq", slice(k, m), -1.0)]
        return [
            {
                "type": kind,
                "fun": lambda x, rows=rows, sign=sign: sign * np.asarray(self.answer(x).constraints, float)[rows],
                "jac": lambda x, rows=rows, sign=sign: sign * np.asarray(self.answer(x).jacobian, float)[rows],
            }
            for kind, rows, sign in parts
            if rows.stop > rows.start
        ]

    def answer(self, x: np.ndarray, again: bool = False) -> Answer:
        """At x; evaluated when it is not the latest point."""
        point = self.domain.project(jnp.asarray(x, self.run.state.point.dtype))
        if self.accepted is not None and not again and np.array_equal(point, self.run.state.at.x):
            return self.accepted
        if self.latest is None or again or not np.array_equal(point, self.run.state.point):
            if self.pending:
                self.settle(accepts=False)
            self.run = self.run._replace(state=self.run.state._replace(point=point))
            self.latest, self.pending = self.evaluate(), True
        assert self.latest is not None
        return self.tame(self.latest)

    def evaluate(self) -> Answer:
        """What the run asks, from the log as long as that knows the answer."""
        run, known = self.run, self.log.recall(self.run.point, self.watch.history)
        if known is not None:
            return known
        self.end(self.watch.out_of_time())
        if self.objective.gradient is None:
            answer = ask(self.objective, self.method, Request.VALUE, run)
        else:
            answer = self.objective.on_host(run.point, self.objective.blank(self.method, run.state.point))
        self.log.append(run.point, answer)
        return answer

    def tame(self, answer: Answer) -> Answer:
        """What SLSQP is told: where something is not a number it is to go back."""
        if bool(lagrangian.finite(answer)):
            return answer
        state = self.run.state
        far = jnp.abs(state.at.value) + FAR_ABOVE * jnp.maximum(jnp.abs(state.at.value), 1)
        return Answer(far, state.at.derivative, state.constraints.value, state.constraints.jacobian)

    def accept(self, x: np.ndarray) -> np.ndarray:
        """The derivative, which SLSQP asks for at its iterates only."""
        answer = self.answer(x)
        if self.pending and np.array_equal(self.domain.project(jnp.asarray(x)), self.run.state.point):
            self.settle(accepts=self.latest is not None and bool(lagrangian.finite(self.latest)))
        return np.asarray(answer.derivative, float)

    def settle(self, accepts: bool, ends: bool = False) -> None:
        """Hand the answer to the run with what became of it, and end where the run is over."""
        assert self.latest is not None
        self.pending = False
        found = multipliers(np.asarray(self.run.state.point), self.latest, self.domain) if accepts else None
        if found is not None and self.accepted is not None:
            s = np.asarray(self.run.state.point - self.run.state.at.x, float)
            self.curvature = curvature(s, found, self.accepted, self.latest) or self.curvature
        self.accepted = self.latest if accepts else self.accepted
        state = self.run.state._replace(accepts=jnp.asarray(accepts), ends=jnp.asarray(ends))
        state = state if found is None else state._replace(found=jnp.asarray(found, state.point.dtype))
        self.advance(proceed, self.run._replace(state=state), self.latest)
        while bool(self.run.examination.active):
            self.advance(examine, self.run, self.evaluate())

    def advance(self, half: Any, run: Run, answer: Answer) -> None:
        self.run = go_on(half, self.method, run, answer, self.domain, self.limits)
        if int(self.run.counts[0]) > self.log.known:
            self.end(self.watch.look(self.run, self.interruption))
        else:
            self.watch.seen = int(self.run.state.iterations)
            self.end(None)

    def end(self, stop: Status | None) -> None:
        """The run is over where it is, or where it has to stop."""
        if int(self.run.code) == RUNNING and stop is not None:
            self.run = self.run._replace(code=jnp.asarray(stop.code))
        if int(self.run.code) != RUNNING:
            raise _OverError


def curvature(s: np.ndarray, found: np.ndarray, before: Answer, after: Answer) -> float | None:
    """y . y / s . y of the Lagrangian with the multipliers found after the step s; None where it does not curve up."""
    (_, J), (_, J_after) = lagrangian.of_answer(before), lagrangian.of_answer(after)
    y = np.asarray(after.derivative - before.derivative + found @ (J_after - J), float)
    s_y = s @ y
    return float(y @ y / s_y) if s_y > np.finfo(float).eps * np.linalg.norm(s) * np.linalg.norm(y) else None


def multipliers(x: np.ndarray, answer: Answer, domain: Domain) -> np.ndarray:
    """Those that make the conditions of optimality hold best, in the least squares sense of `lagrangian.measure`.

    Those of inequalities are not negative. Bounds close to x have multipliers of their own, which are left out.
    """
    c, J = lagrangian.of_answer(answer)
    c, J, derivative = np.asarray(c, float), np.asarray(J, float), np.asarray(answer.derivative, float)
    if c.size == 0 or not np.all(np.isfinite([*c, *derivative, *J.ravel()])):
        return np.zeros(c.size)
    is_equation = np.arange(c.size) < domain.equalities
    away = np.where(is_equation, 0, np.maximum(-c, 0))
    matrices, slacks = [J.T], [np.minimum(np.linalg.norm(J, axis=1), away)]
    least = [np.where(is_equation, -np.inf, 0.0)]
    for bound, sign in ((domain.lower, -1.0), (domain.upper, 1.0)):
        if bound is not None:
            distance = np.abs(x - np.asarray(bound))
            near = distance <= NEAR * np.maximum(np.abs(x), 1)
            matrices.append(sign * np.eye(x.size)[:, near])
            slacks.append(distance[near])
            least.append(np.zeros(int(np.sum(near))))
    slack = np.diag(np.concatenate(slacks))
    matrix = np.concatenate([np.concatenate(matrices, axis=1), slack])
    right = np.concatenate([-derivative, np.zeros(len(slack))])
    bounds = (np.concatenate(least), np.full(matrix.shape[1], np.inf))
    from scipy.optimize import lsq_linear

    found = lsq_linear(matrix, right, bounds=bounds, method="bvls", tol=1e-15)
    return found.x[: c.size]
