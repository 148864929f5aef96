"""robertson: species and sensitivities by published numbers, laws, another solver; a run.

The laws are exact, and the solver is independent.
"""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.integrate

import adjoint
from problems.__main__ import main
from problems.robertson import (
    LATE,
    PUBLISHED,
    PUBLISHED_AT_THE_END,
    PUBLISHED_INTEGRALS,
    PUBLISHED_TIMES,
    RATES,
    Settings,
    broken_clock,
    gradients,
    integral,
    kinetics,
    log_k,
    solve,
    species,
)

Q = log_k(Settings())
RTOL = 1e-8
TIMES = np.append(PUBLISHED_TIMES, [4e10, 1e11])
SAMPLES = jax.jit(
    lambda q: (
        species(q, jnp.asarray(TIMES), RTOL),
        jax.jacfwd(lambda q: species(q, jnp.asarray(TIMES), RTOL))(q),
    )
)


def reference(ts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """y and k dy/dk by SciPy's Radau on the variational equations, Jacobians written by hand."""

    def rates(t: float, z: np.ndarray) -> np.ndarray:
        y, S = z[:3], z[3:].reshape(3, 3)
        ab, ba, bc = RATES * [y[0], y[1] * y[2], y[1] ** 2]
        by_y = np.array([
            [-RATES[0], RATES[1] * y[2], RATES[1] * y[1]],
            [RATES[0], -RATES[1] * y[2] - 2 * RATES[2] * y[1], -RATES[1] * y[1]],
            [0, 2 * RATES[2] * y[1], 0],
        ])  # fmt: skip
        by_log_k = np.array([[-ab, ba, 0], [ab, -ba, -bc], [0, 0, bc]])
        return np.concatenate([[ba - ab, ab - ba - bc, bc], (by_y @ S + by_log_k).ravel()])

    start = np.concatenate([[1.0], np.zeros(11)])
    found = scipy.integrate.solve_ivp(
        rates, (0, ts[-1]), start, method="Radau", rtol=1e-9, atol=1e-13, t_eval=ts
    )
    assert found.success
    return found.y[:3].T, found.y[3:].T.reshape(-1, 3, 3)


def test_the_kinetics_at_a_point() -> None:
    np.testing.assert_allclose(
        kinetics(jnp.array(0.0), jnp.array([0.5, 1e-5, 0.4]), jnp.asarray(RATES)),
        [0.02, -0.023, 0.003],
        rtol=1e-12,
    )


def test_species_and_sensitivities_are_the_published_ones_and_keep_the_laws() -> None:
    y, slopes = map(np.asarray, SAMPLES(Q))
    found = np.column_stack([y[:9, :2], slopes[:9, 0] / RATES])
    # The published solve has a relative tolerance of 1e-4.
    np.testing.assert_allclose(found, PUBLISHED, rtol=4e-4)
    np.testing.assert_allclose(y[-1], PUBLISHED_AT_THE_END, rtol=1e-5)
    np.testing.assert_allclose(y.sum(axis=1), 1.0, rtol=1e-12)
    np.testing.assert_allclose(slopes.sum(axis=1), 0.0, atol=1e-12)
    np.testing.assert_allclose(slopes[-1, 0] / y[-1, 0], LATE, rtol=1e-4)
    assert broken_clock(Q, TIMES, y, slopes) < 2e-5


@pytest.mark.slow
def test_sensitivities_are_those_of_an_independent_solver() -> None:
    ts = TIMES[:3]
    y, slopes = map(np.asarray, SAMPLES(Q))
    y_expected, slopes_expected = reference(ts)
    np.testing.assert_allclose(y[:3], y_expected, rtol=1e-5)
    sizes = np.abs(slopes_expected).max(axis=2, keepdims=True)
    np.testing.assert_allclose(slopes[:3] / sizes, slopes_expected / sizes, atol=3e-5)


def test_the_published_adjoint_gradient_over_nine_decades() -> None:
    end, expected = PUBLISHED_INTEGRALS[0]
    by_adjoint = jax.jit(jax.grad(lambda q: integral(q, end, RTOL, adjoint.DiscreteAdjoint())))(Q)
    np.testing.assert_allclose(by_adjoint / RATES, expected, rtol=1e-4)


@pytest.mark.slow
def test_all_ways_to_the_gradient_of_the_integral_agree() -> None:
    """The published one has a relative tolerance of 1e-6 and five digits."""
    end, expected = PUBLISHED_INTEGRALS[1]
    found = gradients(Q, end, RTOL)
    for name, gradient in found.items():
        np.testing.assert_allclose(gradient / RATES, expected, rtol=5e-5, err_msg=name)
        np.testing.assert_allclose(gradient, found["ForwardSensitivity"], rtol=5e-6, err_msg=name)


@pytest.mark.slow
def test_the_dae_is_the_ode() -> None:
    slopes = np.asarray(SAMPLES(Q)[1])
    ts = jnp.asarray(TIMES)
    found = jax.jit(jax.jacfwd(lambda q: species(q, ts, RTOL, dae=True)))(Q)
    sizes = np.abs(slopes).max(axis=2, keepdims=True)
    np.testing.assert_allclose(found / sizes, slopes / sizes, atol=1e-4)
    end = adjoint.require(solve(Q, 1e11, RTOL, dae=True))
    np.testing.assert_allclose(end, PUBLISHED_AT_THE_END, rtol=1e-4)


@pytest.mark.slow
def test_a_run_leaves_its_picture(tmp_path: Path) -> None:
    assert main(["run", "robertson", "--out", str(tmp_path / "run")]) == 0
    assert {"species.png", "history.csv", "report.html"} <= {
        f.name for f in (tmp_path / "run").iterdir()
    }
