"""Assembly against a SciPy sum of element matrices, with its derivative and its stresses.

It is tested in two and in three dimensions.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.sparse as sparse

from adjoint.fem.assembly import Elasticity
from adjoint.fem.elements import traction_load
from adjoint.fem.grid import Grid

GRIDS = [Grid((5, 3), (0.7, 1.2)), Grid((3, 2, 4), (0.7, 1.2, 0.5)), Grid((1, 1))]


def clamped(grid):
    """Clamped at the left, and one component of the last node held.

    So entries of the pattern are not whole nodes.
    """
    fixed = np.zeros((grid.node_count, grid.dimension), bool)
    fixed[grid.boundary("left")] = True
    fixed[-1, -1] = True
    load = np.random.default_rng(0).normal(size=fixed.shape)
    return Elasticity(grid, fixed, load, poisson_ratio=0.3)


def moduli_of(grid):
    return np.random.default_rng(1).uniform(0.1, 2.0, grid.elements)


def reference(model, moduli):
    """Sum of E_e K_e, then the free rows and columns, by SciPy."""
    dofs = model.grid.degrees_of_freedom
    rows, cols = np.repeat(dofs, dofs.shape[1], axis=1), np.tile(dofs, (1, dofs.shape[1]))
    entries = moduli.reshape(-1, 1) * model.element_stiffness.reshape(1, -1)
    n = model.fixed.size
    K = sparse.csr_matrix((entries.ravel(), (rows.ravel(), cols.ravel())), shape=(n, n))
    free = np.flatnonzero(~model.fixed.ravel())
    return K[free][:, free].tocsr(), free


@pytest.mark.parametrize("grid", GRIDS, ids=str)
def test_stiffness_is_the_sum_of_element_matrices_on_the_free_degrees_of_freedom(grid):
    model, moduli = clamped(grid), moduli_of(grid)
    expected, free = reference(model, moduli)
    K = jax.jit(lambda E: model.stiffness(E).todense())(moduli)
    np.testing.assert_allclose(K, expected.toarray(), rtol=0, atol=1e-14)
    # Bitwise symmetric, so that a solver can see it.
    np.testing.assert_array_equal(K, K.T)
    assert np.linalg.eigvalsh(K)[0] > 0
    np.testing.assert_array_equal(model.free_load, model.load.ravel()[free])


@pytest.mark.parametrize("grid", GRIDS, ids=str)
def test_the_pattern_holds_each_nonzero_once(grid):
    model = clamped(grid)
    expected, _ = reference(model, np.ones(grid.elements))
    assert model.pattern.nnz == expected.nnz
    assert model.pattern is model.pattern


def test_without_supports_no_entry_is_left_out():
    grid = Grid((2, 2))
    model = Elasticity(grid, np.zeros((9, 2), bool), np.zeros((9, 2)), 0.3)
    K = model.stiffness(jnp.ones((2, 2))).todense()
    np.testing.assert_allclose(
        K, reference(model, np.ones((2, 2)))[0].toarray(), rtol=0, atol=1e-15
    )
    assert np.sum(np.linalg.eigvalsh(K) < 1e-13) == 3


@pytest.mark.parametrize("grid", GRIDS[:2], ids=str)
def test_the_derivative_of_the_energy_is_the_energy_of_each_element(grid):
    # d(u' K(E) u)/dE_e = u_e' K_e u_e.
    model, moduli = clamped(grid), jnp.asarray(moduli_of(grid))
    u = jnp.asarray(np.random.default_rng(2).normal(size=model.free.size))
    derivative = jax.jit(jax.grad(lambda E: u @ model.stiffness(E).matvec(u)))(moduli)
    u_e = np.asarray(model.expand(u)).ravel()[grid.degrees_of_freedom]
    expected = np.einsum("ei,ij,ej->e", u_e, model.element_stiffness, u_e).reshape(grid.elements)
    np.testing.assert_allclose(derivative, expected, rtol=1e-12)


def test_expand_puts_the_unknowns_in_their_places_and_zeros_elsewhere():
    model = clamped(GRIDS[0])
    u = model.expand(jnp.arange(1.0, model.free.size + 1))
    assert u.shape == model.fixed.shape
    np.testing.assert_array_equal(u[~model.fixed], np.arange(1.0, model.free.size + 1))
    assert not np.asarray(u)[model.fixed].any()


@pytest.mark.parametrize("grid", GRIDS[:2], ids=str)
def test_stress_of_a_linear_displacement(grid):
    # Hooke's law in components (Lame form), with eps_zz = -nu/(1 - nu) (eps_xx + eps_yy) in plane
    # stress.
    d, nu = grid.dimension, 0.3
    model, moduli = clamped(grid), moduli_of(grid)
    G = np.random.default_rng(3).normal(size=(d, d))
    strain = (G + G.T) / 2
    trace = np.trace(strain) * (1 if d == 3 else (1 - 2 * nu) / (1 - nu))
    unit = nu / ((1 + nu) * (1 - 2 * nu)) * trace * np.eye(d) + strain / (1 + nu)
    shears = [(0, 1)] if d == 2 else [(1, 2), (0, 2), (0, 1)]
    expected = moduli[..., None] * np.array(
        [unit[i, j] for i, j in [(k, k) for k in range(d)] + shears]
    )
    stress = model.stress(jnp.asarray(grid.coordinates @ G.T), jnp.asarray(moduli))
    np.testing.assert_allclose(stress, expected, rtol=0, atol=1e-13)


@pytest.mark.parametrize("dimension", [2, 3])
def test_a_bar_of_two_materials_is_two_springs_in_series(dimension):
    # With nu = 0, an end load F on two lengths L of moduli E1 and E2 and a cross-section A: u = (F
    # L/A) (1/E1 + 1/E2).
    grid = Grid((4, 2, 3)[:dimension], (0.5, 0.4, 0.3)[:dimension])
    area = float(np.prod(np.multiply(grid.elements, grid.element_size)[1:]))
    fixed = np.zeros((grid.node_count, dimension), bool)
    fixed[grid.boundary("left")] = True
    load = traction_load(grid, "right", lambda _: 3.0 / area * np.eye(dimension)[0])
    bar = Elasticity(grid, fixed, load, poisson_ratio=0.0)
    moduli = np.ones(grid.elements)
    moduli[2:] = 5.0
    K = np.asarray(jax.jit(lambda E: bar.stiffness(E).todense())(moduli))
    u = np.asarray(bar.expand(jnp.asarray(np.linalg.solve(K, bar.free_load))))
    tip = u[grid.boundary("right")]
    np.testing.assert_allclose(tip[:, 0], 3.0 * 1.0 / area * (1 + 1 / 5), rtol=1e-12)
    np.testing.assert_allclose(tip[:, 1:], 0, atol=1e-12)


def test_mistakes_are_named_before_any_computing():
    grid = Grid((3, 2))
    fixed, load = np.zeros((12, 2), bool), np.zeros((12, 2))
    with pytest.raises(ValueError, match=r"load of shape \(12,\), expected \(12, 2\)"):
        Elasticity(grid, fixed, load[:, 0], 0.3)
    with pytest.raises(ValueError, match=r"fixed of shape \(3, 2\)"):
        Elasticity(grid, fixed[:3], load, 0.3)
    with pytest.raises(ValueError, match="at least one free"):
        Elasticity(grid, ~fixed, load, 0.3)
    with pytest.raises(ValueError, match=r"moduli of shape \(2, 3\), expected \(3, 2\)"):
        Elasticity(grid, fixed, load, 0.3).stiffness(jnp.ones((2, 3)))
