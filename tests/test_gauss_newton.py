"""GaussNewton and gauss_newton_product, against closed forms and certified least squares."""

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from adjoint import GaussNewton, gauss_newton_product, minimize, require

# NIST Statistical Reference Datasets, Misra1a (D. Misra, 1978): y = b1 (1 - exp(-b2 x)).
MISRA_X = (
    77.6,
    114.9,
    141.1,
    190.8,
    239.9,
    289.0,
    332.8,
    378.4,
    434.8,
    477.3,
    536.8,
    593.1,
    689.1,
    760.0,
)
MISRA_Y = (
    10.07,
    14.73,
    17.94,
    23.93,
    29.61,
    35.18,
    40.02,
    44.82,
    50.76,
    55.05,
    61.01,
    66.40,
    75.47,
    81.78,
)
# Certified there: parameters, and the residual sum of squares.
MISRA, MISRA_SUM = (2.3894212918e02, 5.5015643181e-04), 1.2455138894e-01


def misra(b: Array) -> Array:
    return jnp.asarray(MISRA_Y) - b[0] * (1 - jnp.exp(-b[1] * jnp.asarray(MISRA_X)))


class TestGaussNewton:
    def test_solves_linear_least_squares_in_one_step(self) -> None:
        rng = np.random.default_rng(0)
        A, b = rng.normal(size=(9, 4)), rng.normal(size=9)
        x = np.linalg.lstsq(A, b, rcond=None)[0]
        # The first radius is that of the start, which so contains the step.
        solution = minimize(
            lambda x: jnp.asarray(A) @ x - jnp.asarray(b), jnp.asarray(3 * x), GaussNewton()
        )
        np.testing.assert_allclose(require(solution), x, rtol=1e-10)
        assert int(solution.stats["iterations"]) == 1
        np.testing.assert_allclose(
            solution.stats["value"], np.sum((A @ x - b) ** 2) / 2, rtol=1e-12
        )

    def test_finds_the_certified_values_of_misra1a(self) -> None:
        """From the first start of the certificate, (500, 1e-4)."""
        solution = minimize(misra, jnp.array([500.0, 1e-4]), GaussNewton(), rtol=1e-12)
        # The certificate has eleven digits; f' of the badly scaled b2 is known to about 1e-9 of its
        # parts.
        np.testing.assert_allclose(require(solution), MISRA, rtol=1e-8)
        np.testing.assert_allclose(2 * solution.stats["value"], MISRA_SUM, rtol=1e-10)

    def test_takes_residuals_in_a_pytree(self) -> None:
        """(x - 2)^2 + (x - 4)^2 is least at 3."""
        x = require(
            minimize(
                lambda p: {"a": p["x"] - 2, "b": [p["x"] - 4]}, {"x": jnp.zeros(2)}, GaussNewton()
            )
        )
        np.testing.assert_allclose(x["x"], [3.0, 3.0], rtol=1e-12)

    def test_keeps_bounds(self) -> None:
        """x_2 <= 1 leaves min (x_1 + 1 - 3)^2 + (x_1 - 1)^2, at 3/2."""
        x = require(
            minimize(
                lambda x: jnp.stack([x[0] + x[1] - 3, x[0] - x[1], x[1] - 5]),
                jnp.zeros(2),
                GaussNewton(),
                bounds=(-10.0, jnp.array([10.0, 1.0])),
            )
        )
        np.testing.assert_allclose(x, [1.5, 1.0], rtol=1e-10)


class TestTheProduct:
    def test_is_that_of_the_dense_jacobian(self) -> None:
        p, v = jnp.array([240.0, 5e-4]), jnp.array([1.0, -2e-6])
        J = jax.jacrev(misra)(p)
        np.testing.assert_allclose(gauss_newton_product(misra, p, v), J.T @ (J @ v), rtol=1e-12)

    def test_in_pytrees(self) -> None:
        """r = (a^2, a b): r' r' v with r' = [[2a, 0], [b, a]], a = 3, b = 2, v = (1, -1)."""
        p, v = (
            {"a": jnp.array(3.0), "b": jnp.array(2.0)},
            {"a": jnp.array(1.0), "b": jnp.array(-1.0)},
        )
        product = gauss_newton_product(lambda p: (p["a"] ** 2, [p["a"] * p["b"]]), p, v)
        # J v = (6, -1), J' (6, -1) = (36 - 2, -3).
        assert (float(product["a"]), float(product["b"])) == (34.0, -3.0)
