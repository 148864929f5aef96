"""BFGS and L-BFGS: second derivatives learned from the changes of the first ones."""

from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int32

from adjoint.inputs import refuse
from adjoint.optimize.descent import Descent, units_of_start
from adjoint.optimize.problem import Domain, Iterate


class _Inverse(NamedTuple):
    """What BFGS knows of second derivatives.

    Attributes
    ----------
    H
        Close to the inverse Hessian.
    updates
        How many steps it has learned from.
    held
        The entries that are not to move.
    among_held
        The inverse of the block of H that belongs to them, zero elsewhere; of shape (0, 0) without bounds.
    """

    H: Float[Array, "n n"]
    updates: Int32[Array, ""]
    held: Bool[Array, " n"]
    among_held: Float[Array, "n n"]


# c2 of the strong Wolfe conditions. With 0.9 steps along flat directions, of which H knows nothing yet, may end when a tenth of
# the slope is gone; ill-conditioned least squares (PALMER of CUTEst) take half as many more of them.
CURVATURE = 0.7
# For so many updates per unknown most of H may be what it began with, and is enlarged where it proves too small.
YOUNG = 3
# Up to n / MANY entries that join those at a bound or leave them are taken one by one, in 6 n^2 operations each; more, all at once
# in about n^3.
MANY = 8
# An inverse that leaves more than this share of what it was to remove has gathered rounding, and is not used.
INEXACT = 1e-6


@dataclass(frozen=True)
class BFGS(Descent):
    """x <- x - t H f'(x), with H <- (1 - rho s y') H (1 - rho y s') + rho s s', rho = 1 / (s . y).

    H begins as M^-1 of the inner product, or where none is given as the squares of the units of x, which are the sizes of its
    entries at the start; scaled by (s . y) / (y' H y) before its first update, and before the next 3 n where that makes it larger:
    the first step is along the steepest direction, and its scale far too small for the flat ones. So the run is the same in any
    unit of f, in any one unit of x, and in units of each entry where their sizes count for f at the start: an entry that is next
    to zero by chance, which shows in how little its size means to f, has a larger unit, up to the largest size. Bounds are kept by
    projection; H is then cut down to the entries that are not at a bound.

    Notes
    -----
    **Cost** per step: mostly one value and derivative; n^2 operations and numbers: up to a few thousand unknowns. With bounds,
    n^2 operations more for each entry that comes to a bound or leaves it, and n^3 in steps where many do.

    Source: Nocedal and Wright, Numerical Optimization, 2nd ed., algorithm 6.1 and equations (6.17) and (6.20); scaling only where
    H is too small: M. Al-Baali, Comput. Optim. Appl. 9, 191-203 (1998).

    Examples
    --------
    >>> import jax.numpy as jnp, adjoint
    >>> rosenbrock = lambda x: 100 * (x[1] - x[0] ** 2) ** 2 + (1 - x[0]) ** 2
    >>> x = adjoint.require(adjoint.minimize(rosenbrock, jnp.array([-1.2, 1.0]), adjoint.BFGS()))
    >>> [round(float(v), 3) for v in x]
    [1.0, 1.0]
    """

    c2 = CURVATURE

    def units(self, x: Float[Array, " n"], derivative: Float[Array, " n"]) -> Float[Array, " n"]:
        return units_of_start(x, derivative)

    def forget(self, x: Float[Array, " n"], domain: Domain) -> _Inverse:
        H = domain.inverse_matrix(x.dtype, x.size)
        none = jnp.zeros_like(H) if domain.bounded else jnp.zeros((0, 0), x.dtype)
        return _Inverse(H, jnp.zeros((), jnp.int32), jnp.zeros(x.shape, bool), none)

    def hold(self, memory: _Inverse, held: Bool[Array, " n"]) -> _Inverse:
        changes = jnp.sum(memory.held != held)
        few = changes <= held.size // MANY
        among_held = jax.lax.cond(few, _one_by_one, lambda memory, held: _inverse_among(memory.H, held), memory, held)
        return memory._replace(held=held, among_held=among_held)

    def direction(self, memory: _Inverse, at: Iterate, free: Bool[Array, " n"], domain: Domain) -> Float[Array, " n"]:
        g, H = at.derivative * free, memory.H
        if not domain.bounded:
            return -H @ g
        # The inverse of the free block of H^-1 is the Schur complement of the held block of H.
        H_g, held = H @ g, ~free
        pushes = jnp.where(held, H_g, 0)
        left = H_g - H @ (memory.among_held @ pushes)
        size = jnp.sqrt(jnp.diagonal(H))
        is_exact = jnp.max(jnp.abs(left * held) / size) <= INEXACT * jnp.max(jnp.abs(pushes) / size)
        left = jax.lax.cond(is_exact, lambda: left, lambda: H_g - H @ (_inverse_among(H, held) @ pushes))
        return -jnp.where(free, left, 0)

    def learn(self, memory: _Inverse, s: Float[Array, " n"], y: Float[Array, " n"], domain: Domain) -> _Inverse:
        s_y, updates = s @ y, memory.updates
        scale = s_y / (y @ (memory.H @ y))
        enlarged = jnp.where(updates <= YOUNG * s.size, jnp.maximum(scale, 1), 1)
        factor = jnp.where(updates == 0, scale, enlarged)
        H = factor * memory.H
        rho, H_y = 1 / s_y, H @ y
        cross = s[:, None] * H_y[None, :]
        H = H - rho * (cross + cross.T) + rho * (1 + rho * (y @ H_y)) * s[:, None] * s[None, :]
        # Where s is zero the block of H has only been scaled.
        return memory._replace(H=H, updates=updates + 1, among_held=memory.among_held / factor)


def _inverse_among(H: Float[Array, "n n"], held: Bool[Array, " n"]) -> Float[Array, "n n"]:
    """The inverse of the block of the held entries, zero elsewhere."""
    both = held[:, None] & held[None, :]
    identity = jnp.eye(held.size, dtype=H.dtype)
    factor = jnp.linalg.cholesky(jnp.where(both, H, identity))
    return jnp.where(both, jax.scipy.linalg.cho_solve((factor, True), identity), 0)


def _one_by_one(memory: _Inverse, held: Bool[Array, " n"]) -> Float[Array, "n n"]:
    """The inverse among the held entries, after each of those that join or leave, by bordering (and that read backwards).

    With w = (A^-1 b, -1) and c = H_kk - b' A^-1 b, the inverse with k is A^-1 + w w' / c, where b is the column of k.
    """
    H, index = memory.H, jnp.arange(held.size)

    def change(carry: tuple[Array, Array]) -> tuple[Array, Array]:
        inverse, now = carry
        k = jnp.argmax(now != held)
        column = jnp.where(now & (index != k), H[:, k], 0)
        joining = inverse @ column - (index == k)
        pivot = H[k, k] - column @ joining
        leaving = inverse[:, k]
        w, c = jnp.where(held[k], joining, leaving), jnp.where(held[k], pivot, -leaving[k])
        now = now.at[k].set(held[k])
        changed = inverse + w[:, None] * (w / c)[None, :]
        return jnp.where(now[:, None] & now[None, :], changed, 0), now

    begun = (memory.among_held, memory.held)
    return jax.lax.while_loop(lambda carry: jnp.any(carry[1] != held), change, begun)[0]


class _Pairs(NamedTuple):
    """The latest steps s and changes y of the derivative, newest last; a pair that is not there yet is zero."""

    s: Float[Array, "memory n"]
    y: Float[Array, "memory n"]


@dataclass(frozen=True)
class LBFGS(Descent):
    """BFGS from the latest pairs (s, y) alone: memory of a few vectors, for any number of unknowns.

    Parameters
    ----------
    memory
        Number of pairs.

    Raises
    ------
    ValueError
        For fewer than one pair.

    Notes
    -----
    **Cost** per step: mostly one value and derivative; 4 memory n operations, 2 memory n numbers. With bounds, only the entries of
    the pairs that are not at a bound are used. Source: Nocedal and Wright, algorithm 7.4, with
    H_0 = M^-1 (s . y) / (y' M^-1 y), as in equation (7.20), and M of `BFGS`.

    Examples
    --------
    >>> import jax.numpy as jnp, adjoint
    >>> cost = lambda x: jnp.sum((x - jnp.arange(4.0)) ** 2) + jnp.sum(x) ** 4
    >>> solution = adjoint.minimize(cost, jnp.zeros(4), adjoint.LBFGS(), bounds=(0.0, 1.0))
    >>> [round(float(v), 4) for v in adjoint.require(solution)]
    [0.0, 0.0, 0.0, 1.0]
    """

    memory: int = 10
    c2 = CURVATURE

    def __post_init__(self) -> None:
        if self.memory < 1:
            refuse("LBFGS", f"memory = {self.memory}", "at least one pair", "10 is usual.")

    def units(self, x: Float[Array, " n"], derivative: Float[Array, " n"]) -> Float[Array, " n"]:
        return units_of_start(x, derivative)

    def forget(self, x: Float[Array, " n"], domain: Domain) -> _Pairs:
        none = jnp.zeros((self.memory, x.size), x.dtype)
        return _Pairs(none, none)

    def direction(self, memory: _Pairs, at: Iterate, free: Bool[Array, " n"], domain: Domain) -> Float[Array, " n"]:
        s, y = memory.s * free[None, :], memory.y * free[None, :]
        s_y = jnp.sum(s * y, axis=1)
        usable = s_y > jnp.finfo(s.dtype).eps * jnp.linalg.norm(s, axis=1) * jnp.linalg.norm(y, axis=1)
        rho = jnp.where(usable, 1 / jnp.where(usable, s_y, 1), 0)

        def down(q: Array, pair: tuple[Array, Array, Array]) -> tuple[Array, Array]:
            s, y, rho = pair
            alpha = rho * (s @ q)
            return q - alpha * y, alpha

        def up(r: Array, pair: tuple[Array, Array, Array, Array]) -> tuple[Array, None]:
            s, y, rho, alpha = pair
            return r + s * (alpha - rho * (y @ r)), None

        q, alpha = jax.lax.scan(down, at.derivative * free, (s, y, rho), reverse=True)
        newest = jnp.max(jnp.where(usable, jnp.arange(self.memory), -1))
        size = y[newest] @ domain.gradient(y[newest])
        scale = jnp.where(newest >= 0, s_y[newest] / jnp.where(size > 0, size, 1), 1)
        r = scale * domain.gradient(q) * free
        return -jax.lax.scan(up, r, (s, y, rho, alpha))[0]

    def learn(self, memory: _Pairs, s: Float[Array, " n"], y: Float[Array, " n"], domain: Domain) -> _Pairs:
        def append(old: Array, new: Array) -> Array:
            return jnp.concatenate([old[1:], new[None]])

        return _Pairs(append(memory.s, s), append(memory.y, y))
