"""The methods of a chain, one after the other: what each goes on from, and which result counts."""

from collections.abc import Callable
from functools import partial, reduce
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool

from adjoint.optimize.driver import Step, compiled, on_host
from adjoint.optimize.problem import Method
from adjoint.optimize.run import Begun, Limits, Run
from adjoint.optimize.state import Query
from adjoint.optimize.statement import Statement
from adjoint.optimize.stopping import STOPPING
from adjoint.run.checkpoint import Checkpoint
from adjoint.stats import HistoryTable
from adjoint.status import Status

# A method that has another one behind it gives up after so many steps, the first and the second: it
# may be crawling where the other one runs.
PATIENCE = (100, 300)
# The same with constraints, where the first method learns second derivatives in as many steps as
# there are unknowns.
PATIENCE_WITHIN_CONSTRAINTS = (300, 100)


class Stage(NamedTuple):
    """How one method of a chain ended.

    Attributes
    ----------
    x, stats, code
        Its result.
    final
        Whether no other method could do better.
    begun
        What the next one measures its progress by.
    """

    x: Array
    stats: dict[str, Any]
    code: Array
    final: Bool[Array, ""]
    begun: Begun | None


def counts_more(later: Stage, earlier: Stage) -> Bool[Array, ""]:
    """Whether the result of a stage is better than that of the one before, which was not final.

    A success that second derivatives were to confirm stands, where these lead no further.
    """
    value = earlier.stats["value"]
    lower = later.stats["value"] < value - STOPPING.settled * jnp.abs(value)
    telling = (
        Status.SUCCESS,
        Status.UNTRUSTED_GRADIENT,
        Status.UNBOUNDED,
        Status.NONFINITE_OBJECTIVE,
    )
    told = reduce(jnp.logical_or, [later.code == status.code for status in telling])
    return (earlier.code != Status.SUCCESS.code) | lower | told


def _left(limits: Limits, spent: Any, number: int, methods: tuple[Method, ...]) -> Limits:
    """The limits of a stage."""
    is_last = number + 1 == len(methods)
    within_constraints = "inequality" in methods[number].handles
    patience = PATIENCE_WITHIN_CONSTRAINTS if within_constraints else PATIENCE
    steps = limits.max_steps if is_last else jnp.minimum(limits.max_steps, patience[number])
    return limits._replace(max_steps=steps, max_evaluations=limits.max_evaluations - spent)


def compiled_stages(
    statement: Statement, methods: tuple[Method, ...], limits: Limits
) -> list[Stage]:
    stages: list[Stage] = []
    x = statement.x
    done = jnp.zeros((), bool)
    spent = jnp.zeros((), jnp.int32)
    begun = None
    for number, method in enumerate(methods):
        left = _left(limits, spent, number, methods)
        stage = _stage(
            compiled(statement.objective, method, x, statement.domain, left, done, begun),
            _knows_less(method, methods[number + 1 :]),
        )
        stages.append(stage)
        begun = stage.begun
        x = stage.x
        done = done | stage.final
        spent = spent + stage.stats["evaluations"]
    return stages


def host_stages(
    statement: Statement,
    methods: tuple[Method, ...],
    limits: Limits,
    max_seconds: float | None,
    callback: Callable[[Step], object] | None,
    checkpoint: Checkpoint | None,
) -> tuple[list[Stage], HistoryTable]:
    stages: list[Stage] = []
    rows: list[dict[str, float]] = []
    x = statement.x
    spent = 0
    for number, method in enumerate(methods):
        left = _left(limits, spent, number, methods)
        begun = stages[-1].begun if stages else None
        run = on_host(
            statement.objective,
            method,
            x,
            statement.domain,
            left,
            max_seconds,
            callback,
            rows,
            checkpoint,
            stage=number,
            begun=begun,
        )
        stages.append(_stage(run, _knows_less(method, methods[number + 1 :])))
        x = stages[-1].x
        spent = spent + int(stages[-1].stats["evaluations"])
        if bool(stages[-1].final):
            break
    return stages, HistoryTable(
        (name, np.array([row[name] for row in rows])) for name in (rows[0] if rows else ())
    )


def _knows_less(method: Method, later: tuple[Method, ...]) -> bool:
    """Whether methods behind it know second derivatives, and this one does not.

    Slopes tell a plateau from a minimum as little as a saddle.
    """
    return Query.HESSIAN not in method.queries and any(
        Query.HESSIAN in other.queries for other in later
    )


def _final(code: Array, to_confirm: bool) -> Array:
    """Whether a stage has ended so that no other method could do better."""
    retry = (Status.STALLED, Status.NOT_CONVERGED, Status.INFEASIBLE)
    retry += (Status.SUCCESS,) if to_confirm else ()
    return ~reduce(jnp.logical_or, [code == status.code for status in retry])


@partial(jax.jit, static_argnames="to_confirm")
def _stage(run: Run, to_confirm: bool) -> Stage:
    finished = run.code == Status.SUCCESS.code
    unit = run.unit_of_f
    stats = {
        "value": unit * jnp.where(finished, run.state.at.value, run.best.value),
        "stationarity": unit * jnp.where(finished, run.measure.stationarity, run.best.stationarity),
        "violation": jnp.where(finished, run.measure.violation, run.best.violation),
        "iterations": run.state.iterations,
        "evaluations": run.counts[0],
        "hessians": run.counts[1],
        "products": run.counts[2],
        "noise": unit * run.seen_noise,
    }
    if run.state.multipliers is not None:
        multipliers = jnp.where(finished, run.state.multipliers.values, run.best.multipliers)
        stats["multipliers"] = unit * multipliers
    return Stage(
        jnp.where(finished, run.state.at.x, run.best.x),
        stats,
        run.code,
        _final(run.code, to_confirm),
        _carried(run),
    )


def _carried(run: Run) -> Begun | None:
    """The next method's measure of progress, unless both merits differ by what constraints add."""
    if run.state.multipliers is not None:
        return None
    return Begun(run.unit, run.first_measure, run.reach, run.sizes, run.value_at_size)
