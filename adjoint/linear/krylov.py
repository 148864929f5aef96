"""The loop around a Krylov method: cycles of its recurrence until the true residual is small.

The loop computes the *true* residual b - A x and stops on that alone, so a recurrence that has
drifted, a preconditioner that flatters and a false claim of symmetry all end either in a solution
or in a status. The right-hand side is scaled to norm 1 before iterating, which matters in the
adjoint, where it is often 1e-13 of the primal one. The adjoint solve runs the same method on the
true transpose A', with M' as preconditioner.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Inexact, Int32, PyTree

from adjoint.inputs import all_finite, none_is_nan, refuse
from adjoint.linear.multigrid import Multigrid
from adjoint.linear.operators import Operator
from adjoint.linear.outcome import Outcome
from adjoint.norm import norm, power_of_two
from adjoint.status import Status, first_failure
from adjoint.tracing import loops
from adjoint.tracing.host_call import count_event
from adjoint.tracing.traced_function import TracedFunction

LinearMap = Callable[[Array], Array]
# A cycle gets A, M, the residual r, the residual norm to reach and the steps left; it returns a
# correction and its steps.
Cycle = Callable[[LinearMap, LinearMap, Array, Array, Array], tuple[Array, Int32[Array, ""]]]

# However large atol is, no right-hand side counts as solved before its residual is below this share
# of it.
LOOSEST = 1e-8
# A cycle that does not lower the true residual by even this share has stagnated.
STAGNATION = 1e-3


def _bind_preconditioner(preconditioner: Any, n: int, dtype: DTypeLike) -> Any:
    """Trace M once, so that what it closes over becomes leaves; it is never differentiated."""
    x = jax.ShapeDtypeStruct((n,), dtype)
    y = jax.eval_shape(preconditioner, x)
    if getattr(y, "shape", None) != (n,) or y.dtype != x.dtype:
        given = f"{y.dtype} of shape {y.shape}" if hasattr(y, "shape") else type(y).__name__
        refuse(
            "preconditioner",
            given,
            f"{x.dtype} of shape ({n},)",
            "It must map (n,) -> (n,), close to A^-1.",
        )
    return jax.lax.stop_gradient(TracedFunction.of(preconditioner, x))


@dataclass(frozen=True)
class Krylov:
    """What iterative solvers share; a method is its `_cycle`.

    It improves on a residual r until it is at the target.
    """

    rtol: float = 1e-10
    atol: float = 0.0
    max_steps: int | None = None
    preconditioner: Callable[[Inexact[Array, " n"]], Inexact[Array, " n"]] | Multigrid | None = None

    # Whether the method lives on the eigenvalues of A, so that A may be scaled by similarity alone.
    needs_spectrum: ClassVar[bool] = False

    def __post_init__(self) -> None:
        name = type(self).__name__
        if not (self.rtol >= 0 and self.atol >= 0 and self.rtol + self.atol > 0):
            refuse(
                name,
                f"rtol = {self.rtol}, atol = {self.atol}",
                "both >= 0, one > 0",
                "Use the defaults.",
            )
        if self.max_steps is not None and self.max_steps < 1:
            refuse(
                name,
                f"max_steps = {self.max_steps}",
                "a positive integer",
                "Leave it out for 10 n.",
            )
        if not (
            self.preconditioner is None
            or isinstance(self.preconditioner, Multigrid)
            or callable(self.preconditioner)
        ):
            refuse(
                name,
                f"preconditioner = {self.preconditioner!r}",
                "a function (n,) -> (n,), or a Multigrid",
                "Pass the function.",
                TypeError,
            )

    def factor(self, A: Operator) -> PyTree:
        """The preconditioner M as a pytree, or None; there is nothing to factorize."""
        if isinstance(self.preconditioner, Multigrid):
            return self.preconditioner.of(A)
        return (
            None
            if self.preconditioner is None
            else _bind_preconditioner(self.preconditioner, A.n, A.dtype)
        )

    def solve(self, M: PyTree, A: Operator, b: Array) -> tuple[Array, Outcome]:
        return self.solve_to(M, A, b, self.rtol)

    def solve_to(
        self, M: PyTree, A: Operator, b: Array, rtol: float | Float[Array, ""]
    ) -> tuple[Array, Outcome]:
        """As `solve`, to a tolerance that may be traced."""
        x, outcome = _by_columns(
            lambda b: self._iterate(A.matvec, M or _identity, b, _numbers(A), rtol), b
        )
        return count_event("solves", x, x.shape[1] if x.ndim == 2 else 1), outcome

    def solve_transpose(self, M: PyTree, A: Operator, c: Array) -> tuple[Array, Outcome]:
        M_transpose = _transposed(M, c) if M else _identity

        def iterate(c: Array) -> PyTree:
            return self._iterate(A.transpose_matvec, M_transpose, c, _numbers(A), self.rtol)

        lam, outcome = _by_columns(iterate, c)
        return count_event("transpose_solves", lam, lam.shape[1] if lam.ndim == 2 else 1), outcome

    def _limit(self, n: int) -> int:
        return self.max_steps or 10 * n

    def _cycle(
        self, A: LinearMap, M: LinearMap, r: Array, target: Array, steps_left: Array
    ) -> tuple[Array, Array]:
        raise NotImplementedError

    def _iterate(
        self,
        A: LinearMap,
        M: LinearMap,
        b: Array,
        numbers: "_Numbers",
        rtol: float | Float[Array, ""],
    ) -> tuple[Array, Outcome]:
        """Cycles until |b - A x| <= max(rtol |b|, atol)."""
        size = jnp.max(jnp.abs(b))
        usable = numbers.usable & jnp.isfinite(size)
        scale = power_of_two(size)
        unit = b / scale
        b_norm = norm(unit)
        # Below some unit roundoffs no residual can go.
        rtol = jnp.maximum(jnp.asarray(rtol, b.real.dtype), 32 * jnp.finfo(b.dtype).eps)
        # atol is in the units of b; the right-hand sides of derivatives have others, and must not
        # pass for solved.
        atol = jnp.minimum(self.atol / scale, LOOSEST * b_norm)
        target = jnp.maximum(rtol * b_norm, atol)
        max_steps = jnp.asarray(self._limit(b.size), jnp.int32)

        class State(NamedTuple):
            x: Array
            r: Array
            norm: Array
            steps: Array
            stagnated: Array
            is_number: Array

        def proceed(s: State) -> Array:
            return (s.norm > target) & (s.steps < max_steps) & ~s.stagnated

        def advance(s: State) -> State:
            correction, steps = self._cycle(A, M, s.r, target, max_steps - s.steps)
            x = s.x + correction
            r = unit - A(x)
            new_norm = norm(r)
            better = new_norm < s.norm
            stagnated = ~(new_norm < (1 - STAGNATION) * s.norm)
            keep = lambda new, old: jnp.where(better, new, old)  # noqa: E731
            return State(
                keep(x, s.x),
                keep(r, s.r),
                keep(new_norm, s.norm),
                s.steps + steps,
                stagnated,
                jnp.isfinite(new_norm),
            )

        start = State(
            jnp.zeros_like(unit),
            unit,
            b_norm,
            jnp.zeros((), jnp.int32),
            ~usable,
            jnp.ones((), bool),
        )
        end = loops.while_loop(proceed, advance, start)
        x = end.x * scale
        status = first_failure(
            (Status.NONFINITE_INPUT, ~usable),
            # An infinity that A holds has come out in A x.
            (Status.NONFINITE_INPUT, ~end.is_number & ~numbers.finite),
            (Status.NOT_CONVERGED, ~(end.norm <= target)),
            (Status.RESIDUAL_TOO_LARGE, ~jnp.all(jnp.isfinite(x))),
        )
        x = jnp.where(status.ok, x, jnp.nan)
        residual = end.norm / jnp.where(b_norm > 0, b_norm, 1)
        return x, Outcome(status.code, residual, end.steps, jnp.full((), jnp.nan, residual.dtype))


def _identity(x: Array) -> Array:
    return x


class _Numbers(NamedTuple):
    """Whether A's numbers can be computed with at all, and whether none of them is infinite."""

    usable: Array
    finite: Array


def _numbers(A: Any) -> _Numbers:
    """A matrix's entries must be finite; what a function holds may be infinite.

    A bound that is not there is, for example.
    """
    parts = jax.tree.leaves(A, is_leaf=lambda part: isinstance(part, TracedFunction))
    functions = [part for part in parts if isinstance(part, TracedFunction)]
    numbers = [
        [function.captured for function in functions],
        [p for p in parts if not isinstance(p, TracedFunction)],
    ]
    finite = all_finite(numbers)
    return _Numbers(none_is_nan(numbers) if functions else finite, finite)


def _transposed(M: PyTree, like: Array) -> LinearMap:
    # vjp rather than linear_transpose: M may itself be a solve, whose status is not linear. At an
    # example that varies as what it is applied to: the transpose of a cast inside would be a sum
    # over devices.
    example = loops.vary_over(jnp.zeros(like.shape[:1], like.dtype), loops.axes_of(like, M))
    _, transpose = jax.vjp(M, example)
    return lambda x: transpose(x)[0]


def _by_columns(solve: Callable[[Array], tuple[Array, Outcome]], b: Array) -> tuple[Array, Outcome]:
    """Each column of b by itself; the outcome is the worst, and one failure fails the block."""
    if b.ndim == 1:
        return solve(b)
    x, outcome = jax.vmap(solve, in_axes=1, out_axes=(1, 0))(b)
    worst = jax.tree.map(jnp.max, outcome)
    return jnp.where(worst.code == 0, x, jnp.nan), worst
