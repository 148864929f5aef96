"""The optimality criteria update: closed-form optima, the published bisection, its bounds."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import adjoint
from adjoint.optimize.optimality_criteria import OC

EXACT = OC(move=1.0, bisection_tolerance=1e-13)


def bars(seed, shape=(40,)):
    """c = sum a_e/x_e, volume sum v_e x_e: a statically determinate truss.

    c is least at x ~ sqrt(a/v).
    """
    rng = np.random.default_rng(seed)
    return rng.uniform(0.5, 2.0, shape), rng.uniform(0.5, 2.0, shape), rng.uniform(0.3, 0.6, shape)


@pytest.mark.parametrize("scale", [1.0, 1e20, 1e-20])
def test_a_determinate_truss_is_optimal_after_one_step(scale):
    # Lagrange: a/x^2 = lambda v, so x = sqrt(a/(lambda v)), where the volume gives lambda; for
    # every unit of c.
    a, v, x = bars(0)
    limit = 0.4 * v.sum()
    root = np.sum(np.sqrt(a * v)) / limit
    state = jax.jit(EXACT.step)(
        EXACT.init(x), jnp.asarray(-scale * a / x**2), jnp.asarray(v), limit
    )
    np.testing.assert_allclose(state.x, np.sqrt(a / v) / root, rtol=1e-12)
    np.testing.assert_allclose(state.multiplier, scale * root**2, rtol=1e-12)
    np.testing.assert_allclose(state.change, np.abs(np.sqrt(a / v) / root - x).max(), rtol=1e-11)
    assert np.sum(v * state.x) == pytest.approx(limit, rel=1e-12)


def test_a_step_is_the_one_of_the_published_code():
    # The update that Andreassen et al. (2011) describe: bisect [0, 1e9] to a relative width of
    # 1e-3, and take the design at the last midpoint.
    a, v, x = bars(1, (6, 5))
    dc, limit = -a / x**2, 0.4 * v.sum()
    low, high, new = 0.0, 1e9, x
    while (high - low) / (low + high) > 1e-3:
        middle = (low + high) / 2
        new = np.clip(x * np.sqrt(-dc / v / middle), np.maximum(0, x - 0.2), np.minimum(1, x + 0.2))
        low, high = (middle, high) if np.sum(v * new) > limit else (low, middle)
    state = OC().step(OC().init(x), jnp.asarray(dc), jnp.asarray(v), limit)
    np.testing.assert_allclose(state.x, new, rtol=1e-13)
    assert float(state.multiplier) == middle
    # Coarse as it is, the tolerance leaves less than 1e-3 in the volume: x varies like the root of
    # the multiplier.
    assert np.sum(v * state.x) == pytest.approx(limit, rel=1e-3)


def test_repeated_steps_find_the_optimum_within_bounds():
    # With x <= 1 active for some entries: x = min(1, sqrt(a/(lambda v))), lambda found here by an
    # independent root finder.
    from scipy.optimize import brentq

    a, v, x = bars(2)
    a[:5] *= 100
    limit = float(0.5 * v.sum())
    lam = brentq(
        lambda lam: np.sum(v * np.minimum(1, np.sqrt(a / (lam * v)))) - limit, 1e-3, 1e3, xtol=1e-14
    )
    method = OC(bisection_tolerance=1e-13)
    state, step = method.init(jnp.full(x.shape, 0.45)), jax.jit(method.step)
    for _ in range(12):
        previous = state.x
        state = step(state, -a / state.x**2, jnp.asarray(v), limit)
        assert np.abs(state.x - previous).max() <= 0.2 + 1e-15
    expected = np.minimum(1, np.sqrt(a / (lam * v)))
    assert np.sum(expected == 1) >= 5
    np.testing.assert_allclose(state.x, expected, rtol=1e-11)
    assert float(state.change) < 1e-11
    assert step._cache_size() == 1


def test_an_inactive_constraint_lets_every_entry_grow():
    a, v, x = bars(3)
    state = OC().step(OC().init(x), jnp.asarray(-a), jnp.asarray(v), 2 * v.sum())
    np.testing.assert_allclose(state.x, np.minimum(1, x + 0.2), rtol=1e-15)
    assert float(state.multiplier) < 1e-100


def test_an_unreachable_limit_is_approached_as_fast_as_the_move_allows():
    a, v, x = bars(4)
    state = OC().step(OC().init(x), jnp.asarray(-a), jnp.asarray(v), 0.01 * v.sum())
    np.testing.assert_allclose(state.x, np.maximum(0, x - 0.2), atol=1e-15)


def test_material_that_does_harm_is_removed():
    a, v, x = bars(5)
    dc = -a
    dc[7] = 0.5
    state = OC().step(OC().init(x), jnp.asarray(dc), jnp.asarray(v), 0.45 * v.sum())
    assert float(state.x[7]) == pytest.approx(x[7] - 0.2, abs=1e-15)


def test_nan_is_not_repaired():
    a, v, x = bars(6)
    a[3] = np.nan
    state = jax.jit(OC().step)(OC().init(x), jnp.asarray(-a), jnp.asarray(v), 0.4 * v.sum())
    assert np.isnan(state.x[3])
    assert np.isnan(state.change)


def test_float32_stays_float32_and_ends():
    a, v, x = (array.astype(np.float32) for array in bars(7))
    method = OC(move=1.0, bisection_tolerance=1e-13)
    state = method.step(
        method.init(x), jnp.asarray(-a / x**2), jnp.asarray(v), np.float32(0.4) * v.sum()
    )
    assert {leaf.dtype for leaf in state} == {np.dtype(np.float32)}
    root = np.sum(np.sqrt(a * v)) / (0.4 * v.sum())
    np.testing.assert_allclose(state.x, np.sqrt(a / v) / root, rtol=1e-5)


@pytest.mark.parametrize(
    "parameters",
    [
        {"move": 0.0},
        {"move": 1.5},
        {"damping": -0.5},
        {"damping": float("nan")},
        {"bisection_tolerance": 0.0},
    ],
    ids=str,
)
def test_parameters_out_of_range_are_refused(parameters):
    with pytest.raises(ValueError, match=f"OC: got {next(iter(parameters))} = "):
        OC(**parameters)


def test_a_derivative_of_another_shape_is_refused():
    state = OC().init(jnp.ones((3, 2)))
    with pytest.raises(ValueError, match=r"volume_derivative of shape \(2, 3\), expected \(3, 2\)"):
        OC().step(state, jnp.ones((3, 2)), jnp.ones((2, 3)), 3.0)


class TestInMinimize:
    def test_a_determinate_truss(self):
        """One bar is as thick as it may be, and the others share what is left of the volume."""
        a, v, x = bars(3)
        a[0] = 400.0
        limit = 0.4 * v.sum()
        root = np.sum(np.sqrt(a[1:] * v[1:])) / (limit - v[0])
        expected = np.append(1.0, np.sqrt(a[1:] / v[1:]) / root)
        solution = adjoint.minimize(
            lambda x: jnp.sum(a / x),
            jnp.asarray(x),
            OC(),
            bounds=(1e-3, 1.0),
            inequality=lambda x: jnp.sum(v * x) - limit,
        )
        assert solution.status == adjoint.Status.SUCCESS
        np.testing.assert_allclose(solution.value, expected, rtol=1e-6)
        np.testing.assert_allclose(solution.stats["multipliers"], [root**2], rtol=1e-6)
        assert int(solution.stats["evaluations"]) <= 30

    def test_where_something_is_not_a_number(self):
        f = lambda x: jnp.sum(jnp.where(x < 0.35, jnp.nan, 1 / x))
        volume = lambda x: jnp.sum(x) - 0.6
        found = adjoint.minimize(f, jnp.full(2, 0.9), OC(), bounds=(0.0, 1.0), inequality=volume)
        assert not bool(found.status.ok)

    @pytest.mark.parametrize(
        ("given", "named"),
        [
            ({"bounds": (0.0, 1.0)}, "0 constraints"),
            ({"inequality": lambda x: jnp.sum(x) - 1}, "no bounds"),
            ({"inequality": lambda x: jnp.sum(x) - 1, "bounds": (-1.0, 1.0)}, "negative"),
            ({"inequality": lambda x: x - 1, "bounds": (0.0, 1.0)}, "2 constraints"),
        ],
        ids=["no volume", "no bounds", "negative", "two"],
    )
    def test_what_it_cannot_honor_is_refused(self, given, named):
        with pytest.raises(ValueError, match=f"minimize with OC: got .*{named}"):
            adjoint.minimize(lambda x: jnp.sum(1 / x), jnp.full(2, 0.5), OC(), **given)
