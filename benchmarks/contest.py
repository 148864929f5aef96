"""One system, all competitors: who can do it, who is right, how long it takes."""

import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol

import jax
import numpy as np
from jaxtyping import Array

import adjoint
from benchmarks.answers import AGREEMENT, GRADIENT, PRODUCT, VALUE, Answers, relative_error
from benchmarks.harness import Competitor, Plan, time_by_turns
from benchmarks.trial import try_out

Say = Callable[[str], None]

# A Hessian-vector product or a gradient takes less than this many times what comes before it.
NEXT_MEASURE = 2.5

Function = Callable[[Array, Array, Any], Any]
Compiled = Callable[[Array, Array], Any]


class Case(Protocol):
    """One system, by the name of its problem."""

    @property
    def problem(self) -> str: ...
    @property
    def n(self) -> int: ...
    @property
    def parameters(self) -> int: ...
    def draw(self, generator: np.random.Generator) -> Array: ...


class Entrant(Protocol):
    """A solver that competes.

    It has what hinders it, what it makes once for a case, and that its time grows like n**growth.
    """

    @property
    def name(self) -> str: ...
    @property
    def ours(self) -> bool: ...
    @property
    def growth(self) -> float: ...
    def obstacle(self, case: Any, /) -> str | None: ...
    def constants(self, case: Any, /) -> Any: ...


@dataclass(frozen=True)
class Field:
    """Everything of a benchmark that `contest` needs.

    Attributes
    ----------
    benchmark
        Its name; a process of its own calls ``field()`` of ``benchmarks.NAME.contest`` for the
        same.
    problems
        A case of about n unknowns, by name.
    entrants
        The competitors, by problem.
    functions
        What is timed of a competitor in a case: functions of (p, v, constants), the first that JAX
        supports.
    answers
        The right answers of a case at p along v.
    """

    benchmark: str
    problems: Mapping[str, Callable[[int], Any]]
    entrants: Mapping[str, Sequence[Any]]
    functions: Callable[[Any, Any], dict[str, tuple[Function, ...]]]
    answers: Callable[[Any, Array, Array], Answers]


@dataclass
class Row:
    """What was found out about one solver in one case; times in seconds, one per repetition."""

    problem: str
    n: int
    parameters: int
    solver: str
    ours: bool
    outcome: str = "measured"
    reason: str = ""
    unsupported: dict[str, str] = field(default_factory=dict)
    errors: dict[str, float] = field(default_factory=dict)
    compile_seconds: dict[str, float] = field(default_factory=dict)
    first_seconds: dict[str, float] = field(default_factory=dict)
    seconds: dict[str, list[float]] = field(default_factory=dict)
    peak_bytes: int | None = None

    def end(self, outcome: str, reason: str) -> None:
        """Note how it ended, when not with a measurement."""
        self.outcome = outcome
        self.reason = reason


def contest(
    field: Field, problem: str, size: int, plan: Plan, earlier: list[Row], say: Say
) -> list[Row]:
    """All solvers on one system, checked first and then timed by turns."""
    case: Case = field.problems[problem](size)
    generator = np.random.default_rng(0)
    p = case.draw(generator)
    v = case.draw(generator)
    say(f"{problem}, n = {case.n}, {case.parameters} parameters")
    expected = field.answers(case, p, v)
    rows = []
    competitors = []
    for solver in field.entrants[problem]:
        row = Row(problem, case.n, case.parameters, solver.name, solver.ours)
        measures = _admit(field, solver, case, size, plan, row, earlier)
        if measures:
            measures = _examine(row, measures, p, v, expected, plan.limit)
        if row.outcome == "measured":
            calls = {name: _call(compiled, v) for name, compiled in measures.items()}
            competitors.append(Competitor(solver.name, lambda: fresh(case, generator), calls))
        else:
            say(f"  {solver.name}: {row.outcome}: {row.reason}")
        rows.append(row)
    for name, seconds in time_by_turns(competitors, plan).items():
        (row,) = (row for row in rows if row.solver == name)
        row.seconds = seconds
        medians = ", ".join(
            f"{measure} {np.median(times):.4g} s" for measure, times in seconds.items()
        )
        say(f"  {name}: {medians}")
    return rows


def _admit(
    field: Field, solver: Entrant, case: Case, size: int, plan: Plan, row: Row, earlier: list[Row]
) -> dict[str, Compiled]:
    """The compiled functions of a solver that takes part; else none, and the reason in the row."""
    reason = solver.obstacle(case) or _too_slow(solver, case, plan.limit, earlier)
    if reason:
        row.end("skipped", reason)
        return {}
    if case.n >= plan.own_process_from:
        # Beside the call: starting, building the case and compiling, in which some peers take long.
        trial = try_out(field.benchmark, case.problem, size, solver.name, 60.0 + plan.limit)
        row.peak_bytes = trial.peak_bytes
        if trial.failure:
            row.end("skipped", trial.failure)
            return {}
    compiled = _compile(field, solver, case, row)
    first = next(iter(field.functions(solver, case)))
    if first not in compiled:
        row.end("failed", row.unsupported[first])
        return {}
    return compiled


def _too_slow(solver: Entrant, case: Case, limit: float, earlier: list[Row]) -> str | None:
    before = [
        r for r in earlier if (r.problem, r.solver) == (case.problem, solver.name) and r.n < case.n
    ]
    if not before:
        return None
    last = max(before, key=lambda row: row.n)
    times = last.seconds.get(GRADIENT) or last.seconds.get(VALUE)
    if not times:
        return f"{last.outcome} at n = {last.n} already"
    known = float(np.median(times))
    expected = known * (case.n / last.n) ** solver.growth
    if expected <= limit:
        return None
    return (
        f"about {expected:.0f} s expected, from {known:.3g} s at n = {last.n}; the limit is "
        f"{limit:.0f} s"
    )


def _compile(field: Field, solver: Entrant, case: Case, row: Row) -> dict[str, Compiled]:
    constants = solver.constants(case)
    p = jax.ShapeDtypeStruct((case.parameters,), float)
    compiled: dict[str, Compiled] = {}
    for measure, variants in field.functions(solver, case).items():
        start = time.perf_counter()
        try:
            program = _first_supported(variants, p, constants)
        except Exception as error:
            # A peer may fail in any way; that it does is a result.
            row.unsupported[measure] = summary(error)
            continue
        row.compile_seconds[measure] = time.perf_counter() - start
        compiled[measure] = lambda p, v, program=program: program(p, v, constants)
    return compiled


def _first_supported(variants: tuple[Function, ...], p: Any, constants: Any) -> Any:
    for variant in variants[:-1]:
        try:
            return jax.jit(variant).lower(p, p, constants).compile()
        except (NotImplementedError, TypeError):
            # By a TypeError JAX refuses forward mode through a custom_vjp.
            continue
    return jax.jit(variants[-1]).lower(p, p, constants).compile()


def _examine(
    row: Row, measures: Mapping[str, Compiled], p: Array, v: Array, expected: Answers, limit: float
) -> dict[str, Compiled]:
    """Run each measure once, compare with the right answers, and keep the right and fast ones."""
    right = {
        VALUE: (expected.value,),
        GRADIENT: (expected.value, expected.gradient),
        PRODUCT: (expected.hessian_vector_product,),
    }
    remaining: dict[str, Compiled] = {}
    for measure, compiled in measures.items():
        if remaining and NEXT_MEASURE * max(row.first_seconds.values()) > limit:
            row.unsupported[measure] = f"expected to take more than the limit of {limit:.0f} s"
            continue
        try:
            found, seconds = _first_call(compiled, p, v)
            if not remaining and seconds < limit < NEXT_MEASURE * seconds:
                # Once more: the very first call may have loaded a library or analyzed the pattern.
                found, seconds = _first_call(compiled, p, v)
        except Exception as error:
            row.end("failed", f"{measure}: {summary(error)}")
            return {}
        row.first_seconds[measure] = seconds
        found = found if isinstance(found, tuple) else (found,)
        errors = [
            relative_error(np.asarray(f), np.asarray(e))
            for f, e in zip(found, right[measure], strict=True)
        ]
        row.errors[measure] = max(errors)
        remaining[measure] = compiled
    wrong = {measure: error for measure, error in row.errors.items() if not error <= AGREEMENT}
    if any(np.isinf(error) for error in wrong.values()):
        row.end("failed", f"NaN or Inf in the {' and the '.join(wrong)}")
    elif wrong:
        row.end(
            "WRONG",
            "relative error "
            + ", ".join(f"{error:.1e} in the {name}" for name, error in wrong.items()),
        )
    return remaining


def _first_call(compiled: Compiled, p: Array, v: Array) -> tuple[Any, float]:
    adjoint.factor_cache.clear()
    start = time.perf_counter()
    found = jax.block_until_ready(compiled(p, v))
    return found, time.perf_counter() - start


def _call(compiled: Compiled, v: Array) -> Callable[[Array], Any]:
    return lambda p: jax.block_until_ready(compiled(p, v))


def fresh(case: Case, generator: np.random.Generator) -> Array:
    """New parameters, and no factors kept of earlier ones."""
    # What is left of earlier matrices would have to be freed within the next measured call,
    # whosever it is.
    adjoint.factor_cache.clear()
    return jax.block_until_ready(case.draw(generator))


def summary(error: BaseException) -> str:
    """The message of an error in one line: of a failed callback, the innermost."""
    inner = re.findall(r"^[\w.]*(?:Error|Exception): (.+)$", str(error), re.MULTILINE)
    lines = [line for line in str(error).splitlines() if line.strip()] or [""]
    return f"{type(error).__name__}: {(inner[-1] if inner else lines[0])[:200]}"


def as_record(rows: list[Row]) -> list[dict[str, Any]]:
    """The rows as plain data for JSON."""
    return [asdict(row) for row in rows]
