"""No verdict on a root, nor a step towards it, depends on units of equations and unknowns."""

from typing import Any

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adjoint import (
    CG,
    GMRES,
    MINRES,
    Newton,
    NewtonKrylov,
    SparsePattern,
    Status,
    argmin,
    ode_solve,
    root,
    steady_state,
)

N = 3
RNG = np.random.default_rng(5)
A = RNG.normal(size=(N, N)) + 3 * np.eye(N)
P = RNG.normal(size=N)
PATTERN = SparsePattern(*(index.ravel() for index in np.mgrid[:N, :N]), (N, N))
SOLVERS: dict[str, dict[str, Any]] = {
    "LU": {},
    "sparse": {"jacobian_pattern": PATTERN},
    "GMRES": {"linear_solver": GMRES()},
    "NewtonKrylov": {"solver": NewtonKrylov()},
}
FAR = 4.0 * RNG.normal(size=N)


@pytest.fixture(scope="module")
def solve() -> Any:
    """The root of r_i (A (x / c) + (x / c)^3 - p)_i in units of c, and its gradient.

    Also its status and iterations; compiled once each.
    """
    compiled: dict[str, Any] = {}

    def make(name: str) -> Any:
        def first(p: Any, r: Any, c: Any, start: Any) -> Any:
            F = lambda x, p: r * (jnp.asarray(A) @ (x / c) + (x / c) ** 3 - p)
            solution = root(F, c * start, p, **SOLVERS[name])
            return solution.value[0] / c[0], solution

        return jax.jit(jax.grad(first, has_aux=True))

    def run(name: str, r: Any, c: Any, start: Any) -> Any:
        compiled.setdefault(name, make(name))
        gradient, solution = compiled[name](
            jnp.asarray(P), *(jnp.asarray(v, float) for v in (r, c, start))
        )
        return solution.value / c, int(solution.status), int(solution.stats["iterations"]), gradient

    return run


def assert_no_units(solve: Any, name: str, base: float, largest: int) -> None:
    """The law for factors base^k with |k| <= largest, from the root itself and from afar."""
    one = np.ones(N)
    at_the_root = np.asarray(solve(name, one, one, FAR)[0])
    exponents = st.lists(st.integers(-largest, largest), min_size=N, max_size=N)

    @settings(max_examples=12, deadline=None, derandomize=True)
    @given(exponents, exponents, st.sampled_from(["far", "root"]))
    def law(rows: list[int], columns: list[int], where: str) -> None:
        start = FAR if where == "far" else at_the_root
        expected = solve(name, one, one, start)
        found = solve(name, base ** np.array(rows, float), base ** np.array(columns, float), start)
        assert expected[1] == int(Status.SUCCESS)
        assert found[1] == expected[1]
        # Steps that are solved to a tenth of the residual are others where a scale is rounded
        # otherwise.
        slack = 8 if name == "NewtonKrylov" else 0
        assert where == "root" or abs(found[2] - expected[2]) <= slack
        np.testing.assert_allclose(found[0], expected[0], rtol=1e-9)
        np.testing.assert_allclose(found[3], expected[3], rtol=1e-7, atol=1e-9)

    law()


@pytest.mark.parametrize("name", ["LU", "sparse"])
def test_direct_solvers_know_no_units(solve: Any, name: str) -> None:
    assert_no_units(solve, name, 2.0, 40)
    assert_no_units(solve, name, 10.0, 9)


@pytest.mark.parametrize("name", ["GMRES", "NewtonKrylov"])
def test_iterative_solvers_know_no_units(solve: Any, name: str) -> None:
    """Their tolerance holds for rows within 1e3 of each other; such steps bring them together."""
    assert_no_units(solve, name, 1024.0, 3)


@pytest.mark.parametrize("solver", [CG(), MINRES()])
def test_symmetric_solvers_know_no_units_of_a_gradient(solver: Any) -> None:
    """The gradient of f(x / c) is 1/c times that of f.

    Its Jacobian stays symmetric, and is scaled from both sides.
    """
    S = jnp.asarray((A + A.T) / 2 + 2 * np.eye(N))

    @jax.jit
    def found(c: Any) -> Any:
        F = lambda x, p: (S @ (x / c) + (x / c) ** 3 - p) / c
        solution = root(F, jnp.zeros(N), jnp.asarray(P), linear_solver=solver)
        return solution.value / c, solution.status, solution.stats["correction"]

    expected = found(jnp.ones(N))
    for c in (np.array([1.0, 1e6, 1e-6]), np.array([1e-9, 1e-9, 1e3])):
        value, status, correction = found(jnp.asarray(c))
        assert status.ok
        assert correction < 1e-9
        np.testing.assert_allclose(value, expected[0], rtol=1e-8)


@pytest.mark.parametrize("unit", [1.0, 1e-9, 1e9])
def test_folds_are_folds_in_any_unit(unit: float) -> None:
    """x^2 = 0, a limb's turning point, beside a regular equation in other units."""

    @jax.jit
    def statuses(row: Any, column: Any) -> Any:
        double = root(
            lambda x, p: row * ((x / column) ** 2 - p), column * jnp.ones(1), jnp.zeros(1)
        ).status

        def limb(x: Any, p: Any) -> Any:
            """The load p = x - x^3 / 3 has its largest value, 2/3, at x = 1."""
            u = x[0] / column
            return jnp.stack([row * (u - u**3 / 3 - p), x[1] - 2 * p])

        start = jnp.stack([0.2 * column, jnp.ones_like(column)])
        at_limit, beside = (root(limb, start, jnp.asarray(p)).status for p in (2 / 3, 0.6))
        return double, at_limit, beside

    for row, column in ((unit, 1.0), (1.0, unit), (unit, unit), (1 / unit, unit)):
        double, at_limit, beside = statuses(jnp.asarray(row), jnp.asarray(column))
        assert not double.ok
        assert not at_limit.ok
        assert beside.ok


def test_a_small_unknown_beside_a_large_one_is_found_to_its_own_digits() -> None:
    """A pressure of 1e5 and a width of 1e-9, coupled: w^3 = k / p, p = a + b w."""
    F = lambda x, q: jnp.array([x[1] ** 3 * x[0] - q, x[0] - 1e5 - 1e12 * x[1]])
    solution = root(F, jnp.array([3e5, 2e-8]), jnp.array(1e-22))
    w = float(solution.value[1])
    assert solution.status.ok
    np.testing.assert_allclose(w**3 * (1e5 + 1e12 * w), 1e-22, rtol=1e-12)


def test_an_unknown_that_is_zero_needs_no_size_of_its_own() -> None:
    """x_1 = x_0 - p, x_0 = p: x_1 is zero but for rounding, and Newton's method still ends."""
    F = lambda x, p: jnp.array([1e8 * (x[0] ** 2 - p**2), 1e-3 * (x[1] - (x[0] - p))])
    solution = root(F, jnp.array([0.3, 0.0]), jnp.array(0.1), Newton(max_steps=15))
    assert solution.status.ok
    np.testing.assert_allclose(solution.value, [0.1, 0.0], atol=1e-15)


@pytest.mark.parametrize("unit", [1e-8, 1e8])
def test_an_algebraic_equation_of_a_dae_may_have_any_unit(unit: float) -> None:
    """y' = -z, 0 = unit (z - p y - y^2): y(t) = y0 p e / (p + y0 (1 - e)) with e = exp(-p t)."""

    def f(t: Any, y: Any, p: Any) -> Any:
        return jnp.array([-y[1], unit * (y[1] - p * y[0] - y[0] ** 2)])

    def end(p: Any) -> Any:
        solution = ode_solve(
            f,
            jnp.array([0.5, 0.75]),
            p,
            0.0,
            1.0,
            solver=diffrax.Kvaerno5(),
            mass_matrix=np.diag([1.0, 0.0]),
        )
        return solution.value[0], solution.status

    def closed_form(p: Any) -> Any:
        e = jnp.exp(-p)
        return 0.5 * p * e / (p + 0.5 * (1 - e))

    (value, status), gradient = jax.value_and_grad(end, has_aux=True)(1.0)
    assert status.ok
    np.testing.assert_allclose([value, gradient], jax.value_and_grad(closed_form)(1.0), rtol=1e-5)


def test_a_steady_state_of_reactions_may_have_any_units() -> None:
    """a' = p - k1 a, b' = k1 a - k2 b^2 in mol.

    b is counted in molecules per second and its rate is 1e9 times as fast.
    """

    @jax.jit
    def rest(count: Any, rate: Any) -> Any:
        def f(t: Any, y: Any, p: Any) -> Any:
            a, b = y[0], y[1] / count
            return jnp.stack([p - 2 * a, count * rate * (2 * a - 3 * b**2)])

        def second(p: Any) -> Any:
            solution = steady_state(f, jnp.stack([1.0, count]), p, 40.0)
            return solution.value[1] / count, solution.status

        (value, status), gradient = jax.value_and_grad(second, has_aux=True)(1.5)
        return value, gradient, status

    for count, rate in ((1.0, 1.0), (1e9, 1.0), (1e-9, 1e3)):
        value, gradient, status = rest(jnp.asarray(count), jnp.asarray(rate))
        assert status.ok
        np.testing.assert_allclose([value, gradient], [np.sqrt(0.5), np.sqrt(0.5) / 3], rtol=1e-8)


def test_a_minimizer_in_other_units() -> None:
    found = jax.jit(
        lambda c: argmin(
            lambda x, p: jnp.sum((x / c - p) ** 2 + (x / c) ** 4), jnp.zeros(2), jnp.ones(2)
        )
    )
    expected = found(jnp.ones(2))
    for c in ([1e6, 1e6], [1e-5, 1e-5]):
        solution = found(jnp.asarray(c))
        assert solution.status.ok
        np.testing.assert_allclose(solution.value / jnp.asarray(c), expected.value, rtol=1e-9)
