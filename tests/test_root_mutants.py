"""Every mutant of the rule of `root` is killed; as `test_mutants.py`, whose means it uses."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from mutants import Mutant, library
from test_mutants import B, N, assert_same, derivatives

A = np.random.default_rng(11).normal(size=(N, N)) + 6 * np.eye(N)

_FILE = "implicit/root.py"
MUTANTS = (
    # F_x' lam = x_bar, p_bar = -(adjoint of p -> F(x, p))(lam); x_dot = -F_x^-1 F_p p_dot.
    Mutant("root: sign of p_bar", _FILE, "adjoint_of_F(-lam)", "adjoint_of_F(lam)", "root_derivatives"),
    Mutant(
        "root: F_x lam = x_bar",
        _FILE,
        "tangent_solve(TransposedSolver(linear_solver), factor, F_x,",
        "tangent_solve(linear_solver, factor, F_x.A,",
        "root_derivatives",
    ),
    Mutant(
        "root: sign of x_dot",
        _FILE,
        "return x, -solve_for_tangent(",
        "return x, solve_for_tangent(",
        "root_derivatives",
    ),
    Mutant(
        "root: p_dot dropped",
        _FILE,
        "(F_dot, p_dot))",
        "(F_dot, jax.tree.map(jnp.zeros_like, p_dot)))",
        "root_derivatives",
    ),
    Mutant("root: not poisoned", _FILE, "poison(x, status.ok)", "x", "failed_root"),
)


def residual(x: Any, p: Any) -> Any:
    """F(x, (A, b)) = A x + x^3 - b."""
    return p[0] @ x + x**3 - p[1]


def unrolled_newton(A: Any, b: Any) -> Any:
    """The root by Newton's method, unrolled far beyond convergence, so that its derivatives are the root's."""
    x = jnp.zeros_like(b)
    for _ in range(9):
        x = x - jnp.linalg.solve(A + jnp.diag(3 * x**2), residual(x, (A, b)))
    return x


def root_derivatives(lib: Any) -> None:
    solve = lambda A, b: lib.root.root(residual, jnp.zeros(N), (A, b)).value  # noqa: E731
    with jax.disable_jit():
        assert_same(derivatives(solve, A, B, 2), derivatives(unrolled_newton, A, B, 2))


def failed_root(lib: Any) -> None:
    """x^2 = p has no real root at p = -1; without poison the derivative 1 / (2 x) is that of no root, and finite."""
    x = lambda p: lib.root.root(lambda x, p: x**2 - p, jnp.ones(1), p).value[0]  # noqa: E731
    with jax.disable_jit():
        value, gradient = jax.value_and_grad(x)(-jnp.ones(1))
    assert np.isnan(value)
    assert np.all(np.isnan(gradient))


CHECKS: tuple[Callable[[Any], None], ...] = (root_derivatives, failed_root)


@pytest.mark.parametrize("check", CHECKS)
def test_the_healthy_library_passes(check: Callable[[Any], None]) -> None:
    with library(None) as healthy:
        check(healthy)


@pytest.mark.parametrize("mutant", MUTANTS, ids=str)
def test_the_mutant_is_killed(mutant: Mutant) -> None:
    (check,) = (c for c in CHECKS if c.__name__ == mutant.killed_by)
    with library(mutant) as mutated, pytest.raises(AssertionError):
        check(mutated)
