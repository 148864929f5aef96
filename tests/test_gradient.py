"""verify_gradient: no miss, no false alarm on seeded cases, and its docstring's promises."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gradient_cases import count_errors

from adjoint.verify.gradient import verify_gradient


@pytest.mark.slow
def test_no_miss_and_no_false_alarm_on_400_cases():
    missed, alarms = count_errors(seed=2024, cases=400)
    assert not missed, "\n".join(missed)
    assert not alarms, "\n".join(alarms)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_no_miss_and_no_false_alarm_on_further_seeds(seed):
    assert count_errors(seed, cases=400) == ([], [])


A = jnp.asarray(np.random.default_rng(0).normal(size=(6, 6)))  # nonsymmetric
P = jnp.asarray(np.random.default_rng(1).normal(size=6))


def smooth(p):
    return jnp.sum(jnp.exp(p)) + p @ A @ p


def smooth_gradient(p):
    return jnp.exp(p) + (A + A.T) @ p


@pytest.mark.parametrize("point", [P, jnp.zeros(6)], ids=["p", "p = 0"])
@pytest.mark.parametrize("scale", [1e-12, 1.0, 1e12])
@pytest.mark.parametrize("factor", [1e-12, 1e12])
def test_units_do_not_matter(factor, scale, point):
    def f(p):
        return factor * smooth(p / scale)

    def wrong(p):
        return (factor / scale * smooth_gradient(p / scale)).at[2].multiply(1.001)

    assert verify_gradient(f, scale * point).trusted
    verdict = verify_gradient(f, scale * point, gradient=wrong)
    assert not verdict.trusted
    assert verdict.worst.name == "p[2]"
    assert np.isclose(verdict.relative_error, 1e-3, rtol=0.05)


def test_report_names_the_worst_leaf_and_component():
    p = {
        "thickness": jnp.array([1e-3, 2e-3, 3e-3]),
        "load": (jnp.array(5e4), jnp.array([[1.0, 2.0], [3.0, 4.0]])),
    }

    def f(p):
        return p["load"][0] * jnp.sum(p["thickness"] ** 3) + 1e-6 * jnp.sum(p["load"][1] ** 2)

    def wrong(p):
        gradient = jax.grad(f)(p)
        return {**gradient, "load": (gradient["load"][0], gradient["load"][1].at[1, 0].set(0.0))}

    assert verify_gradient(f, p).trusted
    verdict = verify_gradient(f, p, gradient=wrong)
    assert not verdict.trusted
    assert verdict.worst.name == "p['load'][1][1, 0]"
    assert "wrong by 1.0e+00 along p['load'][1][1, 0]" in str(verdict)
    for oracle in ("forward = reverse", "central differences", "complex step", "Taylor remainder"):
        assert oracle in verdict.report
    assert max(len(line) for line in verdict.report.splitlines()) <= 100


@pytest.mark.slow
def test_each_large_leaf_is_judged_by_its_own_scale():
    p = {"field": jnp.linspace(0.5, 1.0, 500), "loads": jnp.linspace(1.0, 2.0, 40)}

    def f(p):
        return 1e9 * jnp.sum(p["field"] ** 3) + 1e-2 * jnp.sum(jnp.sin(p["loads"]))

    def wrong(p):
        gradient = jax.grad(f)(p)
        return {**gradient, "loads": 1.01 * gradient["loads"]}

    assert verify_gradient(f, p).trusted
    verdict = verify_gradient(f, p, gradient=wrong)
    assert not verdict.trusted
    assert "p['loads']" in verdict.reason


def test_wrong_component_at_a_tiny_parameter_among_many():
    # Steps in the units of each parameter would move p[7] by 1e-6 and see nothing; every other
    # direction moves all alike.
    p = jnp.ones(200).at[7].set(1e-6)
    assert verify_gradient(lambda p: jnp.sum(jnp.sin(p)), p).trusted
    assert not verify_gradient(
        lambda p: jnp.sum(jnp.sin(p)), p, gradient=lambda p: jnp.cos(p).at[7].set(0)
    ).trusted


def test_small_wrong_component_next_to_a_large_one():
    def f(p):
        return 1e6 * p[0] ** 2 + 1e-3 * p[1] ** 3

    assert verify_gradient(f, jnp.ones(2)).trusted
    assert not verify_gradient(
        f, jnp.ones(2), gradient=lambda p: jnp.array([2e6 * p[0], 3.03e-3])
    ).trusted
    assert not verify_gradient(
        f, jnp.ones(2), gradient=lambda p: jnp.array([2e6 * p[0], 0.0])
    ).trusted


def test_component_below_the_noise_is_reported():
    # 1e-13 next to 1: differences cannot see it, and this f takes no complex numbers.
    def f(p):
        return float(np.sum(np.abs(p) * np.array([1.0, 1e-13]))) ** 2

    verdict = verify_gradient(
        f, np.ones(2), gradient=lambda p: 2 * f(p) ** 0.5 * np.array([1.0, 1e-13])
    )
    assert verdict.trusted
    assert "1 coordinates lie below the noise" in verdict.report


def test_forward_mode_against_reverse_mode():
    @jax.custom_jvp
    def cubes(p):
        return jnp.sum(p**3)

    cubes.defjvp(lambda p, p_dot: (cubes(*p), jnp.sum(3 * p[0] ** 2 * p_dot[0])))
    verdict = verify_gradient(cubes, P)
    assert verdict.trusted
    assert all(check.forward is not None for check in verdict.checks)

    # A linear solve whose transpose is left out: forward mode is right, reverse mode is not.
    def solve(b):
        return jax.lax.custom_linear_solve(
            lambda x: A @ x,
            b,
            lambda _, c: jnp.linalg.solve(A, c),
            transpose_solve=lambda _, c: jnp.linalg.solve(A, c),
        )

    verdict = verify_gradient(lambda b: jnp.sum(solve(b) ** 2), P)
    assert not verdict.trusted
    assert "forward mode says" in verdict.reason


def test_reverse_only_rules_and_host_callbacks():
    @jax.custom_vjp
    def on_host(p):
        shape = jax.ShapeDtypeStruct((), p.dtype)
        return jax.pure_callback(lambda q: np.asarray(np.sum(np.sin(q)).real, p.dtype), shape, p)

    def judged(sign):
        on_host.defvjp(lambda p: (on_host(p), p), lambda p, bar: (sign * bar * jnp.cos(p),))
        return verify_gradient(on_host, P)

    verdict = judged(1.0)
    assert verdict.trusted
    assert "not available" in dict(verdict.oracles)["forward = reverse"]
    assert not judged(-1.0).trusted


def test_function_that_only_numpy_or_python_can_run():
    def branching(p):
        return jnp.sum(p**2) if p[0] > 0 else jnp.sum(p**4)

    assert verify_gradient(branching, P).trusted
    assert verify_gradient(lambda p: p["a"] ** 2 * p["b"], {"a": 1.5, "b": -2.0}).trusted
    own = {"a": lambda p: {"a": np.cos(p["a"])}, "b": lambda p: {"a": -np.cos(p["a"])}}
    p = {"a": np.asarray(P)}
    assert verify_gradient(lambda p: float(np.sum(np.sin(p["a"]))), p, gradient=own["a"]).trusted
    assert not verify_gradient(
        lambda p: float(np.sum(np.sin(p["a"]))), p, gradient=own["b"]
    ).trusted


def test_complex_step_is_dropped_where_f_is_not_analytic():
    verdict = verify_gradient(lambda p: jnp.sum(jnp.abs(p) * p**2), P)
    assert verdict.trusted
    assert "the differences refute it" in dict(verdict.oracles)["complex step"]


def test_complex_step_decides_where_the_differences_cannot():
    def f(p):
        return 1e8 + 1e-6 * jnp.sum(jnp.sin(p))

    assert verify_gradient(f, P).trusted
    verdict = verify_gradient(f, P, gradient=lambda p: 1.001e-6 * jnp.cos(p))
    assert not verdict.trusted
    assert "complex step" in verdict.reason


def test_gradient_below_the_noise_is_not_resolvable():
    def f(p):  # abs keeps the complex step out
        return 1e8 + 1e-6 * float(np.sum(np.abs(np.exp(p))))

    verdict = verify_gradient(f, np.asarray(P), gradient=lambda p: 1e-6 * np.exp(p))
    assert not verdict.trusted
    assert "not resolvable" in verdict.reason
    assert verdict.resolution == np.inf


@pytest.mark.parametrize("dtype", [pytest.param(jnp.float32, marks=pytest.mark.slow), jnp.float64])
def test_zero_gradients(dtype):
    p = P.astype(dtype)
    assert verify_gradient(lambda _: 1e8, p).trusted
    assert verify_gradient(lambda p: jnp.sum(p - p) + 7, p).trusted
    assert verify_gradient(
        lambda p: jnp.sum(jax.nn.softmax(p)), p
    ).trusted  # its gradient is rounding
    assert verify_gradient(
        lambda q: (q - p) @ A.astype(dtype) @ A.T.astype(dtype) @ (q - p), p
    ).trusted
    assert verify_gradient(
        lambda p: jnp.sum(100 * (p[1:] - p[:-1] ** 2) ** 2 + (1 - p[:-1]) ** 2), p * 0 + 1
    ).trusted
    assert verify_gradient(lambda q: jnp.sum(q["used"] ** 2), {"used": p, "unused": p}).trusted
    assert not verify_gradient(lambda _: 1.0, p, gradient=lambda p: p * 0 + 1e-3).trusted
    assert not verify_gradient(lambda p: jnp.sum(p**2), p, gradient=lambda p: 0 * p).trusted


@pytest.mark.parametrize(
    ("f", "gradient"),
    [
        (lambda p: jnp.sum(jnp.log(p)), None),
        (lambda p: jnp.sum(p) / 0.0, None),
        (lambda p: jnp.sum(jnp.where(p > 0, jnp.sqrt(jnp.maximum(p, 0) * 0), 0.0)), None),
        (lambda p: jnp.sum(p**2), lambda p: p * jnp.nan),
        (lambda p: jnp.sum(p**2), lambda p: (2 * p).at[3].set(jnp.inf)),
    ],
)
def test_not_finite_is_never_trusted(f, gradient):
    verdict = verify_gradient(f, P, gradient=gradient)
    assert not verdict.trusted
    assert np.isnan(verdict.relative_error)
    assert "NaN or Inf" in verdict.reason or "not a finite number" in verdict.reason


def test_kinks_do_not_crash():
    assert verify_gradient(lambda p: jnp.sum(jax.nn.relu(p)), P).trusted
    verify_gradient(lambda p: jnp.sum(jnp.abs(p)), 0 * P)
    assert not verify_gradient(lambda p: jnp.sum(jnp.round(3 * p)), P).trusted


def test_noise_in_f():
    def rough(p, width):
        return (
            float(np.sum(np.sin(p)))
            + width * np.random.default_rng(np.asarray(p).view(np.uint64)).random()
        )

    p = np.asarray(P)
    assert verify_gradient(lambda p: rough(p, 1e-9), p, gradient=np.cos).trusted
    assert not verify_gradient(
        lambda p: rough(p, 1e-9), p, gradient=lambda p: 1.001 * np.cos(p)
    ).trusted
    verdict = verify_gradient(lambda p: rough(p, 1e-1), p, gradient=np.cos)
    assert "not resolvable" in verdict.reason


@pytest.mark.parametrize(
    ("f", "p", "gradient", "error", "message"),
    [
        (lambda p: p, P, None, ValueError, "a scalar of shape"),
        (lambda p: 1j * jnp.sum(p), P, None, TypeError, "complex"),
        (lambda p: (jnp.sum(p), 1), P, None, TypeError, "a tuple"),
        (lambda _: 3, P, None, TypeError, "floating-point"),
        (smooth, {}, None, ValueError, "p without numbers"),
        (smooth, jnp.arange(3), None, TypeError, "int64 array of shape"),
        (lambda p: p["a"], {"a": 1.0, "n": 3}, None, TypeError, r"p\['n'\] = int 3"),
        (smooth, 1j * P, None, TypeError, "real numbers"),
        (smooth, P, lambda p: p[:2], ValueError, r"shape \(2,\), expected shape \(6,\)"),
        (smooth, P, lambda p: {"a": p}, ValueError, "structure"),
        (
            lambda p: p @ jnp.ones(7),
            P,
            None,
            TypeError,
            "contracting dimensions",
        ),  # f's own error, unchanged
    ],
)
def test_bad_input_is_refused_in_words(f, p, gradient, error, message):
    with pytest.raises(error, match=message):
        verify_gradient(f, p, gradient=gradient)


def test_inside_jit_it_is_refused():
    with pytest.raises(TypeError, match="outside jit"):
        jax.jit(lambda p: verify_gradient(smooth, p).trusted)(P)
