"""The contest of the linear solvers, and our own over the number of parameters."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from benchmarks.answers import GRADIENT
from benchmarks.contest import Field, Say, fresh
from benchmarks.harness import Competitor, Plan, time_by_turns
from benchmarks.linear.cases import PROBLEMS, Case
from benchmarks.linear.reference import answers
from benchmarks.linear.solvers import SOLVERS, functions

ASSEMBLY = "assembly and its adjoint"
SWEEP_PARAMETERS = (1, 100, 10_000, 1_000_000)
SWEEP_PROBLEM = "convection-diffusion"


def field() -> Field:
    """All solvers take part in both problems."""
    return Field("linear", PROBLEMS, dict.fromkeys(PROBLEMS, SOLVERS), functions, answers)


def parameter_sweep(size: int, plan: Plan, say: Say) -> list[dict[str, Any]]:
    """Value and gradient by our sparse solvers from 1 to 1e6 parameters, and assembling alone.

    Assembling alone is A(p) and the adjoint of p -> A(p), with nothing solved.
    """
    generator = np.random.default_rng(0)
    rows = []
    competitors = []
    for parameters in SWEEP_PARAMETERS:
        case = PROBLEMS[SWEEP_PROBLEM](size, parameters)
        assembly = _compiled_assembly(case)
        for solver in (
            s for s in SOLVERS if s.ours and "SparseDirect" in s.name and not s.obstacle(case)
        ):
            p = case.draw(generator)
            gradient = jax.jit(functions(solver, case)[GRADIENT][0]).lower(p, p, ()).compile()
            calls: dict[str, Callable[[Array], Any]] = {
                GRADIENT: lambda p, gradient=gradient: jax.block_until_ready(gradient(p, p, ())),
                ASSEMBLY: assembly,
            }
            for call in calls.values():
                call(p)
            name = f"{solver.name}, P = {parameters}"
            competitors.append(Competitor(name, lambda case=case: fresh(case, generator), calls))
            rows.append({"n": case.n, "parameters": parameters, "solver": solver.name, "key": name})
    say(
        f"{SWEEP_PROBLEM}, n = {rows[0]['n']}, from {SWEEP_PARAMETERS[0]} to "
        f"{SWEEP_PARAMETERS[-1]} parameters"
    )
    seconds = time_by_turns(competitors, plan)
    for row in rows:
        row["seconds"] = seconds[row.pop("key")]
        medians = ", ".join(
            f"{measure} {np.median(times):.4g} s" for measure, times in row["seconds"].items()
        )
        say(f"  {row['solver']}, P = {row['parameters']}: {medians}")
    return rows


def _compiled_assembly(case: Case) -> Callable[[Array], Any]:
    def assemble(p: Array, a_bar: Array) -> Any:
        a, adjoint_of_assembly = jax.vjp(lambda p: case.matrix(p).values, p)
        return a, adjoint_of_assembly(a_bar)

    compiled = jax.jit(assemble)
    a_bar = jnp.asarray(np.random.default_rng(1).standard_normal(case.pattern.nnz))
    return lambda p: jax.block_until_ready(compiled(p, a_bar))
