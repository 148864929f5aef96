"""Gradients of solvers at the cost of one more solve."""

from adjoint.solution import Solution, SolveError, Status, require

__all__ = ["Solution", "SolveError", "Status", "require"]
