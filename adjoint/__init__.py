"""Gradients of solvers at the cost of one more solve."""

from adjoint.linear.dense import LU, Cholesky
from adjoint.linear.factor_cache import factor_cache
from adjoint.linear.host_call import count_solves
from adjoint.linear.iterative import CG, GMRES, MINRES
from adjoint.linear.operators import MatrixFree, Sparse, SparsePattern
from adjoint.linear.solve import factorize, linear_solve
from adjoint.linear.sparse import SparseDirect
from adjoint.second_order import hvp
from adjoint.solution import Solution, SolveError, Status, require

__all__ = [
    "CG",
    "GMRES",
    "LU",
    "MINRES",
    "Cholesky",
    "MatrixFree",
    "Solution",
    "SolveError",
    "Sparse",
    "SparseDirect",
    "SparsePattern",
    "Status",
    "count_solves",
    "factor_cache",
    "factorize",
    "hvp",
    "linear_solve",
    "require",
]
