"""Newton's methods of minimize: minimizers, bounds, both loops, meshes, and their choice.

They are independent of the mesh.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax import Array

import adjoint
from adjoint import (
    BFGS,
    LBFGS,
    MMA,
    AugmentedLagrangian,
    GaussNewton,
    Newton,
    NewtonKrylov,
    Sobolev,
    SteepestDescent,
    Weighted,
    minimize,
    require,
)
from adjoint.optimize.choice import as_method, choose
from adjoint.optimize.newton import TrustRegionNewton
from adjoint.optimize.newton_krylov import TrustRegionCG
from adjoint.optimize.sqp import SQP

METHODS = (Newton(), NewtonKrylov())


def rosenbrock(x: Array) -> Array:
    return jnp.sum(100 * (x[1:] - x[:-1] ** 2) ** 2 + (1 - x[:-1]) ** 2)


class TestMinimizers:
    @pytest.mark.parametrize("method", METHODS)
    def test_of_rosenbrock(self, method: Newton) -> None:
        solution = minimize(rosenbrock, jnp.array([-1.2, 1.0]), method)
        np.testing.assert_allclose(require(solution), np.ones(2), atol=1e-8)
        # The curved valley takes 20 to 30 steps, of any trust region.
        assert int(solution.stats["evaluations"]) <= 35

    def test_noise_is_noticed_soon(self) -> None:
        """Without noise it takes 8 evaluations.

        Three that contradict the slopes and eight to examine them end it.
        """
        direction = 1e9 * jnp.array([0.7, -1.3])

        def f(x):
            beale = jnp.sum(
                (jnp.array([1.5, 2.25, 2.625]) - x[0] * (1 - x[1] ** jnp.arange(1, 4))) ** 2
            )
            return beale + 1e-6 * jnp.sin(jax.lax.stop_gradient(direction @ x))

        solution = minimize(f, jnp.ones(2), Newton())
        assert solution.status == adjoint.Status.NOISE_FLOOR
        # Noise of 1e-6 hides sqrt(1e-6) of x in the flattest direction.
        np.testing.assert_allclose(require(solution), [3.0, 0.5], atol=1e-3)
        assert int(solution.stats["evaluations"]) <= 24

    def test_beyond_a_saddle(self) -> None:
        """x^4 - x^2 + y^2 from x = 0, where f' has no part along x: minima at x = +-1/sqrt 2."""
        x = require(
            minimize(lambda x: x[0] ** 4 - x[0] ** 2 + x[1] ** 2, jnp.array([0.0, 1.0]), Newton())
        )
        np.testing.assert_allclose(jnp.abs(x), [np.sqrt(0.5), 0.0], atol=1e-8)

    @pytest.mark.parametrize("method", METHODS)
    def test_to_the_last_digits_where_values_are_blurred(self, method: Newton) -> None:
        """f = 1e8 + cosh: within 1e-4 of the minimizer f is constant but for rounding."""
        solution = minimize(
            lambda x: 1e8 + jnp.sum(jnp.cosh(x - 1)), jnp.zeros(3), method, rtol=1e-12
        )
        np.testing.assert_allclose(require(solution), np.ones(3), atol=1e-11)
        assert int(solution.stats["evaluations"]) <= 8

    @pytest.mark.parametrize("method", METHODS)
    def test_what_second_derivatives_promise_is_asked_for(self, method: Newton) -> None:
        """A slope along y of 5e-12 of the first, with 2.5e-4 to gain.

        The minimum of 1 + 1e6 (x - 1)^2 is at y = 50.
        """
        solution = minimize(
            lambda x: 1 + 1e6 * (x[0] - 1) ** 2 + 1e-7 * (x[1] - 50) ** 2,
            jnp.array([0.0, 0.1]),
            method,
        )
        assert solution.status == adjoint.Status.SUCCESS
        np.testing.assert_allclose(solution.value, [1.0, 50.0], rtol=1e-6)

    def test_of_a_quadratic_in_one_step(self) -> None:
        """min sum k (x_k - k)^2 / 2 is at x_k = k.

        The first radius, |x|, contains the step, and the last f'' proves it.
        """
        k = jnp.arange(1.0, 6.0)
        solution = minimize(lambda x: jnp.sum(k * (x - k) ** 2) / 2, 10 * jnp.ones(5), Newton())
        np.testing.assert_allclose(require(solution), k, rtol=1e-14)
        assert [
            int(solution.stats[name]) for name in ("iterations", "evaluations", "hessians")
        ] == [1, 2, 2]

    def test_in_one_unknown(self) -> None:
        x = require(minimize(lambda x: x[0] - jnp.log(x[0]), jnp.array([3.0]), Newton()))
        np.testing.assert_allclose(x, [1.0], atol=1e-8)

    @pytest.mark.parametrize("metric", [None, np.ones(2)])
    def test_do_not_depend_on_units(self, metric: Any) -> None:
        """x = D u: the same steps in other units, by themselves, or with <u, v>_u = <D u, D v>."""
        D, start = jnp.array([1e3, 1e-2]), jnp.array([-1.2, 1.0])
        metrics = (
            [None, None]
            if metric is None
            else [Weighted(jnp.asarray(metric)), Weighted(metric * D**2)]
        )
        plain = minimize(rosenbrock, start, Newton(), inner_product=metrics[0])
        scaled = minimize(
            lambda u: rosenbrock(D * u), start / D, Newton(), inner_product=metrics[1]
        )
        np.testing.assert_allclose(D * require(scaled), require(plain), rtol=1e-9)
        assert int(scaled.stats["evaluations"]) == int(plain.stats["evaluations"])

    @pytest.mark.slow
    @settings(max_examples=10, deadline=None, derandomize=True)
    @given(entries=st.lists(st.floats(-2, 2), min_size=9, max_size=9))
    def test_do_not_depend_on_an_affine_change_with_the_matching_inner_product(
        self, entries: list[float]
    ) -> None:
        """x = T z + t: the inner product of x is u' T' T v in z."""
        T = np.reshape(entries, (3, 3)) + 8 * np.eye(3)  # diagonally dominant, so regular
        t, start = np.array([0.3, -1.0, 2.0]), np.array([-0.5, 0.7, 0.4])

        def f(x: Any) -> Any:
            return rosenbrock(x) + jnp.sum(x**4)

        def iterates(f: Any, x0: Any, metric: Any) -> np.ndarray:
            seen: list[np.ndarray] = []
            minimize(
                f,
                jnp.asarray(x0),
                Newton(),
                callback=lambda s: seen.append(np.asarray(s.x)),
                inner_product=metric,
            )
            return np.stack(seen)

        # The first radius is |x0|, which t changes: so t is part of both.
        plain = iterates(lambda y: f(y + t), start, Weighted(jnp.eye(3)))
        changed = iterates(
            lambda z: f(T @ z + t), np.linalg.solve(T, start), Weighted(jnp.asarray(T.T @ T))
        )
        np.testing.assert_allclose(changed[:8] @ T.T, plain[:8], rtol=1e-6, atol=1e-8)

    def test_no_saddle_is_a_success(self) -> None:
        """From where f' is 0: x^2 y^2 - y^2 + y^4 / 2 + x^2; saddle at 0, minima at y = +-1."""

        def f(x: Array) -> Array:
            return x[0] ** 2 * x[1] ** 2 - x[1] ** 2 + x[1] ** 4 / 2 + x[0] ** 2

        solution = minimize(f, jnp.array([1.0, 0.0]), Newton())
        np.testing.assert_allclose(jnp.abs(require(solution)), [0.0, 1.0], atol=1e-6)
        np.testing.assert_allclose(solution.stats["value"], -0.5, rtol=1e-12)

    @pytest.mark.parametrize("method", [None, Newton()])
    def test_of_rat43(self, method: Any) -> None:
        """NIST's Rat43 (D. Ratkowsky, 1983), from its first start: certified to 11 digits.

        It is one of the Statistical Reference Datasets. In plain units the first step leaves for a
        plateau with f = 1.08e6, 122 times the minimum.
        """
        y = (
            "16.08 33.83 65.80 97.20 191.55 326.20 386.87 520.53 590.03 651.92 724.93 699.56 "
            "689.96 637.56 717.41"
        )
        x, data = jnp.arange(1.0, 16.0), jnp.array([float(v) for v in y.split()])

        def f(b: Array) -> Array:
            return jnp.sum((data - b[0] / (1 + jnp.exp(b[1] - b[2] * x)) ** (1 / b[3])) ** 2)

        solution = minimize(f, jnp.array([100.0, 10.0, 1.0, 1.0]), method)
        np.testing.assert_allclose(solution.stats["value"], 8.7864049080e3, rtol=1e-10)
        certified = [6.9964151270e2, 5.2771253025, 7.5962938329e-1, 1.2792483859]
        # f is flat in b, so that b has half of the digits of f.
        np.testing.assert_allclose(require(solution), certified, rtol=1e-6)


class TestBounds:
    @pytest.mark.parametrize("method", METHODS)
    def test_of_rosenbrock(self, method: Newton) -> None:
        """x <= 1/2: there f = 100 (y - 1/4)^2 + 1/4, so y = 1/4."""
        x = require(minimize(rosenbrock, jnp.array([-1.2, 1.0]), method, bounds=(-2.0, 0.5)))
        np.testing.assert_allclose(x, [0.5, 0.25], atol=1e-9)

    @pytest.mark.parametrize("method", METHODS)
    def test_meet_the_conditions_of_karush_kuhn_tucker(self, method: Newton) -> None:
        """f' = 0 between the bounds, >= 0 at the lower and <= 0 at the upper ones.

        f is convex, so this is the minimum.
        """
        rng = np.random.default_rng(0)
        A, b = rng.normal(size=(20, 20)), jnp.asarray(rng.normal(size=20))
        Q = jnp.asarray(A @ A.T / 20 + 0.01 * np.eye(20))
        x = require(
            minimize(lambda x: x @ Q @ x / 2 - b @ x, jnp.zeros(20), method, bounds=(-0.3, 0.4))
        )
        g, lower, upper = np.asarray(Q @ x - b), np.asarray(x) == -0.3, np.asarray(x) == 0.4
        assert lower.sum() >= 3
        assert upper.sum() >= 3
        assert (~lower & ~upper).sum() >= 3
        np.testing.assert_allclose(g[~lower & ~upper], 0, atol=1e-8 * np.linalg.norm(b))
        assert np.all(g[lower] > 0)
        assert np.all(g[upper] < 0)


class TestBothLoops:
    @pytest.mark.slow
    @pytest.mark.parametrize("method", METHODS)
    def test_take_the_same_steps(self, method: Newton) -> None:
        def run(x: Array) -> tuple[Array, Array]:
            solution = minimize(rosenbrock, x, method, max_steps=8)
            return solution.value, solution.stats["evaluations"]

        starts = jnp.array([[-1.2, 1.0], [2.0, -1.0]])
        values, counts = jax.jit(jax.vmap(run))(starts)
        for x0, value, count in zip(starts, values, counts, strict=True):
            on_host = run(x0)
            assert int(count) == int(on_host[1])
            # Eight steps amplify differences in rounding between compiled programs.
            np.testing.assert_allclose(value, on_host[0], rtol=1e-9)


class TestMeshes:
    def membrane(self, n: int, metric: bool) -> Any:
        """min of integral u'^2 / 2 + exp u over (0, 1), u = 0 at the ends, on n points."""
        h = 1 / (n + 1)

        def energy(u: Array) -> Array:
            slope = jnp.diff(jnp.pad(u, 1)) / h
            return h * (jnp.sum(slope**2) / 2 + jnp.sum(jnp.exp(u)))

        inner_product = Sobolev(1.0, h, "fixed") if metric else None
        return minimize(energy, jnp.zeros(n), NewtonKrylov(), inner_product=inner_product)

    @pytest.mark.slow
    def test_do_not_add_products_in_the_metric(self) -> None:
        coarse, fine, euclidean = (
            self.membrane(50, True),
            self.membrane(200, True),
            self.membrane(200, False),
        )
        counts = [int(solution.stats["products"]) for solution in (coarse, fine, euclidean)]
        assert abs(counts[1] - counts[0]) <= 1
        assert 10 * counts[1] < counts[2]
        np.testing.assert_allclose(require(fine), require(euclidean), atol=1e-7)


class TestTheChoice:
    def test_of_methods(self) -> None:
        assert as_method(Newton()) == TrustRegionNewton()
        assert as_method(NewtonKrylov(forcing=0.1)) == TrustRegionCG(0.1)
        with pytest.raises(ValueError, match="max_steps"):
            as_method(Newton(max_steps=7))
        for method in (BFGS(), LBFGS(), SteepestDescent(), GaussNewton()):
            assert as_method(method) is method

    def test_for_a_problem(self) -> None:
        assert choose(100, True, False, False, True)[0] == (
            TrustRegionNewton(),
            BFGS(),
            TrustRegionNewton(),
        )
        assert (
            choose(100, False, False, False, False)[0]
            == choose(1000, False, False, False, True)[0]
            == (BFGS(),)
        )
        assert choose(1001, False, False, False, True)[0] == (LBFGS(),)
        with_constraints = (SQP(), AugmentedLagrangian())
        assert (
            choose(2, True, True, False, True)[0]
            == choose(300, False, False, True, True)[0]
            == with_constraints
        )
        assert choose(2, True, False, True, True)[0] == (SQP(), MMA(), AugmentedLagrangian())
        assert choose(301, True, False, True, True)[0] == (MMA(), AugmentedLagrangian())
        assert choose(1001, False, True, True, True)[0] == (AugmentedLagrangian(LBFGS()),)

    @pytest.mark.parametrize("method", [3, "newton", Newton, adjoint.CG()])
    def test_is_between_methods(self, method: Any) -> None:
        with pytest.raises(TypeError, match="expected SteepestDescent"):
            as_method(method)

    @pytest.mark.parametrize(
        "method", [Newton(rtol=1e-3), NewtonKrylov(rtol=1e-3), NewtonKrylov(restart=5)]
    )
    def test_refuses_what_only_roots_have(self, method: Newton) -> None:
        with pytest.raises(ValueError, match="its default"):
            as_method(method)

    def test_refuses_a_preconditioner_of_linear_systems(self) -> None:
        with pytest.raises(ValueError, match="Multigrid is for linear_solve and root"):
            as_method(NewtonKrylov(preconditioner=adjoint.Multigrid((3, 3))))
