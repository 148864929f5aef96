"""Numbers near the ends of their range: no square of them may enter a norm or a product."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adjoint import CG, GMRES, LU, MINRES, Anderson, Cholesky, MatrixFree, Multigrid, linear_solve
from adjoint import fixed_point as find_fixed_point
from adjoint.norm import dot, length, norm, power_of_two, root_of_dot, row_norms

N = 5
RNG = np.random.default_rng(3)
SYMMETRIC = (lambda A: (A + A.T) / 2 + 6 * np.eye(N))(RNG.normal(size=(N, N)))
INDEFINITE = SYMMETRIC - 6.5 * np.eye(N)
GENERAL = RNG.normal(size=(N, N)) + 4 * np.eye(N)
B = RNG.normal(size=N)
# Powers of two that leave room for the numbers themselves, and none for their squares.
FAR = {"float32": 90, "float64": 900}
METHODS = {
    "LU": (LU(), GENERAL),
    "Cholesky": (Cholesky(), SYMMETRIC),
    "CG": (CG(1e-5), SYMMETRIC),
    "MINRES": (MINRES(1e-5), INDEFINITE),
    "GMRES": (GMRES(1e-5), GENERAL),
    "GMRES restarted": (GMRES(1e-5, restart=3), GENERAL),
}


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_norms_and_products_scale_bit_by_bit(dtype: str) -> None:
    x, y = (jnp.asarray(v, dtype) for v in (B, B + RNG.normal(size=N) / 4))
    far = FAR[dtype]

    @jax.jit
    def found(x: Any, y: Any) -> Any:
        return jnp.stack(
            [
                norm(x),
                root_of_dot(x, x),
                length(x[0], x[1]),
                row_norms(x[None])[0],
                root_of_dot(x, y),
            ]
        )

    v, w = np.asarray(x, float), np.asarray(y, float)
    reference = [
        np.linalg.norm(v),
        np.linalg.norm(v),
        np.hypot(v[0], v[1]),
        np.linalg.norm(v),
        np.sqrt(v @ w),
    ]
    base = found(x, y)
    np.testing.assert_allclose(base, reference, rtol=4e-7 if dtype == "float32" else 1e-15)
    for k in (-far, -far + 1, far):
        np.testing.assert_array_equal(found(x * 2.0**k, y * 2.0**k), base * 2.0**k)
    product = jax.jit(dot)
    assert product(x * 2.0**far, y * 2.0**-far) == product(x, y)
    assert found(x, -x)[-1] == 0


def test_norms_of_what_is_no_number_or_nothing() -> None:
    assert norm(jnp.zeros(3)) == 0
    assert norm(jnp.zeros(0)) == 0
    assert jnp.isinf(norm(jnp.array([1.0, jnp.inf])))
    assert jnp.isnan(norm(jnp.array([1.0, jnp.nan])))
    np.testing.assert_array_equal(
        power_of_two(jnp.array([0.0, 1.0, 3.9, jnp.inf, jnp.nan])), [1, 1, 2, 1, 1]
    )
    np.testing.assert_allclose(norm(jnp.array([3.0 + 4.0j, 12.0])), 13.0)


@pytest.fixture(scope="module")
def solve() -> Any:
    """x, status, iterations, the gradient of sum(x) by b, compiled once by method and precision."""
    compiled: dict[Any, Any] = {}

    def run(name: str, A: Any, b: Any) -> Any:
        def total(b: Any, A: Any) -> Any:
            solution = linear_solve(A, b, METHODS[name][0])
            return jnp.sum(solution.value), solution

        key = (name, A.dtype)
        if key not in compiled:
            compiled[key] = jax.jit(lambda A, b: jax.grad(total, has_aux=True)(b, A))
        gradient, solution = compiled[key](A, b)
        return solution.value, int(solution.status), int(solution.stats["iterations"]), gradient

    return run


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", METHODS)
def test_a_matrix_and_a_right_hand_side_in_other_units(solve: Any, name: str, dtype: str) -> None:
    """(2^s A)^-1 2^t b = 2^(t - s) A^-1 b, bit by bit, in as many iterations.

    The gradient with respect to b is 2^-s of it.
    """
    A, b = jnp.asarray(METHODS[name][1], dtype), jnp.asarray(B, dtype)
    x, status, iterations, gradient = solve(name, A, b)
    np.testing.assert_allclose(x, np.linalg.solve(METHODS[name][1], B), rtol=3e-4)
    far = FAR[dtype]

    @settings(max_examples=15, deadline=None, derandomize=True)
    @given(st.integers(-far, far), st.integers(-far // 4, far // 4))
    def law(s: int, difference: int) -> None:
        t = int(np.clip(s + difference, -far, far))
        found = solve(name, A * jnp.asarray(2.0**s, dtype), b * jnp.asarray(2.0**t, dtype))
        # The square roots in Cholesky's factors are those of 2^s for an even s alone.
        rtol = 1e2 * float(jnp.finfo(dtype).eps) if name == "Cholesky" else 0
        np.testing.assert_allclose(found[0], x * 2.0 ** (t - s), rtol=rtol)
        assert found[1:3] == (status, iterations)
        np.testing.assert_allclose(found[3], gradient * 2.0**-s, rtol=rtol)

    law()


def test_preconditioners_and_operators_without_entries_have_the_whole_range() -> None:
    A, b = jnp.asarray(SYMMETRIC * 1e25, jnp.float32), jnp.asarray(B, jnp.float32)
    expected = np.linalg.solve(SYMMETRIC, B) * 1e-25
    inverse = 1 / jnp.diag(A)
    operator = MatrixFree(lambda x: A @ x, N, symmetric=True)
    for method in (CG, MINRES, GMRES):
        x = linear_solve(operator, b, method(1e-5, preconditioner=lambda r: inverse * r)).value
        np.testing.assert_allclose(x, expected, rtol=1e-3)


def test_a_multigrid_has_the_whole_range() -> None:
    """-lap(u) = 1e-22 on 31 x 31 inner nodes with a coefficient of 1e15, in single precision."""
    n = 31

    def laplace(scale: Any) -> Any:
        def apply(u: Any) -> Any:
            v = jnp.pad(u.reshape(n, n), 1)
            neighbors = v[:-2, 1:-1] + v[2:, 1:-1] + v[1:-1, :-2] + v[1:-1, 2:]
            return (scale * (4 * v[1:-1, 1:-1] - neighbors)).ravel()

        return MatrixFree(apply, n * n, positive_definite=True)

    method = CG(1e-5, preconditioner=Multigrid((n, n)))
    one = linear_solve(laplace(jnp.float32(1)), jnp.ones(n * n, jnp.float32), method)
    far = linear_solve(
        laplace(jnp.float32(2.0**70)), jnp.full(n * n, 2.0**-20, jnp.float32), method
    )
    # The same, or an honest refusal: coarse levels may leave the range of single precision.
    expected = one.value * 2.0**-90 if far.status.ok else jnp.full_like(one.value, jnp.nan)
    np.testing.assert_allclose(far.value, expected, rtol=1e-3)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_fixed_point_has_the_whole_range(dtype: str) -> None:
    """x = 2^s (p + 0.3 tanh of x in other units): Anderson, examination and derivative."""
    mix = jnp.asarray(RNG.normal(size=(N, N)) / N, dtype)

    @jax.jit
    def found(unit: Any, p: Any) -> Any:
        def total(p: Any) -> Any:
            step = lambda x, p: unit * (p + 0.3 * jnp.tanh(mix @ (x / unit)))
            solution = find_fixed_point(
                step, jnp.zeros(N, dtype), p, Anderson(), linear_solver=GMRES(1e-6)
            )
            return jnp.sum(solution.value / unit), solution

        return jax.grad(total, has_aux=True)(p)

    p = jnp.asarray(B, dtype)
    gradient, base = found(jnp.ones((), dtype), p)
    assert base.status.ok
    for s in (-FAR[dtype], FAR[dtype]):
        far_gradient, far = found(jnp.asarray(2.0**s, dtype), p)
        assert far.status.ok
        assert far.stats["iterations"] == base.stats["iterations"]
        np.testing.assert_allclose(far.value * 2.0**-s, base.value, rtol=1e-5)
        np.testing.assert_allclose(far_gradient, gradient, rtol=1e-4)
