"""BFGS and L-BFGS: second derivatives learned from the changes of the first ones."""

from dataclasses import dataclass
from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int32

from adjoint.inputs import refuse
from adjoint.optimize.descent import Descent, units_of_start
from adjoint.optimize.line_search import Search, StrongWolfe
from adjoint.optimize.problem import Domain
from adjoint.optimize.state import Iterate
from adjoint.tracing import loops


class _Inverse(NamedTuple):
    """H, close to the inverse Hessian, and how many steps it has learned from."""

    H: Float[Array, "n n"]
    updates: Int32[Array, ""]


# With c2 = 0.9 steps along flat directions, of which H knows nothing yet, may end when a tenth of
# the slope is gone; ill-conditioned least squares (PALMER of CUTEst) take half as many more of
# them.
SEARCH = StrongWolfe(c2=0.7)
# For so many updates per unknown most of H may be what it began with, and is enlarged where it
# proves too small.
YOUNG = 3
# The system of the held entries is solved to this share of its residual, in at most so many steps
# of n^2 operations: H itself is no better known, and every step of the conjugate gradients leaves a
# direction downhill.
FORCING = 1e-2
MOST_PRODUCTS = 20


@dataclass(frozen=True)
class BFGS(Descent):
    """x <- x - t H f'(x), with H <- (1 - rho s y') H (1 - rho y s') + rho s s', rho = 1 / (s . y).

    H begins as M^-1 of the inner product, or where none is given as the squares of the units of x,
    which are the sizes of its entries at the start; scaled by (s . y) / (y' H y) before its first
    update, and before the next 3 n where that makes it larger: the first step is along the steepest
    direction, and its scale far too small for the flat ones. So the run is the same in any unit of
    f, in any one unit of x, and in units of each entry where their sizes count for f at the start:
    an entry that is next to zero by chance, which shows in how little its size means to f, has a
    larger unit, up to the largest size. Bounds are kept by projection; H is then cut down to the
    entries that are not at a bound.

    Parameters
    ----------
    search
        How far a step goes: `StrongWolfe`, `Backtracking`, or an object with the same two methods.

    Notes
    -----
    **Cost** per step: mostly one value and derivative; n^2 operations and numbers: up to a few
    thousand unknowns. With bounds, a few times as many operations.

    Source: Nocedal and Wright, Numerical Optimization, 2nd ed., algorithm 6.1 and equations (6.17)
    and (6.20); scaling only where H is too small: M. Al-Baali, Comput. Optim. Appl. 9, 191-203
    (1998).

    Examples
    --------
    >>> import jax.numpy as jnp, adjoint
    >>> rosenbrock = lambda x: 100 * (x[1] - x[0] ** 2) ** 2 + (1 - x[0]) ** 2
    >>> x = adjoint.require(adjoint.minimize(rosenbrock, jnp.array([-1.2, 1.0]), adjoint.BFGS()))
    >>> [round(float(v), 3) for v in x]
    [1.0, 1.0]
    """

    search: Search = SEARCH

    def units(self, x: Float[Array, " n"], derivative: Float[Array, " n"]) -> Float[Array, " n"]:
        return units_of_start(x, derivative)

    def forget(self, x: Float[Array, " n"], domain: Domain) -> _Inverse:
        return _Inverse(domain.inverse_matrix(x.dtype, x.size), jnp.zeros((), jnp.int32))

    def direction(
        self, memory: _Inverse, at: Iterate, free: Bool[Array, " n"], domain: Domain
    ) -> Float[Array, " n"]:
        g = at.derivative * free
        H = memory.H
        if not domain.bounded:
            return -H @ g
        # The inverse of the free block of H^-1 is the Schur complement of the held block of H.
        H_g = H @ g
        return -jnp.where(free, H_g - _through_held(H, H_g, ~free), 0)

    def learn(
        self, memory: _Inverse, s: Float[Array, " n"], y: Float[Array, " n"], domain: Domain
    ) -> _Inverse:
        s_y = s @ y
        updates = memory.updates
        scale = s_y / (y @ (memory.H @ y))
        enlarged = jnp.where(updates <= YOUNG * s.size, jnp.maximum(scale, 1), 1)
        H = jnp.where(updates == 0, scale, enlarged) * memory.H
        rho = 1 / s_y
        H_y = H @ y
        cross = s[:, None] * H_y[None, :]
        H = H - rho * (cross + cross.T) + rho * (1 + rho * (y @ H_y)) * s[:, None] * s[None, :]
        return _Inverse(H, updates + 1)


def _through_held(
    H: Float[Array, "n n"], b: Float[Array, " n"], held: Bool[Array, " n"]
) -> Float[Array, " n"]:
    """H x for an x that is zero but for the held entries, where H x = b.

    It is found by conjugate gradients, in units of the diagonal. However early they end, b' x is
    positive and no more than that of the solution, so that the direction is downhill (Nocedal and
    Wright, section 5.1: they minimize x' H x / 2 - b' x over growing spaces, from zero).
    """
    diagonal = jnp.diagonal(H)

    def advance(state: tuple[Array, ...]) -> tuple[Array, ...]:
        H_x, r, p, r_z, k = state
        H_p = H @ p
        alpha = r_z / (p @ H_p)
        r = r - alpha * jnp.where(held, H_p, 0)
        z = r / diagonal
        following = r @ z
        return H_x + alpha * H_p, r, z + following / r_z * p, following, k + 1

    r = jnp.where(held, b, 0)
    p = r / diagonal
    begun = (jnp.zeros_like(b), r, p, r @ p, jnp.zeros((), jnp.int32))
    least = FORCING**2 * begun[3]
    return loops.while_loop(lambda s: (s[3] > least) & (s[4] < MOST_PRODUCTS), advance, begun)[0]


class _Pairs(NamedTuple):
    """The latest steps s and changes y of the derivative, newest last; zero where none is yet."""

    s: Float[Array, "memory n"]
    y: Float[Array, "memory n"]


@dataclass(frozen=True)
class LBFGS(Descent):
    """BFGS from the latest pairs (s, y) alone: memory of a few vectors, for any number of unknowns.

    Parameters
    ----------
    memory
        Number of pairs.
    search
        As for `BFGS`.

    Raises
    ------
    ValueError
        For fewer than one pair.

    Notes
    -----
    **Cost** per step: mostly one value and derivative; 4 memory n operations, 2 memory n numbers.
    With bounds, only the entries of the pairs that are not at a bound are used. Source: Nocedal and
    Wright, algorithm 7.4, with H_0 = M^-1 (s . y) / (y' M^-1 y), as in equation (7.20), and M of
    `BFGS`.

    Examples
    --------
    >>> import jax.numpy as jnp, adjoint
    >>> cost = lambda x: jnp.sum((x - jnp.arange(4.0)) ** 2) + jnp.sum(x) ** 4
    >>> solution = adjoint.minimize(cost, jnp.zeros(4), adjoint.LBFGS(), bounds=(0.0, 1.0))
    >>> [round(float(v), 4) for v in adjoint.require(solution)]
    [0.0, 0.0, 0.0, 1.0]
    """

    memory: int = 10
    search: Search = SEARCH

    def __post_init__(self) -> None:
        if self.memory < 1:
            refuse("LBFGS", f"memory = {self.memory}", "at least one pair", "10 is usual.")

    def units(self, x: Float[Array, " n"], derivative: Float[Array, " n"]) -> Float[Array, " n"]:
        return units_of_start(x, derivative)

    def forget(self, x: Float[Array, " n"], domain: Domain) -> _Pairs:
        none = jnp.zeros((self.memory, x.size), x.dtype)
        return _Pairs(none, none)

    def direction(
        self, memory: _Pairs, at: Iterate, free: Bool[Array, " n"], domain: Domain
    ) -> Float[Array, " n"]:
        s = memory.s * free[None, :]
        y = memory.y * free[None, :]
        s_y = jnp.sum(s * y, axis=1)
        usable = s_y > jnp.finfo(s.dtype).eps * jnp.linalg.norm(s, axis=1) * jnp.linalg.norm(
            y, axis=1
        )
        rho = jnp.where(usable, 1 / jnp.where(usable, s_y, 1), 0)

        def down(q: Array, pair: tuple[Array, Array, Array]) -> tuple[Array, Array]:
            s, y, rho = pair
            alpha = rho * (s @ q)
            return q - alpha * y, alpha

        def up(r: Array, pair: tuple[Array, Array, Array, Array]) -> tuple[Array, None]:
            s, y, rho, alpha = pair
            return r + s * (alpha - rho * (y @ r)), None

        q, alpha = loops.scan(down, at.derivative * free, (s, y, rho), reverse=True)
        newest = jnp.max(jnp.where(usable, jnp.arange(self.memory), -1))
        size = y[newest] @ domain.gradient(y[newest])
        scale = jnp.where(newest >= 0, s_y[newest] / jnp.where(size > 0, size, 1), 1)
        r = scale * domain.gradient(q) * free
        return -loops.scan(up, r, (s, y, rho, alpha))[0]

    def learn(
        self, memory: _Pairs, s: Float[Array, " n"], y: Float[Array, " n"], domain: Domain
    ) -> _Pairs:
        def append(old: Array, new: Array) -> Array:
            return jnp.concatenate([old[1:], new[None]])

        return _Pairs(append(memory.s, s), append(memory.y, y))
