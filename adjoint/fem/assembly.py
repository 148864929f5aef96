"""From element moduli to the equilibrium K u = f of linear elasticity on a structured grid.

The degrees of freedom that are held at zero are left out of K and f, rows and columns alike, so K
stays symmetric positive definite. Which entries stay is found once, in NumPy; what is traced is one
product of moduli and one element matrix.
"""

from dataclasses import dataclass
from functools import cached_property

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from adjoint.fem.elements import elasticity_matrix, stiffness_matrix, strain_displacement
from adjoint.fem.grid import Grid
from adjoint.linear.sparse_pattern import Sparse, SparsePattern


@dataclass(frozen=True, eq=False)
class Elasticity:
    """K(E) u = f: equal elements, each with a Young's modulus E, with supports and loads.

    Plane stress with unit thickness in two dimensions. Build one object, outside `jit`, and reuse
    it: it holds the sparsity pattern.

    Parameters
    ----------
    grid
        The `Grid`.
    fixed
        True where a component of the displacement is held at zero, (node, dimension).
    load
        Nodal forces, (node, dimension); see `traction_load` and `body_load`.
    poisson_ratio
        ν, the same everywhere.

    Raises
    ------
    ValueError
        When `fixed` or `load` does not have one entry for each component at each node, or every
        entry is fixed.

    Examples
    --------
    A bar of 2 elements and of length 2, clamped at the left, pulled at the right by a stress of 1:

    >>> import jax.numpy as jnp, numpy as np, adjoint
    >>> from adjoint.fem.elements import traction_load
    >>> grid = Grid((2, 1))
    >>> fixed = np.zeros((grid.node_count, 2), bool)
    >>> fixed[grid.boundary("left")] = True
    >>> load = traction_load(grid, "right", lambda x: np.array([1.0, 0.0]))
    >>> bar = Elasticity(grid, fixed, load, poisson_ratio=0.0)
    >>> u = bar.expand(
    ...     adjoint.require(adjoint.linear_solve(bar.stiffness(jnp.ones((2, 1))), bar.free_load))
    ... )
    >>> round(float(u[-1, 0]), 5)
    2.0
    """

    grid: Grid
    fixed: Bool[np.ndarray, "node dimension"]
    load: Float[np.ndarray, "node dimension"]
    poisson_ratio: float

    def __post_init__(self) -> None:
        expected = (self.grid.node_count, self.grid.dimension)
        for name, given in (("fixed", self.fixed), ("load", self.load)):
            if np.shape(given) != expected:
                raise ValueError(
                    f"Elasticity: got {name} of shape {np.shape(given)}, expected {expected}, one "
                    "entry for each "
                    f"component at each node. Start from np.zeros({expected}) and set the nodes of "
                    "grid.boundary(...)."
                )
        if np.all(self.fixed):
            raise ValueError(
                "Elasticity: every degree of freedom is fixed, expected at least one free. Release "
                "some."
            )

    @cached_property
    def free(self) -> Int[np.ndarray, " free"]:
        """The free degrees of freedom, ascending: the unknowns, in their order."""
        return np.flatnonzero(~np.asarray(self.fixed, bool).ravel())

    @cached_property
    def free_load(self) -> Float[np.ndarray, " free"]:
        """The right-hand side f on the free degrees of freedom."""
        return np.asarray(self.load, float).ravel()[self.free]

    @cached_property
    def element_stiffness(self) -> Float[np.ndarray, "dof dof"]:
        """K_e at a Young's modulus of 1."""
        return stiffness_matrix(self.grid.element_size, self.poisson_ratio)

    @cached_property
    def _unsupported(self) -> Bool[np.ndarray, " element"]:
        """The elements without a fixed degree of freedom, whose whole matrices stay.

        No entry of these need be picked out.
        """
        return np.all(~np.asarray(self.fixed, bool).ravel()[self.grid.degrees_of_freedom], axis=1)

    @cached_property
    def _supported_entries(self) -> Int[np.ndarray, "3 entry"]:
        """The entries that stay of the other elements: element number, row and column in K_e."""
        elements = np.flatnonzero(~self._unsupported)
        free = ~np.asarray(self.fixed, bool).ravel()[self.grid.degrees_of_freedom[elements]]
        which, row, column = np.nonzero(free[:, :, None] & free[:, None, :])
        return np.stack([elements[which], row, column])

    @cached_property
    def pattern(self) -> SparsePattern:
        """Where K is nonzero: the pattern of `entries`."""
        unknown = np.full(self.grid.node_count * self.grid.dimension, -1)
        unknown[self.free] = np.arange(self.free.size)
        dofs = unknown[self.grid.degrees_of_freedom]
        whole = dofs[self._unsupported]
        element, row, column = self._supported_entries
        shape = (len(whole), dofs.shape[1], dofs.shape[1])
        rows = np.concatenate(
            [np.broadcast_to(whole[:, :, None], shape).ravel(), dofs[element, row]]
        )
        cols = np.concatenate(
            [np.broadcast_to(whole[:, None, :], shape).ravel(), dofs[element, column]]
        )
        return SparsePattern(rows, cols, (self.free.size, self.free.size))

    def stiffness(self, moduli: Float[Array, "..."]) -> Sparse:
        """K(E) = sum over the elements of E_e K_e, on the free degrees of freedom.

        Parameters
        ----------
        moduli
            E, one positive value for each element, of shape ``grid.elements``; may be traced.

        Returns
        -------
        K
            A symmetric positive definite `Sparse` matrix on `pattern`, if the supports leave no
            rigid motion.

        Raises
        ------
        ValueError
            When `moduli` does not have the shape of the grid.
        """
        if moduli.shape != self.grid.elements:
            raise ValueError(
                f"Elasticity.stiffness: got moduli of shape {moduli.shape}, expected "
                f"{self.grid.elements}, one for "
                "each element. See adjoint.fem.grid for the layout."
            )
        E = moduli.ravel()
        K_e = jnp.asarray(self.element_stiffness, moduli.dtype)
        element, row, column = self._supported_entries
        whole = E[np.flatnonzero(self._unsupported), None] * K_e.reshape(1, -1)
        return self.pattern.matrix(jnp.concatenate([whole.ravel(), E[element] * K_e[row, column]]))

    def expand(self, u: Float[Array, " free"]) -> Float[Array, "node dimension"]:
        """The displacement of every node, zero where it is fixed, from the unknowns `u`."""
        full = jnp.zeros(self.grid.node_count * self.grid.dimension, u.dtype).at[self.free].set(u)
        return full.reshape(self.grid.node_count, self.grid.dimension)

    def stress(
        self, displacement: Float[Array, "node dimension"], moduli: Float[Array, "..."]
    ) -> Float[Array, "... strain"]:
        """σ = E D B u at each element's center: ``(*grid.elements, 3)`` or ``(*grid.elements, 6)``.

        The components are in the order of `adjoint.fem.elements`. At the center of the element, Q4
        and H8 stresses are one order more accurate than elsewhere (Barlow, Int. J. Numer. Meth.
        Eng. 10, 243, 1976).
        """
        B = strain_displacement(np.zeros(self.grid.dimension), self.grid.element_size)
        D = elasticity_matrix(self.grid.dimension, self.poisson_ratio)
        strain = displacement.ravel()[self.grid.degrees_of_freedom] @ jnp.asarray(
            (D @ B).T, displacement.dtype
        )
        return moduli[..., None] * strain.reshape(*self.grid.elements, -1)
