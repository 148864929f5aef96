"""Trust regions: the subproblem against its conditions of optimality, and how a step is judged."""

from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

from adjoint import Weighted
from adjoint.inner_products import Euclidean
from adjoint.optimize.problem import Domain
from adjoint.optimize.state import Evaluation, Iterate, begin
from adjoint.optimize.trust_region import (
    Judgement,
    Region,
    eigenbasis,
    judge,
    minimize_in_ball,
)


def unconstrained(metric: Any = None) -> Domain:
    return Domain(
        None, None, jnp.zeros(()), metric if metric is not None else Euclidean(), lambda x: x
    )


def assert_optimal(H: np.ndarray, g: np.ndarray, M: np.ndarray, radius: float) -> None:
    """(H + lam M) s = -g, lam (radius - |s|) = 0, H + lam M semidefinite.

    Source: Nocedal and Wright, theorem 4.1.
    """
    n = g.size
    basis = eigenbasis(jnp.asarray(H), jnp.ones(n, bool), unconstrained(Weighted(jnp.asarray(M))))
    y, lam = minimize_in_ball(basis.values, basis.vectors.T @ g, jnp.asarray(radius))
    s, lam = np.asarray(basis.vectors @ y), float(lam)
    length, size = float(np.sqrt(s @ M @ s)), np.linalg.norm(H) + lam * np.linalg.norm(M)
    # Backward errors: those of an eigendecomposition, a few n units of rounding.
    assert np.linalg.norm((H + lam * M) @ s + g) <= 1e-12 * (
        size * np.linalg.norm(s) + np.linalg.norm(g)
    )
    assert np.linalg.eigvalsh(H + lam * M)[0] >= -1e-12 * size
    assert lam >= 0
    assert length <= radius * (1 + 1e-12)
    assert lam * (radius - length) <= 1e-12 * size * radius


class TestTheSubproblem:
    @pytest.mark.parametrize("n", [1, 2, 7, 50])
    @pytest.mark.parametrize("radius", [1e-3, 1.0, 1e3])
    def test_is_solved(self, n: int, radius: float) -> None:
        rng = np.random.default_rng(n)
        A, B, g = rng.normal(size=(n, n)), rng.normal(size=(n, n)), rng.normal(size=n)
        M = B @ B.T / n + np.eye(n)
        assert_optimal(A @ A.T / n + 0.1 * np.eye(n), g, np.eye(n), radius)
        assert_optimal((A + A.T) / 2, g, M, radius)
        assert_optimal(-np.eye(n), g, M, radius)

    @pytest.mark.parametrize("n", [1, 2, 7, 50])
    @pytest.mark.parametrize("part", [0.0, 1e-18, 1e-12, 1e-6])
    def test_is_solved_in_the_hard_case(self, n: int, part: float) -> None:
        """g has no or little part along the lowest eigenvector; others do not fill the ball."""
        rng = np.random.default_rng(n)
        Q = np.linalg.qr(rng.normal(size=(n, n)))[0]
        w = np.concatenate([[-2.0], np.linspace(-1.0, 3.0, n - 1)])
        g = Q @ np.concatenate([[part], rng.normal(size=n - 1)])
        assert_optimal(Q @ np.diag(w) @ Q.T, g, np.eye(n), 100.0)

    def test_fills_the_ball_where_the_derivative_vanishes(self) -> None:
        y, lam = minimize_in_ball(jnp.array([-3.0, 1.0]), jnp.zeros(2), jnp.asarray(0.5))
        assert (y.tolist(), float(lam)) == ([0.5, 0.0], 3.0)

    def test_takes_no_step_along_the_null_space(self) -> None:
        """Of a singular H the shortest minimizer: H^+ g, not one at the end of the ball."""
        J = np.array([[1.0, 2.0, 3.0]])
        basis = eigenbasis(jnp.asarray(J.T @ J), jnp.ones(3, bool), unconstrained())
        y, _ = minimize_in_ball(
            basis.values, basis.vectors.T @ jnp.asarray(J[0]), jnp.asarray(10.0)
        )
        np.testing.assert_allclose(basis.vectors @ y, -np.linalg.pinv(J)[:, 0], rtol=1e-12)


class TestJudging:
    """f = x^2 / 2 at x = 1, and the step to 0: value, model and slopes agree."""

    def judged(self, value: float, slope: float, level: float = 0.0) -> Judgement:
        region = Region(
            radius=jnp.asarray(1.0),
            size=jnp.asarray(1.0),
            predicted=jnp.asarray(0.5),
            restarted=jnp.zeros((), bool),
            contradictions=jnp.asarray(1, jnp.int32),
        )
        state = begin(jnp.zeros(1), ())._replace(
            at=Iterate(jnp.ones(1), jnp.asarray(0.5 + level), jnp.ones(1)),
            started=jnp.ones((), bool),
        )
        evaluation = Evaluation(jnp.asarray(value + level), jnp.full(1, slope))
        return judge(state, evaluation, region, unconstrained())

    @pytest.mark.parametrize(
        ("value", "accepted", "radius"),
        # Beyond 3/4 of the promise the radius grows by 3; through 1.5 the parabola 0.5 - t + 2 t^2
        # has its minimum at 1/4.
        [
            (0.0, True, 3.0),
            (0.3, True, 1.0),
            (1.5, False, 0.25),
            (np.nan, False, 0.1),
            (np.inf, False, 0.1),
        ],
    )
    def test_by_values(self, value: float, accepted: bool, radius: float) -> None:
        verdict = self.judged(value, 0.0)
        assert (bool(verdict.accepted), round(float(verdict.region.radius), 12)) == (
            accepted,
            radius,
        )

    @pytest.mark.parametrize(("slope", "accepted"), [(0.0, True), (-2.0, False)])
    def test_by_slopes_where_values_are_blurred(self, slope: float, accepted: bool) -> None:
        """At f = 1e16 a decrease of 1/2 is rounding: mean slopes, -1/2 or 1/2 a step, decide."""
        assert bool(self.judged(0.0, slope, 1e16).accepted) == accepted

    @pytest.mark.parametrize(
        ("value", "slope", "contradicted_by"),
        # From 1/2 to 3/2 between slopes of -1 and -1/2 along the step, which say -3/4; a slope of 2
        # at the end says another curve.
        [(1.5, 0.5, 1.75), (1.5, -2.0, 0.0), (0.0, 0.5, 0.0), (np.nan, 0.5, 0.0)],
    )
    def test_what_values_contradict(
        self, value: float, slope: float, contradicted_by: float
    ) -> None:
        assert float(self.judged(value, slope).contradicted_by) == contradicted_by

    @pytest.mark.parametrize(
        ("value", "slope", "count"),
        [(2.0, 1.0, 2), (0.49999, 1.0, 0), (2.0, 0.0, 0), (np.nan, 1.0, 0)],
    )
    def test_contradictions_are_counted(self, value: float, slope: float, count: int) -> None:
        """Slopes of -1 at both ends promise a change by -1, which one by 1.5 contradicts.

        One by 0 may be curvature.
        """
        assert int(self.judged(value, slope).region.contradictions) == count
