"""Multigrid: levels are P' A P, M is symmetric as A or transposed, and steps do not grow.

Expected: dense products in NumPy, and direct solves.
"""

from itertools import product
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from adjoint import CG, GMRES, MatrixFree, Multigrid, Status, linear_solve
from adjoint.linear import grid_stencil, multigrid
from adjoint.linear.krylov import _transposed
from adjoint.linear.operators import Dense

# One, two and three axes, even and odd numbers of nodes, one and more unknowns at each node.
GRIDS: list[tuple[tuple[int, ...], int]] = [
    ((50,), 1),
    ((7,), 2),
    ((8, 7), 1),
    ((5, 6), 2),
    ((4, 5, 6), 1),
    ((4, 3, 5), 2),
]
SMALL_AND_LARGE = [
    (31, 33),
    (6, 6, 6),
    *(
        pytest.param(grid, marks=pytest.mark.slow)
        for grid in [(16, 16), (64, 64), (100, 40), (128, 128), (13, 12, 14)]
    ),
]
# The unit roundoff of float32, in which the levels are, times the terms of a sum.
SINGLE = 3e-6


@pytest.fixture(autouse=True)
def _deep(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small grids have more than one level, too."""
    monkeypatch.setattr(multigrid, "COARSEST", 30)


def neighbors_matrix(grid: tuple[int, ...], components: int, seed: int = 0) -> np.ndarray:
    """A random nonsymmetric, diagonally dominant matrix that couples nodes with neighbors."""
    nodes = np.array(list(product(*(range(m) for m in grid))))
    near = np.max(np.abs(nodes[:, None] - nodes[None]), axis=2) <= 1
    pattern = np.kron(near, np.ones((components, components)))
    A = (
        np.random.default_rng([seed, *grid]).normal(size=pattern.shape) * np.triu(pattern * 3)
        + pattern * 0.2
    )
    return A + np.diag(1 + 1.2 * np.sum(np.abs(A), axis=1))


def interpolation(grid: tuple[int, ...], components: int) -> np.ndarray:
    """P as the Kronecker product of the axes' own: np.interp of the coarse nodes' unit vectors."""
    P = np.eye(1)
    for m in grid:
        coarse = np.arange(m) if m < multigrid.SHORTEST else np.unique([*range(0, m, 2), m - 1])
        P = np.kron(
            P,
            np.stack(
                [np.interp(np.arange(m), coarse, unit) for unit in np.eye(coarse.size)], axis=1
            ),
        )
    return np.kron(P, np.eye(components))


def dense(S: Any, grid: tuple[int, ...]) -> np.ndarray:
    """A of a stencil, in the user's order of unknowns."""
    components = S.shape[0]

    def apply(unit: Any) -> Any:
        u = jnp.moveaxis(unit.astype(S.dtype).reshape(*grid, components), -1, 0)
        return jnp.moveaxis(grid_stencil.apply(S, u), 0, -1).ravel()

    return matrix_of(apply, components * int(np.prod(grid)))


def stencil(A: np.ndarray, grid: tuple[int, ...], components: int) -> Any:
    return jax.jit(lambda A: grid_stencil.stencil_of(Dense(A), grid, components))(jnp.asarray(A))


def coarse_matrix(S: Any, coupled: Any, grid: tuple[int, ...]) -> np.ndarray:
    return dense(
        jax.jit(lambda S, c: multigrid._galerkin(S, c, grid))(S, coupled), multigrid._coarse(grid)
    )


def laplacian(*grid: int) -> Any:
    """-lap(u) by second differences with distance 1 and u = 0 around the grid."""

    def apply(u: Any) -> Any:
        field = u.reshape(grid)
        around = jnp.pad(field, 1)
        total = 2 * len(grid) * field
        for axis, step in product(range(len(grid)), (0, 2)):
            cut = tuple(
                slice(step, step + m) if a == axis else slice(1, 1 + m) for a, m in enumerate(grid)
            )
            total = total - around[cut]
        return total.ravel()

    return apply


def matrix_of(function: Any, n: int) -> np.ndarray:
    return np.asarray(jax.jit(jax.vmap(lambda u: function(u), out_axes=1))(jnp.eye(n)))


# --- the levels ----------------------------------------------------------------------------------


@pytest.mark.parametrize(("grid", "components"), GRIDS)
def test_the_stencil_is_the_operator(grid: tuple[int, ...], components: int) -> None:
    A = neighbors_matrix(grid, components)
    S, size = stencil(A, grid, components)
    np.testing.assert_allclose(dense(S, grid) * size, A, atol=SINGLE * np.max(np.abs(A)))


@pytest.mark.parametrize(("grid", "components"), GRIDS)
def test_coarse_operators_are_galerkins(grid: tuple[int, ...], components: int) -> None:
    A = neighbors_matrix(grid, components)
    P = interpolation(grid, components)
    S, size = stencil(A, grid, components)
    coarse = coarse_matrix(S, jnp.ones((components, *grid), S.dtype), grid) * size
    expected = P.T @ A @ P
    np.testing.assert_allclose(coarse, expected, atol=SINGLE * np.max(np.abs(expected)))


@pytest.mark.parametrize("grid", [(50,), (7,), (8, 7), (4, 5, 6), (3, 9)])
def test_interpolation_and_restriction_are_transposes(grid: tuple[int, ...]) -> None:
    P, coarse = interpolation(grid, 1), multigrid._coarse(grid)
    r = np.random.default_rng(1).normal(size=grid)
    u = np.random.default_rng(2).normal(size=coarse)
    ours = multigrid._interpolate(jnp.asarray(u)[None], grid)[0]
    np.testing.assert_allclose(ours.ravel(), P @ u.ravel(), atol=1e-15)
    np.testing.assert_allclose(
        multigrid._restrict(jnp.asarray(r)[None], grid).ravel(), P.T @ r.ravel(), atol=1e-14
    )


def test_isolated_unknowns_are_left_out_of_the_coarse_levels() -> None:
    """Some unknowns are held: their rows and columns are zero beside a diagonal of another size."""
    grid, components = (9, 8), 2
    A = neighbors_matrix(grid, components)
    held = np.random.default_rng(3).uniform(size=A.shape[0]) < 0.3
    A[held], A[:, held] = 0, 0
    A[held, held] = 1e3 * np.max(np.abs(A))
    P = interpolation(grid, components) * ~held[:, None]
    S, size = stencil(A, grid, components)
    coupled = jax.jit(multigrid.Level.of)(S).coupled
    np.testing.assert_array_equal(np.moveaxis(np.asarray(coupled), 0, -1).ravel(), ~held)
    coarse = coarse_matrix(S, coupled, grid) * size
    expected = P.T @ A @ P
    np.testing.assert_allclose(coarse, expected, atol=SINGLE * np.max(np.abs(expected)))


def test_columns_of_isolated_unknowns_are_left_out_too() -> None:
    """u = 0 as a row of the identity, with the column left as it was: nonsymmetric.

    It is still no part of the coarse level.
    """
    grid = (9, 8)
    A = neighbors_matrix(grid, 1)
    A[5] = np.eye(72)[5]
    S, size = stencil(A, grid, 1)
    P = interpolation(grid, 1) * (np.arange(72) != 5)[:, None]
    coarse = coarse_matrix(S, jax.jit(multigrid.Level.of)(S).coupled, grid) * size
    expected = P.T @ A @ P
    np.testing.assert_allclose(coarse, expected, atol=SINGLE * np.max(np.abs(expected)))


# --- M -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "grid", [(1,), (2,), (7,), (50,), (12, 17), pytest.param((6, 7, 5), marks=pytest.mark.slow)]
)
def test_it_is_symmetric_definite_and_close_to_the_inverse(grid: tuple[int, ...]) -> None:
    n = int(np.prod(grid))
    A = MatrixFree(laplacian(*grid), n).bind(jnp.float64)
    M = matrix_of(jax.jit(lambda A: Multigrid(grid).of(A))(A), n)
    np.testing.assert_allclose(M, M.T, atol=SINGLE * np.max(np.abs(M)))
    eigenvalues = np.linalg.eigvals(M @ matrix_of(laplacian(*grid), n)).real
    assert np.min(eigenvalues) > 0.5
    assert np.max(eigenvalues) < 1.1


@pytest.mark.parametrize(("grid", "components"), [((50,), 1), ((9, 8), 1), ((5, 6), 2)])
def test_its_transpose_is_used_for_the_transpose(grid: tuple[int, ...], components: int) -> None:
    """As matrices; far from symmetric, and M' is the multigrid of A' up to its steps' order."""
    A = jnp.asarray(neighbors_matrix(grid, components))
    n = A.shape[0]
    hierarchy = jax.jit(lambda A: Multigrid(grid, components).of(Dense(A)))(A)
    M = matrix_of(hierarchy, n)
    assert np.max(np.abs(M - M.T)) > 0.05 * np.max(np.abs(M))
    transposed = matrix_of(lambda r: _transposed(hierarchy, r)(r), n)
    np.testing.assert_allclose(transposed, M.T, atol=SINGLE * np.max(np.abs(M)))


@pytest.mark.parametrize("grid", SMALL_AND_LARGE)
@pytest.mark.slow
def test_steps_do_not_grow_with_the_grid(grid: tuple[int, ...]) -> None:
    n = int(np.prod(grid))
    A = MatrixFree(laplacian(*grid), n, positive_definite=True)
    b = jnp.asarray(np.random.default_rng(0).normal(size=n))
    solution = jax.jit(lambda b: linear_solve(A, b, CG(1e-8, preconditioner=Multigrid(grid))))(b)
    assert solution.status == Status.SUCCESS
    assert solution.stats["iterations"] <= 9
    np.testing.assert_allclose(laplacian(*grid)(solution.value), b, atol=1e-7 * np.linalg.norm(b))


@pytest.mark.parametrize("scale", [1e25, pytest.param(1e-20, marks=pytest.mark.slow)])
def test_units_do_not_matter(scale: float) -> None:
    """The levels are scaled: no entry of A is too large or too small for float32."""
    A = MatrixFree(lambda u: scale * laplacian(16, 16)(u), 256, positive_definite=True)
    solution = jax.jit(lambda b: linear_solve(A, b, CG(1e-8, preconditioner=Multigrid((16, 16)))))(
        jnp.ones(256)
    )
    assert solution.stats["iterations"] <= 9
    np.testing.assert_allclose(scale * laplacian(16, 16)(solution.value), np.ones(256), atol=1e-6)


# --- bad input -----------------------------------------------------------------------------------


@pytest.mark.parametrize("grid", [(), (3, 0), (2.0, 3), (2, 2, 2, 2), "ab", 4.5])
def test_a_grid_is_one_to_three_positive_integers(grid: Any) -> None:
    with pytest.raises(ValueError, match="one to three positive integers"):
        Multigrid(grid)


@pytest.mark.parametrize("components", [0, 1.5, None])
def test_components_are_a_positive_integer(components: Any) -> None:
    with pytest.raises(ValueError, match="components"):
        Multigrid((3, 3), components)


def test_the_grid_must_have_the_unknowns_of_the_operator() -> None:
    with pytest.raises(ValueError, match=r"grid = \(3, 4\) with 2 unknown.*24 in all.*12 unknowns"):
        linear_solve(jnp.eye(12), jnp.ones(12), GMRES(preconditioner=Multigrid((3, 4), 2)))


def test_a_number_is_a_grid_of_one_axis() -> None:
    assert Multigrid(5).grid == (5,)  # pyright: ignore[reportArgumentType]
