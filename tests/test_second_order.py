"""hvp: the Hessian times a vector, through linear solves too."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import assert_close, matrix

from adjoint import SparseDirect, SparsePattern, hvp, linear_solve


def test_of_a_polynomial_in_a_pytree() -> None:
    """f = a^3 b: H = [[6 a b, 3 a^2], [3 a^2, 0]]."""
    p, v = {"a": jnp.array(2.0), "b": jnp.array(5.0)}, {"a": jnp.array(1.0), "b": jnp.array(-1.0)}
    product = hvp(lambda p: p["a"] ** 3 * p["b"], p, v)
    assert (float(product["a"]), float(product["b"])) == (60.0 - 12.0, 12.0)


@pytest.mark.parametrize("form", ["dense", "sparse"])
def test_through_a_linear_solve(form: str) -> None:
    A = matrix("general", 7)
    rows, cols = (v.ravel() for v in np.indices((7, 7)))
    pattern = SparsePattern(rows, cols, (7, 7))
    basis = jnp.asarray(np.random.default_rng(1).normal(size=(5, 7, 7)))

    def ours(p: jax.Array) -> jax.Array:
        Ap = A + jnp.tensordot(p, basis, 1)
        x = linear_solve(
            pattern.matrix(Ap.ravel()) if form == "sparse" else Ap,
            jnp.ones(7),
            None if form == "dense" else SparseDirect("superlu"),
        ).value
        return jnp.sum(jnp.sin(x))

    def dense(p: jax.Array) -> jax.Array:
        return jnp.sum(jnp.sin(jnp.linalg.solve(A + jnp.tensordot(p, basis, 1), jnp.ones(7))))

    p, v = jnp.linspace(0.1, 0.3, 5), jnp.arange(5.0) - 2
    product = jax.jit(lambda p, v: hvp(ours, p, v))(p, v)
    assert_close(product, jax.hessian(dense)(p) @ v, 1e-9)
    w = jnp.ones(5)
    assert float(w @ product) == pytest.approx(float(v @ hvp(ours, p, w)), rel=1e-12)


def test_a_direction_unlike_p_is_refused() -> None:
    with pytest.raises((TypeError, ValueError)):
        hvp(lambda p: jnp.sum(p**2), jnp.ones(3), jnp.ones(2))
