"""Density and sensitivity filters of topology optimization: averages with the weights of a cone.

Without a filter, a topology of Q4 elements shows checkerboards and its finest members are as thin
as the mesh; an average over a radius gives the design a length scale that the mesh does not change.
"""

import itertools
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from adjoint.fem.grid import Grid

# The γ of the sensitivity filter: keeps the division away from zero in empty elements.
_SMALLEST_DENSITY = 1e-3


@dataclass(frozen=True)
class ConeFilter:
    """H_ei = max(0, r - |x_e - x_i|), for the centers x of the elements of a grid.

    The averages are normalized by sum_i H_ei over the elements that exist, so a constant stays what
    it is up to the boundary. H is symmetric, and it is never stored: the sum over the neighbors is
    a sum of shifted arrays, exact and faster than a convolution or a sparse product on a CPU.

    Parameters
    ----------
    grid
        The `Grid`; fields are arrays of shape ``grid.elements``.
    radius
        r, in the unit of length of the grid (in elements, when they have size 1). Up to one element
        it filters nothing.

    Raises
    ------
    ValueError
        When `radius` is not positive.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> cone = ConeFilter(Grid((3, 1)), radius=2.0)
    >>> [round(float(v), 6) for v in cone.density(jnp.array([[0.0], [1.0], [0.0]])).ravel()]
    [0.333333, 0.5, 0.333333]

    References
    ----------
    E. Andreassen, A. Clausen, M. Schevenels, B. S. Lazarov, O. Sigmund, Efficient topology
    optimization in MATLAB using 88 lines of code, Struct. Multidisc. Optim. 43 (2011) 1-16,
    equations (7) to (10).
    """

    grid: Grid
    radius: float

    def __post_init__(self) -> None:
        if not 0 < self.radius < np.inf:
            raise ValueError(
                f"ConeFilter: got radius = {self.radius}, expected a positive length. Give at "
                "least 1 element."
            )

    def weighted_sum(self, field: Float[Array, "..."]) -> Float[Array, "..."]:
        """(H y)_e = sum_i H_ei y_i; H is symmetric, so this is its own adjoint."""
        return self._sum_shifted(jnp.pad(field, [(reach, reach) for reach in self._reach]))

    def density(self, design: Float[Array, "..."]) -> Float[Array, "..."]:
        """x~_e = sum_i H_ei x_i / sum_i H_ei: the density filter, equation (9).

        Parameters
        ----------
        design
            Design variables x, of shape ``grid.elements``.

        Returns
        -------
        density
            Physical densities, of the same shape, between the smallest and the largest design
            variable. Derivatives go through it by the chain rule, equation (10).
        """
        return self.weighted_sum(design) / self.weight_sums

    def sensitivity(
        self, density: Float[Array, "..."], derivative: Float[Array, "..."]
    ) -> Float[Array, "..."]:
        """The sensitivity filter: sum_i H_ei x_i dc/dx_i / (max(γ, x_e) sum_i H_ei).

        It is equation (7), with γ = 1e-3. What it returns is not the derivative of any function: a
        rule that works in practice (Sigmund, 1997), to be used only in a design update.

        Parameters
        ----------
        density
            x, of shape ``grid.elements``.
        derivative
            dc/dx, of the same shape.
        """
        return self.density(density * derivative) / jnp.maximum(density, _SMALLEST_DENSITY)

    @cached_property
    def weight_sums(self) -> Float[np.ndarray, "..."]:
        """sum_i H_ei, of shape ``grid.elements``: smaller near the boundary."""
        return self._sum_shifted(
            np.pad(np.ones(self.grid.elements), [(reach, reach) for reach in self._reach])
        )

    @cached_property
    def _reach(self) -> tuple[int, ...]:
        """How many elements the cone reaches to each side, along each axis."""
        return tuple(
            min(int(np.ceil(self.radius / size)) - 1, count - 1)
            for size, count in zip(self.grid.element_size, self.grid.elements, strict=True)
        )

    def _sum_shifted(self, padded: Any) -> Any:
        """H y from y padded by `_reach` zeros on each side; for NumPy and JAX arrays."""
        total = 0.0
        for start in itertools.product(*(range(2 * reach + 1) for reach in self._reach)):
            shift = np.subtract(start, self._reach) * self.grid.element_size
            weight = self.radius - float(np.linalg.norm(shift))
            if weight > 0:
                window = tuple(
                    slice(s, s + count) for s, count in zip(start, self.grid.elements, strict=True)
                )
                total = total + weight * padded[window]
        return total
