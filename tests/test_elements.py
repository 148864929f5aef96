"""Q4 and H8 against the published Q4, rigid motions, the patch test and elasticity's closed forms.

The equations are assembled here with SciPy, independently of `adjoint.fem.assembly`.
"""

import numpy as np
import pytest
import scipy.sparse as sparse
from scipy.sparse.linalg import spsolve

from adjoint.fem.elements import (
    body_load,
    elasticity_matrix,
    shape_functions,
    shape_gradients,
    stiffness_matrix,
    strain_displacement,
    traction_load,
)
from adjoint.fem.grid import Grid, element_corners

SIZES = [(1.0, 1.0), (0.5, 2.0), (1.0, 1.0, 1.0), (0.4, 1.0, 2.5)]


def assembled(grid, poisson_ratio, young_modulus=1.0):
    K_e = stiffness_matrix(grid.element_size, poisson_ratio, young_modulus)
    dofs = grid.degrees_of_freedom
    rows, cols = np.repeat(dofs, dofs.shape[1], axis=1), np.tile(dofs, (1, dofs.shape[1]))
    n = grid.dimension * grid.node_count
    return sparse.csr_matrix(
        (np.tile(K_e.ravel(), len(dofs)), (rows.ravel(), cols.ravel())), shape=(n, n)
    )


def solved(K, load, held, value=None):
    """u with u[held] = value (zero when left out) and K u = load elsewhere, by SciPy."""
    u = np.zeros(load.shape) if value is None else np.where(held, value, 0.0)
    free = np.flatnonzero(~held.ravel())
    residual = load.ravel() - K @ u.ravel()
    u.ravel()[free] = spsolve(K[free][:, free].tocsc(), residual[free])
    return u


def test_q4_is_the_published_matrix():
    # Sigmund, A 99 line topology optimization code written in Matlab, Struct. Multidisc. Optim. 21
    # (2001) 120-127, appendix: eight numbers and where they stand. The first is that of the 88-line
    # code, (12 - 4 nu)/(24 (1 - nu^2)).
    nu = 0.3
    k = np.array([1 / 2 - nu / 6, 1 / 8 + nu / 8, -1 / 4 - nu / 12, -1 / 8 + 3 * nu / 8])
    k = np.concatenate([k, [-1 / 4 + nu / 12, -1 / 8 - nu / 8, nu / 6, 1 / 8 - 3 * nu / 8]]) / (
        1 - nu**2
    )
    places = [
        "12345678",
        "21876543",
        "38167452",
        "47618325",
        "56781234",
        "65432187",
        "74523816",
        "83254761",
    ]
    expected = np.array([[k[int(digit) - 1] for digit in row] for row in places])
    np.testing.assert_allclose(stiffness_matrix((1.0, 1.0), nu), expected, rtol=0, atol=2e-16)


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_shape_functions_are_a_nodal_basis_that_reproduces_linear_fields(size):
    rng = np.random.default_rng(0)
    corners = element_corners(len(size))
    values = np.array([shape_functions(2.0 * corner - 1) for corner in corners])
    np.testing.assert_allclose(values, np.eye(len(corners)), rtol=0, atol=1e-15)
    gradient, point = rng.normal(size=len(size)), rng.uniform(-1, 1, len(size))
    nodal = corners * np.array(size) @ gradient
    assert shape_functions(point) @ nodal == pytest.approx(
        (point + 1) / 2 * np.array(size) @ gradient, abs=1e-14
    )
    np.testing.assert_allclose(nodal @ shape_gradients(point, size), gradient, rtol=1e-13)


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_strains_of_a_linear_displacement(size):
    rng = np.random.default_rng(1)
    d = len(size)
    G = rng.normal(size=(d, d))
    u = element_corners(d) * np.array(size) @ G.T
    strain = strain_displacement(rng.uniform(-1, 1, d), size) @ u.ravel()
    shears = [(0, 1)] if d == 2 else [(1, 2), (0, 2), (0, 1)]
    expected = [G[i, i] for i in range(d)] + [G[i, j] + G[j, i] for i, j in shears]
    np.testing.assert_allclose(strain, expected, rtol=0, atol=1e-13)


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_the_only_motions_without_energy_are_the_rigid_ones(size):
    d = len(size)
    K = stiffness_matrix(size, 0.3, young_modulus=7.0)
    np.testing.assert_array_equal(K, K.T)
    eigenvalues = np.linalg.eigvalsh(K)
    rigid = d * (d + 1) // 2
    # Zero to rounding: a few units in the last place of the largest one.
    assert np.abs(eigenvalues[:rigid]).max() < 1e-14 * eigenvalues[-1]
    assert eigenvalues[rigid] > 1e-3 * eigenvalues[-1]
    x = element_corners(d) * np.array(size)
    for i in range(d):
        np.testing.assert_allclose(K @ np.tile(np.eye(d)[i], len(x)), 0, atol=1e-13)
        for j in range(i):
            rotation = np.zeros((d, d))
            rotation[i, j], rotation[j, i] = 1.0, -1.0
            np.testing.assert_allclose(K @ (x @ rotation.T).ravel(), 0, atol=1e-13)


@pytest.mark.parametrize("dimension", [2, 3])
def test_elasticity_matrix_inverts_the_compliance_form(dimension):
    # Hooke's law as strains from stresses: eps_xx = (s_xx - nu (s_yy + s_zz))/E, gamma_xy = 2 (1 +
    # nu) s_xy/E, with s_zz = 0 in plane stress.
    E, nu = 3.0, 0.27
    shears = 1 if dimension == 2 else 3
    S = np.diag([1.0 + nu] * dimension + [2 * (1 + nu)] * shears)
    S[:dimension, :dimension] -= nu
    np.testing.assert_allclose(
        elasticity_matrix(dimension, nu, E) @ S / E, np.eye(dimension + shears), atol=1e-15
    )


@pytest.mark.parametrize("poisson_ratio", [0.5, -1.0, 0.6, float("nan")])
def test_impossible_poisson_ratios_are_refused(poisson_ratio):
    with pytest.raises(ValueError, match=r"above -1 and below 0\.5"):
        stiffness_matrix((1.0, 1.0), poisson_ratio)


@pytest.mark.parametrize(
    "grid", [Grid((5, 4), (0.7, 1.3)), Grid((3, 4, 3), (0.5, 1.0, 2.0))], ids=str
)
def test_patch_test(grid):
    # A linear displacement on the boundary must be continued inside to rounding (Hughes, section
    # 4.6).
    G = np.random.default_rng(2).normal(size=(grid.dimension,) * 2)
    exact = grid.coordinates @ G.T
    upper = np.multiply(grid.elements, grid.element_size)
    boundary = (np.isclose(grid.coordinates, 0) | np.isclose(grid.coordinates, upper)).any(axis=1)
    held = np.repeat(boundary[:, None], grid.dimension, axis=1)
    u = solved(assembled(grid, 0.3), np.zeros(exact.shape), held, exact)
    np.testing.assert_allclose(u, exact, rtol=0, atol=1e-12 * np.abs(exact).max())


@pytest.mark.parametrize(
    "grid", [Grid((4, 3), (0.5, 0.8)), Grid((4, 3, 2), (0.5, 0.8, 1.1))], ids=str
)
def test_uniaxial_tension_is_exact_with_its_contraction(grid):
    # On rollers at x = 0, y = 0 (z = 0), pulled by t in x: u_x = t x/E, u_y = -nu t y/E, u_z = -nu
    # t z/E.
    E, nu, t = 5.0, 0.3, 2.0
    held = np.zeros((grid.node_count, grid.dimension), bool)
    for axis, side in enumerate(["left", "bottom", "back"][: grid.dimension]):
        held[grid.boundary(side), axis] = True
    load = traction_load(grid, "right", lambda _: t * np.eye(grid.dimension)[0])
    u = solved(assembled(grid, nu, E), load, held)
    exact = t / E * grid.coordinates * np.array([1.0, -nu, -nu][: grid.dimension])
    np.testing.assert_allclose(u, exact, rtol=0, atol=1e-13)


def timoshenko_cantilever(columns):
    """Tip deflections of a plane-stress cantilever, L = 8 and D = 2, over exact ones.

    There are columns x columns/4 elements. Timoshenko and Goodier, Theory of Elasticity (1970),
    section 21, for a downward end load P, 0 <= x <= L and |y| <= D/2: s_xx = P (L - x) y/I, s_xy =
    -P (D^2/4 - y^2)/(2 I), s_yy = 0, and at y = 0 u_y = -P ((4 + 5 nu) D^2 x/4 + (3 L - x) x^2) /
    (6 E I), when u_x = 0 at the corners and u_y = 0 in the middle of the left edge. The tractions
    are applied at both ends, so the supports carry nothing and the solution is exact.

    Returns the deflection at the middle of the tip, and the work-equivalent one, f'u/P. The latter
    is twice the strain energy, the integral of s_xx^2/E + s_xy^2/G, over P: P L^3/(3 E I) + P L/(k
    G A) with k = 5/6, which is the tip deflection of Timoshenko's beam theory.
    """
    E, nu, P, L, D = 2.0, 0.3, 0.1, 8.0, 2.0
    inertia = D**3 / 12
    grid = Grid((columns, columns // 4), (L / columns, 4 * D / columns))

    def shear(x):
        return P / (2 * inertia) * (D**2 / 4 - (x[:, 1] - D / 2) ** 2)

    load = traction_load(grid, "right", lambda x: np.stack([0 * shear(x), -shear(x)], axis=1))
    load += traction_load(
        grid, "left", lambda x: np.stack([-P * L * (x[:, 1] - D / 2) / inertia, shear(x)], axis=1)
    )
    held = np.zeros((grid.node_count, 2), bool)
    held[grid.node_numbers[0, [0, -1]], 0] = True
    held[grid.node_numbers[0, columns // 8], 1] = True
    K = assembled(grid, nu, E)
    u = solved(K, load, held)
    reactions = (K @ u.ravel() - load.ravel())[held.ravel()]
    np.testing.assert_allclose(reactions, 0, atol=1e-9 * P * L / D)
    at_middle = -P * ((4 + 5 * nu) * D**2 * L / 4 + 2 * L**3) / (6 * E * inertia)
    of_beam_theory = P * L**3 / (3 * E * inertia) + P * L / (5 / 6 * E / (2 * (1 + nu)) * D)
    return u[grid.node_numbers[-1, columns // 8], 1] / at_middle, np.sum(
        load * u
    ) / P / of_beam_theory


def test_cantilever_converges_to_the_exact_tip_deflection():
    at_middle, of_beam_theory = np.transpose(
        [timoshenko_cantilever(columns) for columns in (32, 64, 128)]
    )
    # Q4 is too stiff in bending. The error in the energy falls by four when the mesh is halved;
    # that at single points by a little less (h^2 log h).
    for ratio, orders in ((at_middle, (3.3, 4.0)), (of_beam_theory, (3.95, 4.05))):
        errors = 1 - ratio
        assert np.all(
            (errors[:-1] / errors[1:] > orders[0]) & (errors[:-1] / errors[1:] < orders[1])
        )
        assert 0 < errors[-1] < 2e-3
    # Extrapolation removes the term in h^2 and leaves one in h^4, of the size of the square of the
    # error.
    assert (4 * of_beam_theory[2] - of_beam_theory[1]) / 3 == pytest.approx(1, abs=5e-6)


def test_h8_without_poisson_effect_is_a_stack_of_q4():
    # With nu = 0 nothing depends on z, so the discrete solutions agree to rounding.
    plane, solid = Grid((6, 2), (0.5, 0.4)), Grid((6, 2, 3), (0.5, 0.4, 0.3))
    displacements = []
    for grid in (plane, solid):
        held = np.zeros((grid.node_count, grid.dimension), bool)
        held[grid.boundary("left")] = True
        load = body_load(grid, lambda x: np.array([0.3, -1.0, 0.0])[: x.shape[1]])
        displacements.append(
            solved(assembled(grid, 0.0), load, held).reshape(*grid.nodes, grid.dimension)
        )
    expected = np.broadcast_to(displacements[0][:, :, None, :], (7, 3, 4, 2))
    np.testing.assert_allclose(displacements[1][..., :2], expected, rtol=1e-11, atol=1e-11)
    np.testing.assert_allclose(displacements[1][..., 2], 0, atol=1e-11)


@pytest.mark.parametrize(
    "grid", [Grid((3, 4), (0.5, 0.8)), Grid((3, 4, 2), (0.5, 0.8, 1.1))], ids=str
)
def test_loads_do_the_work_of_the_tractions(grid):
    # Against u = x_0 + 2 x_1 (which the elements contain) in each direction: integrals of quadratic
    # polynomials.
    weights = np.array([1.0, 2.0, 0.0][: grid.dimension])
    u = grid.coordinates @ weights
    lengths = np.multiply(grid.elements, grid.element_size)
    traction = traction_load(grid, "top", lambda x: np.stack([x[:, 0]] * grid.dimension, axis=1))
    depth = np.prod(lengths[2:])
    # Integral over the top, y = b, of x (x + 2 b) dx dz.
    work = depth * (lengths[0] ** 3 / 3 + lengths[0] ** 2 * lengths[1])
    np.testing.assert_allclose(u @ traction, work, rtol=1e-13)
    assert not traction[np.setdiff1d(np.arange(grid.node_count), grid.boundary("top"))].any()
    # Integral over the body of y (x + 2 y) dx dy dz.
    body = body_load(grid, lambda x: np.stack([x[:, 1]] * grid.dimension, axis=1))
    work = depth * (lengths[0] ** 2 * lengths[1] ** 2 / 4 + 2 * lengths[0] * lengths[1] ** 3 / 3)
    np.testing.assert_allclose(u @ body, work, rtol=1e-13)


def test_a_quadratic_traction_on_a_face_is_integrated_exactly():
    # On the right face of a box b x c, t = y z: the resultant is b^2 c^2/4, its moments b^3 c^2/6
    # and b^2 c^3/6.
    grid = Grid((2, 3, 4), (1.0, 0.5, 0.25))
    b, c = 1.5, 1.0
    load = traction_load(grid, "right", lambda x: (x[:, 1] * x[:, 2])[:, None] * np.eye(3)[0])
    y, z = grid.coordinates[:, 1], grid.coordinates[:, 2]
    work = [load[:, 0].sum(), y @ load[:, 0], z @ load[:, 0]]
    np.testing.assert_allclose(
        work, [b**2 * c**2 / 4, b**3 * c**2 / 6, b**2 * c**3 / 6], rtol=1e-13
    )
