"""Gradients of solvers at the cost of one more solve."""

from adjoint.linear.dense import LU, Cholesky
from adjoint.linear.factor_cache import factor_cache
from adjoint.linear.host_call import count_solves
from adjoint.linear.iterative import CG, GMRES, MINRES
from adjoint.linear.operators import MatrixFree, Sparse, SparsePattern
from adjoint.linear.solve import factorize, linear_solve
from adjoint.linear.sparse import SparseDirect
from adjoint.optimize.optimality_criteria import OC, OCState
from adjoint.second_order import hvp
from adjoint.solution import Solution, SolveError, Status, require
from adjoint.verify.gradient import Verdict, verify_gradient
from adjoint.verify.taylor import taylor_test
from adjoint.verify.transpose import definiteness_test, dot_product_test, symmetry_test

__all__ = [
    "CG",
    "GMRES",
    "LU",
    "MINRES",
    "OC",
    "Cholesky",
    "MatrixFree",
    "OCState",
    "Solution",
    "SolveError",
    "Sparse",
    "SparseDirect",
    "SparsePattern",
    "Status",
    "Verdict",
    "count_solves",
    "definiteness_test",
    "dot_product_test",
    "factor_cache",
    "factorize",
    "hvp",
    "linear_solve",
    "require",
    "symmetry_test",
    "taylor_test",
    "verify_gradient",
]
