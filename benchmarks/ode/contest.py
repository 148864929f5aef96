"""One initial value problem, all solvers: who is right, how long they take, what they need.

Also errors over time by tolerance.
"""

import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jaxtyping import Array

from benchmarks.answers import GRADIENT, VALUE, Answers, relative_error
from benchmarks.contest import Compiled, Field, Row, Say, fresh, summary
from benchmarks.harness import Competitor, Plan, time_by_turns
from benchmarks.ode.cases import PROBLEMS, Case
from benchmarks.ode.reference import Right, answers, gradient_error
from benchmarks.ode.solvers import (
    CASADI,
    DIFFRAX_DEFAULT,
    ODEINT,
    OUR_DEFAULT,
    SOLVERS,
    Solver,
    functions,
)
from benchmarks.trial import try_out

COMPILE = "compilation of value and gradient"
# A relative error above which a gradient is called wrong; tolerances of 1e-6 leave at most 1e-3
# here.
WRONG_ABOVE = 1e-2
# Value and gradient take less than this many times the value, or are skipped where that would be
# too long.
NEXT_MEASURE = 4.0
# Of the two that are compared for it, a compilation is measured so often; of the others once.
COMPILED_BY_TURNS = (OUR_DEFAULT, DIFFRAX_DEFAULT)
# Errors over time, by tolerance.
CURVES = (OUR_DEFAULT, DIFFRAX_DEFAULT, ODEINT, CASADI)


def field() -> Field:
    """Each takes part in the problems that it is meant for; there is one size of each."""
    entrants = {
        problem: [solver for solver in SOLVERS if problem in solver.problems]
        for problem in PROBLEMS
    }
    problems: dict[str, Callable[[int], Case]] = {
        name: lambda _, make=make: make() for name, make in PROBLEMS.items()
    }
    return Field("ode", problems, entrants, functions, _no_products)


def _no_products(case: Case, factors: Array, _: Array) -> Answers:
    value, gradient = answers(case, factors)
    return Answers(value, gradient, np.full_like(gradient, np.nan))


def contest(
    case: Case, solvers: list[Solver], plan: Plan, compilations: int, say: Say
) -> list[Row]:
    """All solvers on one problem, checked first and then timed by turns."""
    generator = np.random.default_rng(0)
    factors = case.draw(generator)
    say(f"{case.problem}, {case.n} states, {case.parameters} parameters, rtol = {case.rtol:g}")
    expected = answers(case, factors)
    rows = []
    competitors = []
    for solver in solvers:
        row = Row(case.problem, case.n, case.parameters, solver.name, solver.ours)
        programs = _admit(solver, case, plan, row)
        remaining = _examine(row, case, programs, factors, expected, plan.limit)
        if remaining:
            calls = {name: _call(program, factors) for name, program in remaining.items()}
            competitors.append(Competitor(solver.name, lambda: fresh(case, generator), calls))
        if row.outcome != "measured":
            say(f"  {solver.name}: {row.outcome}: {row.reason}")
        rows.append(row)
    of_solver = {row.solver: row for row in rows}
    for name, seconds in time_by_turns(competitors, plan).items():
        of_solver[name].seconds |= seconds
        medians = ", ".join(
            f"{measure} {np.median(times):.4g} s" for measure, times in seconds.items()
        )
        say(f"  {name}: {medians}, error {of_solver[name].errors.get(GRADIENT, np.nan):.1e}")
    compared = [
        solver
        for solver in solvers
        if solver.name in COMPILED_BY_TURNS and GRADIENT in of_solver[solver.name].seconds
    ]
    if compilations and len(compared) == len(COMPILED_BY_TURNS):
        for name, seconds in compile_by_turns(case, compared, compilations).items():
            of_solver[name].seconds |= seconds
    return rows


def _admit(solver: Solver, case: Case, plan: Plan, row: Row) -> dict[str, Compiled]:
    """The compiled functions of a solver that takes part; else none, and the reason in the row."""
    reason = solver.obstacle(case)
    if reason:
        row.end("skipped", reason)
        return {}
    if case.n >= plan.own_process_from:
        # Beside the call: starting, building the case and compiling.
        trial = try_out("ode", case.problem, case.n, solver.name, 60.0 + plan.limit)
        row.peak_bytes = trial.peak_bytes
        if trial.failure:
            row.end("skipped", trial.failure)
            return {}
    programs: dict[str, Compiled] = {}
    try:
        functions = solver.functions(case)
        # What is told is the time of the gradient; the value may know from it what it likes.
        jax.clear_caches()
        for measure in (GRADIENT, VALUE):
            programs[measure], row.compile_seconds[measure] = _compile(functions[measure][0], case)
    except Exception as error:
        # A peer may fail in any way; that it does is a result.
        row.end("failed", summary(error))
        return {}
    return {measure: programs[measure] for measure in (VALUE, GRADIENT)}


def _compile(function: Any, case: Case) -> tuple[Compiled, float]:
    """Compiled for factors of this case, and how long that took."""
    factors = jax.ShapeDtypeStruct((case.parameters,), float)
    start = time.perf_counter()
    program = jax.jit(function).lower(factors, factors, ()).compile()
    return lambda p, v: program(p, v, ()), time.perf_counter() - start


def compile_by_turns(
    case: Case, solvers: list[Solver], compilations: int
) -> dict[str, dict[str, list[float]]]:
    """Seconds of compiling value and gradient, so often each, with nothing known from before."""

    def compile_anew(solver: Solver) -> Competitor:
        ready = solver.functions(case)[GRADIENT][0]
        return Competitor(solver.name, jax.clear_caches, {COMPILE: lambda _: _compile(ready, case)})

    plan = Plan((), 0.0, np.inf, (compilations, compilations), np.inf)
    return time_by_turns([compile_anew(solver) for solver in solvers], plan)


def _examine(
    row: Row,
    case: Case,
    programs: dict[str, Compiled],
    factors: Array,
    expected: Right,
    limit: float,
) -> dict[str, Compiled]:
    """Run each once and note its error; those to be timed remain, wrong ones among them."""
    remaining: dict[str, Compiled] = {}
    for measure, program in programs.items():
        if remaining and NEXT_MEASURE * row.first_seconds[VALUE] > limit:
            row.unsupported[measure] = f"expected to take more than the limit of {limit:.0f} s"
            continue
        start = time.perf_counter()
        try:
            found = jax.block_until_ready(program(factors, factors))
        except Exception as error:
            row.end("failed", f"{measure}: {summary(error)}")
            return {}
        row.first_seconds[measure] = time.perf_counter() - start
        if measure == VALUE:
            row.errors[VALUE] = relative_error(np.asarray(found), np.asarray(expected.value))
        else:
            row.errors[GRADIENT] = gradient_error(case, found[1], expected.gradient)
        if row.first_seconds[measure] <= limit:
            remaining[measure] = program
        else:
            row.unsupported[measure] = (
                f"took {row.first_seconds[measure]:.0f} s, more than the limit of {limit:.0f} s"
            )
    _judge(row)
    return {} if row.outcome == "failed" else remaining


def _judge(row: Row) -> None:
    wrong = {measure: error for measure, error in row.errors.items() if not error <= WRONG_ABOVE}
    if any(np.isinf(error) for error in wrong.values()):
        row.end("failed", f"NaN or Inf in the {' and the '.join(wrong)}")
    elif wrong:
        row.end(
            "WRONG",
            "relative error "
            + ", ".join(f"{error:.1e} in the {name}" for name, error in wrong.items()),
        )


def _call(program: Compiled, factors: Array) -> Callable[[Array], Any]:
    return lambda p: jax.block_until_ready(program(p, factors))


def precision_sweep(
    problem: str, tolerances: tuple[float, ...], plan: Plan, say: Say
) -> list[dict[str, Any]]:
    """Time and error of the gradient by tolerance, for this library and one solver of each peer."""
    case = PROBLEMS[problem]()
    generator = np.random.default_rng(0)
    factors = case.draw(generator)
    expected = answers(case, factors)
    say(f"{problem}, errors over time for rtol = {tolerances[0]:g} to {tolerances[-1]:g}")
    points = []
    competitors = []
    for solver in SOLVERS:
        if solver.name not in CURVES or problem not in solver.problems or solver.obstacle(case):
            continue
        for rtol in tolerances:
            point = {"problem": problem, "solver": solver.name, "ours": solver.ours, "rtol": rtol}
            at_rtol = case.with_rtol(rtol)
            try:
                program, _ = _compile(solver.functions(at_rtol)[GRADIENT][0], at_rtol)
                found = jax.block_until_ready(program(factors, factors))
            except Exception as error:
                say(f"  {solver.name}, rtol = {rtol:g}: failed: {summary(error)}")
                continue
            point["error"] = gradient_error(case, found[1], expected.gradient)
            name = f"{solver.name}, rtol = {rtol:g}"
            competitors.append(
                Competitor(
                    name, lambda: fresh(case, generator), {GRADIENT: _call(program, factors)}
                )
            )
            points.append(point)
    times = time_by_turns(competitors, plan)
    for point, (name, seconds) in zip(points, times.items(), strict=True):
        point["seconds"] = seconds[GRADIENT]
        say(f"  {name}: {np.median(seconds[GRADIENT]):.4g} s, error {point['error']:.1e}")
    return points
