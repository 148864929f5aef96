"""Seeded linear systems in every form of `linear_solve`, and the derivatives to get right.

The general matrices are nonsymmetric and far from normal: on a symmetric one A, A', conj(A) and A^H
cannot be told apart. The reference is always the same loss with dense `jnp.linalg.solve` in place
of `linear_solve`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import scipy.sparse
from jax.experimental.sparse import BCOO

import adjoint

SIZES = (1, 2, 7, 50)
FORMS = ("dense", "sparse", "bcoo", "free")


def _noise(rng: np.random.Generator, shape: tuple[int, ...], dtype: Any) -> np.ndarray:
    real = rng.normal(size=shape)
    return real + 1j * rng.normal(size=shape) if np.issubdtype(dtype, np.complexfloating) else real


def matrix(
    kind: str, n: int, dtype: Any = np.float64, *, banded: bool = False, seed: int = 0
) -> np.ndarray:
    """A well-conditioned matrix: "general" (non-normal), Hermitian "definite" or "indefinite"."""
    rng = np.random.default_rng([seed, n])
    i, j = np.indices((n, n))
    entries = _noise(rng, (n, n), dtype) * np.where(i == j, 0, 1)
    if kind == "general":
        mask = ((j - i >= -1) & (j - i <= 2)) | ((i == n - 1) & (j == 0))
        entries = entries * np.where(j > i, 3.0, 0.5)
    else:
        mask = np.abs(i - j) <= 2
        entries = (entries + entries.conj().T) / 2
    entries = entries * mask if banded else entries
    sign = np.where(np.arange(n) % 2, -1.0, 1.0) if kind != "definite" else np.ones(n)
    phase = (
        np.exp(1j * rng.uniform(-1, 1, n))
        if kind == "general" and np.iscomplexobj(entries)
        else np.ones(n)
    )
    dominance = 0.6 if kind == "general" else 1.0
    return (
        entries + np.diag(sign * phase * (dominance * np.abs(entries).sum(axis=1) + 1.7))
    ).astype(dtype)


@dataclass(frozen=True)
class System:
    """A(theta) x = b in one form: theta is all in A that derivatives are taken by.

    `step` is a change of (theta, b) that keeps A of its kind.
    """

    n: int
    theta: Any
    b: jax.Array
    operator: Callable[[Any], Any]
    dense: Callable[[Any], jax.Array]
    weight: jax.Array
    step: Any

    @property
    def arguments(self) -> tuple[Any, jax.Array]:
        return self.theta, self.b

    @property
    def matrix(self) -> np.ndarray:
        return np.asarray(self.dense(self.theta))

    def loss(self, x: jax.Array) -> jax.Array:
        """Real, nonlinear and, for complex x, not holomorphic."""
        return jnp.sum((self.weight * jnp.sin(x)).real + 0.1 * (x * x.conj()).real)

    def objective(self, solver: Any = None) -> Callable[[Any], jax.Array]:
        """(theta, b) -> loss, through `linear_solve`."""
        return lambda arguments: self.loss(
            adjoint.linear_solve(self.operator(arguments[0]), arguments[1], solver).value
        )

    def reference(self, arguments: Any) -> jax.Array:
        """(theta, b) -> loss, through dense `jnp.linalg.solve`."""
        return self.loss(jnp.linalg.solve(self.dense(arguments[0]), arguments[1]))

    @property
    def direction(self) -> Any:
        """A seeded tangent of all the arguments' entries.

        It does not keep a symmetric A symmetric, which no tangent must.
        """
        rng = np.random.default_rng(99)
        return jax.tree.map(
            lambda v: jnp.asarray(0.1 * _noise(rng, v.shape, v.dtype), v.dtype), self.arguments
        )


@cache
def system(
    kind: str, n: int, form: str, dtype: Any = np.float64, columns: int | None = None
) -> System:
    """The system of this kind, size, form, precision and number of columns b (None: a vector)."""
    A = matrix(kind, n, dtype, banded=form in ("sparse", "bcoo"))
    rng = np.random.default_rng([7, n])
    shape = (n,) if columns is None else (n, columns)
    b, weight = (jnp.asarray(_noise(rng, shape, dtype), dtype) for _ in range(2))
    theta, operator, dense = _FORMS[form](A)
    another = 0.1 * matrix(kind, n, dtype, banded=form in ("sparse", "bcoo"), seed=1)
    step = (
        _FORMS[form](another.astype(dtype))[0],
        jnp.asarray(0.1 * _noise(rng, shape, dtype), dtype),
    )
    return System(n, theta, b, operator, dense, weight, step)


def _dense_form(A: np.ndarray) -> tuple[Any, Any, Any]:
    return jnp.asarray(A), lambda theta: theta, lambda theta: theta


def _entries_with_duplicates(A: np.ndarray) -> tuple[np.ndarray, np.ndarray, jax.Array]:
    """Shuffled indices and values of A in which each diagonal entry is the sum of two."""
    n = A.shape[0]
    rows, cols = np.nonzero(A)
    values = np.where(rows == cols, 0.25 * A[rows, cols], A[rows, cols])
    rows, cols = np.concatenate([rows, np.arange(n)]), np.concatenate([cols, np.arange(n)])
    values = np.concatenate([values, 0.75 * np.diag(A)])
    order = np.random.default_rng(n).permutation(rows.size)
    return rows[order], cols[order], jnp.asarray(values[order])


def _sparse_form(A: np.ndarray) -> tuple[Any, Any, Any]:
    rows, cols, values = _entries_with_duplicates(A)
    pattern = adjoint.SparsePattern(rows, cols, A.shape)
    return (
        values,
        pattern.matrix,
        lambda theta: jnp.zeros(A.shape, theta.dtype).at[rows, cols].add(theta),
    )


def _bcoo_form(A: np.ndarray) -> tuple[Any, Any, Any]:
    rows, cols, values = _entries_with_duplicates(A)
    indices = jnp.asarray(np.stack([rows, cols], axis=1))

    def operator(theta: jax.Array) -> BCOO:
        return BCOO((theta, indices), shape=A.shape)

    return values, operator, lambda theta: jnp.zeros(A.shape, theta.dtype).at[rows, cols].add(theta)


def _free_form(A: np.ndarray) -> tuple[Any, Any, Any]:
    n = A.shape[0]
    theta = {
        "matrix": jnp.asarray(A - 0.5 * np.eye(n)).astype(A.dtype),
        "shift": jnp.asarray(0.5, A.dtype),
    }

    def operator(theta: Any) -> adjoint.MatrixFree:
        return adjoint.MatrixFree(lambda x: theta["matrix"] @ x + theta["shift"] * x, n)

    return (
        theta,
        operator,
        lambda theta: theta["matrix"] + theta["shift"] * jnp.eye(n, dtype=A.dtype),
    )


_FORMS: dict[str, Callable[[np.ndarray], tuple[Any, Any, Any]]] = {
    "dense": _dense_form,
    "sparse": _sparse_form,
    "bcoo": _bcoo_form,
    "free": _free_form,
}


# Each mode: f, arguments, direction, step -> derivative.
def along(f: Any, at: Any, step: Any) -> Callable[[Any], Any]:
    """f on the plane spanned by `step` and `at` itself: two real parameters for all arguments."""
    return lambda p: f(
        jax.tree.map(lambda a, d: a + p[0].astype(a.dtype) * d + p[1].astype(a.dtype) * a, at, step)
    )


def _parameters(at: Any) -> jax.Array:
    return jnp.array([0.3, -0.2], jax.tree.leaves(at)[0].real.dtype)


def _inner(u: Any, v: Any) -> jax.Array:
    return sum(
        (jnp.sum(x * y).real for x, y in zip(jax.tree.leaves(u), jax.tree.leaves(v), strict=True)),
        jnp.zeros(()),
    )


def _repeated(f: Any) -> Callable[[Any], jax.Array]:
    """The sum of f along a scan in which b drifts."""

    def total(arguments: Any) -> jax.Array:
        def step(b: Any, _: Any) -> Any:
            value = f((arguments[0], b))
            return b * (1 + 0.1 * value).astype(b.dtype), value

        return jnp.sum(jax.lax.scan(step, arguments[1], None, length=3)[1])

    return total


def _stacked(at: Any, step: Any) -> Any:
    return jax.tree.map(lambda a, d: jnp.stack([a, a + d, a - d]), at, step)


MODES: dict[str, Callable[[Any, Any, Any, Any], Any]] = {
    "value and grad": lambda f, at, v, s: jax.value_and_grad(f)(at),
    "hessian": lambda f, at, v, s: jax.hessian(along(f, at, s))(_parameters(at)),
    "jvp of grad": lambda f, at, v, s: jax.jvp(jax.grad(f), (at,), (v,))[1],
    "reverse over reverse": lambda f, at, v, s: jax.grad(lambda a: _inner(jax.grad(f)(a), v))(at),
    "vmap of grad": lambda f, at, v, s: jax.vmap(jax.grad(f))(_stacked(at, s)),
    "grad of vmap over b": lambda f, at, v, s: jax.grad(
        lambda a: jnp.sum(jax.vmap(lambda b: f((a[0], b)))(_stacked(a[1], s[1])))
    )(at),
    "grad of scan": lambda f, at, v, s: jax.grad(_repeated(f))(at),
    "jvp of grad of scan": lambda f, at, v, s: jax.jvp(jax.grad(_repeated(f)), (at,), (v,))[1],
    "reverse over reverse of scan": lambda f, at, v, s: jax.grad(
        lambda a: _inner(jax.grad(_repeated(f))(a), v)
    )(at),
    "grad of checkpoint": lambda f, at, v, s: jax.grad(jax.checkpoint(f))(at),
    "jvp": lambda f, at, v, s: jax.jvp(f, (at,), (v,))[1],
    "jacfwd": lambda f, at, v, s: jax.jacfwd(along(f, at, s))(_parameters(at)),
    "reverse over forward": lambda f, at, v, s: jax.grad(lambda a: jax.jvp(f, (a,), (v,))[1])(at),
}


def run_mode(f: Any, name: str, system: System) -> Any:
    """The compiled derivative of f at the system's arguments."""
    mode = MODES[name]
    return jax.jit(lambda at, v, s: mode(f, at, v, s))(
        system.arguments, system.direction, system.step
    )


_references: dict[Any, Any] = {}


def reference_of(name: str, system: System) -> Any:
    """The same derivative of the dense reference, compiled once per system."""
    key = (name, id(system))
    if key not in _references:
        _references[key] = run_mode(system.reference, name, system)
    return _references[key]


def assert_close(actual: Any, expected: Any, rtol: float) -> None:
    """Each leaf to `rtol` of its own largest entry."""
    assert jax.tree.structure(actual) == jax.tree.structure(expected)
    for a, e in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        a, e = np.asarray(a), np.asarray(e)
        assert a.shape == e.shape
        assert a.dtype == e.dtype
        error = np.max(np.abs(a - e)) / np.max(np.abs(e))
        assert error <= rtol, f"relative error {error:.2e}"


def all_nan(tree: Any) -> bool:
    """Whether every entry of every leaf is NaN."""
    return all(bool(np.all(np.isnan(np.asarray(leaf)))) for leaf in jax.tree.leaves(tree))


def pattern_of(A: Any) -> tuple[adjoint.SparsePattern, np.ndarray]:
    """The pattern and the values of a SciPy matrix."""
    A = scipy.sparse.csr_matrix(A)
    A.sort_indices()
    rows = np.repeat(np.arange(A.shape[0]), np.diff(A.indptr))
    return adjoint.SparsePattern(rows, A.indices, A.shape), np.asarray(A.data)


def grid_laplacian(n: int) -> Any:
    """Five-point differences on n x n points."""
    L = scipy.sparse.diags_array(
        [np.full(n, 2.0), -np.ones(n - 1), -np.ones(n - 1)], offsets=[0, 1, -1]
    )
    return scipy.sparse.kron(L, scipy.sparse.eye_array(n)) + scipy.sparse.kron(
        scipy.sparse.eye_array(n), L
    )
