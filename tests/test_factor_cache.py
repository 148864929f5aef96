"""The cache of factors: found by content, bounded, thread-safe, never a wrong number's reason."""

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import matrix

import adjoint
from adjoint import SparseDirect, SparsePattern, count_solves, factor_cache, linear_solve
from adjoint.linear.factor_cache import FactorCache

SUPERLU = SparseDirect("superlu")
N = 30
A = matrix("general", N, banded=True)
ROWS, COLS = np.nonzero(A)
PATTERN = SparsePattern(ROWS, COLS, (N, N))
VALUES = jnp.asarray(A[ROWS, COLS])


@pytest.fixture(autouse=True)
def _restored() -> Any:
    factor_cache.clear()
    yield
    factor_cache.set_limit(2**29)
    factor_cache.clear()


class Thing(NamedTuple):
    nbytes: int


def test_found_by_content_and_key() -> None:
    cache, made = FactorCache(), []

    def make() -> Thing:
        made.append(1)
        return Thing(8)

    x = np.arange(100.0)
    first = cache.find_or_make("a", x, make)
    assert cache.find_or_make("a", x.copy(), make) is first
    assert len(made) == 1
    for k in range(100):  # A change of any single entry is another matrix.
        other = x.copy()
        other[k] += 1e-13 * max(1.0, x[k])
        cache.find_or_make("a", other, make)
    cache.find_or_make("b", x, make)
    cache.find_or_make("a", x.astype(complex), make)
    assert len(made) == 103


def test_what_is_kept_is_a_copy() -> None:
    cache = FactorCache()
    x = np.arange(4.0)
    first = cache.find_or_make("a", x, lambda: Thing(1))
    x[0] = 7.0
    assert cache.find_or_make("a", np.arange(4.0), lambda: Thing(2)) is first


def test_least_recently_used_goes_first() -> None:
    cache = FactorCache(limit_bytes=3 * (8 + 1000))
    made = []

    def get(k: int) -> Thing:
        return cache.find_or_make("a", np.array([float(k)]), lambda: made.append(k) or Thing(1000))

    for k in (0, 1, 2, 0, 3):
        get(k)
    assert cache.bytes_held == 3 * 1008
    made.clear()
    for k in (0, 2, 3):
        get(k)
    assert made == []
    get(1)
    assert made == [1]


def test_at_most_32_are_kept() -> None:
    cache = FactorCache()
    for k in range(100):
        cache.find_or_make("a", np.array([float(k)]), lambda: Thing(0))
    assert cache.bytes_held == 32 * 8


@pytest.mark.slow
def test_the_latest_is_kept_even_beyond_the_limit() -> None:
    factor_cache.set_limit(0)
    gradient = jax.jit(
        jax.grad(lambda v, b: jnp.sum(linear_solve(PATTERN.matrix(v), b, SUPERLU).value ** 2))
    )
    with count_solves() as count:
        gradient(VALUES, jnp.ones(N)).block_until_ready()
    assert (count.factorizations, count.solves, count.transpose_solves) == (1, 1, 1)
    assert factor_cache.bytes_held > 0
    gradient(2 * VALUES, jnp.ones(N)).block_until_ready()
    held = factor_cache.bytes_held
    gradient(3 * VALUES, jnp.ones(N)).block_until_ready()
    assert factor_cache.bytes_held == held


def test_set_limit_evicts_at_once_and_clear_forgets() -> None:
    for k in range(1, 6):
        linear_solve(PATTERN.matrix(k * VALUES), jnp.ones(N), SUPERLU).value.block_until_ready()
    full = factor_cache.bytes_held
    factor_cache.set_limit(full // 2)
    assert 0 < factor_cache.bytes_held <= full // 2
    factor_cache.clear()
    assert factor_cache.bytes_held == 0
    with count_solves() as count:
        linear_solve(PATTERN.matrix(VALUES), jnp.ones(N), SUPERLU).value.block_until_ready()
    assert count.factorizations == 1


def test_negative_limit_is_refused() -> None:
    with pytest.raises(ValueError, match="-1 bytes, expected zero or more"):
        factor_cache.set_limit(-1)


def test_bytes_held_are_no_less_than_the_factors() -> None:
    """The factors of a dense-banded matrix hold at least its own entries, in value and index."""
    linear_solve(PATTERN.matrix(VALUES), jnp.ones(N), SUPERLU).value.block_until_ready()
    assert factor_cache.bytes_held >= 2 * VALUES.size * 8


def test_forty_live_pullbacks_with_room_for_few_factors() -> None:
    linear_solve(PATTERN.matrix(VALUES), jnp.ones(N), SUPERLU).value.block_until_ready()
    factor_cache.set_limit(3 * factor_cache.bytes_held)
    pullbacks = []
    for k in range(40):
        f = lambda v, b: linear_solve(PATTERN.matrix(v), b, SUPERLU).value
        pullbacks.append(jax.vjp(f, (1 + k) * VALUES, jnp.ones(N))[1])
    c = np.random.default_rng(0).normal(size=N)
    for k in np.random.default_rng(1).permutation(40):
        values_bar, b_bar = pullbacks[k](jnp.asarray(c))
        lam, x = np.linalg.solve((1 + k) * A.T, c), np.linalg.solve((1 + k) * A, np.ones(N))
        np.testing.assert_allclose(b_bar, lam, rtol=1e-11)
        np.testing.assert_allclose(values_bar, -lam[ROWS] * x[COLS], rtol=1e-9, atol=1e-14)


@pytest.mark.parametrize("backend", ["superlu", "auto"])
@pytest.mark.slow
def test_eight_threads_of_a_hundred_gradients_equal_the_serial_ones(backend: Any) -> None:
    factor_cache.set_limit(200_000)
    f = lambda v, b: jnp.sum(
        jnp.sin(linear_solve(PATTERN.matrix(v), b, SparseDirect(backend)).value)
    )
    gradient = jax.jit(jax.grad(f, (0, 1)))
    gradient(VALUES, jnp.ones(N))

    def work(thread: int) -> list[Any]:
        return [
            jax.device_get(gradient((1 + (thread + k) % 11) * VALUES, jnp.full(N, 1.0 + k)))
            for k in range(100)
        ]

    serial = [work(thread) for thread in range(8)]
    factor_cache.clear()
    barrier = threading.Barrier(8)
    with ThreadPoolExecutor(8) as pool:
        parallel = list(pool.map(lambda thread: barrier.wait() >= 0 and work(thread), range(8)))
    for ours, theirs in zip(jax.tree.leaves(parallel), jax.tree.leaves(serial), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-12, atol=1e-15)


def _resident_megabytes() -> float:
    with open("/proc/self/statm") as statm:
        return int(statm.read().split()[1]) * 4096 / 1e6


def _grows_by(work: Any, calls: int) -> float:
    for k in range(200):
        work(k)
    before = _resident_megabytes()
    for k in range(calls):
        work(k)
    return _resident_megabytes() - before


@pytest.mark.parametrize("backend", ["superlu", "auto"])
@pytest.mark.slow
def test_a_thousand_gradients_do_not_leak(backend: Any) -> None:
    factor_cache.set_limit(200_000)
    f = lambda v: jnp.sum(
        linear_solve(PATTERN.matrix(v), jnp.ones(N), SparseDirect(backend)).value ** 2
    )
    gradient = jax.jit(jax.grad(f))
    assert _grows_by(lambda k: gradient((1.0 + k) * VALUES).block_until_ready(), 1000) < 5


def test_a_thousand_singular_matrices_do_not_leak() -> None:
    solve = jax.jit(lambda v: linear_solve(PATTERN.matrix(v), jnp.ones(N), SUPERLU).value)
    singular = VALUES * (PATTERN.rows != 3)
    assert _grows_by(lambda k: solve((1.0 + k) * singular).block_until_ready(), 1000) < 5
    assert (
        adjoint.linear_solve(PATTERN.matrix(singular), jnp.ones(N)).status
        == adjoint.Status.SINGULAR
    )
