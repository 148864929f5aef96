"""brusselator: rates in closed form, gradients against other solvers, a wrong one, and a run.

The other solvers are an independent and an implicit one.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

import diffrax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.integrate

import adjoint
from problems.__main__ import main
from problems.brusselator import (
    Coefficients,
    Found,
    Reagents,
    Settings,
    broken_autonomy,
    certificate,
    coefficients,
    errors,
    gradient,
    reaction_diffusion,
    start,
)

SMALL = Settings(points=8)


@pytest.fixture(scope="module")
def default() -> Found:
    return gradient(SMALL)


def functional_by_radau(y0: np.ndarray, p: np.ndarray) -> float:
    """J for y0 (2, 8, 8) and coefficients (3, 8, 8), by SciPy's Radau and a new Laplacian."""
    n = SMALL.points
    ring = (
        np.eye(n, k=1) + np.eye(n, k=-1) + np.eye(n, k=n - 1) + np.eye(n, k=1 - n) - 2 * np.eye(n)
    )
    laplacian = (np.kron(ring, np.eye(n)) + np.kron(np.eye(n), ring)) * (n - 1) ** 2
    A, B, alpha = p.reshape(3, -1)

    def rates(t: float, y: np.ndarray) -> np.ndarray:
        u, v = y.reshape(2, -1)
        return np.concatenate(
            [
                alpha * (laplacian @ u) + B + u**2 * v - (A + 1) * u,
                alpha * (laplacian @ v) + A * u - u**2 * v,
            ]
        )

    def jacobian(t: float, y: np.ndarray) -> np.ndarray:
        u, v = y.reshape(2, -1)
        diffusion = alpha[:, None] * laplacian
        return np.block([
            [diffusion + np.diag(2 * u * v - A - 1), np.diag(u**2)],
            [np.diag(A - 2 * u * v), diffusion - np.diag(u**2)],
        ])  # fmt: skip

    found = scipy.integrate.solve_ivp(
        rates,
        (0, SMALL.time),
        y0.ravel(),
        method="Radau",
        jac=jacobian,
        rtol=1e-10,
        atol=1e-12,
        t_eval=[SMALL.time],
    )
    assert found.success
    return float(np.sum(found.y**2) / (2 * n * n))


def test_a_uniform_steady_state_has_no_rates() -> None:
    p = coefficients(SMALL)
    for rate in reaction_diffusion(jnp.zeros(()), Reagents(p.B, p.A / p.B), p):
        np.testing.assert_allclose(rate, 0.0, atol=1e-12)


def test_a_wave_diffuses_by_its_eigenvalue() -> None:
    """alpha lap(w) = alpha (N - 1)^2 (2 cos(2 pi / N) - 2) w for w = cos(2 pi i / N)."""
    n = SMALL.points
    w = jnp.broadcast_to(jnp.cos(2 * jnp.pi * jnp.arange(n) / n)[:, None], (n, n))
    zero = jnp.zeros((n, n))
    p = Coefficients(-jnp.ones((n, n)), zero, jnp.full((n, n), 10.0))
    rate = reaction_diffusion(jnp.zeros(()), Reagents(w, zero), p).u
    np.testing.assert_allclose(
        rate, 10 * (n - 1) ** 2 * (2 * np.cos(2 * np.pi / n) - 2) * w, atol=1e-11
    )


def test_the_start_is_that_of_the_benchmark() -> None:
    y0 = start(Settings(points=5))
    np.testing.assert_allclose(y0.u[:, 2], 22 / 8)
    np.testing.assert_allclose(y0.v[2, :], 27 / 8)
    np.testing.assert_allclose(y0.u[:, 0], 0.0)


@pytest.mark.slow
def test_the_default_gradient_is_that_of_an_independent_solver(default: Found) -> None:
    """Richardson's differences of SciPy's J in a random direction of all fields at once."""
    y0, p = np.stack(start(SMALL)), np.stack(coefficients(SMALL))
    np.testing.assert_allclose(default.value, functional_by_radau(y0, p), rtol=1e-8)
    generator = np.random.default_rng(7)
    dy0, dp = generator.standard_normal(y0.shape), generator.standard_normal(p.shape) * p
    found = np.vdot(np.stack(default.by_start), dy0) + np.vdot(
        np.stack(default.by_coefficients), dp
    )

    def slope(h: float) -> float:
        J = [functional_by_radau(y0 + s * h * dy0, p + s * h * dp) for s in (1, -1)]
        return (J[0] - J[1]) / (2 * h)

    np.testing.assert_allclose(found, (4 * slope(1e-2) - slope(2e-2)) / 3, rtol=1e-6)


def test_the_default_gradient_keeps_the_law_of_autonomous_equations(default: Found) -> None:
    assert broken_autonomy(SMALL, default) < 1e-8


@pytest.mark.slow
@pytest.mark.parametrize("points", [8, 16])
def test_at_the_stability_limit_both_gradients_agree_and_are_certified(points: int) -> None:
    settings = replace(SMALL, points=points)
    default, discrete = (
        gradient(settings),
        gradient(settings, sensitivity=adjoint.DiscreteAdjoint()),
    )
    assert default.value == discrete.value
    assert bool(default.solution.stats["at_stability_limit"])
    assert max(errors(discrete, default).values()) < 1e-3
    status, digits = certificate(settings)
    assert status == adjoint.Status.SUCCESS
    assert digits > 1


@pytest.mark.slow
def test_the_default_gradient_is_that_of_an_implicit_solver(default: Found) -> None:
    options: dict[str, Any] = {"solver": diffrax.Kvaerno5(), "rtol": 1e-8, "atol": 1e-11}
    implicit = gradient(SMALL, sensitivity=adjoint.DiscreteAdjoint(), **options)
    assert max(errors(default, implicit).values()) < 1e-5


@pytest.mark.slow
def test_a_run_leaves_its_pictures(tmp_path: Path) -> None:
    assert main(["run", "brusselator", "--set", "points=8", "--out", str(tmp_path / "run")]) == 0
    names = {"fields.png", "coefficients.png", "initial_state.png", "history.csv", "report.html"}
    assert names <= {f.name for f in (tmp_path / "run").iterdir()}
