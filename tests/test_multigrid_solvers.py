"""Multigrid in linear solves and in root: values and derivatives are those of direct solves."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import assert_close
from test_multigrid import laplacian, matrix_of

from adjoint import (
    CG,
    GMRES,
    LU,
    MINRES,
    MatrixFree,
    Multigrid,
    Newton,
    NewtonKrylov,
    Status,
    linear_solve,
    root,
)
from adjoint.implicit import newton
from adjoint.linear import multigrid
from adjoint.linear.krylov import Krylov


@pytest.fixture(autouse=True)
def _deep(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small grids have more than one level, too."""
    monkeypatch.setattr(multigrid, "COARSEST", 30)


# --- in the solvers ------------------------------------------------------------------------------


def convection(p: Any) -> Any:
    """-div(p grad u) + w . grad u on 12 x 9 inner nodes, upwind: nonsymmetric in p, too.

    p is of each node.
    """

    def apply(u: Any) -> Any:
        field = u.reshape(12, 9)
        around = jnp.pad(field, 1)
        diffusion = (
            4 * field - around[:-2, 1:-1] - around[2:, 1:-1] - around[1:-1, :-2] - around[1:-1, 2:]
        )
        upwind = 0.7 * (field - around[:-2, 1:-1]) + 0.4 * (field - around[1:-1, :-2])
        return (p.reshape(12, 9) * diffusion + upwind).ravel()

    return apply


@pytest.mark.parametrize(
    "transform",
    [
        "jit",
        *(
            pytest.param(name, marks=pytest.mark.slow)
            for name in ("eager", "hessian", "forward", "vmap")
        ),
    ],
)
def test_derivatives_of_every_order(transform: str) -> None:
    """M depends on p and is not differentiated: value and derivatives are a dense solve's."""
    n = 108
    b, w = jnp.asarray(np.random.default_rng(5).normal(size=(2, n)))
    solver = GMRES(1e-13, preconditioner=Multigrid((12, 9)))

    def coefficients(q: Any) -> Any:
        return jnp.exp(jnp.sin(jnp.arange(float(n))) * q[0] + q[1])

    def ours(q: Any) -> Any:
        mode = "both" if transform == "forward" else "reverse"
        A = MatrixFree(convection(coefficients(q)), n)
        return jnp.sum(w * linear_solve(A, b * q[2], solver, mode=mode).value ** 2)

    def reference(q: Any) -> Any:
        A = jax.vmap(convection(coefficients(q)), out_axes=1)(jnp.eye(n))
        return jnp.sum(w * jnp.linalg.solve(A, b * q[2]) ** 2)

    q = jnp.array([0.5, 0.2, 1.3])
    take = {
        "eager": jax.value_and_grad,
        "jit": lambda f: jax.jit(jax.value_and_grad(f)),
        "hessian": lambda f: jax.jit(jax.hessian(f)),
        "forward": lambda f: jax.jit(jax.jacfwd(f)),
        "vmap": lambda f: jax.jit(lambda q: jax.vmap(jax.grad(f))(jnp.stack([q, 0.9 * q]))),
    }[transform]
    assert_close(take(ours)(q), take(reference)(q), 1e-9)


def test_complex_hermitian() -> None:
    """-lap with a magnetic phase: Hermitian, positive definite, not symmetric."""
    phase = np.exp(0.3j)
    A = np.kron(np.eye(6), 4 * np.eye(5) - np.eye(5, k=1) - np.eye(5, k=-1)).astype(complex)
    A = A - phase * np.eye(30, k=5) - phase.conj() * np.eye(30, k=-5)
    b = jnp.asarray(np.random.default_rng(6).normal(size=(2, 30)).T @ np.array([1, 1j]))
    solver = CG(1e-12, max_steps=14, preconditioner=Multigrid((6, 5)))
    loss = lambda solve: lambda A: jnp.sum(jnp.abs(solve(A)) ** 2)
    ours = jax.jit(jax.value_and_grad(loss(lambda A: linear_solve(A, b, solver).value)))(
        jnp.asarray(A)
    )
    expected = jax.value_and_grad(loss(lambda A: jnp.linalg.solve(A, b)))(jnp.asarray(A))
    assert_close(ours, expected, 1e-9)


@pytest.mark.slow
def test_float32_and_minres() -> None:
    b = jnp.ones(256, jnp.float32)
    A = MatrixFree(laplacian(16, 16), 256, symmetric=True)
    solution = jax.jit(
        lambda b: linear_solve(A, b, MINRES(1e-5, preconditioner=Multigrid((16, 16))))
    )(b)
    assert solution.value.dtype == jnp.float32
    assert int(solution.stats["iterations"]) <= 8
    np.testing.assert_allclose(
        solution.value, np.linalg.solve(matrix_of(laplacian(16, 16), 256), np.ones(256)), rtol=1e-3
    )


@pytest.mark.slow
def test_an_operator_that_reaches_further_ends_in_the_truth_or_in_a_status() -> None:
    """Couplings beyond the neighbors are read off wrongly; the true residual decides."""
    A = np.asarray(matrix_of(laplacian(8, 8), 64))
    A = A + 0.3 * np.random.default_rng(7).normal(size=A.shape) / 8
    for solver in (CG, GMRES):
        chosen = solver(preconditioner=Multigrid((8, 8)))
        solution = jax.jit(lambda A, chosen=chosen: linear_solve(A, jnp.ones(64), chosen))(
            jnp.asarray(A)
        )
        if solution.status == Status.SUCCESS:
            np.testing.assert_allclose(solution.value, np.linalg.solve(A, np.ones(64)), rtol=1e-6)
        else:
            assert np.all(np.isnan(solution.value))


@pytest.mark.slow
def test_a_singular_or_a_nan_operator_has_a_status() -> None:
    solver = CG(preconditioner=Multigrid((4, 4)))
    assert linear_solve(jnp.zeros((16, 16)), jnp.ones(16), solver).status == Status.NOT_CONVERGED
    bad = jnp.asarray(matrix_of(laplacian(4, 4), 16)).at[3, 4].set(jnp.nan)
    assert linear_solve(bad, jnp.ones(16), solver).status == Status.NONFINITE_INPUT


# --- in root -------------------------------------------------------------------------------------


def diffusion(u: Any, p: Any) -> Any:
    """-div((1 + u^2) grad u) - 60 p on 10 x 10 inner nodes.

    u reaches 3, so that F_x changes tenfold on the way from 0.
    """
    field = jnp.pad(u.reshape(10, 10), 1)
    flux = [
        (1 + (jnp.roll(field, -1, axis) / 2 + field / 2) ** 2) * (jnp.roll(field, -1, axis) - field)
        for axis in (0, 1)
    ]
    divergence = sum(f - jnp.roll(f, 1, axis) for axis, f in enumerate(flux))
    return -121 * jnp.asarray(divergence)[1:-1, 1:-1].ravel() - 60 * p


@pytest.mark.parametrize(
    "solver", [Newton(), NewtonKrylov(), NewtonKrylov(preconditioner=Multigrid((10, 10)))], ids=str
)
@pytest.mark.slow
def test_root_and_its_gradient(solver: Any) -> None:
    p = jnp.asarray(np.random.default_rng(8).uniform(0.5, 1.5, 100))
    krylov = GMRES(1e-12, preconditioner=Multigrid((10, 10)))
    value_and_gradient = lambda *solvers: jax.jit(
        jax.value_and_grad(
            lambda p: jnp.sum(
                root(diffusion, jnp.zeros(100), p, solvers[0], linear_solver=solvers[1]).value
            )
        )
    )(p)
    expected = value_and_gradient(Newton(), LU())
    assert expected[0] > 100
    assert_close(value_and_gradient(solver, krylov), expected, 1e-8)


@pytest.mark.parametrize("method", [CG, MINRES])
@pytest.mark.slow
def test_newton_krylov_takes_its_steps_by_the_symmetric_method(method: Any) -> None:
    """-lap(u) = 2 c exp(u), F_x symmetric: root and gradient of a direct solver.

    It is so also where CG alone could go.
    """
    F = lambda u, c: 144 * laplacian(11, 11)(u) - 2 * c * jnp.exp(u)
    c = jnp.asarray(np.random.default_rng(9).uniform(0.8, 1.2, 121))
    gradient = lambda solver, linear: jax.jit(
        jax.value_and_grad(
            lambda c: jnp.max(root(F, jnp.zeros(121), c, solver, linear_solver=linear).value)
        )
    )(c)
    ours = gradient(NewtonKrylov(), method(1e-12, preconditioner=Multigrid((11, 11))))
    assert_close(ours, gradient(Newton(), LU()), 1e-8)


@pytest.mark.slow
def test_levels_are_built_again_when_they_are_outdated(monkeypatch: pytest.MonkeyPatch) -> None:
    """-lap(u) + 1e5 p (u^5 - 1) = 0: F_x at the start u = 0 is far from that at u about 1.

    u is about 1 at the root.
    """
    F = lambda u, p: 121 * laplacian(10, 10)(u) + 1e5 * p * (u**5 - 1)
    p = jnp.linspace(0.1, 1, 100)
    iterate = Krylov._iterate
    iterations = {}
    for outdated in (2, 10**6):
        taken: list[int] = []

        def counted(self: Any, *arguments: Any, taken: list[int] = taken) -> Any:
            x, outcome = iterate(self, *arguments)
            jax.debug.callback(lambda k: taken.append(int(k)), outcome.iterations)
            return x, outcome

        monkeypatch.setattr(newton, "OUTDATED", outdated)
        monkeypatch.setattr(Krylov, "_iterate", counted)
        solver = NewtonKrylov(preconditioner=Multigrid((10, 10)))
        found = jax.jit(
            lambda p, solver=solver: root(F, jnp.zeros(100), p, solver, linear_solver=CG())
        )(p)
        jax.effects_barrier()
        assert found.status == Status.SUCCESS
        iterations[outdated] = sum(taken)
    assert iterations[2] < 0.9 * iterations[10**6]
