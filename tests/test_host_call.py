"""Calls to the host: they batch, they never hang, and what is counted is what was done."""

import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import matrix, system

import adjoint
from adjoint import LU, Cholesky, SparseDirect, count_solves, factor_cache, linear_solve
from adjoint.tracing.host_call import make_host_call

ROOT = Path(__file__).parent.parent
SOLVES = [
    ("dense LU", LU(), "general", "dense"),
    ("dense Cholesky", Cholesky(), "definite", "dense"),
    ("SuperLU", SparseDirect("superlu"), "general", "sparse"),
    ("SuperLU, definite", SparseDirect("superlu"), "definite", "sparse"),
]
P = 4


def numbers(count: Any) -> tuple[int, int, int]:
    return count.factorizations, count.solves, count.transpose_solves


def objective(solver: Any, kind: str, form: str) -> Any:
    """A scalar function of P parameters in A and b."""
    case = system(kind, 7, form)
    weights = jnp.asarray(np.random.default_rng(2).normal(size=P) * 0.1)

    def g(p: jax.Array) -> jax.Array:
        theta = jax.tree.map(
            lambda v, s: v * (1 + weights @ p) + s * p[0], case.theta, case.step[0]
        )
        return case.loss(
            linear_solve(case.operator(theta), case.b * (1 + p[1] + p[2] * p[3]), solver).value
        )

    return g


@pytest.mark.parametrize(
    ("solver", "kind", "form"), [c[1:] for c in SOLVES], ids=[c[0] for c in SOLVES]
)
@pytest.mark.slow
def test_the_price_of_derivatives(solver: Any, kind: str, form: str) -> None:
    g, p = objective(solver, kind, form), jnp.linspace(0.1, 0.4, P)
    for derivative, expected in (
        (jax.jit(jax.value_and_grad(g)), (1, 1, 1)),
        (jax.jit(lambda p: adjoint.hvp(g, p, p)), (1, 2, 2)),
        (jax.jit(jax.hessian(g)), (1, P + 1, P + 1)),
    ):
        factor_cache.clear()
        with count_solves() as count:
            jax.block_until_ready(derivative(p))
        assert numbers(count) == expected


@pytest.mark.parametrize(
    ("solver", "kind", "form"), [c[1:] for c in SOLVES], ids=[c[0] for c in SOLVES]
)
def test_the_price_of_an_eager_gradient(solver: Any, kind: str, form: str) -> None:
    case = system(kind, 7, form)
    f = lambda theta, b: jnp.sum(linear_solve(case.operator(theta), b, solver).value)
    factor_cache.clear()
    with count_solves() as count:
        jax.block_until_ready(jax.value_and_grad(f, (0, 1))(case.theta, case.b))
    assert numbers(count) == (1, 1, 1)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("solver", "kind", "form"), [c[1:] for c in SOLVES], ids=[c[0] for c in SOLVES]
)
def test_the_price_of_an_eager_hessian(solver: Any, kind: str, form: str) -> None:
    g, p = objective(solver, kind, form), jnp.linspace(0.1, 0.4, P)
    factor_cache.clear()
    with count_solves() as count:
        jax.block_until_ready(jax.hessian(g)(p))
    assert numbers(count) == (1, P + 1, P + 1)


@pytest.mark.parametrize(
    ("solver", "kind", "form"), [c[1:] for c in SOLVES[::2]], ids=[c[0] for c in SOLVES[::2]]
)
def test_64_right_hand_sides_under_vmap_take_one_factorization(
    solver: Any, kind: str, form: str
) -> None:
    case = system(kind, 7, form)
    b = jnp.asarray(np.random.default_rng(0).normal(size=(64, 7)))
    factor_cache.clear()
    with count_solves() as count:
        solve = jax.jit(
            lambda theta, b: jax.vmap(
                lambda b: linear_solve(case.operator(theta), b, solver).value
            )(b)
        )
        x = solve(case.theta, b)
    assert numbers(count) == (1, 64, 0)
    np.testing.assert_allclose(x, np.linalg.solve(case.matrix, b.T).T, rtol=1e-11)
    factor_cache.clear()
    with count_solves() as count:
        loss = lambda theta, b: case.loss(linear_solve(case.operator(theta), b, solver).value)
        jax.block_until_ready(
            jax.jit(jax.vmap(jax.grad(loss, (0, 1)), in_axes=(None, 0)))(case.theta, b)
        )
    assert numbers(count) == (1, 64, 64)


def test_many_columns_count_one_by_one() -> None:
    A, b = jnp.asarray(matrix("general", 7)), jnp.ones((7, 5))
    with count_solves() as count:
        linear_solve(A, b).value.block_until_ready()
    assert numbers(count) == (1, 5, 0)


def test_functions_compiled_before_the_block_are_counted_and_left_uncounted_after_it() -> None:
    A, b = jnp.asarray(matrix("general", 7)), jnp.ones(7)
    gradient = jax.jit(jax.grad(lambda b: jnp.sum(linear_solve(A, b).value ** 2)))
    before = gradient(b)
    with count_solves() as count:
        inside = gradient(b)
    assert numbers(count) == (1, 1, 1)
    after = gradient(b)
    assert numbers(count) == (1, 1, 1)
    for other in (inside, after):
        np.testing.assert_array_equal(before, other)


def test_nested_counts() -> None:
    A, b = jnp.asarray(matrix("general", 7)), jnp.ones(7)
    with count_solves() as outer:
        linear_solve(A, b).value.block_until_ready()
        with count_solves() as inner:
            linear_solve(A, b).value.block_until_ready()
        linear_solve(A, b).value.block_until_ready()
    assert (inner.factorizations, outer.factorizations) == (1, 3)


def test_other_threads_are_counted() -> None:
    case = system("general", 7, "sparse")
    factor_cache.clear()

    def work() -> None:
        linear_solve(
            case.operator(case.theta), case.b, SparseDirect("superlu")
        ).value.block_until_ready()

    with count_solves() as count:
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
    assert numbers(count) == (1, 1, 0)


def test_an_exception_ends_the_count() -> None:
    with pytest.raises(KeyError), count_solves() as count:
        raise KeyError
    linear_solve(jnp.eye(2), jnp.ones(2)).value.block_until_ready()
    assert numbers(count) == (0, 0, 0)


@pytest.mark.slow
def test_solves_whose_results_are_dropped_belong_to_the_count() -> None:
    """Work in flight has no live array to wait for once its result is dropped."""
    n = 900
    rows, cols = (v.ravel() for v in np.indices((n, n)))
    pattern = adjoint.SparsePattern(rows, cols, (n, n))
    values = jnp.asarray(matrix("general", n).ravel())
    solve = jax.jit(
        lambda scale: (
            linear_solve(pattern.matrix(scale * values), jnp.ones(n), SparseDirect("superlu")).value
        )
    )
    with count_solves() as count:
        for k in range(3):
            solve(1.0 + k)
    assert count.solves == 3


def test_a_host_call_is_batched_with_leading_axes() -> None:
    shapes = []

    def add(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, ...]:
        shapes.append((x.shape, y.shape))
        return (x + y,)

    call = make_host_call(add)
    run = lambda x, y: call((jax.ShapeDtypeStruct((3,), x.dtype),), x, y)[0]
    x, y = jnp.ones(3), jnp.arange(12.0).reshape(4, 3)
    np.testing.assert_array_equal(jax.vmap(run, in_axes=(None, 0))(x, y), 1 + y)
    assert shapes[-1] == ((1, 3), (4, 3))
    np.testing.assert_array_equal(
        jax.jit(jax.vmap(jax.vmap(run, (None, 0)), (0, None)))(y, y)[2],
        np.asarray(y)[2] + np.asarray(y),
    )


def test_the_way_through_pure_callback_gives_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """Off the CPU pure_callback is used; here by hand, for a pattern without compiled calls."""
    monkeypatch.setattr(
        jax.lax, "platform_dependent", lambda *arrays, default, **_: default(*arrays)
    )
    dense = matrix("general", 7, banded=True)
    rows, cols = np.nonzero(dense)
    pattern = adjoint.SparsePattern(rows, cols, (7, 7))
    values, b = (
        jnp.asarray(dense[rows, cols]),
        jnp.asarray(np.random.default_rng(0).normal(size=(3, 7))),
    )
    for dtype, tolerance in ((np.float64, 1e-12), (np.float32, 1e-5)):
        solve = lambda v, b: linear_solve(pattern.matrix(v), b, SparseDirect("superlu"))
        solution = jax.jit(jax.vmap(solve, (None, 0)))(values.astype(dtype), b.astype(dtype))
        np.testing.assert_allclose(solution.value, np.linalg.solve(dense, b.T).T, rtol=tolerance)
        assert solution.value.dtype == dtype
        loss = lambda v, b: jnp.sum(
            linear_solve(pattern.matrix(v), b, SparseDirect("superlu")).value
        )
        gradient = jax.grad(loss, 1)(values.astype(dtype), b[0].astype(dtype))
        np.testing.assert_allclose(gradient, np.linalg.solve(dense.T, np.ones(7)), rtol=tolerance)


ONE_CORE = """
import os
os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
import jax, jax.numpy as jnp, numpy as np, adjoint
jax.config.update("jax_enable_x64", True)
n = 60
rows, cols = (v.ravel() for v in np.indices((n, n)))
pattern = adjoint.SparsePattern(rows, cols, (n, n))
A = np.random.default_rng(0).normal(size=(n, n)) + 3 * n**0.5 * np.eye(n)
values = jnp.asarray(A.ravel())
superlu = adjoint.SparseDirect("superlu")
solve = lambda v, b: jnp.sum(adjoint.linear_solve(pattern.matrix(v), b, superlu).value ** 2)
total = lambda A: jnp.sum(adjoint.linear_solve(A, jnp.ones(n)).value)
gradient = jax.jit(jax.grad(solve, (0, 1)))
with adjoint.count_solves() as count:
    results = [gradient(values * (1 + k % 5), jnp.full(n, 1.0 + k)) for k in range(200)]
    dense = [jax.jit(jax.grad(total))(k * jnp.asarray(A)) for k in (1.0, 2.0)]
expected = jax.grad(lambda b: jnp.sum(jnp.linalg.solve(5.0 * A, b) ** 2))(jnp.full(n, 200.0))
assert np.allclose(results[-1][1], expected, rtol=1e-9), "wrong"
print("done", count.solves)
"""


@pytest.mark.skipif(
    not hasattr(os, "sched_setaffinity"), reason="needs Linux to pin a process to a core"
)
@pytest.mark.slow
def test_one_core_and_many_programs_in_flight_do_not_hang() -> None:
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", ONE_CORE],
        capture_output=True,
        text=True,
        timeout=60,
        env=environment,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["done", "202"]
