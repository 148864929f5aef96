"""The square Q4 (plane stress, unit thickness) and the brick H8, by Gauss quadrature. NumPy only.

One derivation serves both: the shape functions are products of (1 ± ξ)/2, the strains are ε = B u
with engineering shears, the stresses σ = D ε, and the stiffness is the integral of B' D B, which
two Gauss points per axis integrate exactly on a rectangle or a box.

Strains and stresses are vectors: (xx, yy, xy) in two dimensions, (xx, yy, zz, yz, xz, xy) in three.

Source: T. J. R. Hughes, The Finite Element Method (1987), sections 2.7 (B and D), 3.2 and 3.5 (Q4
and H8) and 3.8 (Gauss quadrature).
"""

import itertools
from collections.abc import Callable

import numpy as np
from jaxtyping import Float

from adjoint.fem.grid import Grid, element_corners

# Nodes of the two-point Gauss rule on (-1, 1), both with weight 1: exact for cubic polynomials.
_GAUSS = (-1.0 / np.sqrt(3.0), 1.0 / np.sqrt(3.0))

# The pairs of axes of the shear strains, in the order of the strain vector.
_SHEARS = {2: ((0, 1),), 3: ((1, 2), (0, 2), (0, 1))}


def shape_functions(point: Float[np.ndarray, " dimension"]) -> Float[np.ndarray, " corners"]:
    """N_a(ξ) = prod_i (1 + s_ai ξ_i)/2, the corner a sitting at s_a in {-1, 1}^d.

    Parameters
    ----------
    point
        ξ in the reference element (-1, 1)^d, of one, two or three coordinates.

    Examples
    --------
    >>> shape_functions(np.array([0.0, 0.0])).tolist()
    [0.25, 0.25, 0.25, 0.25]
    """
    signs = 2 * element_corners(len(point)) - 1
    return np.prod((1 + signs * point) / 2, axis=1)


def shape_gradients(
    point: Float[np.ndarray, " dimension"], element_size: tuple[float, ...]
) -> Float[np.ndarray, "corners dimension"]:
    """dN_a/dx_i = (s_ai/h_i) prod_{j != i} (1 + s_aj ξ_j)/2, in physical coordinates.

    The edge lengths are h.
    """
    signs = 2 * element_corners(len(point)) - 1
    factors = (1 + signs * point) / 2
    return np.stack(
        [
            signs[:, i] / size * np.prod(np.delete(factors, i, axis=1), axis=1)
            for i, size in enumerate(element_size)
        ],
        axis=1,
    )


def strain_displacement(
    point: Float[np.ndarray, " dimension"], element_size: tuple[float, ...]
) -> Float[np.ndarray, "strain dof"]:
    """B in ε = B u: normal strains du_i/dx_i, then engineering shears du_i/dx_j + du_j/dx_i.

    Parameters
    ----------
    point
        ξ in the reference element; zeros for its center.
    element_size
        Edge lengths.

    Returns
    -------
    B
        (3, 8) in two dimensions and (6, 24) in three; the columns go node by node, x before y
        before z.
    """
    gradients = shape_gradients(point, element_size)
    corners, dimension = gradients.shape
    strains = [(i, i) for i in range(dimension)] + list(_SHEARS[dimension])
    B = np.zeros((len(strains), corners, dimension))
    for row, (i, j) in enumerate(strains):
        B[row, :, i] = gradients[:, j]
        B[row, :, j] = gradients[:, i]
    return B.reshape(len(strains), -1)


def elasticity_matrix(
    dimension: int, poisson_ratio: float, young_modulus: float = 1.0
) -> Float[np.ndarray, "strain strain"]:
    """D in σ = D ε, isotropic: plane stress in two dimensions.

    Parameters
    ----------
    dimension
        2 or 3.
    poisson_ratio
        ν, from above -1 to below 0.5; a value of 0.5 is incompressible, which these elements cannot
        represent.
    young_modulus
        E, in the user's unit of stress.

    Raises
    ------
    ValueError
        When ν is outside (-1, 0.5).

    Examples
    --------
    >>> elasticity_matrix(2, 0.0).tolist()
    [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 0.5]]
    """
    nu = poisson_ratio
    if not -1 < nu < 0.5:
        raise ValueError(
            f"elasticity_matrix: got poisson_ratio = {nu}, expected a number above -1 and below "
            "0.5."
        )
    shear_modulus = 1 / (2 * (1 + nu))
    # The first Lame constant, for plane stress the one that makes σ_zz zero.
    coupling = nu / (1 - nu**2) if dimension == 2 else nu / ((1 + nu) * (1 - 2 * nu))
    shears = len(_SHEARS[dimension])
    D = np.diag([2 * shear_modulus] * dimension + [shear_modulus] * shears)
    D[:dimension, :dimension] += coupling
    return young_modulus * D


def stiffness_matrix(
    element_size: tuple[float, ...], poisson_ratio: float, young_modulus: float = 1.0
) -> Float[np.ndarray, "dof dof"]:
    """K_e = integral of B' D B over one element: (8, 8) in two dimensions, (24, 24) in three.

    Parameters
    ----------
    element_size
        Edge lengths: two of them for Q4 in plane stress with unit thickness, three for H8.
    poisson_ratio, young_modulus
        As in `elasticity_matrix`.

    Examples
    --------
    >>> nu = 0.3
    >>> bool(np.isclose(stiffness_matrix((1.0, 1.0), nu)[0, 0], (1 / 2 - nu / 6) / (1 - nu**2)))
    True
    """
    dimension = len(element_size)
    D = elasticity_matrix(dimension, poisson_ratio, young_modulus)
    jacobian = np.prod(np.asarray(element_size) / 2)
    K = np.zeros((dimension * 2**dimension,) * 2)
    for point in itertools.product(_GAUSS, repeat=dimension):
        B = strain_displacement(np.array(point), element_size)
        K += jacobian * B.T @ D @ B
    # Rounding leaves an asymmetry of 1e-17, which a symmetric factorization would not see and a
    # test of it would.
    return (K + K.T) / 2


def traction_load(
    grid: Grid, side: str, traction: Callable[[np.ndarray], np.ndarray]
) -> Float[np.ndarray, "node dimension"]:
    """f_a = integral of N_a t over one side: the nodal forces that do the work of a traction t.

    Parameters
    ----------
    grid, side
        Where; see `Grid.boundary`.
    traction
        t(x): positions (point, dimension) to forces per area (per length in two dimensions) of the
        same shape. Exact for t up to quadratic in each coordinate.
    """
    faces = grid.boundary_faces(side)
    corners = grid.coordinates[faces]
    extent = corners.max(axis=1)[0] - corners.min(axis=1)[0]
    area = np.prod(extent[extent > 0])
    return _integrate(grid, faces, grid.dimension - 1, area, traction)


def body_load(
    grid: Grid, force: Callable[[np.ndarray], np.ndarray]
) -> Float[np.ndarray, "node dimension"]:
    """f_a = integral of N_a b over the grid: nodal forces of a force b(x) per volume.

    In two dimensions b is per area. `force` maps positions (point, dimension) to forces of the same
    shape; exact up to quadratic in each coordinate.
    """
    return _integrate(
        grid, grid.connectivity, grid.dimension, float(np.prod(grid.element_size)), force
    )


def _integrate(
    grid: Grid,
    cells: np.ndarray,
    dimension: int,
    measure: float,
    density: Callable[[np.ndarray], np.ndarray],
) -> Float[np.ndarray, "node dimension"]:
    """Nodal forces of a force density on `cells` of `dimension` axes and one `measure`.

    The cells are rows of nodes.
    """
    load = np.zeros((grid.node_count, grid.dimension))
    for point in itertools.product(_GAUSS, repeat=dimension):
        N = shape_functions(np.array(point))
        positions = np.einsum("a,cai->ci", N, grid.coordinates[cells])
        force = np.broadcast_to(density(positions), positions.shape)
        np.add.at(load, cells, measure / 2**dimension * N[:, None] * force[:, None, :])
    return load
