"""Krylov solvers for operators given by their action: CG, MINRES, GMRES, in compiled JAX.

Each method runs one cycle of its recurrence; the loop around the cycles computes the *true*
residual b - A x and stops on that alone, so a recurrence that has drifted, a preconditioner that
flatters and a false claim of symmetry all end either in a solution or in a status. The right-hand
side is scaled to norm 1 before iterating, which matters in the adjoint, where it is often 1e-13 of
the primal one. The adjoint solve runs the same method on the true transpose A', with M' as
preconditioner.

lineax's Krylov solvers were the alternative. They stop on a mixture of the preconditioned residual
and the last step (GMRES) or of the residual and the last step (CG), forget the preconditioner when
transposed (GMRES), are real-only (CG), and have no MINRES.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Inexact, Int32

from adjoint.inputs import all_finite, none_is_nan, refuse
from adjoint.linear.dense import Outcome
from adjoint.linear.multigrid import Multigrid
from adjoint.linear.operators import Operator
from adjoint.norm import dot, length, norm, power_of_two, root_of_dot
from adjoint.solution import Status, first_failure
from adjoint.tracing import loops
from adjoint.tracing.host_call import tick
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


def _bind_preconditioner(preconditioner: Any, n: int, dtype: Any) -> Any:
    """Trace M once, so that what it closes over becomes leaves of a pytree; it is never
    differentiated.
    """
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
    """What the iterative solvers share; a method is its `_cycle`, which improves on a residual r
    until it is at the target.
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

    def factor(self, A: Operator) -> Any:
        """The preconditioner M as a pytree, or None; there is nothing to factorize."""
        if isinstance(self.preconditioner, Multigrid):
            return self.preconditioner.of(A)
        return (
            None
            if self.preconditioner is None
            else _bind_preconditioner(self.preconditioner, A.n, A.dtype)
        )

    def solve(self, M: Any, A: Operator, b: Array) -> tuple[Array, Outcome]:
        return self.solve_to(M, A, b, self.rtol)

    def solve_to(self, M: Any, A: Operator, b: Array, rtol: Any) -> tuple[Array, Outcome]:
        """As `solve`, to a tolerance that may be traced."""
        x, outcome = _by_columns(
            lambda b: self._iterate(A.matvec, M or _identity, b, _numbers(A), rtol), b
        )
        return tick("solves", x, x.shape[1] if x.ndim == 2 else 1), outcome

    def solve_transpose(self, M: Any, A: Operator, c: Array) -> tuple[Array, Outcome]:
        M_transpose = _transposed(M, c) if M else _identity

        def iterate(c: Array) -> Any:
            return self._iterate(A.transpose_matvec, M_transpose, c, _numbers(A), self.rtol)

        lam, outcome = _by_columns(iterate, c)
        return tick("transpose_solves", lam, lam.shape[1] if lam.ndim == 2 else 1), outcome

    def _limit(self, n: int) -> int:
        return self.max_steps or 10 * n

    def _cycle(
        self, A: LinearMap, M: LinearMap, r: Array, target: Array, steps_left: Array
    ) -> tuple[Array, Array]:
        raise NotImplementedError

    def _iterate(
        self, A: LinearMap, M: LinearMap, b: Array, numbers: "_Numbers", rtol: Any
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


@dataclass(frozen=True)
class CG(Krylov):
    """Conjugate gradients, for a symmetric (complex: Hermitian) positive definite operator.

    Parameters
    ----------
    rtol, atol
        Stop when the true residual |b - A x| <= max(rtol |b|, min(atol, 1e-8 |b|)), in the 2-norm
        and the units of b; derivatives are solved to the same. An rtol below 32 unit roundoffs
        (7e-15 in float64, 4e-6 in float32) is raised to that.
    max_steps
        Limit on the applications of A; default 10 n.
    preconditioner
        Function v -> M v, symmetric positive definite and close to A^-1; or a `Multigrid`, which is
        built from A. Held constant under differentiation: the solution does not depend on it.

    Notes
    -----
    **Status**: `NOT_CONVERGED` at the step limit, at stagnation, and when A is not positive
    definite; `NONFINITE_INPUT`. **Cost**: one A and one M per step; four vectors. Source: Hestenes
    and Stiefel, J. Res. NBS 49, 1952.

    Examples
    --------
    >>> import jax.numpy as jnp, adjoint
    >>> A = adjoint.MatrixFree(lambda x: jnp.array([1.0, 2.0, 4.0]) * x, 3, positive_definite=True)
    >>> x = adjoint.require(adjoint.linear_solve(A, jnp.ones(3), adjoint.CG(rtol=1e-6)))
    >>> [round(float(v), 4) for v in x]
    [1.0, 0.5, 0.25]
    """

    def _cycle(
        self, A: LinearMap, M: LinearMap, r: Array, target: Array, steps_left: Array
    ) -> tuple[Array, Array]:
        def proceed(state: Any) -> Array:
            _, r, _, rho, step = state
            return (norm(r) > target) & (step < steps_left) & (rho > 0)

        def advance(state: Any) -> Any:
            x, r, p, rho, step = state
            z = M(r)
            rho_new = dot(r, z)
            p = z + (rho_new / rho) * p
            q = A(p)
            curvature = dot(p, q)
            definite = (rho_new > 0) & (curvature > 0)
            alpha = jnp.where(definite, rho_new / jnp.where(definite, curvature, 1), 0)
            return x + alpha * p, r - alpha * q, p, jnp.where(definite, rho_new, 0), step + 1

        # With an infinite rho the first direction is z alone, and M and A are compiled once.
        null, infinite = jnp.zeros_like(r), jnp.asarray(jnp.inf, r.real.dtype)
        x, _, _, _, steps = loops.while_loop(
            proceed, advance, (null, r, null, infinite, jnp.zeros((), jnp.int32))
        )
        return x, steps


@dataclass(frozen=True)
class MINRES(Krylov):
    """Minimal residuals, for a symmetric (complex: Hermitian) operator that need not be definite.

    Parameters as for `CG`; the preconditioner must be symmetric positive definite.

    Notes
    -----
    **Status** as for `CG`. **Cost**: one A and one M per step; seven vectors. Source: Paige and
    Saunders, SIAM J. Numer. Anal. 12, 1975, section 4; preconditioned as in Elman, Silvester and
    Wathen, Finite Elements and Fast Iterative Solvers, 2nd ed., section 4.1.

    Examples
    --------
    >>> import jax.numpy as jnp, adjoint
    >>> A = adjoint.MatrixFree(lambda x: jnp.array([1.0, -2.0, 4.0]) * x, 3, symmetric=True)
    >>> x = adjoint.require(adjoint.linear_solve(A, jnp.ones(3), adjoint.MINRES(rtol=1e-6)))
    >>> [round(float(v), 4) for v in x]
    [1.0, -0.5, 0.25]
    """

    def _cycle(
        self, A: LinearMap, M: LinearMap, r: Array, target: Array, steps_left: Array
    ) -> tuple[Array, Array]:
        class State(NamedTuple):
            x: Array
            v: Array
            v_old: Array
            z: Array
            w: Array
            w_old: Array
            gamma: Array
            gamma_old: Array
            eta: Array
            c: Array
            c_old: Array
            s: Array
            s_old: Array
            step: Array

        z = M(r)
        gamma = root_of_dot(r, z)
        # The recurrence knows the residual in the norm of M only; half the relative reduction asked
        # for, then a look.
        floor = 0.5 * gamma * target / norm(r)

        def proceed(k: State) -> Array:
            return (jnp.abs(k.eta) > floor) & (k.step < steps_left) & (k.gamma > 0)

        def advance(k: State) -> State:
            z = k.z / k.gamma
            q = A(z)
            delta = dot(z, q)
            v = q - (delta / k.gamma) * k.v - (k.gamma / k.gamma_old) * k.v_old
            z_new = M(v)
            gamma = root_of_dot(v, z_new)
            a_0 = k.c * delta - k.c_old * k.s * k.gamma
            a_1 = length(a_0, gamma)
            a_1 = jnp.where(a_1 > 0, a_1, jnp.nan)
            a_2 = k.s * delta + k.c_old * k.c * k.gamma
            a_3 = k.s_old * k.gamma
            c, s = a_0 / a_1, gamma / a_1
            w = (z - a_3 * k.w_old - a_2 * k.w) / a_1
            x = k.x + c * k.eta * w
            return State(
                x, v, k.v, z_new, w, k.w, gamma, k.gamma, -s * k.eta, c, k.c, s, k.s, k.step + 1
            )

        zero, one = jnp.zeros((), gamma.dtype), jnp.ones((), gamma.dtype)
        null = jnp.zeros_like(r)
        start = State(
            null,
            r,
            null,
            z,
            null,
            null,
            gamma,
            one,
            gamma,
            one,
            one,
            zero,
            zero,
            jnp.zeros((), jnp.int32),
        )
        end = loops.while_loop(proceed, advance, start)
        return end.x, end.step


@dataclass(frozen=True)
class GMRES(Krylov):
    """Generalized minimal residuals, restarted, for any nonsingular operator.

    Parameters
    ----------
    rtol, atol, max_steps, preconditioner
        As for `CG`; the preconditioner need not be symmetric. It is applied from the right, so that
        the residual minimized is the true one, and transposed in the adjoint solve.
    restart
        Length of a cycle. Larger converges in fewer steps and stores more: restart + 1 vectors.

    Notes
    -----
    **Status** as for `CG`. **Cost**: one A and one M per step. Source: Saad and Schultz, SIAM J.
    Sci. Stat. Comput. 7, 1986; right preconditioning: Saad, Iterative Methods for Sparse Linear
    Systems, 2nd ed., algorithm 9.5.

    Examples
    --------
    >>> import jax.numpy as jnp, adjoint
    >>> A = adjoint.MatrixFree(lambda x: 3.0 * x + jnp.roll(x, 1), 4)
    >>> x = adjoint.require(
    ...     adjoint.linear_solve(A, jnp.ones(4), adjoint.GMRES(rtol=1e-6, restart=10))
    ... )
    >>> [round(float(v), 4) for v in x]
    [0.25, 0.25, 0.25, 0.25]
    """

    restart: int = 30

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.restart < 1:
            refuse("GMRES", f"restart = {self.restart}", "a positive integer", "30 is usual.")

    def _cycle(
        self, A: LinearMap, M: LinearMap, r: Array, target: Array, steps_left: Array
    ) -> tuple[Array, Array]:
        m = min(self.restart, r.size)
        beta = norm(r)
        V = jnp.zeros((m + 1, r.size), r.dtype).at[0].set(r / beta)
        # R: the Hessenberg matrix turned upper triangular by plane rotations (c, s); g: the rotated
        # right-hand side.
        R = jnp.eye(m, dtype=r.dtype)
        rotations = jnp.zeros((2, m), r.dtype)
        g = jnp.zeros(m + 1, r.dtype).at[0].set(beta)

        def proceed(state: Any) -> Array:
            _, _, _, g, k, broke_down = state
            return (jnp.abs(g[k]) > target) & (k < m) & (k < steps_left) & ~broke_down

        def advance(state: Any) -> Any:
            V, R, rotations, g, k, _ = state
            w = A(M(V[k]))
            size = norm(w)
            h = jnp.zeros(m + 1, r.dtype)
            for _ in range(
                2
            ):  # Gram-Schmidt twice is as good as it gets (Giraud et al., Numer. Math. 101, 2005).
                projection = V.conj() @ w
                w, h = w - projection @ V, h + projection
            rest = norm(w)
            broke_down = ~(rest > 10 * jnp.finfo(r.dtype).eps * size)
            h = h.at[k + 1].set(rest.astype(r.dtype))
            V = V.at[k + 1].set(jnp.where(broke_down, 0, w / jnp.where(broke_down, 1, rest)))
            h = loops.fori_loop(
                0, k, lambda i, h: _rotate(h, i, rotations[0, i], rotations[1, i]), h
            )
            radius = length(h[k], h[k + 1])
            radius = jnp.where(radius > 0, radius, 1).astype(r.dtype)
            c, s = h[k].conj() / radius, h[k + 1].conj() / radius
            h, g = _rotate(h, k, c, s), _rotate(g, k, c, s)
            R = R.at[:, k].set(jnp.where(jnp.arange(m) <= k, h[:m], 0))
            return V, R, rotations.at[:, k].set(jnp.stack([c, s])), g, k + 1, broke_down

        start = (V, R, rotations, g, jnp.zeros((), jnp.int32), jnp.zeros((), bool))
        V, R, _, g, steps, _ = loops.while_loop(proceed, advance, start)
        used = jnp.where(jnp.arange(m) < steps, g[:m], 0)
        y = jax.scipy.linalg.solve_triangular(R, used)
        # V whole: a slice of it would be a second basis in memory.
        return M(jnp.append(y, 0) @ V), steps


def _rotate(h: Array, i: Any, c: Array, s: Array) -> Array:
    """The unitary plane rotation [[c, s], [-s*, c*]] of the entries i and i + 1."""
    return (
        h.at[i].set(c * h[i] + s * h[i + 1]).at[i + 1].set(-s.conj() * h[i] + c.conj() * h[i + 1])
    )


def _identity(x: Array) -> Array:
    return x


class _Numbers(NamedTuple):
    """Whether the numbers that A is made of can be computed with at all, and whether none of them
    is infinite.
    """

    usable: Array
    finite: Array


def _numbers(A: Any) -> _Numbers:
    """The entries of a matrix must be finite; what a function holds may be infinite, such as a
    bound that is not there.
    """
    parts = jax.tree.leaves(A, is_leaf=lambda part: isinstance(part, TracedFunction))
    functions = [part for part in parts if isinstance(part, TracedFunction)]
    numbers = [
        [function.captured for function in functions],
        [p for p in parts if not isinstance(p, TracedFunction)],
    ]
    finite = all_finite(numbers)
    return _Numbers(none_is_nan(numbers) if functions else finite, finite)


def _transposed(M: Any, like: Array) -> LinearMap:
    # vjp rather than linear_transpose: M may itself be a solve, whose status is not linear. At an
    # example that varies as what it is applied to: the transpose of a cast inside would be a sum
    # over devices.
    example = loops.vary_over(jnp.zeros(like.shape[:1], like.dtype), loops.axes_of(like, M))
    _, transpose = jax.vjp(M, example)
    return lambda x: transpose(x)[0]


def _by_columns(solve: Callable[[Array], tuple[Array, Outcome]], b: Array) -> tuple[Array, Outcome]:
    """Each column of b by itself; the outcome is the worst of the columns, and one failed column
    fails the block.
    """
    if b.ndim == 1:
        return solve(b)
    x, outcome = jax.vmap(solve, in_axes=1, out_axes=(1, 0))(b)
    worst = jax.tree.map(jnp.max, outcome)
    return jnp.where(worst.code == 0, x, jnp.nan), worst
