"""Multigrid on structured grids: a preconditioner from products with A alone, compiled.

Level 0 is the user's grid; each further one keeps every second node along each axis, and always the
last. With P the linear interpolation from a level to the finer one,

    A_coarse = P' A P        (Galerkin)
    M r: smooth x from 0, x <- x + P M_coarse P'(r - A x), smooth again;
         on the last level M = A^-1, dense.

Source: Briggs, Henson and McCormick, A Multigrid Tutorial, 2nd ed., SIAM, 2000, chapters 3 and 10;
the smoother is Chebyshev's polynomial in D^-1 A, D the diagonal of A: Adams, Brezina, Hu and
Tuminaro, J. Comput. Phys. 188, 2003.

The A of each level is kept as a stencil (`grid_stencil`); that of the user's A is read off from its
products. All levels are in float32: a preconditioner needs no more, and the solver around it judges
by residuals of its own.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import product
from math import prod

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Inexact

from adjoint.inputs import refuse
from adjoint.linear.grid_stencil import apply, dense_matrix, diagonal, offsets, stencil_of
from adjoint.linear.operators import Operator

# Up to so many unknowns a level is solved by its dense inverse.
COARSEST = 300
# An axis with fewer nodes is not coarsened any more.
SHORTEST = 4
# The smoother is to damp the eigenvalues of D^-1 A between its largest one and this share of that.
SMOOTHED = 0.25


@dataclass(frozen=True)
class Multigrid:
    """Preconditioner for systems on a structured grid: steps hardly grow with the grid.

    It is for `CG`, `MINRES`, `GMRES` and `NewtonKrylov`. M r is one V-cycle: two Chebyshev
    smoothings on every level, Galerkin coarse operators, a dense solve on the coarsest.

    Parameters
    ----------
    grid
        Number of nodes along each axis, one to three of them. Unknowns are ordered with the last
        axis fastest, as in ``field.ravel()`` for a field of shape ``grid``.
    components
        Unknowns per node, which run faster than the nodes: ``field.ravel()`` for a field of shape
        ``(*grid, components)``.

    Raises
    ------
    ValueError
        When the grid does not have as many unknowns as A.

    Notes
    -----
    For operators that couple a node with itself and its direct and diagonal neighbors, such as
    finite differences of second order and (bi)linear elements, with coefficients that vary over the
    grid. An unknown held fixed stays in the vector, with zeros beside the diagonal in its row and
    column. M is symmetric positive definite if A is. A need not be symmetric, but where convection
    dominates within a cell M is of little help. So it is where coefficients jump: plane elasticity
    on 150 x 50 elements to 1e-8 takes 14 steps of CG for a uniform modulus, and for blobs of two
    moduli with ratio 10, 100 and 1000 it takes 23, 72 and 178; with holes use `SparseDirect`. M
    changes the number of steps, never the solution: the solvers judge by the true residual, and end
    in `NOT_CONVERGED` where M is of no use.

    **Derivative**: M is held constant; the adjoint solve uses M'. **Cost**: for each matrix 3^d
    products with A per component, on d axes; then M r takes as long as eight products with a
    five-point A written as shifts, at 256 x 256 on two cores. Memory: about 3^d components^2
    numbers per node. Compiling takes seconds.

    Examples
    --------
    -lap(u) = 1 on the unit square by five-point differences, on 63 x 63 inner nodes; 0.0737 at the
    center.

    >>> import jax.numpy as jnp, adjoint
    >>> def laplacian(u):
    ...     u = jnp.pad(u.reshape(63, 63), 1)
    ...     return (
    ...         64**2
    ...         * (
    ...             4 * u[1:-1, 1:-1] - u[:-2, 1:-1] - u[2:, 1:-1] - u[1:-1, :-2] - u[1:-1, 2:]
    ...         ).ravel()
    ...     )
    >>> A = adjoint.MatrixFree(laplacian, 63**2, positive_definite=True)
    >>> solution = adjoint.linear_solve(
    ...     A, jnp.ones(63**2), adjoint.CG(1e-6, preconditioner=adjoint.Multigrid((63, 63)))
    ... )
    >>> (
    ...     round(float(adjoint.require(solution)[63**2 // 2]), 4),
    ...     int(solution.stats["iterations"]) < 10,
    ... )
    (0.0737, True)
    """

    grid: tuple[int, ...]
    components: int = 1

    def __post_init__(self) -> None:
        sizes = tuple(self.grid) if isinstance(self.grid, Sequence) else (self.grid,)
        if not 1 <= len(sizes) <= 3 or not all(
            isinstance(m, int | np.integer) and m >= 1 for m in sizes
        ):
            given = f"grid = {self.grid!r}"
            refuse(
                "Multigrid",
                given,
                "one to three positive integers",
                "Give the number of nodes along each axis.",
            )
        if not isinstance(self.components, int | np.integer) or self.components < 1:
            given = f"components = {self.components!r}"
            refuse(
                "Multigrid", given, "a positive integer", "Give the number of unknowns per node."
            )
        object.__setattr__(self, "grid", tuple(int(m) for m in sizes))

    def of(self, A: Operator) -> "Hierarchy":
        """M for this A."""
        n = self.components * prod(self.grid)
        if A.n != n:
            given = f"grid = {self.grid} with {self.components} unknown(s) per node, {n} in all"
            refuse(
                "Multigrid",
                given,
                f"{A.n} unknowns, as A has",
                "Count the nodes, not the cells, of each axis.",
            )
        S, size = stencil_of(jax.lax.stop_gradient(A), self.grid, self.components)
        levels: list[Level] = []
        grid = self.grid
        while self.components * prod(grid) > COARSEST and _coarse(grid) != grid:
            levels.append(Level.of(S))
            S = _galerkin(S, levels[-1].coupled, grid)
            grid = _coarse(grid)
        return Hierarchy(
            tuple(levels),
            jnp.linalg.inv(dense_matrix(S, grid)),
            size,
            (self.components, *self.grid),
        )


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Level:
    """One level but the last, of A / size.

    Attributes
    ----------
    S
        Stencil.
    inverse_diagonal
        D^-1, one for each unknown.
    coupled
        1 for unknowns that are coupled with others and 0 for isolated ones, which their diagonal
        solves: they are left out of the coarser levels.
    largest
        Bound on the eigenvalues of D^-1 A: its largest sum of magnitudes along a row (Gershgorin).
    """

    S: Inexact[Array, "components components *three_and_grid"]
    inverse_diagonal: Inexact[Array, "components *grid"]
    coupled: Float[Array, "components *grid"]
    largest: Float[Array, ""]

    @classmethod
    def of(cls, S: Array) -> "Level":
        D = diagonal(S)
        inverse_diagonal = jnp.where(D != 0, 1 / jnp.where(D != 0, D, 1), 0)
        along_rows = apply(jnp.abs(S), jnp.ones(D.shape, jnp.abs(D).dtype))
        coupled = (along_rows > jnp.abs(D)).astype(along_rows.dtype)
        return cls(S, inverse_diagonal, coupled, jnp.max(jnp.abs(inverse_diagonal) * along_rows))

    def smooth(self, r: Array) -> tuple[Array, Array]:
        """Two steps of Chebyshev's iteration: a correction from the residual r, and what it leaves.

        Saad, Iterative Methods for Sparse Linear Systems, 2nd ed., algorithm 12.1, for D^-1 A.
        """
        center = self.largest * (1 + SMOOTHED) / 2
        radius = self.largest * (1 - SMOOTHED) / 2
        rho = radius / center
        rho_next = 1 / (2 / rho - rho)
        step = self.inverse_diagonal * r / center
        r = r - apply(self.S, step)
        next_step = rho_next * (rho * step + 2 / radius * self.inverse_diagonal * r)
        return step + next_step, r - apply(self.S, next_step)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Hierarchy:
    """M for one A: levels from the user's grid on, and the inverse of the last, all of A / size."""

    levels: tuple[Level, ...]
    inverse: Inexact[Array, "m m"]
    size: Float[Array, ""]
    shape: tuple[int, ...] = field(metadata={"static": True})

    def __call__(self, r: Inexact[Array, " n"]) -> Inexact[Array, " n"]:
        """M r."""
        components, *grid = self.shape
        x = self._cycle(
            0, jnp.moveaxis(r.reshape(*grid, components), -1, 0).astype(self.inverse.dtype)
        )
        return jnp.moveaxis(x, 0, -1).ravel().astype(r.dtype) / self.size.astype(r.real.dtype)

    def _cycle(self, depth: int, r: Array) -> Array:
        if depth == len(self.levels):
            return (self.inverse @ r.ravel()).reshape(r.shape)
        level = self.levels[depth]
        grid = r.shape[1:]
        x, left = level.smooth(r)
        correction = self._cycle(depth + 1, _restrict(level.coupled * left, grid))
        x = x + level.coupled * _interpolate(correction, grid)
        return x + level.smooth(r - apply(level.S, x))[0]


# Interpolation along one axis of m nodes: the coarse ones are 0, 2, 4, .. and the last, and a node
# between two is their mean.


def _coarse(grid: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(m if m < SHORTEST else m // 2 + 1 for m in grid)


def _interpolate(u: Array, grid: tuple[int, ...]) -> Array:
    """P u."""
    for axis, m in enumerate(grid, 1):
        if u.shape[axis] < m:
            first = jax.lax.slice_in_dim(u, 0, -1, axis=axis)
            second = jax.lax.slice_in_dim(u, 1, None, axis=axis)
            pairs = jnp.stack([first, (first + second) / 2], axis + 1)
            joined = pairs.reshape(*u.shape[:axis], -1, *u.shape[axis + 1 :])
            last = jax.lax.slice_in_dim(u, -1, None, axis=axis)
            u = jnp.concatenate([jax.lax.slice_in_dim(joined, 0, m - 1, axis=axis), last], axis)
    return u


def _restrict(r: Array, grid: tuple[int, ...]) -> Array:
    """P' r."""
    coarse = jax.ShapeDtypeStruct((r.shape[0], *_coarse(grid)), r.dtype)
    return jax.linear_transpose(lambda u: _interpolate(u, grid), coarse)(r)[0]


def _galerkin(S: Array, coupled: Array, grid: tuple[int, ...]) -> Array:
    """The stencil of P' A P, axis by axis, for a P that leaves out isolated unknowns."""
    S = _between(S, coupled)
    for axis, m in enumerate(grid):
        if _coarse((m,)) != (m,):
            S = _galerkin_along(S, axis, len(grid))
    return S


def _between(S: Array, coupled: Array) -> Array:
    """S with the rows and columns of coupled unknowns alone."""
    components, *grid = coupled.shape
    axes = len(grid)
    around = jnp.pad(coupled, [(0, 0)] + [(1, 1)] * axes)
    of_neighbors = [
        around[(slice(None), *(slice(o, o + m) for o, m in zip(k, grid, strict=True)))]
        for k in offsets(axes)
    ]
    columns = jnp.stack(of_neighbors, axis=1).reshape(1, components, *(3,) * axes, *grid)
    return S * columns * coupled.reshape(components, 1, *(1,) * axes, *grid)


def _galerkin_along(S: Array, axis: int, axes: int) -> Array:
    """Of interpolation along one axis only.

    Entry (i, i + K) of the coarse operator is the sum over s and t of P[j, i] A[j, l] P[l, i + K]
    with j = 2 i + s and l = 2 (i + K) + t: the fine operator's offset is k = 2 K + t - s.
    """
    of_stencil = 2 + axis
    of_grid = 2 + axes + axis
    m = S.shape[of_grid]
    n = m // 2 + 1
    P = _weights(m).astype(np.float32)
    around = jnp.pad(S, [(1, 2 * n - m) if a == of_grid else (0, 0) for a in range(S.ndim)])

    def along(weights: np.ndarray) -> np.ndarray:
        return weights.reshape([-1 if a == of_grid - 1 else 1 for a in range(S.ndim - 1)])

    def entry(K: int) -> Array:
        total = jnp.zeros((), S.dtype)
        for s, t in product((-1, 0, 1), repeat=2):
            k = 2 * K + t - s
            if abs(k) <= 1:
                of_offset = jax.lax.index_in_dim(around, k + 1, of_stencil, keepdims=False)
                rows = jax.lax.slice_in_dim(of_offset, s + 1, s + 2 * n, 2, axis=of_grid - 1)
                total = total + along(P[s + 1, 1 : n + 1] * P[t + 1, 1 + K : n + 1 + K]) * rows
        return total

    return jnp.stack([entry(K) for K in (-1, 0, 1)], axis=of_stencil)


def _weights(m: int) -> np.ndarray:
    """P[2 i + s, i] as [s + 1, i + 1], zeros for coarse nodes before the first, after the last."""
    n = m // 2 + 1
    P = np.zeros((3, n + 2))
    P[:, 1 : n + 1] = [[0.5], [1], [0.5]]
    if m % 2 == 0:
        # The last node is odd: it is node 2 i - 1 of the last coarse node i, and no mean.
        P[:, n], P[2, n - 1] = [1, 0, 0], 0
    return P
