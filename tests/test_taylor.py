"""The two-sided Taylor test: its rates, and the errors that the usual one-sided rule does not see.

Derivatives are checked against closed forms; the rates 2, 3, 4 follow from Taylor's theorem.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from adjoint.verify.taylor import taylor_test

A = jnp.asarray(np.random.default_rng(0).normal(size=(6, 6)))  # nonsymmetric
P = jnp.asarray(np.random.default_rng(1).normal(size=6))


def smooth(p):
    return jnp.sum(jnp.exp(p)) + p @ A @ p


def smooth_gradient(p):
    return jnp.exp(p) + (A + A.T) @ p


def test_rates_and_derivatives_up_to_the_third_order():
    result = taylor_test(smooth, P, order=3)
    assert result.passed
    assert np.allclose(result.rates, [2, 3, 4], atol=0.05)
    assert [round(o.deciding_rate) for o in result.orders] == [3, 4, 5]
    assert result.relative_error < 1e-6
    # Along the coordinate direction e_0, in the units of the test |p|_max / 1: closed forms.
    along = taylor_test(smooth, P, direction=jnp.eye(6)[0], order=3)
    unit = float(jnp.max(jnp.abs(P)))
    expected = [
        unit * (math.exp(P[0]) + float(((A + A.T) @ P)[0])),
        unit**2 * (math.exp(P[0]) + 2 * float(A[0, 0])),
        unit**3 * math.exp(P[0]),
    ]
    assert np.allclose([o.derivative for o in along.orders], expected, rtol=1e-13)
    assert along.passed


def test_gradient_wrong_by_a_thousandth_fails_though_the_usual_rule_passes_it():
    result = taylor_test(smooth, P, gradient=lambda p: 1.001 * smooth_gradient(p))
    assert not result.passed
    assert result.orders[0].verdict == "wrong"
    assert 2e-4 < result.relative_error < 1e-3  # relative to the norm of the terms of gradient . v
    # The usual rule: one side, four halvings, rate above 1.9.
    steps, remainders = (
        np.array(result.steps[:4]),
        np.array([abs(plus) for plus, _ in result.remainders[:4]]),
    )
    assert np.all(np.diff(np.log(remainders)) / np.diff(np.log(steps)) > 1.9)


@pytest.mark.parametrize("error", [1e-4, -1e-4, 1e-2, -1.0, -2.0])
def test_wrong_scale_fails(error):
    assert not taylor_test(
        smooth, P, gradient=lambda p: (1 + error) * smooth_gradient(p), seed=3
    ).passed
    assert taylor_test(
        smooth, P, gradient=lambda p: (1 + error * 1e-3) * smooth_gradient(p), rtol=1e-2
    ).passed


@pytest.mark.parametrize("constant", [0.0, 1e8])
def test_exact_linear_functional_passes_though_its_remainder_is_noise(constant):
    result = taylor_test(lambda p: constant + 3.0 * jnp.sum(p), P, order=3)
    assert result.passed
    assert all(math.isnan(rate) for rate in result.rates)
    assert [o.verdict for o in result.orders] == [
        "right",
        "zero within the noise",
        "zero within the noise",
    ]
    wrong = taylor_test(
        lambda p: constant + 3.0 * jnp.sum(p), P, gradient=lambda _: jnp.full(6, 3.003)
    )
    assert not wrong.passed


def test_wrong_second_derivative_fails_at_the_second_order_only():
    @jax.custom_jvp
    def exp(p):
        return jnp.exp(p)

    @exp.defjvp
    def exp_jvp(primals, tangents):
        (p,), (p_dot,) = primals, tangents
        # Right at the point of the test, wrong next to it: the gradient is right and its derivative
        # is not.
        return exp(p), (jnp.exp(P) + 1.01 * (jnp.exp(p) - jnp.exp(P))) * p_dot

    result = taylor_test(lambda p: jnp.sum(exp(p)), P, order=2)
    assert [o.verdict for o in result.orders] == ["right", "wrong"]
    assert math.isclose(result.relative_error, 0.01, rel_tol=0.05)
    assert not result.passed


def test_constant_function_passes_and_a_gradient_for_it_fails():
    assert taylor_test(lambda _: 1e8, P, order=2).passed
    assert not taylor_test(lambda _: 5.0, P, gradient=lambda _: jnp.full(6, 1e-6)).passed


def test_noise_that_hides_the_gradient_is_no_pass():
    def rough(p):
        return (
            float(np.sum(np.sin(p)))
            + 0.1 * np.random.default_rng(np.asarray(p).view(np.uint64)).random()
        )

    result = taylor_test(rough, np.asarray(P), gradient=np.cos)
    assert not result.passed
    assert result.orders[0].verdict == "not resolvable"


def test_float32():
    p = P.astype(jnp.float32)
    assert taylor_test(smooth, p, order=2).passed
    assert not taylor_test(smooth, p, gradient=lambda p: 1.01 * smooth_gradient(p)).passed
    assert taylor_test(smooth, p).rtol == 1e-3


def test_pytrees_of_mixed_scales():
    p = {"E": jnp.array(2e11), "t": [jnp.array([1e-3, 2e-3])]}

    def stiffness(p):
        return p["E"] * jnp.sum(p["t"][0] ** 3)

    def wrong(p):
        return {"E": jnp.sum(p["t"][0] ** 3), "t": [3.003 * p["E"] * p["t"][0] ** 2]}

    assert taylor_test(stiffness, p, order=3).passed
    assert not taylor_test(stiffness, p, gradient=wrong).passed


@pytest.mark.parametrize("scale", [1e-12, 1e12])
@pytest.mark.parametrize("factor", [1e-12, 1e12])
def test_units_do_not_matter(scale, factor):
    def f(p):
        return factor * smooth(p / scale)

    assert taylor_test(f, scale * P).passed
    assert not taylor_test(
        f, scale * P, gradient=lambda p: 1.001 * factor / scale * smooth_gradient(p / scale)
    ).passed


def test_reverse_only_rules_are_tested_up_to_the_third_order():
    @jax.custom_vjp
    def cubes(p):
        return jnp.sum(p**3)

    cubes.defvjp(lambda p: (jnp.sum(p**3), p), lambda p, bar: (3 * bar * p**2,))
    assert taylor_test(cubes, P, order=3).passed


def test_nonfinite_gradient_never_passes():
    assert not taylor_test(
        lambda p: jnp.sum(p**2), P, gradient=lambda _: jnp.full(6, jnp.nan)
    ).passed
    assert not taylor_test(lambda p: jnp.sum(jnp.log(p)), P).passed


def test_bad_input_is_refused_in_words():
    with pytest.raises(ValueError, match="order=4, expected 1, 2 or 3"):
        taylor_test(smooth, P, order=4)
    with pytest.raises(ValueError, match="a scalar of shape"):
        taylor_test(lambda p: p, P)
    with pytest.raises(ValueError, match=r"shape \(2,\), expected shape \(6,\)"):
        taylor_test(smooth, P, direction=jnp.ones(2))
    with pytest.raises(ValueError, match="a direction that is zero"):
        taylor_test(smooth, P, direction=jnp.zeros(6))
    with pytest.raises(ValueError, match="Use order=1"):
        taylor_test(smooth, P, order=2, gradient=lambda p: np.asarray(p) * 2)


def test_report_is_a_table_that_fits():
    text = str(taylor_test(smooth, P, order=3))
    assert "Taylor test passed" in text
    assert "step h" in text
    assert max(len(line) for line in text.splitlines()) <= 100
    assert "FAILED" in str(taylor_test(smooth, P, gradient=lambda p: 2 * smooth_gradient(p)))
