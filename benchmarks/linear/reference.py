"""The right answers, by SciPy's factorization and the adjoint equations written out.

Every competitor must match them. It shares the assembly of A(p) with the competitors, and nothing
else with any of them.
"""

import jax
import numpy as np
import scipy.sparse as sparse
from jaxtyping import Array, Float
from scipy.sparse.linalg import splu

from benchmarks.answers import Answers, objective_derivatives
from benchmarks.linear.cases import Case


def answers(case: Case, p: Float[Array, " parameters"], v: Float[Array, " parameters"]) -> Answers:
    """g = sqrt(n) |x| with A(p) x = b, and its derivatives at p along v.

    With a the entries of A, at rows i and columns j, a_dot their derivative along v, and c = dg/dx
    = sqrt(n) x / |x|:

        A' lam = c,             a_bar = -lam_i x_j,    gradient = (da/dp)' a_bar
        A x_dot = -A_dot x,     A' lam_dot = c_dot - A_dot' lam,    and so on by the product rule.

    Raises
    ------
    RuntimeError
        When SuperLU finds the matrix singular.
    """
    rows = case.pattern.rows
    cols = case.pattern.cols
    shape = case.pattern.shape

    def entries(p: Array) -> Array:
        return case.matrix(p).values

    a, a_dot = (np.asarray(t) for t in jax.jit(lambda p, v: jax.jvp(entries, (p,), (v,)))(p, v))
    factors = splu(sparse.csc_matrix((a, (rows, cols)), shape=shape))
    A_dot = sparse.csr_matrix((a_dot, (rows, cols)), shape=shape)
    x = factors.solve(case.right_hand_side)
    x_dot = factors.solve(-(A_dot @ x))
    value, c, c_dot = objective_derivatives(x, x_dot)
    lam = factors.solve(c, trans="T")
    lam_dot = factors.solve(c_dot - A_dot.T @ lam, trans="T")
    a_bar = -lam[rows] * x[cols]
    a_bar_dot = -lam_dot[rows] * x[cols] - lam[rows] * x_dot[cols]

    def pulled_back(p: Array, a_bar: Array) -> Array:
        return jax.vjp(entries, p)[1](a_bar)[0]

    gradient, product = jax.jit(lambda p, v, s, t: jax.jvp(pulled_back, (p, s), (v, t)))(
        p, v, a_bar, a_bar_dot
    )
    return Answers(value, np.asarray(gradient), np.asarray(product))
