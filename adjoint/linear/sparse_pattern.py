"""A sparse matrix: values, which may be traced, on a pattern, which is known ahead."""

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Self

import jax
import jax.core
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Array, Inexact
from numpy.typing import ArrayLike

from adjoint.inputs import as_inexact_array, describe, refuse, require_shape, warn_if_cut


class SparsePattern:
    """Where a sparse matrix may be nonzero: made once from NumPy indices, filled with values.

    A[i, j] = sum of values[m] over all m with rows[m] = i and cols[m] = j: duplicates are summed,
    as in finite-element assembly. All sorting is done here, in NumPy. A pattern compares and hashes
    by identity, so build it once, outside `jit`, and reuse it. It never changes, so a copy of it is
    itself; `pickle` takes it to another process.

    Parameters
    ----------
    rows, cols
        Integer arrays of one length m, with 0 <= rows < n and 0 <= cols < n.
    shape
        (n, n).

    Attributes
    ----------
    rows, cols
        Indices of the distinct entries, sorted by row, then by column.
    indptr
        Row pointers of the compressed sparse row form.
    nnz
        Number of distinct entries.

    Raises
    ------
    TypeError, ValueError
        When the indices are traced, not integers, out of range or of different lengths, or the
        shape is not square.

    Examples
    --------
    >>> import numpy as np, jax.numpy as jnp, adjoint
    >>> pattern = adjoint.SparsePattern(
    ...     np.array([0, 0, 1, 1, 1]), np.array([0, 1, 0, 1, 1]), (2, 2)
    ... )
    >>> pattern.matrix(jnp.array([2.0, 1.0, 0.0, 3.0, 1.0])).todense().tolist()
    [[2.0, 1.0], [0.0, 4.0]]
    """

    def __init__(self, rows: ArrayLike, cols: ArrayLike, shape: tuple[int, int]):
        where = "SparsePattern"
        rows, cols = (
            _static_indices(where, name, v) for name, v in (("rows", rows), ("cols", cols))
        )
        if not isinstance(shape, tuple) or len(shape) != 2 or shape[0] != shape[1] or shape[0] < 1:
            refuse(
                where,
                f"shape {shape}",
                "a square shape (n, n) with n >= 1",
                "Solvers need as many equations as unknowns.",
            )
        if rows.shape != cols.shape:
            refuse(
                where,
                f"{rows.size} rows and {cols.size} cols",
                "equally many",
                "Each entry needs one row and one column.",
            )
        n = int(shape[0])
        for name, v in (("rows", rows), ("cols", cols)):
            if v.size and (v.min() < 0 or v.max() >= n):
                refuse(
                    where,
                    f"{name} from {v.min()} to {v.max()}",
                    f"0 to {n - 1}",
                    "Count indices from zero.",
                )
        self.n, self.shape, self.entries = n, (n, n), rows.size
        key, self._slot = np.unique(rows * n + cols, return_inverse=True)
        self.rows, self.cols = (key // n).astype(np.int32), (key % n).astype(np.int32)
        self.nnz = key.size
        self.indptr = np.concatenate([[0], np.cumsum(np.bincount(self.rows, minlength=n))]).astype(
            np.int32
        )
        self._distinct_and_sorted = self.nnz == self.entries and bool(
            np.all(self._slot == np.arange(self.nnz))
        )
        # What solvers derive from the pattern, made at their first use and kept as long as the
        # pattern lives.
        self.analyses: dict[Any, Any] = {}

    def matrix(self, values: Inexact[Array, " m"]) -> "Sparse":
        """The matrix with one value per entry given, in that order; duplicates are summed."""
        warn_if_cut("SparsePattern.matrix", values=values)
        values = as_inexact_array("SparsePattern.matrix", "values", values)
        require_shape(
            "SparsePattern.matrix",
            "values",
            values.shape,
            f"shape ({self.entries},), one value per entry of the pattern",
            values.shape == (self.entries,),
            "Give the values in the order of the rows and cols that made the pattern.",
        )
        if not self._distinct_and_sorted:
            values = jnp.zeros(self.nnz, values.dtype).at[self._slot].add(values)
        return Sparse(values, self)

    @cached_property
    def column_order(self) -> tuple[np.ndarray, np.ndarray]:
        """The entries by column, then by row, and column pointers: compressed sparse columns."""
        pointers = np.concatenate([[0], np.cumsum(np.bincount(self.cols, minlength=self.n))])
        return np.lexsort((self.rows, self.cols)), pointers

    @cached_property
    def has_empty_line(self) -> bool:
        """Whether a row or column has no entry, which makes all matrices of it singular."""
        return bool(np.diff(self.indptr).min() == 0 or np.diff(self.column_order[1]).min() == 0)

    @cached_property
    def mirror(self) -> np.ndarray | None:
        """Where entry (j, i) stands for each (i, j); None when the pattern is not symmetric."""
        place, _ = self.column_order
        symmetric = np.array_equal(self.cols[place], self.rows) and np.array_equal(
            self.rows[place], self.cols
        )
        return place if symmetric else None

    @cached_property
    def diagonal(self) -> np.ndarray:
        """Positions of the entries on the diagonal."""
        return np.flatnonzero(self.rows == self.cols)

    def __getstate__(self) -> dict[str, object]:
        """The pattern without what was derived from it, which cannot leave the process.

        Calls to the host are of that kind.
        """
        derived = ("analyses", "column_order", "has_empty_line", "mirror", "diagonal")
        return {name: value for name, value in self.__dict__.items() if name not in derived}

    def __setstate__(self, state: dict[str, object]) -> None:
        self.__dict__.update(state)
        self.analyses = {}

    def __copy__(self) -> Self:
        """Itself: a pattern never changes, and matrices fit together when they share one."""
        return self

    def __deepcopy__(self, memo: dict[int, object]) -> Self:
        return self

    def __repr__(self) -> str:
        return f"SparsePattern({self.n}x{self.n}, {self.nnz} nonzeros)"


def _static_indices(where: str, name: str, indices: ArrayLike) -> np.ndarray:
    if isinstance(indices, jax.core.Tracer):
        refuse(
            where,
            f"traced {name}",
            "NumPy integers known before compilation",
            "Build the pattern once, outside jit, and pass only the values through jit.",
            TypeError,
        )
    indices = np.asarray(indices)
    if indices.ndim != 1 or not np.issubdtype(indices.dtype, np.integer):
        refuse(
            where,
            f"{name} = {describe(indices)}",
            "a one-dimensional integer array",
            "Flatten and convert it.",
            TypeError,
        )
    return indices.astype(np.int64)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Sparse:
    """A sparse matrix: values (nnz,) on a `SparsePattern`, one for each distinct entry.

    They are sorted by row, then by column. Made by `SparsePattern.matrix`.

    Examples
    --------
    >>> import numpy as np, jax.numpy as jnp, adjoint
    >>> A = adjoint.SparsePattern(np.array([0, 1, 1]), np.array([0, 0, 1]), (2, 2)).matrix(
    ...     jnp.array([2.0, 1.0, 4.0])
    ... )
    >>> A.matvec(jnp.array([1.0, 1.0])).tolist()
    [2.0, 5.0]
    """

    values: Inexact[Array, " nnz"]
    pattern: SparsePattern = field(metadata={"static": True})

    def __post_init__(self) -> None:
        # A pytree is also rebuilt around placeholders, which have no shape.
        shape = getattr(self.values, "shape", None)
        if shape is not None and len(shape) == 1 and shape != (self.pattern.nnz,):
            refuse(
                "Sparse",
                f"values of shape {shape}",
                f"shape ({self.pattern.nnz},), one per distinct entry of the pattern",
                "Use pattern.matrix(values), which sums duplicates.",
            )

    @property
    def n(self) -> int:
        return self.pattern.n

    @property
    def dtype(self) -> np.dtype:
        return self.values.dtype

    def astype(self, dtype: DTypeLike) -> "Sparse":
        return Sparse(self.values.astype(dtype), self.pattern)

    def matvec(self, x: Inexact[Array, " n *k"]) -> Inexact[Array, " n *k"]:
        return self._apply(self.pattern.rows, self.pattern.cols, x)

    def transpose_matvec(self, x: Inexact[Array, " n *k"]) -> Inexact[Array, " n *k"]:
        return self._apply(self.pattern.cols, self.pattern.rows, x)

    def todense(self) -> Inexact[Array, "n n"]:
        """The matrix as a full (n, n) array."""
        return (
            jnp.zeros(self.pattern.shape, self.dtype)
            .at[self.pattern.rows, self.pattern.cols]
            .set(self.values)
        )

    def _apply(self, to: np.ndarray, of: np.ndarray, x: Array) -> Array:
        values = self.values if x.ndim == 1 else self.values[:, None]
        terms = values * x.at[of].get(mode="promise_in_bounds")
        return (
            jnp.zeros(x.shape, terms.dtype)
            .at[to]
            .add(terms, indices_are_sorted=to is self.pattern.rows, mode="promise_in_bounds")
        )
