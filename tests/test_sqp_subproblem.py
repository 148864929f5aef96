"""The default with constraints: quadratic programs by SciPy, published optima, noise, laws.

Design problems are among them.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize

import adjoint
from adjoint import Status, minimize
from adjoint.optimize import quadratic_program
from adjoint.optimize.quadratic_program import QuadraticProgram
from tests.hock_schittkowski import CASES, Case, assert_optimal

# Cases of one size share what is compiled.
FAST = ("HS6", "HS7")


def program(n: int, equations: int, inequalities: int, seed: int) -> QuadraticProgram:
    random, m = np.random.default_rng(seed), equations + inequalities
    B = random.normal(size=(n, n))
    lower = np.where(random.random(n) < 0.5, -random.random(n), -np.inf)
    upper = np.where(random.random(n) < 0.5, random.random(n), np.inf)
    price = np.full(m, 1e3)
    least = np.where(np.arange(m) < equations, -price, 0)
    parts = (
        B @ B.T / n + 0.01 * np.eye(n),
        random.normal(size=n),
        random.normal(size=(m, n)) / np.sqrt(n),
        0.1 * random.normal(size=m),
    )
    return QuadraticProgram(*map(jnp.asarray, (*parts, least, price, lower, upper)))


class TestQuadraticPrograms:
    @pytest.mark.parametrize(("n", "equations", "inequalities"), [(6, 2, 3)])
    def test_against_slsqp(self, n: int, equations: int, inequalities: int) -> None:
        for seed in range(3):
            p = program(n, equations, inequalities, seed)
            found = jax.jit(quadratic_program.solve)(p)
            given = [
                {"type": "eq", "fun": lambda d, p=p: np.asarray(p.rows @ d + p.values)[:equations]},
                {
                    "type": "ineq",
                    "fun": lambda d, p=p: -np.asarray(p.rows @ d + p.values)[equations:],
                },
            ]
            f = lambda d, p=p: float(p.derivative @ d + d @ p.hessian @ d / 2)
            bounds = list(zip(p.lower, p.upper, strict=True))
            theirs = scipy.optimize.minimize(
                f, np.zeros(n), bounds=bounds, constraints=given, options={"ftol": 1e-12}
            )
            assert theirs.success
            np.testing.assert_allclose(found.d, theirs.x, atol=1e-5)
            left = p.rows @ found.d + p.values
            np.testing.assert_allclose(left[:equations], 0, atol=1e-10)
            assert np.all(left[equations:] <= 1e-10)

    def test_repeated_rows_share_a_multiplier_and_contradictions_have_a_price(self) -> None:
        """d^2 / 2 with d = 1 twice: the multipliers add up to -1.

        With d = 1 and d = -1: the price of 10 is paid.
        """
        one, infinite = jnp.ones((1, 1)), jnp.full(1, jnp.inf)
        price = jnp.full(2, 10.0)
        twice = QuadraticProgram(
            one, jnp.zeros(1), jnp.ones((2, 1)), -jnp.ones(2), -price, price, -infinite, infinite
        )
        solve = jax.jit(quadratic_program.solve)
        found = solve(twice)
        np.testing.assert_allclose(found.d, [1.0], atol=1e-9)
        np.testing.assert_allclose(jnp.sum(found.multipliers), -1.0, atol=1e-9)
        found = solve(twice._replace(values=jnp.array([-1.0, 1.0])))
        # Anywhere between them both misses add up to 2; d^2 / 2 is least at 0.
        np.testing.assert_allclose(found.d, [0.0], atol=1e-6)


@pytest.mark.parametrize(
    "name", [n if n in FAST else pytest.param(n, marks=pytest.mark.slow) for n in CASES]
)
def test_published_optima_and_multipliers(name: str) -> None:
    case: Case = CASES[name]
    given = {"bounds": case.bounds, "equality": case.equality, "inequality": case.inequality}
    solution = minimize(case.f, jnp.asarray(case.start), **given)
    assert_optimal(case, solution)
    assert str(solution.stats["method"]).startswith("SQP:")
    assert int(solution.stats["evaluations"]) <= 30


# A cantilever of boxes with edges x_j, in mm: the least volume for which its tip gives no more than
# the limit. With weights w the volume is least where d/dx_j (sum x + lambda sum w / x^3) = 0: x =
# (3 lambda w)^(1/4), and the limit 1 gives lambda.
WEIGHTS = 3e6 * np.arange(20, 0, -1.0) ** 2
EDGES = WEIGHTS**0.25 * np.sum(WEIGHTS**0.25) ** (1 / 3)


def bend(x: Any) -> Any:
    return jnp.sum(WEIGHTS / x**3) - 1


def jitter(x: Any, level: float) -> Any:
    """What a solver adds that stops at a tolerance: values jitter, derivatives do not."""
    return level * jnp.sin(
        1e9 * jnp.sum(jax.lax.stop_gradient(x)) / jnp.max(jax.lax.stop_gradient(x))
    )


class TestDesigns:
    @pytest.mark.parametrize("start", [50.0, pytest.param(2000.0, marks=pytest.mark.slow)])
    @pytest.mark.parametrize("unit", [1.0, pytest.param(1e-3, marks=pytest.mark.slow)])
    def test_a_cantilever_from_within_and_from_outside(self, start: float, unit: float) -> None:
        """From edges of 50 mm, which break the limit, and from 2 m; in mm and in m."""
        solution = minimize(
            lambda x: jnp.sum(x),
            jnp.full(20, start * unit),
            bounds=(10.0 * unit, 1e4 * unit),
            inequality=lambda x: bend(x / unit),
        )
        np.testing.assert_allclose(adjoint.require(solution), EDGES * unit, rtol=1e-3)
        np.testing.assert_allclose(solution.stats["value"], np.sum(EDGES) * unit, rtol=1e-7)
        assert int(solution.stats["evaluations"]) <= 200
        assert float(solution.stats["noise"]) <= 1e-12 * np.sum(EDGES) * unit

    @pytest.mark.parametrize("level", [1e-10, pytest.param(1e-9, marks=pytest.mark.slow)])
    def test_a_noisy_limit_is_met_as_far_as_can_be_seen_and_its_noise_told(
        self, level: float
    ) -> None:
        solution = minimize(
            lambda x: jnp.sum(x),
            jnp.full(20, 50.0),
            bounds=(10.0, 1e4),
            inequality=lambda x: bend(x) + jitter(x, level),
        )
        np.testing.assert_allclose(adjoint.require(solution) / EDGES, 1.0, rtol=3e-2)
        np.testing.assert_allclose(solution.stats["value"], np.sum(EDGES), rtol=1e-5)
        assert int(solution.stats["evaluations"]) <= 200
        # In units of f: the volume that the limit's noise is worth, by its multiplier, sum x / 3.
        worth = level * np.sum(EDGES) / 3
        assert 0.03 * worth <= float(solution.stats["noise"]) <= 30 * worth

    @pytest.mark.slow
    def test_a_nonlinear_chain_of_springs_by_root(self) -> None:
        """Springs of stiffness s under an end load stretch by e: s (e + 30 e^3) = 1, alike."""
        stretch = 0.2
        n = 12

        def forces(u: Any, s: Any) -> Any:
            e = jnp.diff(u, prepend=0.0)
            tension = s * (e + 30 * e**3)
            return tension - jnp.append(tension[1:], 1.0)

        def reach(s: Any) -> Any:
            return adjoint.root(forces, jnp.zeros(n), s).value[-1] - n * stretch

        solution = minimize(
            lambda s: jnp.sum(s), jnp.linspace(1.0, 3.0, n), bounds=(1e-2, 1e2), inequality=reach
        )
        np.testing.assert_allclose(
            adjoint.require(solution), 1 / (stretch + 30 * stretch**3), rtol=1e-5
        )
        assert int(solution.stats["evaluations"]) <= 200


def test_a_wrong_derivative_of_a_constraint_is_no_success() -> None:
    @jax.custom_jvp
    def radius(x: Any) -> Any:
        return jnp.sum(x**2) - 2

    radius.defjvp(lambda x, t: (radius(x[0]), -2 * x[0] @ t[0]))
    solution = minimize(
        lambda x: x[0] + 2 * x[1], jnp.array([-1.0, -0.5]), inequality=radius, max_evaluations=400
    )
    assert not bool(solution.status.ok)
    assert solution.status != Status.NOISE_FLOOR
