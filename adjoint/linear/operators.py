"""The matrix A of A x = b as an array or as a function x -> A x; on a pattern: `sparse_pattern`.

Every operator is a pytree whose floating-point leaves are what derivatives are taken with respect
to. It offers `matvec` (A x) and `transpose_matvec` (A' x, never conjugated), for x of shape (n,) or
(n, k).
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol, Self, runtime_checkable

import jax
import jax.core
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Array, Inexact

from adjoint.inputs import describe, refuse
from adjoint.tracing import loops
from adjoint.tracing.traced_function import TracedFunction


@runtime_checkable
class Operator(Protocol):
    """A square linear operator: a pytree that can be applied and transposed."""

    @property
    def n(self) -> int: ...
    @property
    def dtype(self) -> np.dtype: ...
    def astype(self, dtype: DTypeLike) -> Self: ...
    def matvec(self, x: Inexact[Array, " n *k"]) -> Inexact[Array, " n *k"]: ...
    def transpose_matvec(self, x: Inexact[Array, " n *k"]) -> Inexact[Array, " n *k"]: ...


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Dense:
    """A as a full (n, n) array."""

    matrix: Inexact[Array, "n n"]

    @property
    def n(self) -> int:
        return self.matrix.shape[-1]

    @property
    def dtype(self) -> np.dtype:
        return self.matrix.dtype

    def astype(self, dtype: DTypeLike) -> "Dense":
        return Dense(self.matrix.astype(dtype))

    def matvec(self, x: Inexact[Array, " n *k"]) -> Inexact[Array, " n *k"]:
        return self.matrix @ x

    def transpose_matvec(self, x: Inexact[Array, " n *k"]) -> Inexact[Array, " n *k"]:
        return self.matrix.T @ x


class MatrixFree:
    """A given by its action x -> A x alone, which may close over traced parameters.

    It is differentiated through them.

    Parameters
    ----------
    matvec
        Linear function (n,) -> (n,), written in JAX operations that JAX can transpose.
    n
        Number of unknowns.
    symmetric
        Claim that A = A' (for a complex operator: Hermitian). Selects `MINRES` by default.
    positive_definite
        Claim that A is symmetric positive definite. Selects `CG` by default.

    Notes
    -----
    A claim chooses the solver and nothing else: the residual that ends every solve, and the adjoint
    solve, use the operator itself and its true transpose, so a false claim ends in a status and
    NaN, not in a wrong number.

    Examples
    --------
    >>> import jax.numpy as jnp, adjoint
    >>> A = adjoint.MatrixFree(lambda x: 2.0 * x + jnp.roll(x, 1), 4)
    >>> x = adjoint.require(adjoint.linear_solve(A, jnp.ones(4)))
    >>> [round(float(v), 6) for v in x]
    [0.333333, 0.333333, 0.333333, 0.333333]
    """

    def __init__(
        self,
        matvec: Callable[[Inexact[Array, " n"]], Inexact[Array, " n"]],
        n: int,
        *,
        symmetric: bool = False,
        positive_definite: bool = False,
    ):
        if not callable(matvec):
            refuse(
                "MatrixFree",
                f"matvec = {describe(matvec)}",
                "a function (n,) -> (n,)",
                "Pass the function itself.",
                TypeError,
            )
        if not isinstance(n, int | np.integer) or n < 1:
            refuse(
                "MatrixFree",
                f"n = {n!r}",
                "the number of unknowns, a positive integer",
                "Pass b.size.",
                TypeError,
            )
        self.function, self.n = matvec, int(n)
        self.symmetric = symmetric or positive_definite
        self.positive_definite = positive_definite

    def bind(self, dtype: DTypeLike, axes: loops.Axes = frozenset()) -> "BoundFunction":
        """Fix the vector type, so that A becomes a pytree."""
        x = loops.example(self.n, dtype, axes)
        y = jax.eval_shape(lambda x: self.function(x), x)
        if not hasattr(y, "shape") or y.shape != x.shape:
            given = (
                f"a result of shape {y.shape}" if hasattr(y, "shape") else f"a {type(y).__name__}"
            )
            refuse(
                "MatrixFree",
                given,
                f"shape ({self.n},) for x of shape ({self.n},)",
                "The matvec must return A x.",
            )
        if y.dtype != x.dtype:
            remedy = (
                "Mixed precision loses digits silently; convert the parameters of the matvec or b."
            )
            refuse("MatrixFree", f"a {y.dtype} result", f"{x.dtype}, as b and x", remedy, TypeError)
        return BoundFunction(TracedFunction.of(self.function, x), self.n, np.dtype(dtype))


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class BoundFunction:
    """A `MatrixFree` operator acting on vectors of one dtype."""

    function: TracedFunction
    n: int = field(metadata={"static": True})
    dtype: np.dtype = field(metadata={"static": True})

    def astype(self, dtype: DTypeLike) -> "BoundFunction":
        if dtype != self.dtype:
            refuse(
                "MatrixFree", f"an operator on {self.dtype}", f"{dtype}", "Convert b.", TypeError
            )
        return self

    def matvec(self, x: Inexact[Array, " n *k"]) -> Inexact[Array, " n *k"]:
        return (
            self.function(x) if x.ndim == 1 else jax.vmap(self.function, in_axes=1, out_axes=1)(x)
        )

    def transpose_matvec(self, x: Inexact[Array, " n *k"]) -> Inexact[Array, " n *k"]:
        example = loops.example(self.n, self.dtype, loops.axes_of(x, self.function))
        transpose = jax.linear_transpose(self.function, example)
        apply = lambda v: transpose(v)[0]  # noqa: E731
        return apply(x) if x.ndim == 1 else jax.vmap(apply, in_axes=1, out_axes=1)(x)
