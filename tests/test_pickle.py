"""What users hold travels to another process and is copied, also after it was used."""

import copy
import pickle
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

import adjoint
from adjoint import SparsePattern, Status

PATTERN = SparsePattern(np.array([0, 1, 1, 1]), np.array([0, 0, 1, 1]), (2, 2))
VALUES = jnp.array([2.0, 1.0, 3.0, 1.0])


def host_root(x0: Any, p: Any) -> Any:
    return p


def use_the_pattern() -> Any:
    return adjoint.linear_solve(PATTERN.matrix(VALUES), jnp.array([2.0, 5.0]))


def test_a_used_pattern_travels_and_solves() -> None:
    first = use_the_pattern()
    PATTERN.mirror, PATTERN.has_empty_line  # noqa: B018
    assert PATTERN.analyses
    arrived = pickle.loads(pickle.dumps(PATTERN))
    assert arrived is not PATTERN
    assert not arrived.analyses
    for name in ("rows", "cols", "indptr"):
        np.testing.assert_array_equal(getattr(arrived, name), getattr(PATTERN, name))
    there = adjoint.linear_solve(arrived.matrix(VALUES), jnp.array([2.0, 5.0]))
    np.testing.assert_array_equal(there.value, first.value)


def test_matrices_that_travel_together_still_share_their_pattern() -> None:
    A = PATTERN.matrix(VALUES)
    first, second = pickle.loads(pickle.dumps((A, A.astype(jnp.float32))))
    assert first.pattern is second.pattern
    np.testing.assert_array_equal(first.todense(), A.todense())


@pytest.mark.parametrize("way", [copy.copy, copy.deepcopy])
def test_a_copied_matrix_keeps_its_pattern(way: Any) -> None:
    A = PATTERN.matrix(VALUES)
    assert way(PATTERN) is PATTERN
    assert way(A).pattern is PATTERN
    np.testing.assert_array_equal(way(A).values, A.values)


def test_solvers_solutions_factors_and_statuses_travel() -> None:
    host = adjoint.HostSolver(host_root)
    solution = adjoint.root(lambda x, p: x - p, jnp.zeros(2), jnp.ones(2), host)
    for held in (
        host,
        adjoint.GMRES(1e-8),
        adjoint.SparseDirect(),
        adjoint.Newton(),
        adjoint.BFGS(),
        adjoint.LU(),
    ):
        for way in (lambda v: pickle.loads(pickle.dumps(v)), copy.copy, copy.deepcopy):
            assert type(way(held)) is type(held)
    arrived = pickle.loads(pickle.dumps(host))
    again = adjoint.root(lambda x, p: x - p, jnp.zeros(2), jnp.ones(2), arrived)
    np.testing.assert_array_equal(again.value, solution.value)
    there = pickle.loads(pickle.dumps(solution))
    assert there.status == Status.SUCCESS
    assert there.origin == solution.origin
    found = adjoint.minimize(lambda x: jnp.sum((x - 1) ** 2), jnp.zeros(2))
    there = pickle.loads(pickle.dumps(found))
    assert there.stats["method"] == found.stats["method"]
    np.testing.assert_array_equal(there.stats["history"]["value"], found.stats["history"]["value"])
    b = jnp.array([2.0, 5.0])
    for factors in (
        adjoint.factorize(jnp.array([[2.0, 0.0], [1.0, 4.0]])),
        adjoint.factorize(PATTERN.matrix(VALUES)),
    ):
        assert factors.solve(b).status.ok
        np.testing.assert_allclose(
            pickle.loads(pickle.dumps(factors)).solve(b).value, factors.solve(b).value
        )
    assert copy.deepcopy(Status.SINGULAR) == Status.SINGULAR
