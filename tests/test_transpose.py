"""<J v, w> = <v, J' w>: right pairs pass, each way of being wrong fails.

The matrices are nonsymmetric throughout.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from adjoint.verify.transpose import definiteness_test, dot_product_test, symmetry_test

RNG = np.random.default_rng(0)
A = jnp.asarray(RNG.normal(size=(5, 7)))
S = jnp.asarray(RNG.normal(size=(6, 6)))
C = jnp.asarray(RNG.normal(size=(5, 7)) + 1j * RNG.normal(size=(5, 7)))
V, W = jnp.zeros(7), jnp.zeros(5)


def test_matrix_and_its_transpose():
    result = dot_product_test(lambda v: A @ v, lambda w: A.T @ w, V, W)
    assert result.passed
    assert result.relative_error < 1e-14


WRONG_PAIRS = {
    "sign": (lambda v: A @ v, lambda w: -A.T @ w),
    "scale": (lambda v: A @ v, lambda w: 1.001 * A.T @ w),
    "one entry": (lambda v: A @ v, lambda w: A.T.at[2, 3].mul(1.001) @ w),
    "zero": (lambda v: A @ v, lambda w: 0 * A.T @ w),
    "a constant added": (lambda v: A @ v + 1e-6, lambda w: A.T @ w),
    "a constant added in reverse": (lambda v: A @ v, lambda w: A.T @ w + 1e-6),
    "an absolute value": (lambda v: A @ jnp.abs(v), lambda w: A.T @ w),
    "a square": (lambda v: A @ v + 1e-3 * jnp.sum(v) ** 2, lambda w: A.T @ w),
    "not a number": (lambda v: A @ v, lambda w: jnp.nan * A.T @ w),
    "infinite": (lambda v: jnp.inf * A @ v, lambda w: A.T @ w),
}


@pytest.mark.parametrize("name", WRONG_PAIRS)
def test_wrong_pairs_fail(name):
    jvp, vjp = WRONG_PAIRS[name]
    assert not dot_product_test(jvp, vjp, V, W).passed


@pytest.mark.parametrize(
    "name", ["a constant added", "a constant added in reverse", "an absolute value", "a square"]
)
def test_the_report_tells_what_is_not_linear(name):
    jvp, vjp = WRONG_PAIRS[name]
    assert dot_product_test(jvp, vjp, V, W).nonlinearity > 1e-8
    assert dot_product_test(*WRONG_PAIRS["scale"], V, W).nonlinearity < 1e-14


def test_transpose_of_a_square_matrix_left_out():
    assert not dot_product_test(lambda v: S @ v, lambda w: S @ w, jnp.zeros(6), jnp.zeros(6)).passed


def test_map_that_is_its_own_partner_but_not_linear_fails():
    # Homogeneous for positive factors, and not additive.
    def stretched(x):
        return x * (1 + 0.1 * jnp.sign(x[0]))

    assert not dot_product_test(stretched, stretched, jnp.zeros(4), jnp.zeros(4)).passed


def test_complex_maps_pair_without_conjugation():
    v, w = jnp.zeros(7, complex), jnp.zeros(5, complex)
    assert dot_product_test(lambda v: C @ v, lambda w: C.T @ w, v, w).passed
    assert not dot_product_test(lambda v: C @ v, lambda w: C.conj().T @ w, v, w).passed
    assert not dot_product_test(lambda v: C @ v, lambda w: C.T @ w.conj(), v, w).passed


@pytest.mark.parametrize(
    ("f", "p"),
    [
        (lambda x: jnp.sin(A @ x), jnp.ones(7)),
        (
            lambda x: {"a": x["u"] @ A.T, "b": jnp.outer(x["u"], x["s"])},
            {"u": jnp.ones(7), "s": jnp.ones(2)},
        ),
        (lambda x: jnp.exp(C @ x), jnp.ones(7, complex)),
        (lambda x: jnp.conj(C @ x) * x[0], jnp.ones(7, complex)),  # linear over the reals only
        (lambda x: jnp.sum(jnp.abs(C @ x) ** 2), jnp.ones(7, complex)),  # complex to real
        (lambda x: C @ x, jnp.ones(7)),  # real to complex
    ],
)
def test_jax_pairs_pass(f, p):
    y, pullback = jax.vjp(f, p)
    assert dot_product_test(
        lambda v: jax.jvp(f, (p,), (v,))[1], lambda w: pullback(w)[0], p, y
    ).passed


def test_float32_has_its_own_tolerance():
    B = jnp.asarray(RNG.normal(size=(300, 200)), jnp.float32)
    v, w = jnp.zeros(200, jnp.float32), jnp.zeros(300, jnp.float32)
    assert dot_product_test(lambda v: B @ v, lambda w: B.T @ w, v, w).passed
    assert not dot_product_test(lambda v: B @ v, lambda w: 1.001 * B.T @ w, v, w).passed
    assert not dot_product_test(lambda v: B @ v, lambda w: B.T @ w, v, w, rtol=1e-12).passed


@pytest.mark.parametrize("scale", [1e-12, 1e12])
def test_units_do_not_matter(scale):
    assert dot_product_test(lambda v: scale * A @ v, lambda w: scale * A.T @ w, V, W).passed
    assert not dot_product_test(
        lambda v: scale * A @ v, lambda w: 1.001 * scale * A.T @ w, V, W
    ).passed


def test_zero_map_passes():
    assert dot_product_test(lambda v: 0.0 * (A @ v), lambda w: 0.0 * (A.T @ w), V, W).passed


def test_symmetry():
    assert symmetry_test(lambda v: (S + S.T) @ v, 6).passed
    assert not symmetry_test(lambda v: S @ v, 6).passed
    assert not symmetry_test(lambda v: (S + S.T).at[0, 1].add(1e-6) @ v, 6).passed
    H = C @ C.conj().T  # Hermitian, and not symmetric
    assert not symmetry_test(lambda v: H @ v, jnp.zeros(5, complex)).passed
    assert symmetry_test(lambda v: (C @ C.T) @ v, jnp.zeros(5, complex)).passed
    tree = {"u": jnp.zeros(3), "w": jnp.zeros(3)}
    assert symmetry_test(
        lambda v: {"u": S[:3, 3:] @ v["w"], "w": S[:3, 3:].T @ v["u"]}, tree
    ).passed


def test_definiteness():
    assert definiteness_test(lambda v: (S @ S.T) @ v, 6).passed
    assert not definiteness_test(lambda v: -(S @ S.T) @ v, 6).passed
    assert definiteness_test(lambda v: (C @ C.conj().T) @ v, jnp.zeros(5, complex)).passed
    assert not definiteness_test(lambda v: 0.0 * v, 6).passed
    assert not definiteness_test(lambda v: jnp.nan * v, 6).passed


@pytest.mark.parametrize("negative", [-1.0, -0.1, -0.01])
def test_one_negative_eigenvalue_among_many_is_found(negative):
    # A random vector alone sees the mean eigenvalue, about 1.5 here.
    eigenvalues = jnp.linspace(1.0, 2.0, 200).at[17].set(negative)
    Q = jnp.linalg.qr(jnp.asarray(RNG.normal(size=(200, 200))))[0]
    result = definiteness_test(lambda v: Q @ (eigenvalues * (Q.T @ v)), 200)
    assert not result.passed
    assert np.isclose(result.smallest_quotient, negative, atol=0.01)


def test_bad_input_is_refused_in_words():
    with pytest.raises(ValueError, match=r"J v of shape \(5,\), expected shape \(7,\)"):
        dot_product_test(lambda v: A @ v, lambda w: A.T @ w, V, V)
    with pytest.raises(ValueError, match="structure"):
        dot_product_test(lambda v: {"a": A @ v}, lambda w: A.T @ w, V, W)
    with pytest.raises(TypeError, match="floating-point or complex"):
        dot_product_test(lambda v: A @ v, lambda w: A.T @ w, jnp.arange(7), W)
    with pytest.raises(TypeError, match="complex"):
        dot_product_test(lambda v: C @ v, lambda w: C.T @ w, V, W)
    with pytest.raises(ValueError, match="n = 0"):
        symmetry_test(lambda v: v, 0)
    with pytest.raises(ValueError, match="without numbers"):
        dot_product_test(lambda v: v, lambda w: w, {}, W)


def test_reports_fit():
    result = dot_product_test(lambda v: A @ v, lambda w: -A.T @ w, V, W)
    assert "FAILED" in str(result)
    assert max(len(line) for line in str(result).splitlines()) <= 100
    assert "passed" in str(definiteness_test(lambda v: 2 * v, 3))
