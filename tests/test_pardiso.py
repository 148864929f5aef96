"""PARDISO by the same protocol: symmetric and nonsymmetric, handles recycled and given back."""

import gc
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from cases import grid_laplacian, matrix, pattern_of

pytest.importorskip("pypardiso")

from adjoint.linear import pardiso
from adjoint.linear.pardiso import (
    STRUCTURALLY_SYMMETRIC,
    SYMMETRIC_POSITIVE_DEFINITE,
    PardisoFactors,
)


@pytest.fixture
def matrix_types(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The kinds of factorization tried, in order."""
    tried: list[int] = []
    original = PardisoFactors._try

    def spy(self: PardisoFactors, matrix_type: int) -> bool:
        tried.append(matrix_type)
        return original(self, matrix_type)

    monkeypatch.setattr(PardisoFactors, "_try", spy)
    return tried


@pytest.mark.parametrize("n", [1, 2, 7, 50])
@pytest.mark.parametrize(
    ("kind", "tried"),
    [("general", [11]), ("definite", [2]), ("indefinite", [1]), ("negative", [1])],
)
def test_solves_and_transposes(
    kind: str, tried: list[int], n: int, matrix_types: list[int]
) -> None:
    dense = (
        -matrix("definite", n, banded=True) if kind == "negative" else matrix(kind, n, banded=True)
    )
    pattern, values = pattern_of(dense)
    factors = PardisoFactors(pattern, values)
    b = np.random.default_rng(0).normal(size=n)
    np.testing.assert_allclose(factors.solve(b, False), np.linalg.solve(dense, b), rtol=1e-9)
    np.testing.assert_allclose(factors.solve(b, True), np.linalg.solve(dense.T, b), rtol=1e-9)
    assert factors.log_determinant() == pytest.approx(
        np.linalg.slogdet(dense)[1], rel=1e-12, abs=1e-12
    )
    assert n < 50 or factors.nbytes >= 8 * values.size
    if n > 2:  # the pattern of a general matrix of size 2 is full, hence symmetric
        assert matrix_types == tried


def test_symmetric_with_a_positive_diagonal_but_indefinite_falls_back(
    matrix_types: list[int],
) -> None:
    dense = np.eye(6) + 2.0 * (np.eye(6, k=1) + np.eye(6, k=-1))
    pattern, values = pattern_of(dense)
    factors = PardisoFactors(pattern, values)
    np.testing.assert_allclose(
        factors.solve(np.ones(6), False), np.linalg.solve(dense, np.ones(6)), rtol=1e-10
    )
    assert matrix_types == [2, 1]


def test_the_vector_given_is_left_alone_and_needs_no_order() -> None:
    pattern, values = pattern_of(matrix("general", 20, banded=True))
    factors = PardisoFactors(pattern, values)
    b = np.arange(40.0)[::2]
    before = b.copy()
    np.testing.assert_allclose(
        factors.solve(b, False), np.linalg.solve(matrix("general", 20, banded=True), b), rtol=1e-9
    )
    np.testing.assert_array_equal(b, before)


def test_live_factors_do_not_disturb_one_another() -> None:
    """Ten live factorizations of one pattern, half dropped on the way.

    Handles are recycled, results are not.
    """
    pattern, values = pattern_of(grid_laplacian(12))
    live = {k: PardisoFactors(pattern, (1.0 + k) * values) for k in range(10)}
    for k in range(0, 10, 2):
        del live[k]
    gc.collect()
    live |= {k: PardisoFactors(pattern, (1.0 + k) * values) for k in range(10, 14)}
    expected = np.linalg.solve(grid_laplacian(12).toarray(), np.ones(144))
    for k, factors in live.items():
        np.testing.assert_allclose(
            factors.solve(np.ones(144), False), expected / (1 + k), rtol=1e-11
        )


def _resident_megabytes() -> float:
    with open("/proc/self/statm") as statm:
        return int(statm.read().split()[1]) * 4096 / 1e6


@pytest.mark.slow
def test_new_matrices_on_one_pattern_do_not_leak() -> None:
    pattern, values = pattern_of(grid_laplacian(40))

    def work(k: int) -> None:
        PardisoFactors(pattern, (1.0 + k) * values).solve(np.ones(1600), False)

    for k in range(50):
        work(k)
    before = _resident_megabytes()
    for k in range(200):
        work(k)
    assert _resident_megabytes() - before < 5


def test_patterns_that_are_dropped_give_their_handles_back() -> None:
    A = grid_laplacian(60)

    def work() -> None:
        pattern, values = pattern_of(A)
        PardisoFactors(pattern, values).solve(np.ones(3600), False)
        pattern.analyses.clear()

    for _ in range(10):
        work()
    gc.collect()
    before = _resident_megabytes()
    for _ in range(20):
        work()
    gc.collect()
    assert _resident_megabytes() - before < 10


def test_the_one_idle_handle_goes_to_one_thread_only() -> None:
    pattern, values = pattern_of(grid_laplacian(8))
    PardisoFactors(pattern, values)
    gc.collect()
    idle = pattern.analyses[("pardiso handles", SYMMETRIC_POSITIVE_DEFINITE)]
    taken = [idle.take(), idle.take()]
    assert taken[0] is not None
    assert taken[1] is None
    idle.put(taken[0])
    with ThreadPoolExecutor(2) as executor:
        made = list(executor.map(lambda k: PardisoFactors(pattern, (1.0 + k) * values), range(8)))
    expected = np.linalg.solve(grid_laplacian(8).toarray(), np.ones(64))
    for k, factors in enumerate(made):
        np.testing.assert_allclose(
            factors.solve(np.ones(64), False), expected / (1 + k), rtol=1e-11
        )


def test_symmetry_is_judged_by_the_values() -> None:
    pattern, values = pattern_of(matrix("definite", 7, banded=True))
    assert pardiso._is_symmetric(pattern, values)
    assert pardiso._matrix_types(pattern, -values)[0] == STRUCTURALLY_SYMMETRIC
    other = values.copy()
    other[1] += 1e-14
    assert not pardiso._is_symmetric(pattern, other)
