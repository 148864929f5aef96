"""The Bratu problem: published turning point, closed forms, scaling laws, no answer at the fold.

The closed forms are of sensitivities. Published: lambda* = 6.808124423 (A. Mohsen, A simple
solution of the Bratu problem, Comput. Math. Appl. 67 (2014) 26-33).
"""

import csv
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import optimize

import adjoint
from problems.__main__ import main
from problems.bratu import EXTRAPOLATED_GRIDS, approach, extrapolate
from problems.bratu_fold import (
    branch,
    limit_of_scaled_slope,
    peak_temperature,
    temperature,
    turning_point,
)
from problems.reaction_diffusion import Square

PUBLISHED = 6.808124423
SQUARE = Square(9)
SOLVE = jax.jit(lambda lam, c: temperature(SQUARE, lam, c))
TURN = jax.jit(lambda c: turning_point(SQUARE, c))
ONES = jnp.ones((9, 9))


def coefficients():
    return np.random.default_rng(1).uniform(0.5, 1.5, (9, 9))


def jacobian(u, lam, c):
    """F_u by NumPy: Kronecker products of the 1-D second difference."""
    n = len(u)
    second = 2 * np.eye(n) - np.eye(n, k=1) - np.eye(n, k=-1)
    S = np.kron(second, np.eye(n)) + np.kron(np.eye(n), second)
    return S, S - np.diag((lam * c * np.exp(u)).ravel()) / (n + 1) ** 2


def turning_points(grids):
    solve = jax.jit(turning_point, static_argnums=0)
    return [float(adjoint.require(solve(Square(n), jnp.ones((n, n))))[2]) for n in grids]


def test_the_published_turning_point():
    values = turning_points((7, 15, 31))
    assert abs(extrapolate(np.array(values)) - PUBLISHED) < 5e-6
    # Each single grid is 1000 times as far away.
    assert min(PUBLISHED - v for v in values) > 1e-3


@pytest.mark.slow
def test_the_published_turning_point_to_all_digits():
    assert extrapolate(np.array(turning_points((*EXTRAPOLATED_GRIDS, 127)))) == pytest.approx(
        PUBLISHED, abs=6e-10
    )


def test_richardson_is_exact_for_even_powers():
    h = 1 / np.array([4.0, 8.0, 16.0])
    assert extrapolate(3 + 5 * h**2 - 7 * h**4) == pytest.approx(3, abs=1e-13)


def test_the_temperature_agrees_with_another_solver():
    c = coefficients()
    S, _ = jacobian(np.zeros((9, 9)), 4.0, c)
    other = optimize.root(
        lambda u: S @ u - 4.0 * c.ravel() * np.exp(u) / 100,
        np.zeros(81),
        jac=None,
        method="hybr",
        tol=1e-13,
    )
    np.testing.assert_allclose(adjoint.require(SOLVE(4.0, c)).ravel(), other.x, rtol=1e-9)


@pytest.mark.slow
def test_the_sensitivities_are_the_closed_form():
    # d peak / d c = h^2 lambda exp(u) F_u^-T w, and since F knows lambda c only: lambda d peak/d
    # lambda = sum c d peak/d c.
    lam, c = 5.0, jnp.asarray(coefficients())
    with adjoint.count_solves() as count:
        slope, derivative = jax.block_until_ready(
            jax.jit(jax.grad(lambda lam, c: peak_temperature(SQUARE, lam, c), argnums=(0, 1)))(
                lam, c
            )
        )
    assert count.transpose_solves == 1
    u = np.asarray(adjoint.require(SOLVE(lam, c)))
    _, F_u = jacobian(u, lam, np.asarray(c))
    adjoint_state = np.linalg.solve(F_u.T, SQUARE.peak_weights.ravel()).reshape(9, 9)
    np.testing.assert_allclose(derivative, lam * np.exp(u) * adjoint_state / 100, rtol=1e-11)
    assert lam * slope == pytest.approx(float(jnp.sum(c * derivative)), rel=1e-12)


def test_the_turning_point_is_singular_and_its_sensitivity_the_closed_form():
    c = jnp.asarray(coefficients())
    u, v, lam = (np.asarray(part) for part in adjoint.require(TURN(c)))
    _, F_u = jacobian(u, lam, np.asarray(c))
    eigenvalues = np.sort(np.abs(np.linalg.eigvalsh(F_u)))
    assert eigenvalues[0] < 1e-13 < 1e-2 < eigenvalues[1]
    assert v[4, 4] == pytest.approx(1)
    # F_u is symmetric, so v' (F_lambda d lambda + F_c d c) = 0.
    derivative = jax.jit(jax.grad(lambda c: turning_point(SQUARE, c).value[2]))(c)
    expected = -lam * np.exp(u) * v / np.sum(c * np.exp(u) * v)
    np.testing.assert_allclose(derivative, expected, rtol=1e-9)
    # Twice the coefficients ignite at half of lambda.
    assert float(jnp.sum(c * derivative)) == pytest.approx(-float(lam), rel=1e-10)


def test_near_the_fold_the_slope_grows_and_from_there_on_there_is_no_answer():
    u, _, lam_star = adjoint.require(TURN(ONES))
    distances = np.array([1e-2, 1e-3, 1e-4, 0.0, -1e-6, -1e-4, -1e-2, -1.0, -100.0])
    points = list(approach(SQUARE, float(lam_star), distances))
    assert all(point.status.ok for point in points[:3])
    scaled = [point.slope * point.distance**0.5 for point in points[:3]]
    limit = float(jax.jit(limit_of_scaled_slope, static_argnums=0)(SQUARE, u, lam_star))
    # The error is of the order sqrt(distance).
    np.testing.assert_allclose(
        [limit - s for s in scaled], limit * np.sqrt(distances[:3]), atol=0, rtol=0.7
    )
    for point in points[3:]:
        assert point.status.name in ("DEGENERATE", "SINGULAR", "ILL_CONDITIONED", "NOT_CONVERGED")
        assert np.isnan(point.peak)
        assert np.isnan(point.slope)


def test_the_branch_turns_at_the_turning_point():
    u, _, lam_star = adjoint.require(TURN(ONES))
    peak = float(SQUARE.peak(u))
    found = list(branch(SQUARE, np.array([0.2, 0.8, peak, 2.0, 3.0])))
    lams = np.array([lam for lam, _ in found])
    assert lams[2] == pytest.approx(float(lam_star), rel=1e-12)
    assert lams.max() == lams[2]
    # The lower part is what is found from lambda, the upper part is another solution.
    np.testing.assert_allclose(adjoint.require(SOLVE(lams[1], ONES)), found[1][1], rtol=1e-10)
    lower = adjoint.require(SOLVE(lams[3], ONES))
    assert (
        float(SQUARE.peak(lower))
        < peak
        < float(SQUARE.peak(jnp.asarray(found[3][1])))
        == pytest.approx(2.0)
    )


@pytest.mark.parametrize("points", [4, 5, 10])
def test_the_peak_is_the_value_in_the_center(points):
    square = Square(points)
    t = square.spacing * np.arange(1, points + 1)
    cubic = 1 + t - 2 * t**2 + 3 * t**3
    assert float(square.peak(jnp.asarray(np.outer(cubic, cubic)))) == pytest.approx(
        (1 + 0.5 - 0.5 + 0.375) ** 2
    )


@pytest.mark.slow
def test_beyond_the_turning_point_a_run_ends_with_3_and_says_why(tmp_path, capsys):
    assert (
        main(["run", "bratu", "--set", "points=8", "--set", "reaction=7", "--out", str(tmp_path)])
        == 3
    )
    assert "NOT_CONVERGED" in capsys.readouterr().out
    result = json.loads((tmp_path / "result.json").read_text())
    assert result["outcome"] == "NOT_CONVERGED"
    assert result["gradient"]["trusted"]
    assert result["gradient"]["relative_error"] < 1e-8


@pytest.mark.slow
def test_a_run_reproduces_the_turning_point_and_leaves_everything(tmp_path):
    assert main(["run", "bratu", "--out", str(tmp_path)]) == 0
    pictures = {"fields.png", "branch.png", "slope.png"}
    names = {"command.txt", "result.json", "report.html", "history.csv", "run.json"} | pictures
    assert {path.name for path in tmp_path.iterdir()} == names
    result = json.loads((tmp_path / "result.json").read_text())
    assert result["gradient"]["trusted"]
    assert "6.8081244" in result["ending"]
    rows = list(csv.DictReader((tmp_path / "history.csv").open()))
    for row in rows:
        assert (float(row["distance"]) > 0) or row["peak"] == row["slope"] == "nan"
    assert sum(row["status"] == "0" for row in rows) >= 8
