"""shadowing_sensitivity: closed-form averages, laws of the Lorenz attractor, failures."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import adjoint
from adjoint.ode import block_tridiagonal
from adjoint.ode.time_average import smooth_weights, standard_error


def lorenz(t, state, p):
    """At another rate and in another unit of length, which change no average but by that unit."""
    del t
    x, y, z = state / p["unit"]
    rates = jnp.array([p["sigma"] * (y - x), x * (p["rho"] - z) - y, x * y - p["beta"] * z])
    return p["rate"] * p["unit"] * rates


def height(t, state, p):
    del t, p
    return state[2]


def rotor(t, y, p):
    """A limit cycle of radius R, on which the angle turns by omega - a sin(angle)."""
    del t
    r = jnp.sqrt(y @ y)
    turn, growth = p["omega"] - p["a"] * y[1] / r, 10 * (1 - (r / p["R"]) ** 2)
    return jnp.array([growth * y[0] - turn * y[1], growth * y[1] + turn * y[0]])


def ordinate(t, y, p):
    del t
    return p["factor"] * y[1]


def average_ordinate(p):
    """The angle's density is 1 / (omega - a sin), its mean rate sqrt(omega^2 - a^2)."""
    return p["factor"] * p["R"] * (p["omega"] - jnp.sqrt(p["omega"] ** 2 - p["a"] ** 2)) / p["a"]


def forced(t, y, p):
    k, b, F = p
    return {"y": -k * y["y"] + b + F * jnp.cos(5 * t)}


def square(t, y, p):
    del t, p
    return y["y"] ** 2


def average_square(p):
    k, b, F = p
    return b**2 / k**2 + F**2 / (2 * (k**2 + 25))


LORENZ = {
    name: jnp.array(v)
    for name, v in {"sigma": 10.0, "rho": 28.0, "beta": 8 / 3, "rate": 1.0, "unit": 1.0}.items()
}
ROTOR = {
    name: jnp.array(v) for name, v in {"omega": 6.0, "a": 3.6, "R": 1.5, "factor": 0.7}.items()
}
FORCED = (jnp.array(1.7), jnp.array(0.9), jnp.array(6.3))

solve_lorenz = partial(
    adjoint.shadowing_sensitivity,
    lorenz,
    jnp.ones(3),
    t0=0.0,
    running_cost=height,
    transient=30.0,
    segments=512,
)
solve_rotor = partial(
    adjoint.shadowing_sensitivity,
    rotor,
    jnp.array([1.0, 0.0]),
    t0=0.0,
    t1=110.0,
    running_cost=ordinate,
    transient=10.0,
    segments=512,
    rtol=1e-9,
    atol=1e-12,
)
solve_forced = partial(
    adjoint.shadowing_sensitivity,
    forced,
    {"y": jnp.array(0.2)},
    t0=-3.0,
    t1=137.0,
    running_cost=square,
    transient=20.0,
    segments=256,
    rtol=1e-9,
    atol=1e-12,
)


@pytest.mark.slow
def test_the_gradient_of_a_limit_cycle_is_the_closed_form():
    solution = solve_rotor(ROTOR)
    average, gradient = adjoint.require(solution)
    expected, derivatives = jax.value_and_grad(average_ordinate)(ROTOR)
    np.testing.assert_allclose(average, expected, rtol=1e-6)
    assert gradient.keys() == ROTOR.keys()
    for name, derivative in derivatives.items():
        np.testing.assert_allclose(gradient[name], derivative, rtol=1e-5, err_msg=name)
    assert solution.stats["gradient_error"].shape == (4,)
    assert solution.stats["tangent_error"] < 1e-6


@pytest.mark.slow
def test_a_forced_flow_keeps_its_time_and_vmap_takes_several_parameters():
    lanes = jax.tree.map(lambda leaf: leaf * jnp.array([1.0, 1.2]), FORCED)
    average, gradient = adjoint.require(jax.vmap(solve_forced)(lanes))
    expected, derivatives = jax.vmap(jax.value_and_grad(average_square))(lanes)
    np.testing.assert_allclose(average, expected, rtol=1e-6)
    for found, derivative in zip(gradient, derivatives, strict=True):
        np.testing.assert_allclose(found, derivative, rtol=1e-5)


class TestLorenz:
    """One compilation for all: only numbers change."""

    @pytest.mark.slow
    def test_the_published_slope_and_exact_relations(self):
        solution = solve_lorenz(LORENZ, t1=230.0)
        average, gradient = adjoint.require(solution)
        # Wang, Hu and Blonigan 2014: about 1.01.
        assert abs(gradient["rho"] - 1.01) < 0.02
        # A slower clock changes no average; a unit of length changes it by itself.
        assert abs(gradient["rate"]) < 1e-3
        np.testing.assert_allclose(gradient["unit"], average, rtol=5e-4)
        assert (
            solution.stats["gradient_error"][3] < 0.02
        )  # of rho, the fourth in the order of names
        assert abs(average - 23.55) < 4 * solution.stats["average_error"]

    @pytest.mark.parametrize(
        ("change", "t1", "status"),
        [
            ({"rho": jnp.nan}, 130.0, "NONFINITE_INPUT"),
            # Backwards in time the flow has no attractor.
            ({"rate": -1.0}, 130.0, "MAX_STEPS"),
            # Segments of 4 and of 20 units of time, in which tangents grow 1e4 and 1e9 times.
            ({}, 2078.0, "UNTRUSTED"),
            pytest.param({}, 10_270.0, "ILL_CONDITIONED", marks=pytest.mark.slow),
        ],
    )
    @pytest.mark.slow
    def test_failures_are_not_numbers(self, change, t1, status):
        p = LORENZ | {name: jnp.array(value) for name, value in change.items()}
        solution = solve_lorenz(p, t1=t1)
        assert solution.status.name == status
        assert all(np.isnan(leaf) for leaf in jax.tree.leaves(solution.value))
        with pytest.raises(
            adjoint.SolveError, match=r"shadowing_sensitivity \(3 states, 512 segments"
        ):
            adjoint.require(solution)

    @pytest.mark.slow
    def test_the_errors_are_no_smaller_than_the_spread(self):
        starts = jnp.asarray(
            np.random.default_rng(0).normal(size=(24, 3)) * 5 + np.array([0, 0, 25])
        )
        function = partial(
            adjoint.shadowing_sensitivity,
            lorenz,
            t0=0.0,
            t1=130.0,
            running_cost=height,
            transient=30.0,
            segments=512,
        )
        solution = jax.vmap(lambda start: function(start, LORENZ))(starts)
        average, gradient = adjoint.require(solution)
        spread = np.array([np.std(gradient[name], ddof=1) for name in sorted(LORENZ)])
        error = np.sqrt(np.mean(solution.stats["gradient_error"] ** 2, axis=0))
        assert np.all(error > spread)
        ratio = np.sqrt(np.mean(solution.stats["average_error"] ** 2)) / np.std(average, ddof=1)
        assert 0.8 < ratio < 2.5

    @pytest.mark.slow
    def test_the_gradient_of_a_rate_vanishes(self):
        # g = dz/dt has the average zero for all parameters; 8/3 itself is one of them.
        def rate_of_height(t, state, p):
            return lorenz(t, state, p)[2]

        solution = adjoint.shadowing_sensitivity(
            lorenz,
            jnp.ones(3),
            LORENZ,
            0.0,
            230.0,
            running_cost=rate_of_height,
            transient=30.0,
            segments=1024,
        )
        average, gradient = adjoint.require(solution)
        assert abs(average) < 1e-3
        assert all(abs(leaf) < 2e-3 for leaf in jax.tree.leaves(gradient))


@pytest.mark.slow
def test_at_rest_the_gradient_is_that_of_the_equilibrium():
    def decay(t, y, p):
        del t
        return jnp.array([-p[0] * y[0] + p[1] + y[1], -3 * y[1] + 0.5 * y[0]])

    def first(t, y, p):
        del t, p
        return y[0]

    p = jnp.array([1.3, 0.8])
    average, gradient = adjoint.require(
        adjoint.shadowing_sensitivity(
            decay,
            jnp.array([5.0, 1.0]),
            p,
            0.0,
            300.0,
            running_cost=first,
            transient=100.0,
            segments=256,
        )
    )
    expected, derivative = jax.value_and_grad(lambda p: p[1] / (p[0] - 0.5 / 3))(p)
    np.testing.assert_allclose(average, expected, rtol=1e-6)
    np.testing.assert_allclose(gradient, derivative, rtol=1e-5)


@pytest.mark.slow
def test_derivatives_of_the_result_are_refused():
    with pytest.raises(TypeError, match="The gradient is part of the result"):
        jax.grad(lambda p: solve_forced(p).value[0])(FORCED)

    def closing_over(k):
        def f(t, y, p):
            return forced(t, y, (k, *p))

        return adjoint.shadowing_sensitivity(
            f,
            {"y": jnp.array(0.2)},
            FORCED[1:],
            0.0,
            9.0,
            running_cost=square,
            transient=1.0,
            segments=64,
        ).value[0]

    with pytest.raises(TypeError, match="The gradient is part of the result"):
        jax.grad(closing_over)(FORCED[0])


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"segments": 0}, ValueError, "segments = 0, expected a positive integer"),
        ({"segments": 7.5}, ValueError, "segments = 7.5"),
        ({"transient": -1.0}, ValueError, "t0 <= t0 . transient < t1"),
        ({"transient": 140.0}, ValueError, "transient = 140.0, t1 = 137.0"),
        ({"t1": jnp.ones(2)}, TypeError, "t1 = .*expected a number"),
        ({"rtol": 0.0}, ValueError, "rtol = 0.0"),
        ({"solver": "rk4"}, TypeError, "solver = 'rk4'"),
        ({"running_cost": lambda t, y, p: jnp.ones(2) * y["y"]}, ValueError, "one number"),
    ],
)
def test_wrong_inputs_are_refused(change, error, message):
    with pytest.raises(error, match=message):
        solve_forced(FORCED, **change)


def test_parameters_must_be_numbers_with_derivatives():
    with pytest.raises(TypeError, match="p with int"):
        solve_forced((1, 2.0, 3.0))
    with pytest.raises(TypeError, match="p with no arrays"):
        adjoint.shadowing_sensitivity(
            lambda t, y, p: -y,
            jnp.ones(1),
            {},
            0.0,
            9.0,
            running_cost=lambda t, y, p: y[0],
            transient=1.0,
            segments=64,
        )


def test_a_cost_that_depends_on_time_needs_a_flow_that_does():
    with pytest.raises(ValueError, match="make the clock a state of f"):
        solve_rotor(ROTOR, running_cost=lambda t, y, p: p["factor"] * jnp.cos(t) * y[1])


class TestParts:
    def test_block_tridiagonal_against_numpy(self):
        rng = np.random.default_rng(0)
        diagonal, lower, b = (
            rng.normal(size=(5, 3, 3)),
            rng.normal(size=(4, 3, 3)),
            rng.normal(size=(5, 3)),
        )
        diagonal = diagonal @ np.swapaxes(diagonal, 1, 2) + 10 * np.eye(3)[None]
        S = np.zeros((15, 15))
        for k in range(5):
            S[3 * k : 3 * k + 3, 3 * k : 3 * k + 3] = diagonal[k]
        for k in range(4):
            S[3 * k + 3 : 3 * k + 6, 3 * k : 3 * k + 3] = lower[k]
            S[3 * k : 3 * k + 3, 3 * k + 3 : 3 * k + 6] = lower[k].T
        x = np.linalg.solve(S, b.ravel()).reshape(5, 3)
        blocks = (jnp.asarray(diagonal), jnp.asarray(lower))
        np.testing.assert_allclose(block_tridiagonal.solve(*blocks, jnp.asarray(b)), x, rtol=1e-12)
        np.testing.assert_allclose(
            block_tridiagonal.multiply(*blocks, jnp.asarray(x)), b, rtol=1e-12
        )

    def test_weights_average_a_wave_away(self):
        h = jnp.array(0.1)
        w = smooth_weights(1000, h)
        t = h * (jnp.arange(1000) + 0.5)
        np.testing.assert_allclose(jnp.sum(w) * h, 1.0, rtol=1e-12)
        # Equal weights leave 0.02 of it.
        assert abs(jnp.sum(w * jnp.cos(1.3 * t)) * h) < 1e-4
        np.testing.assert_allclose(w[400], w[600], rtol=1e-12)

    def test_the_error_of_noise_is_that_of_noise(self):
        rng = np.random.default_rng(0)
        w = np.asarray(smooth_weights(64, jnp.array(1 / 64))) / 64
        noise = w[:, None] * (7 + rng.normal(size=(64, 4000)))
        error = np.asarray(standard_error(jnp.asarray(w), jnp.asarray(noise)))
        np.testing.assert_allclose(np.sqrt(np.mean(error**2)), np.std(noise.sum(axis=0)), rtol=0.05)
