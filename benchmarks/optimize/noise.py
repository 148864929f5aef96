"""Objectives with noise of 1e-6 in f and none in f': who notices, who burns all evaluations.

After how many evaluations it is noticed counts, too.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from benchmarks.optimize.cases import Case
from benchmarks.optimize.solvers import Functions, Limits, Solver

NOISE = 1e-6
# A run that ends within this of the minimum has done what the noise allows.
REACHED = 10 * NOISE
# Sums of squares that vanish somewhere, so that the minimum is known to be 0.
ZERO_AT_MINIMUM = ("ROSENBR", "BEALE", "HELIX", "HILBERTB", "CHNROSNB")
# x changed by about the inverse of this changes the noise altogether.
FINENESS = 1e9


def noisy(case: Case, seed: int) -> Case:
    """The case with f + 1e-6 sin(1e9 w . x), w seeded.

    It is the same at the same x, and noise for everyone who steps.
    """
    weights = np.random.default_rng(seed).normal(size=case.n)

    def objective(x: Array) -> Array:
        return case.objective(x) + NOISE * jnp.sin(FINENESS * jax.lax.stop_gradient(weights @ x))

    return Case(case.name, objective, case.start)


def noise_runs(
    chosen: Sequence[Case], solvers: Sequence[Solver], limits: Limits
) -> list[dict[str, Any]]:
    """Of each case and solver: evaluations, the claim, the end above the minimum, noise aside."""
    found = []
    for case in chosen:
        # A case like any other to the solvers: they are told neither of the noise nor how large it
        # is.
        disturbed = noisy(case, seed=0)
        functions = Functions(disturbed)
        for solver in solvers:
            attempt = solver.prepare(disturbed, functions, limits)
            # The first call compiles, which the time limit must not see.
            _ = attempt()
            outcome = attempt()
            gap = float(case.objective(jnp.asarray(outcome.x)))
            found.append(
                {
                    "problem": case.name,
                    "n": case.n,
                    "solver": solver.name,
                    "evaluations": outcome.evaluations,
                    "claims": outcome.claims,
                    "status": outcome.status,
                    "gap": gap,
                    "reached": gap <= REACHED,
                }
            )
    return found
