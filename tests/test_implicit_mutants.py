"""Every mutant of implicit rules is killed by its check, and the healthy library passes all."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from implicit_mutants import IMPLICIT_MUTANTS
from mutant_cases import B, N, assert_same, derivatives
from mutation import HOME, Mutant, library

from adjoint import Status

A = np.random.default_rng(11).normal(size=(N, N)) + 6 * np.eye(N)
CHECKS: dict[str, Callable[[Any], None]] = {}


def check(function: Callable[[Any], None]) -> Callable[[Any], None]:
    CHECKS[function.__name__] = function
    return function


def residual(x: Any, p: Any) -> Any:
    """F(x, (A, b)) = A x + x^3 - b."""
    return p[0] @ x + x**3 - p[1]


def unrolled_newton(A: Any, b: Any) -> Any:
    """The root by Newton's method, unrolled far beyond convergence: derivatives are the root's."""
    x = jnp.zeros_like(b)
    for _ in range(9):
        x = x - jnp.linalg.solve(A + jnp.diag(3 * x**2), residual(x, (A, b)))
    return x


@check
def root_derivatives(lib: Any) -> None:
    solve = lambda A, b: lib.root.root(residual, jnp.zeros(N), (A, b)).value
    assert_same(derivatives(solve, A, B, 2), derivatives(unrolled_newton, A, B, 2))


@check
def root_tangent(lib: Any) -> None:
    solve = lambda A, b: lib.root.root(residual, jnp.zeros(N), (A, b)).value
    at, dots = (jnp.asarray(A), jnp.asarray(B)), (jnp.asarray(A) ** 2, jnp.arange(1.0, 1.0 + N))
    assert_same(*(jax.jvp(f, at, dots)[1] for f in (solve, unrolled_newton)))


@check
def symmetric_gradients(lib: Any) -> None:
    """f = p x0^2 x1 with f_xx = 2 p ((x1, x0), (x0, 0)) and f_xp = (2 x0 x1, x0^2)."""
    of = lib.symmetric_gradient.symmetric_gradient
    g = lambda x, p: of(lambda x, p: p * x[0] ** 2 * x[1], x, p)
    x, p = jnp.array([0.5, 2.0]), jnp.asarray(3.0)
    wanted = 6 * np.array([[2.0, 0.5], [0.5, 0.0]]), np.array([2.0, 0.25])
    for of_x, of_p in (jax.jacrev(g, (0, 1))(x, p), jax.jacfwd(g, (0, 1))(x, p)):
        assert_same((of_x, of_p), wanted)


@check
def known_values(lib: Any) -> None:
    """y = tanh(q p), its slope written with y; q is the same in both lanes, p is not."""

    def slope(y: Any, operands: Any, dots: Any, _: None) -> Any:
        return (1 - y**2) * (operands[0] * dots[1] + dots[0] * operands[1])

    def known(q: Any, p: Any) -> Any:
        return lib.rule.attach_derivative(
            slope, jax.lax.stop_gradient(jnp.tanh(q * p)), (q, p), None
        )

    assert_same(*(jax.hessian(f)(0.3, 0.7) for f in (known, lambda q, p: jnp.tanh(q * p))))

    def total(solve: Any, q: Any) -> Any:
        return jnp.sum(jax.vmap(lambda b: solve(jnp.asarray(A) * q, b))(jnp.stack([B, 2 * B])))

    found = jax.grad(lambda q: total(lambda A, b: lib.solve.linear_solve(A, b).value, q))(1.0)
    assert_same(found, jax.grad(lambda q: total(jnp.linalg.solve, q))(1.0))


@check
def failed_root(lib: Any) -> None:
    """x^2 = p has no real root at p = -1; without poison 1 / (2 x) is finite, and of no root."""
    x = lambda p: lib.root.root(lambda x, p: x**2 - p, jnp.ones(1), p).value[0]
    value, gradient = jax.value_and_grad(x)(-jnp.ones(1))
    assert np.isnan(value)
    assert np.all(np.isnan(gradient))


@check
def fold(lib: Any) -> None:
    """x^2 = 0: Newton halves the error to some 1e-10, where F is flat; dx/dp is infinite."""
    assert not bool(
        lib.root.root(lambda x, p: (x - 1.0) ** 2 - p, jnp.zeros(1), jnp.zeros(1)).status.ok
    )


@check
def stopped_short(lib: Any) -> None:
    near = lib.host_solver.HostSolver(lambda _x0, p: p / 3 * (1 + 1e-5))
    assert not bool(
        lib.root.root(lambda x, p: 3 * x - p, jnp.zeros(1), jnp.ones(1), near).status.ok
    )


@check
def units(lib: Any) -> None:
    """x_0 = p, x_1 = x_0^2 / 2 + p in units of 1e-6, from the root itself; dx_1/dp = p + 1."""
    F = lambda x, p: jnp.stack([x[0] - p, 1e6 * (x[1] - 0.5 * x[0] ** 2 - p)])
    x = lambda p: lib.root.root(F, jnp.array([1.0, 1.5]), p).value
    np.testing.assert_allclose(jax.jacrev(x)(1.0), [1.0, 2.0], rtol=1e-12)


@check
def fading_field(lib: Any) -> None:
    """u from 0.05 in the middle to 1e-3 in the corners: by iterations, in few steps."""
    m = 24
    generator = np.random.default_rng(5)
    uneven = jnp.asarray(generator.permutation(np.geomspace(0.03, 1, m * m)))
    c = 1 + 0.5 * jnp.asarray(generator.uniform(-1, 1, m * m))

    def F(u: Any, p: Any) -> Any:
        grid = jnp.pad(u.reshape(m, m), 1)
        around = grid[:-2, 1:-1] + grid[2:, 1:-1] + grid[1:-1, :-2] + grid[1:-1, 2:]
        return p * ((m + 1) ** 2 * (4 * u - around.ravel()) - c * jnp.exp(u))

    cg, gmres = lib.iterative.CG(1e-8), lib.iterative.GMRES(1e-8, restart=60)
    for linear_solver, p in ((cg, jnp.ones(m * m)), (gmres, uneven)):
        found = lib.root.root(
            F, jnp.zeros(m * m), p, lib.newton.NewtonKrylov(), linear_solver=linear_solver
        )
        assert bool(found.status.ok)
        assert int(found.stats["iterations"]) <= (5 if linear_solver is cg else 7)
        assert float(found.stats["nonlinearity"]) < 1e-3


@check
def screened_field(lib: Any) -> None:
    """-u'' + 400 u = 10^4 in the middle: 10^-8 of that at the ends."""
    n = 120
    source = jnp.zeros(n).at[n // 2].set(1e4)

    def F(u: Any, p: Any) -> Any:
        padded = jnp.pad(u, 1)
        return (n + 1.0) ** 2 * (2 * u - padded[:-2] - padded[2:]) + p * u - source

    found = lib.root.root(
        F, jnp.zeros(n), 2e4, lib.newton.NewtonKrylov(), linear_solver=lib.iterative.CG()
    )
    assert bool(found.status.ok)


@check
def units_of_iterations(lib: Any) -> None:
    """The sizes by which an operator without entries is measured."""
    size = jnp.geomspace(1.0, 1e-9, N)
    for unit in (jnp.ones(N), jnp.ones(N).at[2].set(1e9), jnp.ones(N).at[2].set(1e-9)):
        columns, rows = jnp.asarray(A) * unit[None], jnp.asarray(A) * unit[:, None]
        for matrix in (columns, rows):
            action = lib.residual.JacobianAction(lambda x, p: p @ x, jnp.ones(N), matrix)
            found = lib.equilibrated.scales_of(action, size)
            alike = bool(jnp.all(unit == 1))
            assert bool(jnp.all(found.columns == 1)) == alike
            assert bool(jnp.all(found.rows == found.rows[0])) == alike


@check
def contrast(lib: Any) -> None:
    """A matrix with rows from 1 to 1e12 is handed over with a diagonal of about one."""
    matrix = jnp.diag(jnp.geomspace(1.0, 1e12, N)) + 0.1 * jnp.eye(N, k=1) + 0.1 * jnp.eye(N, k=-1)
    action = lib.residual.JacobianAction(lambda x, p: p @ x, jnp.ones(N), matrix)
    solver = lib.equilibrated.Equilibrated(lib.iterative.CG())
    factor = solver.factor(action, lib.equilibrated.scales_of(action, jnp.ones(N)))
    diagonal = jnp.diag(matrix) / factor.rows * factor.columns
    assert float(jnp.min(diagonal)) > 0.1
    assert float(jnp.max(diagonal)) < 10


@check
def infinite_parameter(lib: Any) -> None:
    F = lambda x, p: x - jnp.minimum(2.0, p)
    assert bool(lib.root.root(F, jnp.zeros(2), jnp.array([1.0, jnp.inf])).status.ok)
    spoiled = lib.root.root(lambda x, p: x - p, jnp.zeros(2), jnp.array([1.0, jnp.inf])).status
    assert int(spoiled) == int(Status.NONFINITE_INPUT)


@check
def sparse_root(lib: Any) -> None:
    i, j = np.nonzero(np.triu(np.ones((N, N)), -1))
    masked = np.where(np.triu(np.ones((N, N)), -1) > 0, A, 0)
    x = lib.root.root(
        residual,
        jnp.zeros(N),
        (jnp.asarray(masked), jnp.asarray(B)),
        linear_solver=lib.sparse.SparseDirect("superlu"),
        jacobian_pattern=lib.sparse_pattern.SparsePattern(i, j, (N, N)),
    )
    np.testing.assert_allclose(x.value, unrolled_newton(masked, B), rtol=1e-9)
    # Newton's method forgives a wrong Jacobian, with more steps.
    assert int(x.stats["iterations"]) < 8


@check
def fixed_points(lib: Any) -> None:
    S = jnp.asarray(A / 20)
    x, w = np.linalg.solve(np.eye(N) - S, B), jnp.linspace(1.0, 2.0, N)
    lam = np.linalg.solve(np.eye(N) - S.T, w)

    def g(b: Any) -> Any:
        linear = lib.fixed_point.TransposedIteration()
        return (
            w
            @ lib.fixed_point.fixed_point(
                lambda x, b: S @ x + b, jnp.zeros(N), b, linear_solver=linear
            ).value
        )

    value, gradient = jax.value_and_grad(g)(jnp.asarray(B))
    np.testing.assert_allclose(value, w @ x, rtol=1e-8)
    np.testing.assert_allclose(gradient, lam, rtol=1e-8)


@check
def minimizers(lib: Any) -> None:
    """The projection of p onto x_0 + x_1 <= 1, x_1 <= 3 (inactive): p - (p_0 + p_1 - 1)+ / 2."""

    def x(p: Any) -> Any:
        constraints = lambda x, _: jnp.stack([jnp.sum(x) - 1, x[1] - 3])
        distance = lambda x, p: jnp.sum((x - p) ** 2)
        return lib.argmin.argmin(distance, jnp.zeros(2), p, inequality=constraints).value

    np.testing.assert_allclose(x(jnp.array([1.0, 2.0])), [0.0, 1.0], atol=1e-9)
    jacobian = jax.jacrev(x)(jnp.array([1.0, 2.0]))
    np.testing.assert_allclose(jacobian, [[0.5, -0.5], [-0.5, 0.5]], atol=1e-9)


@check
def no_minimizers(lib: Any) -> None:
    distance = lambda x, p: jnp.sum((x - p) ** 2)
    weak = lib.argmin.argmin(
        distance, jnp.zeros(1), jnp.ones(1) + 1e-9, inequality=lambda x, _: x - 1
    )
    assert weak.status.name == "DEGENERATE"
    # On the unit circle x_0^2 + 2 x_1^2 has a maximum at (0, 1).
    there = lib.host_solver.HostSolver(lambda x0, _: x0)
    energy = lambda x, p: x[0] ** 2 + p * x[1] ** 2
    maximum = lib.argmin.argmin(
        energy,
        jnp.array([0.0, 1.0]),
        jnp.asarray(2.0),
        there,
        equality=lambda x, _: jnp.sum(x**2) - 1,
    )
    assert maximum.status.name == "NOT_POSITIVE_DEFINITE"


@check
def black_box(lib: Any) -> None:
    """y = M x^2 by NumPy, with its derivatives by hand."""
    M = A[:4]
    f = lib.external.external(
        lambda x: M @ x**2,
        vjp=lambda x, y_bar: 2 * x * (M.T @ y_bar),
        jvp=lambda x, x_dot: M @ (2 * x * x_dot),
        like=jnp.zeros(4),
    )
    x, w = jnp.asarray(B), jnp.arange(1.0, 5.0)
    np.testing.assert_allclose(
        jax.grad(lambda x: w @ f(x))(x), 2 * B * (M.T @ np.asarray(w)), rtol=1e-12
    )
    np.testing.assert_allclose(jax.jacfwd(f)(x), 2 * M * B, rtol=1e-12)
    try:
        jax.hessian(lambda x: w @ f(x))(x)
    except (NotImplementedError, TypeError) as error:
        message = str(error)
    else:
        message = "a second derivative of a black box came out"
    assert "a black box has only first derivatives" in message


@pytest.mark.slow
@pytest.mark.parametrize("name", CHECKS)
def test_the_healthy_library_passes(name: str) -> None:
    with library(None) as healthy:
        CHECKS[name](healthy)


# These take seconds each.
SLOW = (
    "root: x held constant in the tangent",
    "root: sign of p_bar",
    "root: F_x lam = x_bar",
    "argmin: no inequality active",
    "argmin: multiplier ignored",
    "argmin: a saddle passes",
    "argmin: weakly active passes",
    "argmin: every inequality active",
    "known value: held constant in its derivative",
)


@pytest.mark.parametrize(
    "mutant",
    [pytest.param(m, marks=pytest.mark.slow if m.name in SLOW else ()) for m in IMPLICIT_MUTANTS],
    ids=str,
)
def test_the_mutant_is_killed(mutant: Mutant) -> None:
    with library(mutant) as mutated, pytest.raises(AssertionError):
        CHECKS[mutant.killed_by](mutated)


def test_every_mutant_finds_its_text() -> None:
    for mutant in IMPLICIT_MUTANTS:
        assert mutant.source() != (HOME / mutant.file).read_text()
