"""Krylov solvers for operators given by their action: CG, MINRES, GMRES, in compiled JAX.

Each method runs one cycle of its recurrence; `Krylov` has the loop around the cycles.

lineax's Krylov solvers were the alternative. They stop on a mixture of the preconditioned residual
and the last step (GMRES) or of the residual and the last step (CG), forget the preconditioner when
transposed (GMRES), are real-only (CG), and have no MINRES.
"""

from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree

from adjoint.inputs import refuse
from adjoint.linear.krylov import Krylov, LinearMap
from adjoint.norm import dot, length, norm, root_of_dot
from adjoint.tracing import loops


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
        def proceed(state: PyTree) -> Array:
            _, r, _, rho, step = state
            return (norm(r) > target) & (step < steps_left) & (rho > 0)

        def advance(state: PyTree) -> PyTree:
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
        null = jnp.zeros_like(r)
        infinite = jnp.asarray(jnp.inf, r.real.dtype)
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
            c = a_0 / a_1
            s = gamma / a_1
            w = (z - a_3 * k.w_old - a_2 * k.w) / a_1
            x = k.x + c * k.eta * w
            return State(
                x, v, k.v, z_new, w, k.w, gamma, k.gamma, -s * k.eta, c, k.c, s, k.s, k.step + 1
            )

        zero = jnp.zeros((), gamma.dtype)
        one = jnp.ones((), gamma.dtype)
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

        def proceed(state: PyTree) -> Array:
            _, _, _, g, k, broke_down = state
            return (jnp.abs(g[k]) > target) & (k < m) & (k < steps_left) & ~broke_down

        def advance(state: PyTree) -> PyTree:
            V, R, rotations, g, k, _ = state
            w = A(M(V[k]))
            size = norm(w)
            h = jnp.zeros(m + 1, r.dtype)
            # Gram-Schmidt twice is as good as it gets (Giraud et al., Numer. Math. 101, 2005).
            for _ in range(2):
                projection = V.conj() @ w
                w = w - projection @ V
                h = h + projection
            rest = norm(w)
            broke_down = ~(rest > 10 * jnp.finfo(r.dtype).eps * size)
            h = h.at[k + 1].set(rest.astype(r.dtype))
            V = V.at[k + 1].set(jnp.where(broke_down, 0, w / jnp.where(broke_down, 1, rest)))
            h = loops.fori_loop(
                0, k, lambda i, h: _rotate(h, i, rotations[0, i], rotations[1, i]), h
            )
            radius = length(h[k], h[k + 1])
            radius = jnp.where(radius > 0, radius, 1).astype(r.dtype)
            c = h[k].conj() / radius
            s = h[k + 1].conj() / radius
            h = _rotate(h, k, c, s)
            g = _rotate(g, k, c, s)
            R = R.at[:, k].set(jnp.where(jnp.arange(m) <= k, h[:m], 0))
            return V, R, rotations.at[:, k].set(jnp.stack([c, s])), g, k + 1, broke_down

        start = (V, R, rotations, g, jnp.zeros((), jnp.int32), jnp.zeros((), bool))
        V, R, _, g, steps, _ = loops.while_loop(proceed, advance, start)
        used = jnp.where(jnp.arange(m) < steps, g[:m], 0)
        y = jax.scipy.linalg.solve_triangular(R, used)
        # V whole: a slice of it would be a second basis in memory.
        return M(jnp.append(y, 0) @ V), steps


def _rotate(h: Array, i: Array | int, c: Array, s: Array) -> Array:
    """The unitary plane rotation [[c, s], [-s*, c*]] of the entries i and i + 1."""
    return (
        h.at[i].set(c * h[i] + s * h[i + 1]).at[i + 1].set(-s.conj() * h[i] + c.conj() * h[i + 1])
    )
