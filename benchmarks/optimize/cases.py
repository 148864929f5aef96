"""The problems: CUTEst's unconstrained ones, as the package sif2jax writes them in JAX.

Source: N. I. M. Gould, D. Orban, Ph. L. Toint, CUTEst: a constrained and unconstrained testing
environment with safe threads, Comput. Optim. Appl. 60 (2015). Its expected results are not used, as
some are wrong: `benchmarks.optimize.verdicts` has the rule.
"""

import importlib
import importlib.util
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from types import ModuleType
from typing import Any

import numpy as np
from jaxtyping import Array, Float

PACKAGE = "sif2jax"
FOLDER = f"{PACKAGE}.cutest._unconstrained_minimisation"
LARGEST = 100


@dataclass(frozen=True)
class Case:
    """Minimize `objective` from `start`.

    Attributes
    ----------
    name
        As in CUTEst.
    objective
        f, in JAX.
    start
        x0, shape (n,).
    """

    name: str
    objective: Callable[[Any], Any]
    start: Float[np.ndarray, " n"]

    @property
    def n(self) -> int:
        """The number of unknowns."""
        return self.start.size


@cache
def cases() -> dict[str, Case]:
    """All problems of at most `LARGEST` unknowns by name, the small ones first."""
    with _without_the_rest():
        collection = importlib.import_module(FOLDER).unconstrained_minimisation_problems
    found = [_case(problem) for problem in collection if np.size(problem.y0) <= LARGEST]
    return {case.name: case for case in sorted(found, key=lambda case: (case.n, case.name))}


def _case(problem: Any) -> Case:
    def objective(x: Array) -> Array:
        return problem.objective(x, problem.args)

    return Case(problem.name, objective, np.asarray(problem.y0, float))


@contextmanager
def _without_the_rest() -> Iterator[None]:
    """The packages above the folder, as empty ones: they would import a thousand other problems."""
    if PACKAGE in sys.modules:
        yield
        return
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None or spec.submodule_search_locations is None:
        raise ModuleNotFoundError(
            f"the problems are in the package {PACKAGE}: pip install adjoint[peers]"
        )
    root = spec.submodule_search_locations[0]
    empty = {name: ModuleType(name) for name in (PACKAGE, f"{PACKAGE}.cutest")}
    for name, module in empty.items():
        module.__path__ = [root + name.removeprefix(PACKAGE).replace(".", "/")]
    sys.modules.update(empty)
    try:
        yield
    finally:
        for name in empty:
            del sys.modules[name]


def rosenbrock(x: Float[Array, " n"]) -> Float[Array, ""]:
    """The chained Rosenbrock function, with its minimum 0 at (1, ..., 1)."""
    return (100 * (x[1:] - x[:-1] ** 2) ** 2 + (1 - x[:-1]) ** 2).sum()
