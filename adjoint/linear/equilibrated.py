"""Linear systems without units: diag(1/r) A diag(c) y = diag(1/r) b, x = diag(c) y.

The units are those of the equations and the unknowns. For the Jacobian F_x of a root the unknowns
have a size, and that gives the equations one: r_i = sum_j |A_ij| c_j is the size of the terms of
equation i, in its unit. An unknown of no size of its own, which is zero where the iteration stands,
has that at which it would matter as much as the other terms of its equations. With other units of
the equations and of the unknowns r and c are those in the other units, so that whatever is compared
with them depends on no unit.

Scaling by powers of two costs no rounding. Source: Higham, Accuracy and Stability of Numerical
Algorithms, 2nd ed., section 7.3.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Inexact, PyTree

from adjoint.linear.dense import Cholesky
from adjoint.linear.iterative import CG, MINRES
from adjoint.linear.krylov import Krylov
from adjoint.linear.operators import Dense, Operator
from adjoint.linear.outcome import Outcome, probe_vector
from adjoint.linear.sparse_pattern import Sparse
from adjoint.norm import power_of_two
from adjoint.tracing import loops

# Rows, and columns, of an operator without entries are alike where their sizes differ by less than
# this power of two, 1e2: more than what the estimate of |A| v misses of equal ones.
ALIKE = 7
# The share of rows or columns that may be estimated as smaller by more than that, by chance.
BY_CHANCE = 1e-2


class Scales(NamedTuple):
    """Sizes of each row's terms, and of the unknowns; `known` where these are no mere guess."""

    rows: Float[Array, " n"]
    columns: Float[Array, " n"]
    known: Bool[Array, " n"]


def scales_of(A: Operator, size: Float[Array, " n"]) -> Scales:
    """The sizes of rows and columns for unknowns of this size, zero for those without one.

    An operator without entries, for an iteration, may have unknowns in one unit and equations in
    one unit. These are then measured as the iteration does: by the largest, not each by itself. A
    field that fades by many decades is not known to as many digits where it is small.
    """
    if isinstance(A, Dense | Sparse):
        return _scales_of_each(A, size)
    each = _scales_of_each(A, size)
    some = jnp.ones_like(size)
    alike = _are_alike(_absolute_product(A, some))
    alike = alike & _are_alike(_absolute_transposed_product(A, some)) & jnp.any(size > 0)
    of_all = Scales(
        jnp.full_like(size, jnp.max(each.rows)),
        jnp.full_like(size, jnp.max(size)),
        jnp.ones(size.shape, bool),
    )
    return jax.tree.map(lambda a, b: jnp.where(alike, a, b), of_all, each)


def _are_alike(estimate: Float[Array, " n"]) -> Bool[Array, ""]:
    """Whether sizes are within 2^ALIKE of each other, but for some that are estimated too small.

    By chance one in 10^4 is, of terms that cancel; by 2^(3 ALIKE), one in 10^12.
    """
    smaller = -jnp.log2(estimate / jnp.max(estimate))
    return (jnp.mean(smaller > ALIKE) <= BY_CHANCE) & jnp.all(smaller < 3 * ALIKE)


def _scales_of_each(A: Operator, size: Float[Array, " n"]) -> Scales:
    """The sizes of each row and column."""
    some = jnp.any(size > 0)
    rows = _absolute_product(A, jnp.where(some, size, 1))
    columns = jnp.maximum(size, _inverse(_absolute_transposed_product(A, _inverse(rows))))
    known = some & (columns > 0)
    unknown = ~(columns > 0)

    def guess() -> tuple[Array, Array]:
        """For rows and columns that hold nothing but unknowns without a size."""
        filled = jnp.where(unknown, 1, columns)
        all_rows = _absolute_product(A, filled)
        alone = _inverse(_absolute_transposed_product(A, _inverse(all_rows)))
        return jnp.where(rows > 0, rows, all_rows), jnp.where(unknown, alone, columns)

    rows, columns = loops.cond(jnp.any(unknown), guess, lambda: (rows, columns))
    return Scales(
        _usable(rows, jnp.ones_like(size)), _usable(columns, jnp.where(size > 0, size, 1)), known
    )


def _usable(v: Array, otherwise: Array) -> Array:
    return jnp.where((v > 0) & jnp.isfinite(v), v, otherwise)


def _inverse(v: Array) -> Array:
    return jnp.where(v > 0, 1 / jnp.where(v > 0, v, 1), 0)


def _absolute_product(A: Any, v: Array) -> Array:
    """|A| v, for v that is not negative; of an operator without entries an estimate."""
    if isinstance(A, Dense):
        return jnp.abs(A.matrix) @ v
    if isinstance(A, Sparse):
        return Sparse(jnp.abs(A.values), A.pattern).matvec(v)
    return _estimate(A.matvec, A.dtype, v)


def _absolute_transposed_product(A: Any, v: Array) -> Array:
    """|A|' v."""
    if isinstance(A, Dense):
        return jnp.abs(A.matrix).T @ v
    if isinstance(A, Sparse):
        return Sparse(jnp.abs(A.values), A.pattern).transpose_matvec(v)
    return _estimate(A.transpose_matvec, A.dtype, v)


def _estimate(product: Callable[[Array], Array], dtype: DTypeLike, v: Array) -> Array:
    """The larger of two products with v under mixed signs: |A| v but for what cancels in both."""
    probe = jnp.asarray(probe_vector(v.size), dtype)
    # By turns: one vector of intermediate results at a time.
    return jnp.max(
        jax.lax.map(lambda signs: jnp.abs(product(signs * v)), jnp.stack([probe, jnp.flip(probe)])),
        axis=0,
    )


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Scaled:
    """diag(1/rows) A diag(columns) as an operator."""

    A: Any
    rows: Float[Array, " n"]
    columns: Float[Array, " n"]

    @property
    def n(self) -> int:
        return self.A.n

    @property
    def dtype(self) -> np.dtype:
        return self.A.dtype

    def astype(self, dtype: DTypeLike) -> "Scaled":
        return Scaled(self.A.astype(dtype), self.rows, self.columns)

    def matvec(self, x: Inexact[Array, " n *k"]) -> Inexact[Array, " n *k"]:
        return _over(self.A.matvec(_times(self.columns, x)), self.rows)

    def transpose_matvec(self, x: Inexact[Array, " n *k"]) -> Inexact[Array, " n *k"]:
        return _times(self.columns, self.A.transpose_matvec(_over(x, self.rows)))


def _times(scale: Array, x: Array) -> Array:
    return scale.reshape(scale.shape + (1,) * (x.ndim - 1)) * x


def _over(x: Array, scale: Array) -> Array:
    return x / scale.reshape(scale.shape + (1,) * (x.ndim - 1))


class EquilibratedFactor(NamedTuple):
    """The factors of the scaled matrix, or the original's preconditioner, and the scales."""

    factor: PyTree
    rows: Float[Array, " n"]
    columns: Float[Array, " n"]


@dataclass(frozen=True)
class Equilibrated:
    """A solver that is handed systems in which rows and columns have one size."""

    solver: Any

    def factor(self, A: Any, scales: Scales) -> EquilibratedFactor:
        """The factors of A by the sizes of its rows and columns."""
        rows, columns = self._powers(scales)
        if isinstance(A, Dense):
            A = Dense(A.matrix / rows[:, None] * columns[None, :])
        elif isinstance(A, Sparse):
            A = Sparse(A.values / rows[A.pattern.rows] * columns[A.pattern.cols], A.pattern)
        return EquilibratedFactor(self.solver.factor(A), rows, columns)

    def with_preconditioner(self, M: PyTree, scales: Scales) -> EquilibratedFactor:
        """As `factor`, for an iteration with a preconditioner that is at hand."""
        return EquilibratedFactor(M, *self._powers(scales))

    def solve(self, factor: EquilibratedFactor, A: Operator, b: Array) -> tuple[Array, Outcome]:
        y, outcome = self.solver.solve(
            self._inner(factor), _scaled(factor, A), _over(b, factor.rows)
        )
        return _times(factor.columns, y), outcome

    def solve_to(
        self, factor: EquilibratedFactor, A: Operator, b: Array, rtol: float | Float[Array, ""]
    ) -> tuple[Array, Outcome]:
        """As `solve` of an iterative solver, to a tolerance that may be traced."""
        y, outcome = self.solver.solve_to(
            self._inner(factor), _scaled(factor, A), _over(b, factor.rows), rtol
        )
        return _times(factor.columns, y), outcome

    def solve_transpose(
        self, factor: EquilibratedFactor, A: Operator, c: Array
    ) -> tuple[Array, Outcome]:
        z, outcome = self.solver.solve_transpose(
            self._inner(factor), _scaled(factor, A), _times(factor.columns, c)
        )
        return _over(z, factor.rows), outcome

    def _inner(self, factor: EquilibratedFactor) -> Any:
        """The solver of the scaled matrix: M close to A^-1 is diag(1/columns) M diag(rows)."""
        M = factor.factor
        if not isinstance(self.solver, Krylov) or not M:
            return M
        return lambda r: _over(M(_times(factor.rows, r)), factor.columns)

    def _powers(self, scales: Scales) -> tuple[Array, Array]:
        """The scales as powers of two that keep what the solver needs of the matrix."""
        if isinstance(self.solver, Cholesky | CG | MINRES):
            # D A D is as symmetric as A. With d = sqrt(c/r), |D A D| has the eigenvalue 1 for the
            # positive vector sqrt(c r), so that none is larger (Perron).
            both = power_of_two(jnp.sqrt(scales.columns / scales.rows))
            return 1 / both, both
        columns = power_of_two(scales.columns)
        if isinstance(self.solver, Krylov) and self.solver.needs_spectrum:
            return columns, columns  # 1/C A C has the eigenvalues of A
        return power_of_two(scales.rows), columns


def _scaled(factor: EquilibratedFactor, A: Operator) -> Scaled:
    return Scaled(A, factor.rows, factor.columns)
