"""The contest of the root finders."""

from benchmarks.contest import Field
from benchmarks.implicit.cases import PROBLEMS
from benchmarks.implicit.reference import answers
from benchmarks.implicit.solvers import SOLVERS, functions


def field() -> Field:
    """Each takes part in the problems that it is meant for."""
    entrants = {
        problem: [finder for finder in SOLVERS if problem in finder.problems]
        for problem in PROBLEMS
    }
    return Field("implicit", PROBLEMS, entrants, functions, answers)
