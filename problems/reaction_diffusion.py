"""Reaction and diffusion on the unit square by 5-point differences, with the systems' sparsity.

F(u, lambda, c) = S u - h^2 lambda c exp(u),   S u = 4 u - the four neighbors,   u = 0 on the border
"""

from dataclasses import dataclass
from functools import cached_property

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

import adjoint


@dataclass(frozen=True)
class Square:
    """N x N inner points of the unit square as ``u[i, j]`` at x = (i + 1) h, y = (j + 1) h."""

    points: int

    @property
    def spacing(self) -> float:
        return 1 / (self.points + 1)

    @cached_property
    def _stencil(self) -> tuple[Int[np.ndarray, " entries"], Int[np.ndarray, " entries"]]:
        """Rows and columns of S: every point with itself and its neighbors."""
        number = np.arange(self.points**2).reshape(self.points, self.points)
        pairs = [(number, number)]
        for one, other in ((number[1:], number[:-1]), (number[:, 1:], number[:, :-1])):
            pairs += [(one, other), (other, one)]
        rows, cols = (np.concatenate([pair[k].ravel() for pair in pairs]) for k in (0, 1))
        return rows, cols

    @cached_property
    def pattern(self) -> adjoint.SparsePattern:
        """Where F_u may be nonzero."""
        return adjoint.SparsePattern(*self._stencil, (self.points**2, self.points**2))

    @cached_property
    def branch_pattern(self) -> adjoint.SparsePattern:
        """The same for (F, the peak - its value) by (u, lambda)."""
        n = self.points**2
        rows, cols = self._stencil
        every = np.arange(n)
        peak = np.flatnonzero(self.peak_weights)
        rows = np.concatenate([rows, every, np.full(peak.size, n)])
        return adjoint.SparsePattern(
            rows, np.concatenate([cols, np.full(n, n), peak]), (n + 1, n + 1)
        )

    @cached_property
    def fold_pattern(self) -> adjoint.SparsePattern:
        """The same for (F, F_u v, v in the middle - 1) by (u, v, lambda)."""
        n = self.points**2
        rows, cols = self._stencil
        every = np.arange(n)
        last = np.full(n, 2 * n)
        middle = np.flatnonzero(self.middle)
        rows = np.concatenate(
            [rows, every, rows + n, every + n, every + n, np.full(middle.size, 2 * n)]
        )
        cols = np.concatenate([cols, last, cols + n, every, last, middle + n])
        return adjoint.SparsePattern(rows, cols, (2 * n + 1, 2 * n + 1))

    @cached_property
    def peak_weights(self) -> Float[np.ndarray, "points points"]:
        """The value in the center: the middle point's, or cubic interpolation where N is even."""
        weights = np.zeros(self.points)
        middle = self.points // 2
        if self.points % 2:
            weights[middle] = 1.0
        else:
            weights[middle - 2 : middle + 2] = np.array([-1.0, 9.0, 9.0, -1.0]) / 16.0
        return np.outer(weights, weights)

    @property
    def middle(self) -> np.ndarray:
        middle = np.zeros((self.points, self.points))
        middle[self.points // 2, self.points // 2] = 1.0
        return middle

    def peak(self, u: Float[Array, "points points"]) -> Float[Array, ""]:
        """u(1/2, 1/2)."""
        return jnp.sum(self.peak_weights * u)

    def reaction_diffusion(
        self,
        u: Float[Array, "points points"],
        lam_and_c: tuple[Float[Array, ""], Float[Array, "points points"]],
    ) -> Float[Array, "points points"]:
        """F(u, lambda, c) = S u - h^2 lambda c exp(u)."""
        lam, c = lam_and_c
        return _neighbors(u) - self.spacing**2 * lam * c * jnp.exp(u)

    def dome(self) -> Float[Array, "points points"]:
        """sin(pi x) sin(pi y), the first eigenfunction: 1 in the center."""
        s = np.sin(np.pi * self.spacing * np.arange(1, self.points + 1))
        return jnp.asarray(np.outer(s, s))


def _neighbors(u: Float[Array, "points points"]) -> Float[Array, "points points"]:
    """S u."""
    v = jnp.pad(u, 1)
    return 4 * u - v[2:, 1:-1] - v[:-2, 1:-1] - v[1:-1, 2:] - v[1:-1, :-2]
