"""Deliberate mutants of the linear rules: one wrong word each, and the check that must notice.

`sparse_mutants.py` has those of sparse matrices, of the cache of factors and of Krylov methods.
"""

from mutation import Mutant
from sparse_mutants import SPARSE_MUTANTS

_RULE = "linear/solve.py"
_DENSE = "linear/dense.py"
_SPARSE = "linear/sparse.py"
_OPERATORS = "linear/operators.py"
_KRYLOV = "linear/krylov.py"

_TRANSPOSED = "TransposedSolver(solver), factor, Transposed(A)"
_ADJOINT_SOLVE = f"tangent_solve({_TRANSPOSED}, x_bar)"

LINEAR_MUTANTS: tuple[Mutant, ...] = (
    # The rule: A' lam = x_bar, b_bar = lam, A_bar = -(adjoint of A -> A x)(lam).
    Mutant(
        "sign of A_bar",
        _RULE,
        "adjoint_of_matvec(-lam)",
        "adjoint_of_matvec(lam)",
        "dense_gradient",
    ),
    Mutant(
        "A_bar twice",
        _RULE,
        "adjoint_of_matvec(-lam)",
        "adjoint_of_matvec(-2 * lam)",
        "dense_gradient",
    ),
    Mutant(
        "A_bar = -conj(lam) x'",
        _RULE,
        "adjoint_of_matvec(-lam)",
        "adjoint_of_matvec(-lam.conj())",
        "complex_lu",
    ),
    Mutant(
        "A_bar = -x lam'",
        _RULE,
        "vjp(lambda A: A.matvec(x), A)",
        "vjp(lambda A: A.transpose_matvec(x), A)",
        "dense_gradient",
    ),
    Mutant(
        "sign of b_bar",
        _RULE,
        "return None, A_bar, lam",
        "return None, A_bar, -lam",
        "dense_gradient",
    ),
    Mutant(
        "lam 1.001 times too large",
        _RULE,
        _ADJOINT_SOLVE,
        _ADJOINT_SOLVE[:-6] + "1.001 * x_bar)",
        "verified_gradient",
    ),
    Mutant(
        "A lam = x_bar",
        _RULE,
        _ADJOINT_SOLVE,
        "tangent_solve(solver, factor, A, x_bar)",
        "dense_gradient",
    ),
    Mutant(
        "A^H lam = x_bar",
        _RULE,
        "x_bar, _ = cotangents",
        "x_bar = cotangents[0].conj()",
        "complex_lu",
    ),
    # The tangent: x_dot = A^-1 (b_dot - A_dot x).
    Mutant(
        "forward mode: sign of A_dot x",
        _RULE,
        "else b_dot - moved",
        "else b_dot + moved",
        "dense_tangent",
    ),
    Mutant(
        "forward mode: b_dot dropped", _RULE, "else b_dot - moved", "else -moved", "dense_tangent"
    ),
    Mutant(
        "forward mode: A_dot x dropped", _RULE, "else b_dot - moved", "else b_dot", "dense_tangent"
    ),
    Mutant(
        "forward mode: 1.001 x_dot",
        _RULE,
        "factor, A, c)[0])",
        "factor, A, 1.001 * c)[0])",
        "dense_tangent",
    ),
    Mutant(
        "forward mode with A'",
        _RULE,
        "(solver, factor, A, c)",
        f"({_TRANSPOSED}, c)",
        "dense_tangent",
    ),
    Mutant(
        "b_dot dropped",
        _RULE,
        "together(b, ",
        "together(jax.lax.stop_gradient(b), ",
        "dense_second_order",
    ),
    Mutant(
        "A_dot x dropped",
        _RULE,
        "together(A.matvec(x), ",
        "together(fixed.matvec(x), ",
        "dense_second_order",
    ),
    Mutant(
        "sign of A_dot x",
        _RULE,
        "together(A.matvec(x), ",
        "together(2 * fixed.matvec(x) - A.matvec(x), ",
        "dense_second_order",
    ),
    Mutant(
        "tangent with A'",
        _RULE,
        "=with_outcome(solver.solve)",
        "=with_outcome(solver.solve_transpose)",
        "dense_second_order",
    ),
    Mutant(
        "transposed tangent with A",
        _RULE,
        "=with_outcome(solver.solve_transpose)",
        "=with_outcome(solver.solve)",
        "dense_second_order",
    ),
    Mutant(
        "A' v is A v",
        _RULE,
        "return self.A.transpose_matvec(x)",
        "return self.A.matvec(x)",
        "dense_second_order",
    ),
    Mutant(
        "(A')' v is A' v",
        _RULE,
        "return self.A.matvec(x)",
        "return self.A.transpose_matvec(x)",
        "transposed_second_order",
    ),
    Mutant(
        "(A')' solved with A'",
        _RULE,
        "return self.solver.solve(factor, A.A, c)",
        "return self.solver.solve_transpose(factor, A.A, c)",
        "dense_second_order",
    ),
    # Failures.
    Mutant(
        "selected, not multiplied, NaN",
        "solution.py",
        "return v * factor.astype(v.real.dtype)",
        "return jnp.where(ok, v, jnp.nan)",
        "nan_in_b",
    ),
    Mutant(
        "gradient not poisoned",
        _RULE,
        "return poison(x, outcome.code == 0)",
        "return (x)",
        "nan_in_b",
    ),
    Mutant(
        "NaN in b unnoticed",
        _DENSE,
        "(Status.NONFINITE_INPUT, ~_finite(b))",
        "(Status.NONFINITE_INPUT, False)",
        "nan_in_b",
    ),
    Mutant(
        "residual unchecked", _DENSE, "~(error <= residual_limit(b.dtype))", "False", "false_claim"
    ),
    Mutant(
        "condition unchecked",
        _DENSE,
        "Status(condition_code(rcond, float(jnp.finfo(A.dtype).eps)))",
        "Status.SUCCESS",
        "singular",
    ),
    Mutant(
        "logdet of failed LU",
        _DENSE,
        "triangles)))), factor.code == 0)",
        "triangles)))), True)",
        "singular",
    ),
    Mutant("asymmetry unchecked", _DENSE, "~symmetric)", "False)", "false_claim"),
    Mutant(
        "sparse residual unchecked",
        _SPARSE,
        "if not (error <= residual_limit(np.float64) and",
        "if not (",
        "lying_backend",
    ),
    Mutant(
        "sparse condition unchecked",
        _SPARSE,
        "code = int(condition_code(reciprocal_condition, UNIT_ROUNDOFF, np))",
        "code = 0",
        "singular",
    ),
    Mutant(
        "step limit ignored",
        _KRYLOV,
        "~(end.norm <= target)",
        "~(end.norm >= 0)",
        "step_limit",
    ),
    # Dense factors.
    Mutant("row order dropped", _DENSE, "b[factor.permutation]", "b", "dense_gradient"),
    Mutant(
        "row order not inverted",
        _DENSE,
        "jnp.zeros_like(z).at[factor.permutation].set(z, unique_indices=True)",
        "z[factor.permutation]",
        "dense_gradient",
    ),
    Mutant(
        "U^H for U'", _DENSE, "c, lower=False, trans=1)", "c, lower=False, trans=2)", "complex_lu"
    ),
    Mutant(
        "diagonal of L read",
        _DENSE,
        "y, lower=True, trans=1, unit_diagonal=True)",
        "y, lower=True, trans=1)",
        "dense_gradient",
    ),
    Mutant(
        "Cholesky: A lam = c",
        _DENSE,
        "jnp.conj(cls._substitute(factor, jnp.conj(c)))",
        "cls._substitute(factor, c)",
        "complex_cholesky",
    ),
    Mutant(
        "A^H v for A' v",
        _OPERATORS,
        "return self.matrix.T @ x",
        "return self.matrix.conj().T @ x",
        "complex_lu",
    ),
    # log|det A|.
    Mutant(
        "logdet: sign",
        _SPARSE,
        "return jnp.sum(jax.lax.map",
        "return -jnp.sum(jax.lax.map",
        "logdet",
    ),
    Mutant(
        "logdet: A^-1 for A'^-1",
        _SPARSE,
        "solver.solve_transpose(fixed, fixed, c)[0]",
        "solver.solve(fixed, fixed, c)[0]",
        "logdet",
    ),
    Mutant(
        "logdet: conjugate",
        _SPARSE,
        "jnp.sum(lam_k * A_dot",
        "jnp.sum(lam_k.conj() * A_dot",
        "logdet",
    ),
    Mutant(
        "logdet: half of the dense one",
        _DENSE,
        "poison(jnp.sum(",
        "poison(0.5 * jnp.sum(",
        "logdet",
    ),
    *SPARSE_MUTANTS,
)
