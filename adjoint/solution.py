"""What every solver returns: a value, a status that says whether to believe it, and numbers.

A failed solve must never look like a finished one. Inside compiled code nothing can be raised, so a
failure travels as data: the value is NaN, every derivative taken through it is NaN, and the status
says why. On the host, `require` turns a failed status into a `SolveError`.
"""

from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

import jax
import jax.core
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, PyTree

from adjoint.inputs import double_precision_remedy
from adjoint.status import Status

T = TypeVar("T")


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Solution(Generic[T]):
    """The result of a solver: a pytree, so it passes through `jit`, `vmap`, `scan` and derivatives.

    Attributes
    ----------
    value
        The solution. NaN where the solve failed, and so is every derivative taken through it; of
        `minimize`, the best point.
    status
        A `Status`.
    stats
        Named numbers, such as ``residual`` or ``iterations``, and `StaticText` about choices made.
        Not differentiated.
    origin
        The solver and the problem in words, for messages.

    Examples
    --------
    >>> import jax.numpy as jnp, adjoint
    >>> solution = adjoint.linear_solve(jnp.array([[2.0]]), jnp.array([1.0]))
    >>> solution.value.tolist(), solution.status
    ([0.5], Status.SUCCESS)
    """

    value: T
    status: Status
    stats: dict[str, Any]
    origin: str = field(default="a solver", metadata={"static": True})


class SolveError(RuntimeError):
    """A solve failed: the message names the solver, the numbers and the remedy.

    Attributes
    ----------
    status
        The `Status` of the (first) failed solve.
    stats
        Its named numbers.

    Examples
    --------
    >>> import jax.numpy as jnp, adjoint
    >>> try:
    ...     adjoint.require(adjoint.linear_solve(jnp.zeros((1, 1)), jnp.ones(1)))
    ... except adjoint.SolveError as error:
    ...     print(error.status)
    Status.SINGULAR
    """

    def __init__(self, message: str, status: Status, stats: dict[str, float]):
        super().__init__(message)
        self.status = status
        self.stats = stats


def require(solution: Solution[T]) -> T:
    """Return ``solution.value``, or raise `SolveError` when the solve failed. On the host only.

    Parameters
    ----------
    solution
        What a solver returned. Under `vmap` it is a batch: one failed lane fails the batch, and the
        message names it.

    Returns
    -------
    value
        ``solution.value``, unchanged.

    Raises
    ------
    SolveError
        When a status is not a success (`Status.ok`).
    TypeError
        Inside `jit`, `vmap` or `grad`, where a status is not known yet.

    Examples
    --------
    >>> import jax.numpy as jnp, adjoint
    >>> x = adjoint.require(
    ...     adjoint.linear_solve(jnp.array([[2.0, 1.0], [0.0, 4.0]]), jnp.array([3.0, 4.0]))
    ... )
    >>> [round(float(v), 6) for v in x]
    [1.0, 1.0]
    """
    if isinstance(solution.status.code, jax.core.Tracer):
        raise TypeError(
            "adjoint.require: the status is a traced value, so it cannot be read here. "
            "Inside jit, vmap or grad use solution.value (NaN marks a failure) and "
            "solution.status; "
            "call require on the solution that the transformed function returns."
        )
    codes = np.atleast_1d(np.asarray(solution.status.code))
    failed = np.flatnonzero(~np.asarray(Status(codes.ravel()).ok))
    if failed.size == 0:
        return solution.value
    lane = int(failed[0])
    status = Status(codes.ravel()[lane])
    # Arrays in the stats, such as multipliers, are too long for a message.
    stats = {
        name: float(np.broadcast_to(np.asarray(v), codes.shape).ravel()[lane])
        for name, v in solution.stats.items()
        if not isinstance(v, str | dict) and np.ndim(v) <= np.ndim(solution.status.code)
    }
    numbers = ", ".join(f"{name} {value:.3g}" for name, value in stats.items())
    batch = (
        f" (lane {lane}, the first of {failed.size} that failed out of {codes.size})"
        if codes.size > 1
        else ""
    )
    message = (
        f"{solution.origin}{batch}: {status.name} ({numbers}): "
        f"{status.message}.{_precision_remedy(solution.value)}"
    )
    raise SolveError(message, status, stats)


def _precision_remedy(value: PyTree) -> str:
    """For a failure in single precision, perhaps by it: how to get double precision."""
    kinds = {jnp.result_type(leaf) for leaf in jax.tree.leaves(value)}
    single = [
        kind for kind in kinds if jnp.issubdtype(kind, jnp.inexact) and jnp.finfo(kind).bits <= 32
    ]
    return (
        f" It was solved in float32, about 7 digits; {double_precision_remedy()}" if single else ""
    )


def poison(value: PyTree, ok: Bool[Array, ""]) -> PyTree:
    """NaN in every inexact leaf of `value` where not `ok`, in the value and in all its derivatives.

    The factor is multiplied, not selected: the derivative of ``where(ok, value, nan)`` is a clean
    zero in the failed branch, and a zero is a finite wrong number, whereas ``0 * nan`` stays NaN.
    """
    factor = jnp.where(ok, 1.0, jnp.nan)

    def leaf(v: Array) -> Array:
        return v * factor.astype(v.real.dtype) if jnp.issubdtype(v.dtype, jnp.inexact) else v

    return jax.tree.map(leaf, value)
