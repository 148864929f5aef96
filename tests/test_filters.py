"""Filters against the dense weight matrix that their definition writes down."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from adjoint.fem.filters import ConeFilter
from adjoint.fem.grid import Grid

CASES = [
    ConeFilter(Grid((12, 7)), 2.4),
    ConeFilter(Grid((9, 6), (0.5, 1.5)), 2.0),
    ConeFilter(Grid((5, 4, 6)), 1.8),
    ConeFilter(Grid((5, 4, 3), (1.0, 0.4, 0.7)), 1.5),
    ConeFilter(Grid((6, 1)), 4.0),
    ConeFilter(Grid((3, 2)), 50.0),
]


def weights(cone):
    """H_ei = max(0, r - |x_e - x_i|) of element centers: Andreassen et al. (2011), equation (8)."""
    centers = cone.grid.coordinates[cone.grid.connectivity].mean(axis=1)
    return np.maximum(
        0, cone.radius - np.linalg.norm(centers[:, None, :] - centers[None, :, :], axis=-1)
    )


@pytest.mark.parametrize("cone", CASES, ids=str)
def test_filters_are_the_published_sums(cone):
    rng = np.random.default_rng(0)
    H = weights(cone)
    x, y = rng.uniform(0, 1, cone.grid.elements), rng.normal(size=cone.grid.elements)
    x.ravel()[:2] = 0.0, 1e-5
    np.testing.assert_allclose(
        jax.jit(cone.weighted_sum)(y), (H @ y.ravel()).reshape(y.shape), rtol=0, atol=1e-11
    )
    np.testing.assert_allclose(cone.weight_sums, H.sum(axis=1).reshape(y.shape), rtol=1e-13)
    density = (H @ x.ravel()) / H.sum(axis=1)
    np.testing.assert_allclose(jax.jit(cone.density)(x).ravel(), density, rtol=1e-13)
    sensitivity = H @ (x * y).ravel() / H.sum(axis=1) / np.maximum(1e-3, x.ravel())
    np.testing.assert_allclose(
        jax.jit(cone.sensitivity)(x, y).ravel(), sensitivity, rtol=0, atol=1e-11
    )


@pytest.mark.parametrize("cone", CASES, ids=str)
def test_constants_stay_constant_up_to_the_boundary(cone):
    constant = jnp.full(cone.grid.elements, 0.37)
    np.testing.assert_allclose(jax.jit(cone.density)(constant), constant, rtol=1e-14)
    np.testing.assert_allclose(
        jax.jit(cone.sensitivity)(constant, -2.0 * constant), -2.0 * constant, rtol=1e-14
    )


@pytest.mark.parametrize("cone", CASES, ids=str)
def test_the_weighted_sum_is_its_own_adjoint_and_the_chain_rule_of_the_density_filter_follows(cone):
    rng = np.random.default_rng(1)
    v, w = (jnp.asarray(rng.normal(size=cone.grid.elements)) for _ in range(2))
    scale = float(jnp.linalg.norm(v) * jnp.linalg.norm(w)) * float(np.max(cone.weight_sums))
    H = jax.jit(cone.weighted_sum)
    assert abs(jnp.sum(w * H(v)) - jnp.sum(v * H(w))) < 1e-14 * scale
    # Equation (10): dpsi/dx = H (dpsi/dx~ / sum of weights).
    pulled_back = jax.jit(lambda v, w: jax.vjp(cone.density, v)[1](w)[0])(v, w)
    expected = weights(cone) @ (np.asarray(w) / cone.weight_sums).ravel()
    np.testing.assert_allclose(pulled_back.ravel(), expected, rtol=0, atol=1e-12)


def test_a_radius_of_one_element_filters_nothing():
    x = jnp.asarray(np.random.default_rng(2).uniform(0.1, 1, (6, 5)))
    cone = ConeFilter(Grid((6, 5)), 1.0)
    np.testing.assert_allclose(cone.density(x), x, rtol=1e-15)
    np.testing.assert_allclose(cone.sensitivity(x, -x), -x, rtol=1e-15)


def test_a_checkerboard_is_smoothed_and_a_design_stays_within_its_bounds():
    checkerboard = jnp.asarray(np.indices((20, 12)).sum(axis=0) % 2, float)
    density = ConeFilter(Grid((20, 12)), 2.4).density(checkerboard)
    assert np.abs(density - 0.5).max() < 0.1
    assert density.min() >= 0
    assert density.max() <= 1


@pytest.mark.parametrize("radius", [0.0, -1.0, float("inf"), float("nan")])
def test_impossible_radii_are_refused(radius):
    with pytest.raises(ValueError, match="expected a positive length"):
        ConeFilter(Grid((2, 2)), radius)
