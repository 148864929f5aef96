"""The systems A(p) x = b of the comparison, and the scalar g(p) = sqrt(n) |x| to differentiate.

Both are planar, with one coefficient per cell. P parameters set the coefficients of any number of
cells: a cell's exponent is the mean of the parameters that it owns (P above the number of cells) or
one that it shares with others (P below), so that assembling costs a sum over P and never a matrix
with P columns.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

import adjoint
from adjoint.fem.assembly import Elasticity
from adjoint.fem.grid import Grid

# Parameters are drawn from -1 to 1, so a coefficient differs from its base by up to this factor, up
# or down.
SPREAD = np.log(1.2)
# |w| of the convection; the diffusivity is about 1 and the domain the unit square, so the global
# Peclet number is 40.
SPEED = 40.0


@dataclass(frozen=True)
class Case:
    """One system: the matrix as a function of the parameters, and the right-hand side.

    Attributes
    ----------
    problem
        Its name in `PROBLEMS`.
    matrix
        p of shape (parameters,) to the `adjoint.Sparse` matrix A(p).
    right_hand_side
        b.
    parameters
        P.
    positive_definite
        Whether A is symmetric positive definite.
    """

    problem: str
    matrix: Callable[[Float[Array, " parameters"]], adjoint.Sparse]
    right_hand_side: Float[np.ndarray, " n"]
    parameters: int
    positive_definite: bool
    pattern: adjoint.SparsePattern = field(repr=False)

    @property
    def n(self) -> int:
        """Number of unknowns."""
        return self.pattern.n

    def draw(self, generator: np.random.Generator) -> Float[Array, " parameters"]:
        """Parameters that have not been used before, so that no cache can know their matrix."""
        return jnp.asarray(generator.uniform(-1.0, 1.0, self.parameters))


def per_cell(p: Float[Array, " parameters"], cells: int) -> Float[Array, " cells"]:
    """The mean of the parameters k with k mod cells = c for each cell c.

    Fewer parameters than cells are repeated.
    """
    if p.size < cells:
        return jnp.resize(p, (cells,))
    rounds = -(-p.size // cells)
    sums = jnp.pad(p, (0, rounds * cells - p.size)).reshape(rounds, cells).sum(axis=0)
    owned = np.bincount(np.arange(p.size) % cells, minlength=cells)
    return sums / owned


def convection_diffusion(n: int, parameters: int | None = None) -> Case:
    """-div(k grad u) + w . grad u = 1 / h^2 on the unit square, u = 0 around it.

    It is nonsymmetric, with five points per row. Finite volumes on m x m cells, m = round(sqrt(n)),
    with first-order upwinding of a steady vortex w = 40 (sin(pi x) cos(pi y), -cos(pi x) sin(pi y))
    and with diffusivities k of 1, changed by the parameters.
    """
    m = max(2, round(n**0.5))
    h = 1.0 / m
    center = (np.arange(m) + 0.5) * h
    face = np.arange(1, m) * h
    # Flow times h through the inner faces, (m - 1, m) to the east and (m, m - 1) to the north; the
    # border lets none through.
    east = SPEED * h * np.sin(np.pi * face)[:, None] * np.cos(np.pi * center)
    north = -SPEED * h * np.cos(np.pi * center)[:, None] * np.sin(np.pi * face)
    cell = np.arange(m * m).reshape(m, m)
    pairs = [
        (cell[:-1], cell[1:]),
        (cell[1:], cell[:-1]),
        (cell[:, :-1], cell[:, 1:]),
        (cell[:, 1:], cell[:, :-1]),
    ]
    rows = np.concatenate([cell.ravel(), *(row.ravel() for row, _ in pairs)])
    cols = np.concatenate([cell.ravel(), *(col.ravel() for _, col in pairs)])
    pattern = adjoint.SparsePattern(rows, cols, (m * m, m * m))

    def matrix(p: Float[Array, " parameters"]) -> adjoint.Sparse:
        k = jnp.exp(SPREAD * per_cell(p, m * m)).reshape(m, m)
        k_east = (k[:-1] + k[1:]) / 2
        k_north = (k[:, :-1] + k[:, 1:]) / 2
        # What enters a cell from a neighbor, times -1: diffusion, and convection when it blows from
        # there.
        from_east = k_east + np.maximum(-east, 0)
        from_west = k_east + np.maximum(east, 0)
        from_north = k_north + np.maximum(-north, 0)
        from_south = k_north + np.maximum(north, 0)
        # What leaves a cell; a border half a cell away draws 2 k.
        diagonal = (
            jnp.pad(from_west, ((0, 1), (0, 0)), constant_values=0.0)
            + jnp.pad(from_east, ((1, 0), (0, 0)), constant_values=0.0)
            + jnp.pad(from_south, ((0, 0), (0, 1)), constant_values=0.0)
            + jnp.pad(from_north, ((0, 0), (1, 0)), constant_values=0.0)
            + 2 * k * _borders(m)
        )
        entries = [diagonal, -from_east, -from_west, -from_north, -from_south]
        return pattern.matrix(jnp.concatenate([entry.ravel() for entry in entries]))

    return Case("convection-diffusion", matrix, np.ones(m * m), parameters or m * m, False, pattern)


def _borders(m: int) -> np.ndarray:
    """How many sides of each cell lie on the border of the square."""
    end = np.zeros(m)
    end[0] += 1
    end[-1] += 1
    return end[:, None] + end[None, :]


def elasticity(n: int, parameters: int | None = None) -> Case:
    """Plane-stress elasticity: a square clamped at its left, a load of (1, 1) at every node.

    It is symmetric positive definite. m x m elements with m (m + 1) = n / 2, each with a random
    Young's modulus between 1e-3 and 1 (uniform in its logarithm, seeded), changed by the
    parameters.
    """
    m = max(2, round((n / 2 + 0.25) ** 0.5 - 0.5))
    grid = Grid((m, m))
    fixed = np.zeros((grid.node_count, 2), bool)
    fixed[grid.boundary("left")] = True
    body = Elasticity(grid, fixed, np.ones((grid.node_count, 2)), poisson_ratio=0.3)
    exponent = np.random.default_rng(0).uniform(np.log(1e-3) + SPREAD, -SPREAD, grid.elements)

    def matrix(p: Float[Array, " parameters"]) -> adjoint.Sparse:
        return body.stiffness(jnp.exp(exponent + SPREAD * per_cell(p, m * m).reshape(m, m)))

    return Case("elasticity", matrix, body.free_load, parameters or m * m, True, body.pattern)


PROBLEMS: dict[str, Callable[..., Case]] = {
    "convection-diffusion": convection_diffusion,
    "elasticity": elasticity,
}
