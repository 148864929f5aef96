"""Inner products against dense matrices, and the Riesz map against its definition."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import adjoint

rng = np.random.default_rng(0)


def difference_matrix(n: int, boundary: str) -> np.ndarray:
    """K: second differences with free or fixed ends."""
    if boundary == "fixed":
        return 2 * np.eye(n) - np.eye(n, k=1) - np.eye(n, k=-1)
    D = np.diff(np.eye(n), axis=0)
    return D.T @ D


def dense_sobolev(
    shape: tuple[int, ...], length: float, spacing: float, boundary: str
) -> np.ndarray:
    """M = h^d (1 + length^2 sum of second differences / h^2), with Kronecker products."""
    total = np.eye(int(np.prod(shape)))
    for axis in range(len(shape)):
        factors = [
            difference_matrix(n, boundary) if k == axis else np.eye(n) for k, n in enumerate(shape)
        ]
        K = factors[0]
        for factor in factors[1:]:
            K = np.kron(K, factor)
        total = total + (length / spacing) ** 2 * K
    return spacing ** len(shape) * total


W = (lambda B: B @ B.T + 3 * np.eye(7))(rng.normal(size=(7, 7)))
CASES = [
    *(
        (adjoint.Sobolev(0.7, 0.3, boundary), shape, dense_sobolev(shape, 0.7, 0.3, boundary))
        for boundary in ("free", "fixed")
        for shape in ((1,), (2,), (7,), (3, 5), (2, 3, 4))
    ),
    (adjoint.Weighted(jnp.arange(1.0, 8.0)), (7,), np.diag(np.arange(1.0, 8.0))),
    (adjoint.Weighted(jnp.asarray(W)), (7,), W),
    (adjoint.Weighted(4.0), (2, 3), 4 * np.eye(6)),
    (adjoint.Euclidean(), (50,), np.eye(50)),
]


@pytest.mark.parametrize(("metric", "shape", "M"), CASES)
def test_each_is_its_matrix(
    metric: adjoint.Euclidean, shape: tuple[int, ...], M: np.ndarray
) -> None:
    u, v = (jnp.asarray(rng.normal(size=shape)) for _ in range(2))
    flat_u, flat_v = np.ravel(u), np.ravel(v)
    np.testing.assert_allclose(np.ravel(metric.derivative(u)), M @ flat_u, rtol=1e-11, atol=1e-12)
    np.testing.assert_allclose(
        np.ravel(metric.gradient(u)), np.linalg.solve(M, flat_u), rtol=1e-10, atol=1e-11
    )
    np.testing.assert_allclose(metric.inner(u, v), flat_u @ M @ flat_v, rtol=1e-11)
    np.testing.assert_allclose(metric.norm(u), np.sqrt(flat_u @ M @ flat_u), rtol=1e-11)
    np.testing.assert_allclose(
        metric.dual_norm(u), np.sqrt(flat_u @ np.linalg.solve(M, flat_u)), rtol=1e-10
    )


def test_a_tree_is_taken_leaf_by_leaf() -> None:
    weights = {"a": jnp.array([1.0, 4.0]), "b": jnp.asarray(9.0)}
    x = {"a": jnp.array([2.0, 2.0]), "b": jnp.asarray(3.0)}
    found = adjoint.Weighted(weights).gradient(x)
    assert found["a"].tolist() == [2.0, 0.5]
    assert float(found["b"]) == pytest.approx(1 / 3, rel=1e-15)


def test_inside_jit_and_vmap() -> None:
    metric = adjoint.Sobolev(1.0, 0.5)
    fields = jnp.asarray(rng.normal(size=(3, 6)))
    together = jax.jit(jax.vmap(metric.gradient))(fields)
    for field, gradient in zip(fields, together, strict=True):
        np.testing.assert_allclose(gradient, metric.gradient(field), rtol=1e-12, atol=1e-14)


def test_what_is_no_inner_product_is_refused() -> None:
    with pytest.raises(ValueError, match="not positive"):
        adjoint.Weighted(jnp.array([1.0, 0.0]))
    with pytest.raises(ValueError, match="'free' or 'fixed'"):
        adjoint.Sobolev(1.0, boundary="open")  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match="structure"):
        adjoint.Weighted({"a": jnp.ones(2)}).gradient(jnp.ones(2))
