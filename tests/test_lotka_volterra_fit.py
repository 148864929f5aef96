"""lotka_volterra_fit: published posterior, conserved quantities, other gradient, intervals.

The gradient is taken by another way, and intervals are to hold as often as they say. Published:
reference posterior hudson_lynx_hare-lotka_volterra of posteriordb, means and deviations; estimates
in B. Carpenter's Stan case study (2018): alpha 0.55, beta 0.028, gamma 0.80, delta 0.024, both
noises 0.25.
"""

import json
from functools import cache
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.integrate import solve_ivp

from problems.__main__ import main
from problems.lotka_volterra import (
    PELTS,
    TRUTH,
    YEARS,
    Estimate,
    broken_laws,
    conserved,
    estimate,
    estimates,
    improve,
    intervals,
    misfit,
    populations,
    start,
    synthetic,
)
from problems.lotka_volterra_fit import PUBLISHED_DEVIATION, Settings, first_guess, verify

STEP = jax.jit(improve)
ESTIMATE = jax.jit(estimate)


@cache
def fitted() -> Estimate:
    fit = start(first_guess(Settings(), PELTS))
    for _ in range(40):
        fit = STEP(fit, jnp.asarray(PELTS))
    assert np.abs(fit.gradient).max() < 1e-6
    return jax.tree.map(np.asarray, ESTIMATE(fit.q, jnp.asarray(PELTS)))


def other_misfit(q: np.ndarray) -> float:
    """By SciPy, in the populations themselves."""
    a, b, c, d = np.exp(q[:4])
    rates = lambda _, y: [(a - b * y[1]) * y[0], (-c + d * y[0]) * y[1]]
    y = solve_ivp(rates, (0, 20), np.exp(q[4:]), "DOP853", t_eval=YEARS, rtol=1e-11, atol=1e-11).y.T
    return 21 / 2 * float(np.sum(np.log(np.mean((np.log(PELTS) - np.log(y)) ** 2, axis=0))))


@pytest.mark.slow
def test_the_published_posterior_is_met() -> None:
    found = fitted()
    values, deviations = np.exp(found.q), np.exp(found.q) * np.sqrt(np.diag(found.covariance))
    mean = [
        0.546864499783931,
        0.0277472877678081,
        0.800095360233122,
        0.0240859152534545,
        34.0352224770469,
        5.93589713368062,
    ]
    np.testing.assert_allclose(
        PUBLISHED_DEVIATION, [0.0631, 0.00415, 0.0892, 0.00353, 2.92, 0.530], rtol=0.01
    )
    assert np.abs((values - mean) / PUBLISHED_DEVIATION).max() < 0.25
    # With flat priors, the noise known: no wider.
    assert np.abs(deviations / PUBLISHED_DEVIATION - 0.95).max() < 0.06
    np.testing.assert_allclose(found.noise, 0.25, atol=0.02)
    # Carpenter's table has two digits.
    np.testing.assert_allclose(values[:4], [0.55, 0.028, 0.80, 0.024], rtol=0.035)


@pytest.mark.slow
def test_it_is_the_maximum_of_the_likelihood_by_another_solver() -> None:
    q = fitted().q
    # Steps of a tenth of a year leave 2e-8.
    assert float(jax.jit(misfit)(q, PELTS)) == pytest.approx(other_misfit(q), abs=1e-7)
    for e in 1e-3 * np.eye(6):
        below, at, above = (other_misfit(q + s * e) for s in (-1, 0, 1))
        assert at < min(below, above)
        # The vertex of the parabola through the three, next to a deviation of about 0.1.
        assert abs((below - above) / (2 * (below - 2 * at + above))) * 1e-3 < 1e-5


def test_the_adjoint_gradient_is_that_of_forward_sensitivities() -> None:
    q = first_guess(Settings(), PELTS)
    J = jax.jit(jax.jacfwd(lambda q: populations(q, jnp.asarray(YEARS), "both")))(q)
    r = np.log(PELTS) - np.asarray(populations(q, jnp.asarray(YEARS)))
    expected = -21 * np.einsum("tai,ta,a->i", J, r, 1 / np.sum(r**2, axis=0))
    np.testing.assert_allclose(jax.jit(jax.grad(misfit))(q, PELTS), expected, rtol=1e-8)


@pytest.mark.slow
def test_the_laws_hold() -> None:
    for q in (fitted().q, np.log([0.9, 0.05, 0.6, 0.02, 10.0, 30.0])):
        laws = jax.jit(broken_laws)(jnp.asarray(q))
        assert set(laws) == {"conserved", "integral", "unit", "clock"}
        assert max(laws.values()) < 1e-6, laws


def test_at_rest_the_populations_stay() -> None:
    alpha, beta, gamma, delta = p = np.array([0.5, 0.02, 0.8, 0.025])
    rest = np.log([gamma / delta, alpha / beta])
    z = populations(jnp.asarray(np.append(np.log(p), rest)), jnp.asarray(YEARS))
    np.testing.assert_allclose(z, np.tile(rest, (21, 1)), rtol=1e-14)
    # V is smallest there.
    V = float(conserved(jnp.asarray(rest), jnp.asarray(p)))
    assert all(
        conserved(jnp.asarray(rest + e), jnp.asarray(p)) > V
        for e in 0.1 * np.array([[1, 0], [0, 1], [-1, 1]])
    )


def test_intervals_are_those_of_student() -> None:
    """36 degrees of freedom: the 97.5 % point is 2.0281 (tables)."""
    many = Estimate(np.zeros((2, 6)), np.tile(4.0 * np.eye(6), (2, 1, 1)), np.ones((2, 2)))
    ends = intervals(many, 0.95)
    assert ends.shape == (2, 6, 2)
    np.testing.assert_allclose(np.log(ends[1, 3]), [-2 * 2.0281, 2 * 2.0281], rtol=1e-4)


def test_synthetic_data_are_seeded() -> None:
    one, same, other = synthetic(0.25, 3, 2), synthetic(0.25, 3, 2), synthetic(0.25, 4, 2)
    np.testing.assert_array_equal(one, same)
    assert np.abs(one - other).min() > 0
    exact = synthetic(1e-12, 3, 1)[0]
    np.testing.assert_allclose(exact[0], TRUTH[4:], rtol=1e-10)


def test_wrong_settings_are_answered(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "lotka_volterra_fit", "--set", "data=foxes"]) == 2
    assert main(["run", "lotka_volterra_fit", "--set", "repetitions=0"]) == 2
    answer = capsys.readouterr().err
    assert "data must be pelts or synthetic" in answer
    assert "repetitions must be an integer from 20 to 2000" in answer


@pytest.mark.slow
def test_95_percent_of_the_intervals_hold_the_truth() -> None:
    found, slopes = jax.tree.map(np.asarray, estimates(jnp.asarray(synthetic(0.25, 7, 100))))
    assert slopes.max() < 1e-3
    ends = intervals(found, 0.95)
    held = (ends[..., 0] <= TRUTH) & (ends[..., 1] >= TRUTH)
    # Of 100, each with probability 0.95, fewer than 88 hold once in 500 times.
    assert held.sum(axis=0).min() >= 88
    assert 0.91 < held.mean() < 0.985
    # Half as wide, and far fewer do.
    narrow = intervals(found, 0.68)
    share = np.mean((narrow[..., 0] <= TRUTH) & (narrow[..., 1] >= TRUTH))
    assert 0.58 < share < 0.78


@pytest.mark.slow
def test_the_gradient_of_the_misfit_is_trusted() -> None:
    verdict = verify(Settings())
    assert verdict.trusted
    assert verdict.relative_error < 1e-8


@pytest.mark.slow
def test_a_run_meets_the_published_numbers_and_leaves_its_pictures(tmp_path: Path) -> None:
    assert (
        main(["run", "lotka_volterra_fit", "--set", "repetitions=40", "--out", str(tmp_path)]) == 0
    )
    pictures = {"fit.png", "intervals.png"}
    names = {
        "command.txt",
        "result.json",
        "report.html",
        "history.csv",
        "estimates.csv",
        "run.json",
    } | pictures
    assert {path.name for path in tmp_path.iterdir()} == names
    result = json.loads((tmp_path / "result.json").read_text())
    assert "means off, in deviations" in result["ending"]
    assert result["gradient"]["relative_error"] < 1e-8


@pytest.mark.slow
def test_a_fit_that_is_not_finished_ends_with_3(tmp_path: Path) -> None:
    few = ["--set", "max_iterations=3", "--set", "repetitions=20"]
    assert main(["run", "lotka_volterra_fit", *few, "--out", str(tmp_path)]) == 3
