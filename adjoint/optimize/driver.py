"""The one loop that runs every method, on the host or compiled.

On the host, anything can be called, watched and saved. Both ask `Run.query` at `Run.point` of the
objective and hand the evaluation to `proceed` or `check_derivative`, so they take the same steps.
"""

import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from typing import Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, PyTree

from adjoint.optimize.continuation import Continuation, History
from adjoint.optimize.objective import Objective
from adjoint.optimize.problem import Domain, Method
from adjoint.optimize.progress import check_derivative, proceed
from adjoint.optimize.run import Begun, Limits, Run, start
from adjoint.optimize.state import Evaluation, Query
from adjoint.optimize.stopping import RUNNING
from adjoint.run.checkpoint import Checkpoint
from adjoint.run.interruption import Interruption
from adjoint.status import Status
from adjoint.tracing import loops
from adjoint.tracing.quick_compile import SMALL, quick_to_compile

Transition = Callable[[Method, Run, Evaluation, Domain, Limits], Run]


@dataclass(frozen=True)
class Step:
    """One step of a run, as `callback` and the history see it.

    Attributes
    ----------
    x
        The iterate, structured like x0.
    iteration
        Its number; 0 is the start.
    value
        f(x).
    stationarity
        Dual norm of the projected derivative (of the Lagrangian, with constraints), in units of f
        per unit of x.
    violation
        Largest violation of a constraint, in its unit.
    length
        Norm of the step that led to it, in the inner product of the run.
    evaluations, hessians, products
        How often f with f', f'' and f'' v have been asked for so far.
    seconds
        Since the start.

    Examples
    --------
    >>> import jax.numpy as jnp, adjoint
    >>> seen = []
    >>> _ = adjoint.minimize(
    ...     lambda x: jnp.sum(x**2), jnp.ones(2), adjoint.BFGS(), callback=seen.append
    ... )
    >>> [(step.iteration, round(step.value, 3)) for step in seen][0]
    (0, 2.0)
    """

    x: PyTree
    iteration: int
    value: float
    stationarity: float
    violation: float
    length: float
    evaluations: int
    hessians: int
    products: int
    seconds: float

    def numbers(self) -> dict[str, float]:
        """Everything but x, by name: a row of the history."""
        return {name: getattr(self, name) for name in self.__dataclass_fields__ if name != "x"}


# Two programs, so that what a method does is compiled once for all objectives of a size. On the
# host it is known what is asked, and what comes next: most runs never need, and never compile,
# `check_derivative`.
@partial(jax.jit, static_argnames=("objective", "method", "query"))
def ask(objective: Objective, method: Method, query: Query, run: Run) -> Evaluation:
    """The evaluation that the run asks for."""
    return objective.answer_to(query, method, run)


def advance(
    transition: Transition,
    method: Method,
    run: Run,
    evaluation: Evaluation,
    domain: Domain,
    limits: Limits,
) -> Run:
    """The run after the evaluation, by `proceed` or `check_derivative`, whose turn it is."""
    return _programs(run.state.point.size**2 <= SMALL)(
        transition, method, run, evaluation, domain, limits
    )


@cache
def _programs(few: bool) -> Callable[..., Run]:
    """`advance`, compiled."""
    return jax.jit(
        lambda transition, *rest: transition(*rest),
        static_argnums=(0, 1),
        compiler_options=quick_to_compile() if few else None,
    )


@partial(jax.jit, static_argnames=("method", "constraints"))
def begin(
    method: Method, x: Array, domain: Domain, constraints: int, begun: Begun | None = None
) -> Run:
    """A run before the first evaluation."""
    return start(method, x, domain, constraints, begun)


def compiled(
    objective: Objective,
    method: Method,
    x: Float[Array, " n"],
    domain: Domain,
    limits: Limits,
    done: Bool[Array, ""],
    begun: Begun | None = None,
) -> Run:
    """The whole run in a compiled function, for `jit` and `vmap`; no step where it is done."""
    run = start(method, x, domain, objective.constraint_count(x), begun)
    run = run._replace(code=jnp.where(done, Status.SUCCESS.code, run.code).astype(jnp.int32))

    def loop(transition: Transition, checking: bool, run: Run) -> Run:
        return loops.while_loop(
            lambda run: (run.code == RUNNING) & (run.derivative_check.active == checking),
            lambda run: transition(method, run, objective.evaluation(method, run), domain, limits),
            run,
        )

    # Two loops inside one, so that under vmap a check costs nothing while no run needs one.
    return loops.while_loop(
        lambda run: run.code == RUNNING,
        lambda run: loop(check_derivative, True, loop(proceed, False, run)),
        run,
    )


def on_host(
    objective: Objective,
    method: Method,
    x: Float[Array, " n"],
    domain: Domain,
    limits: Limits,
    max_seconds: float | None,
    callback: Callable[[Step], object] | None,
    history: History,
    checkpoint: Checkpoint | None = None,
    stage: int = 0,
    begun: Begun | None = None,
) -> Run:
    """The run one evaluation at a time, or the rest of the one in the checkpoint.

    `history` is filled; what it holds already belongs to the stages before this one, and so do its
    seconds. `callback` sees every step and answers whether to stop.
    """
    files = (
        None
        if checkpoint is None
        else Continuation(checkpoint, stage, objective, method, x, domain, limits)
    )
    begins = partial(begin, method, x, domain, objective.constraint_count(x), begun)
    saved = None if files is None else files.load(jax.eval_shape(begins))
    if saved is None:
        run = begins()
        seen = -1
        seconds = history[-1]["seconds"] if history else 0.0
    else:
        run, history[:], seconds = saved
        seen = int(run.state.iterations)
    watch = Watch(domain, max_seconds, callback, history, files, time.monotonic() - seconds, seen)
    empty = objective.empty(method, x) if objective.gradient is not None else None
    signals = () if callback is None and files is None else (signal.SIGINT, signal.SIGTERM)
    stop = watch.out_of_time()
    with Interruption(signals) as interruption, interruption.deferred():
        while int(run.code) == RUNNING and stop is None:
            transition = check_derivative if run.derivative_check.active else proceed
            if empty is None:
                evaluation = ask(objective, method, Query(int(run.query)), run)
            else:
                evaluation = objective.on_host(run.point, empty)
            run = advance(transition, method, run, evaluation, domain, limits)
            stop = watch.look(run, interruption)
    stop = Status.INTERRUPTED if interruption.requested else stop
    # A failure after a wish to stop must not lead to another attempt; the checkpoint tells of it.
    stopped = int(run.code) == RUNNING or (stop is Status.INTERRUPTED and not Status(run.code).ok)
    return run if stop is None or not stopped else run._replace(code=jnp.asarray(stop.code))


class Files(Protocol):
    """Where a run is saved, and every how many steps."""

    every: int

    def save(self, run: Run, history: History, seconds: float) -> None: ...


@dataclass
class Watch:
    """What follows each evaluation: note, show, save a new step; whether to stop, and why."""

    domain: Domain
    max_seconds: float | None
    callback: Callable[[Step], object] | None
    history: History
    files: Files | None
    began: float
    seen: int

    def look(self, run: Run, interruption: Interruption) -> Status | None:
        code, iterations = (int(v) for v in jax.device_get((run.code, run.state.iterations)))
        moved = iterations > self.seen
        wish = False
        if moved:
            self.seen = iterations
            step = _step(run, self.domain, time.monotonic() - self.began)
            self.history.append(step.numbers())
            wish = self.callback is not None and bool(self.callback(step))
        stop = Status.INTERRUPTED if wish or interruption.requested else self.out_of_time()
        if self.files is not None:
            due = moved and iterations % self.files.every == 0
            if due or stop is not None or code != RUNNING:
                self.files.save(run, self.history, time.monotonic() - self.began)
        return stop

    def out_of_time(self) -> Status | None:
        late = self.max_seconds is not None and time.monotonic() - self.began > self.max_seconds
        return Status.TIME_LIMIT if late else None


@jax.jit
def _distance(domain: Domain, x: Array, y: Array) -> Array:
    return domain.norm(x - y)


def _step(run: Run, domain: Domain, seconds: float) -> Step:
    x, previous, value, measure, counts, unit = jax.device_get(
        (run.state.at.x, run.previous.x, run.state.at.value, run.measure, run.counts, run.unit)
    )
    return Step(
        x=jax.tree.map(np.asarray, domain.unravel(x)),
        iteration=int(run.state.iterations),
        value=float(unit * value),
        stationarity=float(unit * measure.stationarity),
        violation=float(measure.violation),
        length=float(_distance(domain, x, previous)),
        evaluations=int(counts[0]),
        hessians=int(counts[1]),
        products=int(counts[2]),
        seconds=seconds,
    )
