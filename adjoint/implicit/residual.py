"""F(x, p) as a pytree, and its Jacobian F_x: full, on a sparsity pattern, or matrix-free.

Unknowns of any structure are handled as one flat vector x; parameters p keep their structure.
"""

from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.core
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jax.typing import DTypeLike
from jaxtyping import Array, Inexact, PyTree

from adjoint.inputs import describe, refuse
from adjoint.linear.dense import LU, Cholesky
from adjoint.linear.operators import Dense, Operator
from adjoint.linear.solve import Solver
from adjoint.linear.sparse import SparseDirect
from adjoint.linear.sparse_pattern import Sparse, SparsePattern
from adjoint.tracing import loops
from adjoint.tracing.host_batching import HostStructure
from adjoint.tracing.traced_function import TracedFunction, trace_at_door


def trace_residual(
    where: str, residual: Callable[..., PyTree], x0: PyTree, p: PyTree
) -> tuple[TracedFunction, Array, PyTree, HostStructure]:
    """The residual, flat start, p and structure of x; refuses what cannot be a root problem."""
    _require_arrays(where, "x0", x0)
    if not any(_is_inexact(leaf) for leaf in jax.tree.leaves(p)):
        refuse(
            where,
            f"p = {describe(p)} without floating-point arrays",
            "at least one array of parameters",
            "Pass what the solution depends on as p, or jnp.zeros(()) if there is nothing.",
            TypeError,
        )
    unknowns = HostStructure.of(x0)
    _require_same_structure(where, jax.eval_shape(lambda *a: residual(*a), x0, p), x0)
    flat = lambda x, p: ravel(residual(unknowns.unravel(x), p))  # noqa: E731
    (F,), (start, p), _ = trace_at_door((flat,), (ravel(x0), p))
    return F, start, p, unknowns


def ravel(tree: PyTree) -> Inexact[Array, " n"]:
    """All numbers of a pytree as one flat vector."""
    return ravel_pytree(tree)[0]


def ravel_size(tree: PyTree) -> int:
    """How many numbers a pytree of arrays, or of their shapes, holds."""
    return sum(int(np.prod(jnp.shape(leaf))) for leaf in jax.tree.leaves(tree))


def _is_inexact(leaf: object) -> bool:
    return jnp.issubdtype(jnp.result_type(leaf), jnp.inexact)


def _require_arrays(where: str, name: str, x: PyTree) -> None:
    leaves = jax.tree.leaves(x)
    if not leaves:
        refuse(
            where,
            f"{name} without arrays",
            "an array or a pytree of arrays",
            "Give a starting point.",
            TypeError,
        )
    if not any(np.size(leaf) for leaf in leaves):
        refuse(
            where,
            f"{name} without numbers",
            "at least one unknown",
            "There is nothing to solve for.",
        )
    for leaf in leaves:
        if not _is_inexact(leaf):
            given = describe(jnp.asarray(leaf))
            refuse(
                where,
                f"{name} with a {given}",
                "floating-point arrays",
                f"Convert it: {name}.astype(float).",
                TypeError,
            )
    dtypes = {jnp.result_type(leaf) for leaf in leaves}
    if len(dtypes) > 1:
        names = " and ".join(sorted(str(d) for d in dtypes))
        refuse(
            where,
            f"{name} with {names}",
            "one dtype",
            "Convert the leaves to one dtype.",
            TypeError,
        )


def _require_same_structure(where: str, F: PyTree, x0: PyTree) -> None:
    """As many equations as unknowns, real ones for real unknowns."""
    n_F = ravel_size(F)
    n_x = ravel_size(x0)
    if n_F != n_x:
        refuse(
            where,
            f"a residual with {n_F} entries for {n_x} unknowns",
            "equally many",
            "Add or remove equations.",
        )
    x_dtype = jnp.result_type(*jax.tree.leaves(x0))
    for leaf in jax.tree.leaves(F):
        if leaf.dtype != x_dtype:
            refuse(
                where,
                f"a residual in {leaf.dtype} for unknowns in {x_dtype}",
                f"{x_dtype}",
                "Convert x0 or p, so that both have one precision and both are real or both "
                "complex.",
                TypeError,
            )


@dataclass(frozen=True)
class RootProblem:
    """What a solver of F(x, p) = 0 is given, besides the flat start and p.

    `unravel` gives x its structure; `linear_solver` is for the steps, with `pattern` where F_x may
    be nonzero.
    """

    F: TracedFunction
    unravel: Callable[[Array], PyTree]
    linear_solver: Solver
    pattern: SparsePattern | None

    def jacobian(self, x: Array, p: PyTree) -> Operator:
        """F_x at (x, p), in the form that the linear solver takes."""
        return jacobian(self.F, x, p, self.linear_solver, self.pattern)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class JacobianAction:
    """F_x at (x, p) as an operator, applied but never formed, differentiable by x and p."""

    F: TracedFunction
    x: Inexact[Array, " n"]
    p: PyTree

    @property
    def n(self) -> int:
        return self.x.size

    @property
    def dtype(self) -> np.dtype:
        return self.x.dtype

    def astype(self, dtype: DTypeLike) -> "JacobianAction":
        return self

    def matvec(self, x: Inexact[Array, " n *k"]) -> Inexact[Array, " n *k"]:
        return jax.jvp(lambda at: self.F(at, self.p), (self.x,), (x,))[1]

    def transpose_matvec(self, x: Inexact[Array, " n *k"]) -> Inexact[Array, " n *k"]:
        return jax.vjp(lambda at: self.F(at, self.p), self.x)[1](x)[0]


@dataclass(frozen=True)
class JacobianColumns:
    """Groups of columns of a sparse Jacobian that share no row.

    One product with F_x gives all entries of a group.
    """

    pattern: SparsePattern
    seeds: np.ndarray
    group_of_entry: np.ndarray

    @classmethod
    def of(cls, pattern: SparsePattern) -> "JacobianColumns":
        """Greedy coloring (Curtis, Powell and Reid, IMA J.

        Appl. Math. 13, 1974) by SciPy; once per pattern.
        """
        if "jacobian columns" not in pattern.analyses:
            pattern.analyses["jacobian columns"] = cls._color(pattern)
        return pattern.analyses["jacobian columns"]

    @classmethod
    def _color(cls, pattern: SparsePattern) -> "JacobianColumns":
        import scipy.sparse as sparse
        from scipy.optimize._numdiff import group_columns

        structure = sparse.csr_matrix(
            (np.ones(pattern.nnz), pattern.cols, pattern.indptr), shape=pattern.shape
        )
        groups = np.asarray(group_columns(structure))
        seeds = (groups[None, :] == np.arange(groups.max() + 1)[:, None]).astype(float)
        return cls(pattern, seeds, groups[pattern.cols])


def jacobian(
    F: TracedFunction, x: Array, p: PyTree, linear_solver: Solver, pattern: SparsePattern | None
) -> Operator:
    """F_x at (x, p), in the form that the linear solver takes."""
    if isinstance(linear_solver, SparseDirect):
        assert pattern is not None
        columns = JacobianColumns.of(pattern)
        _, push = jax.linearize(lambda x: F(x, p), x)
        products = jax.vmap(push)(loops.vary_alike(jnp.asarray(columns.seeds, x.dtype), x))
        return Sparse(products[columns.group_of_entry, pattern.rows], pattern)
    if isinstance(linear_solver, LU | Cholesky):
        return Dense(jax.jacrev(lambda x: F(x, p))(x))
    return JacobianAction(F, x, p)
