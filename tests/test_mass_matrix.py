"""M y' = f with M nonsymmetric or singular: by exponentials, and Robertson's kinetics as an ODE."""

from typing import Any

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jaxtyping import Array

import adjoint
from adjoint import Status, ode_solve

STIFF: dict[str, Any] = {"solver": diffrax.Kvaerno5(), "rtol": 1e-9, "atol": 1e-12}
GENERATOR = np.random.default_rng(5)
M = GENERATOR.standard_normal((3, 3)) + 3 * np.eye(3)
A = jnp.asarray(GENERATOR.standard_normal((3, 3)) - 2 * np.eye(3))


def linear(t: Array, y: Array, p: Array) -> Array:
    return p @ y


@pytest.mark.slow
def test_a_regular_mass_matrix_against_the_exponential() -> None:
    def exact(p: Array) -> Array:
        return jax.scipy.linalg.expm(jnp.linalg.solve(jnp.asarray(M), p)) @ jnp.ones(3)

    def found(p: Array) -> Array:
        return ode_solve(linear, jnp.ones(3), p, 0.0, 1.0, mass_matrix=M, **STIFF).value

    np.testing.assert_allclose(found(A), exact(A), rtol=1e-6)
    np.testing.assert_allclose(jax.jacrev(found)(A), jax.jacrev(exact)(A), rtol=1e-5, atol=1e-7)


def decay(t: Array, y: Array, p: Array) -> Array:
    """y0' = -p0 y0 + y1 and 0 = y1 + p1 y0^2 - p2 t: Riccati's y0' = -p0 y0 - p1 y0^2 + p2 t."""
    return jnp.stack([-p[0] * y[0] + y[1], y[1] + p[1] * y[0] ** 2 - p[2] * t])


def riccati(t: Array, y: Array, p: Array) -> Array:
    return -p[0] * y - p[1] * y**2 + p[2] * t


P = jnp.array([1.0, 0.5, 0.3])
TIMES = jnp.array([0.5, 1.0, 2.0])
SINGULAR = np.diag([1.0, 0.0])


def algebraic(p: Array, times: Array, sensitivity: Any = None, mode: Any = "reverse") -> Array:
    """Samples of the algebraic unknown from an inconsistent start, and an integral over it."""
    samples, integral = ode_solve(
        decay,
        jnp.array([1.0, 7.0]),
        p,
        0.0,
        2.0,
        ts=times,
        running_cost=lambda t, y, p: y[1] ** 2,
        mass_matrix=SINGULAR,
        sensitivity=sensitivity,
        mode=mode,
        **STIFF,
    ).value
    return jnp.append(samples[:, 1], integral)


def eliminated(p: Array, times: Array) -> Array:
    """The same by an explicit solver, the algebraic unknown put in by hand."""

    def constraint(t: Array, y: Array) -> Array:
        return p[2] * t - p[1] * y**2

    samples, integral = ode_solve(
        riccati,
        jnp.array(1.0),
        p,
        0.0,
        2.0,
        ts=times,
        running_cost=lambda t, y, p: (p[2] * t - p[1] * y**2) ** 2,
        rtol=1e-11,
        atol=1e-13,
    ).value
    return jnp.append(jax.vmap(constraint)(times, samples), integral)


class TestAlgebraicEquations:
    # The cubic interpolant of the stiff solver is what limits samples, to about 1e-6 at these
    # tolerances.
    @pytest.mark.slow
    def test_value_and_gradient(self) -> None:
        np.testing.assert_allclose(algebraic(P, TIMES), eliminated(P, TIMES), rtol=1e-6)
        found = jax.jit(jax.jacrev(algebraic, argnums=(0, 1)))(P, TIMES)
        expected = jax.jit(jax.jacrev(eliminated, argnums=(0, 1)))(P, TIMES)
        np.testing.assert_allclose(found[0], expected[0], rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(found[1], expected[1], rtol=1e-3, atol=1e-4)

    @pytest.mark.slow
    def test_forward_and_reverse_agree(self) -> None:
        reverse = jax.jit(jax.jacrev(lambda p: algebraic(p, TIMES, adjoint.DiscreteAdjoint())))(P)
        forward = jax.jit(jax.jacfwd(lambda p: algebraic(p, TIMES, mode="both")))(P)
        # Both are the exact derivative of the same steps, up to what is left of the stage
        # iterations.
        np.testing.assert_allclose(forward, reverse, rtol=1e-8, atol=1e-10)

    @pytest.mark.slow
    def test_the_consistent_start_has_a_derivative(self) -> None:
        """y1(0) = p2 0 - p1 y0^2, so d y1(0)/dp1 = -y0^2 and d y1(0)/dy0 = -2 p1 y0."""

        def start(y0: Array, p: Array) -> Array:
            y = jnp.stack([y0, jnp.zeros_like(y0)])
            samples = ode_solve(
                decay, y, p, 0.0, 1.0, ts=jnp.array([0.0]), mass_matrix=SINGULAR, **STIFF
            ).value
            return samples[0, 1]

        y0 = jnp.array(2.0)
        np.testing.assert_allclose(start(y0, P), -2.0, rtol=1e-12)
        by_y0, by_p = jax.grad(start, argnums=(0, 1))(y0, P)
        np.testing.assert_allclose(by_y0, -2.0, rtol=1e-10)
        np.testing.assert_allclose(by_p, [0.0, -4.0, 0.0], rtol=1e-10, atol=1e-12)

    @pytest.mark.slow
    def test_index_two_is_refused_by_its_status(self) -> None:
        def pendulum_like(t: Array, y: Array, p: Array) -> Array:
            return jnp.stack([y[1], y[0] - p])

        def value(p: Array) -> tuple[Array, Status]:
            solution = ode_solve(
                pendulum_like, jnp.ones(2), p, 0.0, 1.0, mass_matrix=SINGULAR, **STIFF
            )
            return solution.value[0], solution.status

        gradient, status = jax.grad(value, has_aux=True)(jnp.array(1.0))
        assert int(status) in (int(Status.SINGULAR), int(Status.ILL_CONDITIONED))
        assert np.isnan(gradient)


class TestBadInput:
    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"solver": diffrax.Tsit5()}, "an implicit solver"),
            ({"mass_matrix": np.ones((2, 2))}, r"mass_matrix of shape \(2, 2\)"),
            ({"mass_matrix": np.full((3, 3), np.nan)}, "with NaN or of zeros only"),
            (
                {"sensitivity": adjoint.GaussAdjoint()},
                r"DiscreteAdjoint\(\) or ForwardSensitivity\(\)",
            ),
            ({"certificate": True}, "a certificate"),
        ],
    )
    def test_is_named(self, change: dict[str, Any], message: str) -> None:
        with pytest.raises(ValueError, match=message):
            ode_solve(linear, jnp.ones(3), A, 0.0, 1.0, **({"mass_matrix": M} | STIFF | change))

    def test_a_traced_matrix(self) -> None:
        with pytest.raises(ValueError, match="a constant array"):
            jax.jit(
                lambda M: ode_solve(linear, jnp.ones(3), A, 0.0, 1.0, mass_matrix=M, **STIFF).value
            )(M)
