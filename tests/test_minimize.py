"""minimize by the descent methods: closed-form minimizers in every mode and laws of invariance."""

import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import adjoint
from adjoint import BFGS, LBFGS, Status, SteepestDescent, minimize

METHODS = [BFGS(), LBFGS(3), SteepestDescent()]
QUASI_NEWTON = [BFGS(), LBFGS()]


def rosenbrock(x: Any) -> Any:
    """Minimum 0 at (1, ..., 1)."""
    return jnp.sum(100 * (x[1:] - x[:-1] ** 2) ** 2 + (1 - x[:-1]) ** 2)


def matrix(n: int) -> np.ndarray:
    """Symmetric positive definite with a condition number below 100."""
    B = np.random.default_rng(n).normal(size=(n, n))
    return B @ B.T / n + 0.2 * np.eye(n)


A_7, B_7 = matrix(7), np.random.default_rng(70).normal(size=7)


def quadratic(x: Any) -> Any:
    """x'Ax/2 - b'x, minimum at A^-1 b."""
    return x @ (A_7 @ x) / 2 - B_7 @ x


class TestMinimizers:
    @pytest.mark.parametrize("method", METHODS, ids=repr)
    def test_a_quadratic(self, method: Any) -> None:
        solution = minimize(quadratic, jnp.zeros(7), method, rtol=1e-10)
        # The derivative is 1e-10 of |b|: x is right to that times the condition number of A.
        np.testing.assert_allclose(
            adjoint.require(solution), np.linalg.solve(A_7, B_7), rtol=0, atol=1e-7
        )
        # With slopes of 1e-10 differences of f are rounding: methods that learn little may meet its
        # floor before.
        assert solution.status == Status.SUCCESS or (
            method not in (BFGS(), LBFGS()) and solution.status == Status.NOISE_FLOOR
        )
        assert float(solution.stats["value"]) == pytest.approx(
            float(quadratic(solution.value)), rel=1e-12
        )

    @pytest.mark.parametrize("method", QUASI_NEWTON, ids=repr)
    @pytest.mark.parametrize("n", [10])
    def test_rosenbrock(self, method: Any, n: int) -> None:
        solution = minimize(rosenbrock, jnp.full(n, -1.2), method)
        # n = 10 has a second local minimum near (-1, 1, ..., 1), which this start does not lead to.
        np.testing.assert_allclose(adjoint.require(solution), np.ones(n), rtol=0, atol=1e-5)

    def test_flat_directions_are_found_soon(self) -> None:
        """Curvatures from 1 to 1e8.

        With the scale of the first, steepest step for all directions it takes 112 evaluations.
        """
        w, Q = (
            jnp.logspace(0, 8, 9),
            jnp.asarray(np.linalg.qr(np.random.default_rng(0).normal(size=(9, 9)))[0]),
        )
        solution = minimize(lambda x: jnp.sum(w * (Q @ x - 1) ** 2), jnp.full(9, 2.0), BFGS())
        np.testing.assert_allclose(adjoint.require(solution), Q.T @ np.ones(9), rtol=0, atol=1e-4)
        assert int(solution.stats["evaluations"]) <= 100

    @pytest.mark.slow
    def test_the_default_where_newton_crawls_and_bfgs_too(self) -> None:
        """The dipole model of the heart (J.

        E. Dennis, D. M. Gay, P. A. Vu, Rice University TR 83-16, 1983); its minimum is 0.
        """
        moments = jnp.array([-1.826 - 0.754j, -4.839 - 3.259j, -14.023 + 15.467j])
        orders = jnp.arange(1, 4)

        def f(x):
            A, z = x[0] + 1j * x[1], (x[2] + 1j * x[4], x[3] + 1j * x[5])
            difference = A * z[0] ** orders + (-0.816 - 0.017j - A) * z[1] ** orders - moments
            return jnp.sum(difference.real**2 + difference.imag**2)

        solution = minimize(f, jnp.array([0.0, 0.0, 1.0, 1.0, 1.0, 1.0]), max_evaluations=2000)
        assert "BFGS" in str(solution.stats["method"])
        assert float(f(adjoint.require(solution))) < 1e-15

    def test_one_unknown_and_a_tree(self) -> None:
        def f(x):
            return (x["a"] - 2.0) ** 2 + jnp.sum(
                (x["b"] - jnp.array([[0.5 + 0.25 ** (1 / 3), 3.0]])) ** 4 + x["b"] ** 2
            )

        solution = minimize(f, {"a": jnp.asarray(0.0), "b": jnp.zeros((1, 2))}, BFGS(), rtol=1e-12)
        # 4 (b - c)^3 + 2 b = 0 has one real root: b = 1/2 for c = 1/2 + 4^(-1/3), b = 2 for c = 3.
        assert float(solution.value["a"]) == pytest.approx(2.0, abs=1e-9)
        np.testing.assert_allclose(solution.value["b"], [[0.5, 2.0]], rtol=0, atol=1e-9)
        assert minimize(lambda x: (x[0] - 3.0) ** 2, jnp.zeros(1)).value[0] == pytest.approx(
            3.0, abs=1e-9
        )

    @pytest.mark.parametrize("method", METHODS, ids=repr)
    def test_bounds(self, method: Any) -> None:
        lower, upper = jnp.full(7, -0.3), jnp.asarray(np.linspace(0.0, 0.6, 7))
        solution = minimize(
            quadratic, jnp.full(7, 0.1), method, bounds=(lower, upper), rtol=1e-10, max_steps=3000
        )
        x, g = np.asarray(adjoint.require(solution)), A_7 @ np.asarray(solution.value) - B_7
        # The conditions of optimality (Nocedal and Wright, equation 16.67), on a strictly convex
        # problem sufficient.
        assert np.all((x >= lower) & (x <= upper))
        # A step that ends at a bound may do so short of it by the rounding of x + t d.
        at_lower, at_upper = x - lower <= 1e-16, upper - x <= 1e-16
        assert np.all(g[at_lower] >= 0)
        assert np.all(g[at_upper] <= 0)
        assert np.any(at_lower | at_upper)
        np.testing.assert_allclose(g[~(at_lower | at_upper)], 0, atol=1e-8)

    def test_float32(self) -> None:
        solution = minimize(rosenbrock, jnp.array([-1.2, 1.0], jnp.float32), BFGS())
        assert solution.value.dtype == jnp.float32
        assert bool(solution.status.ok)
        np.testing.assert_allclose(
            solution.value, 1.0, atol=5e-3
        )  # sqrt of the precision, times the condition number

    def test_the_gradient_of_the_user_on_the_host(self) -> None:
        calls: list[str] = []

        def f(x: Any) -> float:
            calls.append("value")
            assert type(x) is np.ndarray
            return float((x[0] - 1) ** 2 + 3 * (x[1] + 2) ** 2)

        def df(x: Any) -> np.ndarray:
            calls.append("gradient")
            return np.array([2 * (x[0] - 1), 6 * (x[1] + 2)])

        solution = minimize(f, jnp.zeros(2), gradient=df)
        np.testing.assert_allclose(adjoint.require(solution), [1.0, -2.0], atol=1e-8)
        assert calls.count("value") == calls.count("gradient") == int(solution.stats["evaluations"])


class TestLoops:
    @pytest.mark.parametrize(
        "method", [BFGS(), pytest.param(LBFGS(4), marks=pytest.mark.slow)], ids=repr
    )
    def test_the_compiled_loop_takes_the_same_steps(self, method: Any) -> None:
        start = jnp.array([-1.2, 1.0])
        on_host = minimize(rosenbrock, start, method)
        compiled = jax.jit(lambda x: minimize(rosenbrock, x, method))(start)
        for name in ("iterations", "evaluations"):
            assert int(on_host.stats[name]) == int(compiled.stats[name])
        # Compiled as one, sums may be ordered otherwise; 32 steps of a quasi-Newton method amplify
        # the last bit.
        np.testing.assert_allclose(on_host.value, compiled.value, rtol=1e-9)

    def test_many_starts(self) -> None:
        starts = jnp.asarray(np.random.default_rng(1).normal(size=(20, 4)))
        solutions = jax.jit(jax.vmap(lambda x: minimize(rosenbrock, x, BFGS())))(starts)
        assert bool(jnp.all(solutions.status.ok))
        values = jax.vmap(rosenbrock)(solutions.value)
        # The only other stationary minimum for n = 4 to 7 is near (-0.776, 0.613, 0.382, 0.146)
        # with f = 3.7014 for n = 4 (Y.-W. Shang, Y.-H. Qiu, Evolutionary Computation 14, 2006,
        # table 1).
        assert np.all((values < 1e-8) | (np.abs(values - 3.7014) < 1e-3))

    def test_a_function_of_a_traced_value(self) -> None:
        nearest = jax.jit(
            lambda c: minimize(lambda x: jnp.sum((x - c) ** 2), jnp.zeros(2), BFGS()).value
        )
        np.testing.assert_allclose(nearest(jnp.array([3.0, 4.0])), [3.0, 4.0], atol=1e-8)

    def test_history_and_callback(self) -> None:
        seen: list[Any] = []
        solution = minimize(rosenbrock, jnp.array([-1.2, 1.0]), BFGS(), callback=seen.append)
        history = solution.stats["history"]
        assert history["iteration"].tolist() == list(range(int(solution.stats["iterations"]) + 1))
        assert [step.value for step in seen] == history["value"].tolist()
        assert history["evaluations"][-1] == int(solution.stats["evaluations"])
        for step in seen:
            assert step.value == pytest.approx(float(rosenbrock(jnp.asarray(step.x))), rel=1e-12)
        moves = [np.linalg.norm(b.x - a.x) for a, b in itertools.pairwise(seen)]
        np.testing.assert_allclose(history["length"][1:], moves, rtol=1e-12)
        assert np.all(np.diff(history["value"]) < 0)

    def test_evaluations_are_counted_at_the_objective(self) -> None:
        calls = []

        def f(x: Any) -> Any:
            jax.debug.callback(lambda: calls.append(1))
            return rosenbrock(x)

        solution = minimize(f, jnp.array([-1.2, 1.0]), BFGS())
        jax.effects_barrier()
        assert len(calls) == int(solution.stats["evaluations"])

    def test_the_callback_ends_the_run(self) -> None:
        solution = minimize(
            rosenbrock, jnp.array([-1.2, 1.0]), BFGS(), callback=lambda step: step.iteration == 3
        )
        assert solution.status == Status.INTERRUPTED
        assert int(solution.stats["iterations"]) == 3


class TestLaws:
    """Iterates under changes of variables, for ten steps, before rounding is amplified."""

    @staticmethod
    def iterates(f: Any, x0: Any, method: Any, **more: Any) -> np.ndarray:
        seen: list[np.ndarray] = []
        minimize(
            f,
            jnp.asarray(x0),
            method,
            callback=lambda s: seen.append(np.asarray(s.x)),
            max_steps=10,
            **more,
        )
        return np.stack(seen)

    @pytest.mark.parametrize(
        "method",
        [BFGS(), *(pytest.param(m, marks=pytest.mark.slow) for m in (LBFGS(), SteepestDescent()))],
        ids=repr,
    )
    def test_units_with_the_matching_inner_product(self, method: Any) -> None:
        scale = np.array([1e-3, 1.0, 1e4])

        def f(x):
            return rosenbrock(x) + jnp.sum(x**4)

        start = np.array([-0.5, 0.7, 0.4])
        plain = self.iterates(f, start, method, inner_product=adjoint.Weighted(jnp.ones(3)))
        units = adjoint.Weighted(jnp.asarray(1 / scale**2))
        scaled = self.iterates(lambda z: f(z / scale), start * scale, method, inner_product=units)
        np.testing.assert_allclose(scaled / scale, plain, rtol=1e-6, atol=1e-8)
        other = self.iterates(
            lambda z: f(z / scale),
            start * scale,
            method,
            inner_product=adjoint.Weighted(jnp.ones(3)),
        )
        assert len(other) != len(plain) or not np.allclose(other / scale, plain, rtol=1e-3)

    @pytest.mark.parametrize(
        "method", [BFGS(), pytest.param(LBFGS(), marks=pytest.mark.slow)], ids=repr
    )
    def test_units_do_not_matter_where_no_inner_product_is_given(self, method: Any) -> None:
        """To methods that learn second derivatives, from a start whose entries all matter to f."""
        scale, start = np.array([1e-3, 1.0, 1e4]), np.array([-0.5, 0.7, 0.3])
        effects = np.abs(start * np.asarray(jax.grad(rosenbrock)(start)))
        assert np.min(effects) > 0.1 * np.max(effects)
        plain = self.iterates(rosenbrock, start, method)
        scaled = self.iterates(lambda z: rosenbrock(z / scale), start * scale, method)
        np.testing.assert_allclose(scaled / scale, plain, rtol=1e-6, atol=1e-8)

    @pytest.mark.parametrize("tiny", [0.0, 1e-300, 1e-9])
    def test_an_entry_that_is_next_to_zero_by_chance_sets_no_unit(self, tiny: float) -> None:
        """A well-conditioned quadratic takes some steps, whatever one entry starts from."""
        target = jnp.array([3.0, -2.0, 4.0])
        solution = minimize(
            lambda x: jnp.arange(1.0, 4.0) @ (x - target) ** 2, jnp.array([1.0, tiny, 2.0]), BFGS()
        )
        np.testing.assert_allclose(adjoint.require(solution), target, atol=1e-7)
        assert int(solution.stats["evaluations"]) <= 24

    @pytest.mark.slow
    def test_bfgs_under_any_affine_change(self) -> None:
        T, shift = np.array([[2.0, 1.0, 0.0], [-1.0, 3.0, 0.5], [0.2, 0.0, 0.1]]), 0.0

        def f(x):
            return rosenbrock(x) + jnp.sum(x**4)

        start = np.array([-0.5, 0.7, 0.4])
        # x = T z: the inner product of x is u' T'T v in z.
        metric = adjoint.Weighted(jnp.asarray(T.T @ T))
        plain = self.iterates(f, start, BFGS(), inner_product=adjoint.Weighted(jnp.ones(3)))
        changed = self.iterates(
            lambda z: f(T @ z + shift), np.linalg.solve(T, start), BFGS(), inner_product=metric
        )
        np.testing.assert_allclose(changed @ T.T, plain, rtol=1e-6, atol=1e-8)

    @pytest.mark.slow
    @settings(max_examples=5, deadline=None, derandomize=True)
    @given(scale=st.floats(1e-8, 1e8), order=st.permutations(range(3)))
    def test_scale_of_the_objective_and_order_of_the_unknowns(
        self, scale: float, order: list[int]
    ) -> None:
        coefficients = jnp.array([1.0, 5.0, 0.3])

        def f(x, c):
            return jnp.sum(c * (x - c) ** 2) + jnp.sum(jnp.cosh(x * c))

        start = np.array([-0.5, 0.7, 0.4])
        plain = self.iterates(lambda x: f(x, coefficients), start, BFGS())
        order_ = np.array(order)
        other = self.iterates(lambda x: scale * f(x, coefficients[order_]), start[order_], BFGS())
        count = min(len(plain), len(other), 7)
        np.testing.assert_allclose(other[:count], plain[:count][:, order_], rtol=1e-6, atol=1e-8)
