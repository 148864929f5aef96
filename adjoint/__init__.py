"""Gradients of solvers at the cost of one more solve."""

from adjoint.implicit.argmin import argmin
from adjoint.implicit.external import external
from adjoint.implicit.fixed_point import Anderson, Picard, TransposedIteration, fixed_point
from adjoint.implicit.host_solver import HostSolver
from adjoint.implicit.minimizer import QuasiNewton
from adjoint.implicit.newton import Newton, NewtonKrylov
from adjoint.implicit.root import root
from adjoint.inner_products import Euclidean, Sobolev, Weighted
from adjoint.inputs import PrecisionWarning
from adjoint.linear.dense import LU, Cholesky
from adjoint.linear.factor_cache import factor_cache
from adjoint.linear.iterative import CG, GMRES, MINRES
from adjoint.linear.multigrid import Multigrid
from adjoint.linear.operators import MatrixFree
from adjoint.linear.solve import factorize, linear_solve
from adjoint.linear.sparse import SparseDirect
from adjoint.linear.sparse_pattern import Sparse, SparsePattern
from adjoint.ode.backsolve import BacksolveAdjoint
from adjoint.ode.continuous import GaussAdjoint, InterpolatingAdjoint
from adjoint.ode.discrete import DiscreteAdjoint
from adjoint.ode.events import Event, Hybrid, hybrid_solve
from adjoint.ode.forward import ForwardSensitivity
from adjoint.ode.recurrence import recurrence
from adjoint.ode.shadowing import shadowing_sensitivity
from adjoint.ode.solve import ode_solve
from adjoint.ode.steady_state import steady_state
from adjoint.optimize.augmented_lagrangian import AugmentedLagrangian
from adjoint.optimize.backtracking import Backtracking
from adjoint.optimize.bfgs import BFGS, LBFGS
from adjoint.optimize.driver import Step
from adjoint.optimize.gcmma import GCMMA
from adjoint.optimize.line_search import StrongWolfe
from adjoint.optimize.minimize import minimize
from adjoint.optimize.mma import MMA
from adjoint.optimize.newton import GaussNewton
from adjoint.optimize.optimality_criteria import OC, OCState
from adjoint.optimize.sqp import SQP
from adjoint.optimize.steepest_descent import SteepestDescent
from adjoint.run.checkpoint import Checkpoint
from adjoint.second_order import gauss_newton_product, hvp
from adjoint.solution import Solution, SolveError, require
from adjoint.status import Status
from adjoint.tracing.host_call import count_solves
from adjoint.verify.gradient import Verdict, verify_gradient
from adjoint.verify.taylor import taylor_test
from adjoint.verify.transpose import definiteness_test, dot_product_test, symmetry_test

__version__ = "0.1.0"

__all__ = [
    "BFGS",
    "CG",
    "GCMMA",
    "GMRES",
    "LBFGS",
    "LU",
    "MINRES",
    "MMA",
    "OC",
    "SQP",
    "Anderson",
    "AugmentedLagrangian",
    "BacksolveAdjoint",
    "Backtracking",
    "Checkpoint",
    "Cholesky",
    "DiscreteAdjoint",
    "Euclidean",
    "Event",
    "ForwardSensitivity",
    "GaussAdjoint",
    "GaussNewton",
    "HostSolver",
    "Hybrid",
    "InterpolatingAdjoint",
    "MatrixFree",
    "Multigrid",
    "Newton",
    "NewtonKrylov",
    "OCState",
    "Picard",
    "PrecisionWarning",
    "QuasiNewton",
    "Sobolev",
    "Solution",
    "SolveError",
    "Sparse",
    "SparseDirect",
    "SparsePattern",
    "Status",
    "SteepestDescent",
    "Step",
    "StrongWolfe",
    "TransposedIteration",
    "Verdict",
    "Weighted",
    "argmin",
    "count_solves",
    "definiteness_test",
    "dot_product_test",
    "external",
    "factor_cache",
    "factorize",
    "fixed_point",
    "gauss_newton_product",
    "hvp",
    "hybrid_solve",
    "linear_solve",
    "minimize",
    "ode_solve",
    "recurrence",
    "require",
    "root",
    "shadowing_sensitivity",
    "steady_state",
    "symmetry_test",
    "taylor_test",
    "verify_gradient",
]
