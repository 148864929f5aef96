"""argmin: derivatives of minimizers with closed forms, in every mode; what is refused.

Active sets, and what is no minimizer, are tested, too. The closed forms are written in JAX where
derivatives of several orders are compared, so that nothing is derived by hand: the ridge estimator,
the nearest points of a circle, a half-space and an orthant.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize

import adjoint

_rng = np.random.default_rng(5)
X, Y = jnp.asarray(_rng.normal(size=(9, 4))), jnp.asarray(_rng.normal(size=9))


def ridge(w: Any, p: Any) -> Any:
    return jnp.sum((X @ w - Y) ** 2) + jnp.exp(p["penalty"]) * jnp.sum(w**2) - p["pull"] @ w


def ridge_closed_form(p: Any) -> Any:
    A = X.T @ X + jnp.exp(p["penalty"]) * jnp.eye(4)
    return jnp.linalg.solve(A, X.T @ Y + p["pull"] / 2)


RIDGE_P = {"penalty": jnp.asarray(0.3), "pull": jnp.linspace(-1.0, 2.0, 4)}


def distance(x: Any, p: Any) -> Any:
    return jnp.sum((x - p["point"]) ** 2)


def circle(x: Any, p: Any) -> Any:
    return jnp.sum(x**2) - p["radius"] ** 2


def nearest_on_circle(p: Any) -> Any:
    return p["radius"] * p["point"] / jnp.linalg.norm(p["point"])


CIRCLE_P = {"point": jnp.array([1.0, 2.0, -0.5]), "radius": jnp.asarray(1.5)}
START = jnp.array([0.5, 1.0, 0.2])

# name: (the minimizer by adjoint with the mode as argument, the closed form, parameters)
CASES: dict[str, tuple[Callable[..., Any], Callable[[Any], Any], Any]] = {
    "unconstrained": (
        lambda p, mode: adjoint.argmin(ridge, jnp.zeros(4), p, mode=mode).value,
        ridge_closed_form,
        RIDGE_P,
    ),
    "equality": (
        lambda p, mode: adjoint.argmin(distance, START, p, equality=circle, mode=mode).value,
        nearest_on_circle,
        CIRCLE_P,
    ),
    "inequality, active": (
        lambda p, mode: adjoint.argmin(distance, START, p, inequality=circle, mode=mode).value,
        nearest_on_circle,
        CIRCLE_P,
    ),
}
MODES: dict[str, Callable[[Any], Any]] = {
    "gradient": jax.grad,
    "hessian": jax.hessian,
    "reverse over reverse": lambda f: jax.jacrev(jax.grad(f)),
    "hessian inside scan": lambda f: jax.hessian(
        lambda p: jax.lax.scan(
            lambda s, k: (s + f(jax.tree.map(lambda v: k * v, p)), None), 0.0, jnp.array([1.0, 1.1])
        )[0]
    ),
    "gradient of vmap": lambda f: jax.grad(
        lambda p: jnp.sum(
            jax.vmap(lambda k: f(jax.tree.map(lambda v: k * v, p)))(jnp.array([1.0, 1.1])) ** 2
        )
    ),
}


def assert_close(found: Any, expected: Any, rtol: float = 1e-8) -> None:
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=rtol, atol=rtol)


SLOW = ("gradient", "hessian", "reverse over reverse", "gradient of vmap", "hessian inside scan")


@pytest.mark.parametrize(
    "mode", [pytest.param(m, marks=pytest.mark.slow if m in SLOW else ()) for m in MODES]
)
@pytest.mark.parametrize("case", CASES)
def test_every_mode_is_that_of_the_closed_form(case: str, mode: str) -> None:
    minimizer, closed_form, p = CASES[case]
    objective = lambda solve: lambda p: jnp.sum(jnp.sin(solve(p)))
    found = jax.jit(MODES[mode](objective(lambda p: minimizer(p, "reverse"))))(p)
    assert_close(found, jax.jit(MODES[mode](objective(closed_form)))(p))


@pytest.mark.parametrize("case", CASES)
def test_forward_mode(case: str) -> None:
    minimizer, closed_form, p = CASES[case]
    assert_close(jax.jit(jax.jacfwd(lambda p: minimizer(p, "both")))(p), jax.jacfwd(closed_form)(p))


def test_the_multipliers_and_the_active_set_are_reported() -> None:
    p = CIRCLE_P
    two = jax.jit(
        lambda p: adjoint.argmin(
            distance, START, p, inequality=lambda x, p: jnp.stack([circle(x, p), x[0] - 5.0])
        )
    )
    solution = two(p)
    # 2 (x - point) + 2 z x = 0 with x = radius point / |point|
    z = np.linalg.norm(p["point"]) / 1.5 - 1
    np.testing.assert_allclose(
        solution.stats["inequality_multipliers"], [z, 0.0], rtol=1e-10, atol=1e-12
    )
    assert solution.stats["active"].tolist() == [True, False]
    equality = jax.jit(lambda p: adjoint.argmin(distance, START, p, equality=circle))(p)
    np.testing.assert_allclose(equality.stats["equality_multipliers"], [z], rtol=1e-10)
    inside = two(p | {"radius": jnp.asarray(4.0)})
    np.testing.assert_allclose(inside.value, p["point"], rtol=1e-10)
    assert inside.stats["active"].tolist() == [False, False]


@pytest.mark.slow
def test_nonnegative_least_squares_against_scipy() -> None:
    """scipy.optimize.nnls is an active-set method of its own (Lawson and Hanson)."""

    def solve(y: Any) -> Any:
        objective = lambda w, y: jnp.sum((X @ w - y) ** 2)
        return adjoint.argmin(objective, jnp.ones(4), y, inequality=lambda w, _: -w)

    expected, _ = scipy.optimize.nnls(np.asarray(X), np.asarray(Y))
    solution = jax.jit(solve)(Y)
    np.testing.assert_allclose(adjoint.require(solution), expected, rtol=1e-8, atol=1e-10)
    free = expected > 0
    assert solution.stats["active"].tolist() == (~free).tolist()
    assert 0 < free.sum() < 4
    jacobian = jax.jit(jax.jacrev(lambda y: solve(y).value))(Y)
    pseudoinverse = np.zeros((4, 9))
    pseudoinverse[free] = np.linalg.pinv(np.asarray(X)[:, free])
    np.testing.assert_allclose(jacobian, pseudoinverse, rtol=1e-8, atol=1e-10)


@pytest.mark.slow
def test_unknowns_and_constraints_may_be_pytrees() -> None:
    def objective(x: Any, p: Any) -> Any:
        return jnp.sum((x["a"] - p) ** 2) + (x["b"] - 1.0) ** 2

    solution = adjoint.argmin(
        objective, {"a": jnp.zeros(2), "b": jnp.asarray(0.0)}, jnp.array([3.0, 4.0]),
        equality=lambda x, _: {"sum": jnp.sum(x["a"]) - 1.0, "b": (x["b"] - 2.0)[None]},
    )  # fmt: skip
    x = adjoint.require(solution)
    np.testing.assert_allclose(x["a"], [0.0, 1.0], atol=1e-10)
    np.testing.assert_allclose(x["b"], 2.0, rtol=1e-10)


@pytest.mark.slow
def test_any_minimizer_of_scipy_serves() -> None:
    def solve(_: Any, p: Any) -> Any:
        result = scipy.optimize.minimize(
            lambda x: np.sum((x - p["point"]) ** 2),
            np.ones(3),
            method="SLSQP",
            constraints={"type": "ineq", "fun": lambda x: p["radius"] ** 2 - x @ x},
            options={"ftol": 1e-10},
        )
        return result.x

    solver = adjoint.HostSolver(solve)
    x = lambda p: adjoint.argmin(distance, START, p, solver, inequality=circle).value
    assert_close(x(CIRCLE_P), nearest_on_circle(CIRCLE_P))
    assert_close(jax.jit(jax.jacrev(x))(CIRCLE_P), jax.jacrev(nearest_on_circle)(CIRCLE_P))
    # The solver is not differentiable, and is asked for the minimizer alone.
    smooth = adjoint.HostSolver(
        lambda x0, p: scipy.optimize.minimize(lambda x: float(np.sum(np.cosh(x) - p * x)), x0).x
    )
    arcsinh = lambda p: adjoint.argmin(
        lambda x, p: jnp.sum(jnp.cosh(x) - p * x), jnp.zeros(2), p, smooth
    )
    # BFGS on differences stops at 1e-6 or so: too far off to pass for a minimizer.
    assert arcsinh(jnp.array([0.5, 2.0])).status.name in ("NOT_CONVERGED", "SUCCESS")


NO_MINIMIZER: dict[str, tuple[Callable[[Any], Any], set[str]]] = {
    "saddle": (
        lambda p: adjoint.argmin(lambda x, p: x[0] ** 2 - p * x[1] ** 2, jnp.array([1.0, 0.0]), p),
        {"NOT_POSITIVE_DEFINITE"},
    ),
    "unbounded": (
        lambda p: adjoint.argmin(lambda x, p: p * jnp.sum(x), jnp.zeros(2), p),
        {"NOT_POSITIVE_DEFINITE", "NOT_CONVERGED", "SINGULAR"},
    ),
    "flat": (
        lambda p: adjoint.argmin(lambda x, p: p * x[0] ** 2, jnp.ones(2), p),
        {"NOT_POSITIVE_DEFINITE", "SINGULAR", "ILL_CONDITIONED"},
    ),
    "weakly active": (
        lambda p: adjoint.argmin(
            lambda x, p: jnp.sum((x - p) ** 2), jnp.zeros(2), p, inequality=lambda x, _: x[0] - 1
        ),
        {"DEGENERATE"},
    ),
    "a constraint twice": (
        lambda p: adjoint.argmin(
            lambda x, p: jnp.sum((x - p) ** 2),
            jnp.zeros(2),
            p,
            equality=lambda x, _: jnp.stack([x[0], 2 * x[0]]),
        ),
        {"SINGULAR", "ILL_CONDITIONED"},
    ),
    "infeasible": (
        lambda p: adjoint.argmin(
            lambda x, p: jnp.sum((x - p) ** 2),
            jnp.ones(2),
            p,
            inequality=lambda x, _: x[0] ** 2 + 1,
        ),
        {"SINGULAR", "NOT_CONVERGED", "ILL_CONDITIONED"},
    ),
    "a maximum on the circle": (
        lambda p: adjoint.argmin(
            lambda x, p: x[0] ** 2 + (1 + p) * x[1] ** 2,
            jnp.array([0.0, 1.0]),
            p,
            adjoint.HostSolver(lambda _x0, _p: np.array([0.0, 1.0])),
            equality=lambda x, _: jnp.sum(x**2) - 1,
        ),
        {"NOT_POSITIVE_DEFINITE"},
    ),
    "NaN in p": (
        lambda p: adjoint.argmin(
            lambda x, p: jnp.sum((x - p) ** 2), jnp.zeros(2), jnp.nan * p, inequality=lambda x, _: x
        ),
        {"NONFINITE_INPUT"},
    ),
}


SLOW = ("weakly active", "infeasible", "a constraint twice")


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=pytest.mark.slow if name in SLOW else ()) for name in NO_MINIMIZER],
)
def test_what_is_no_minimizer_is_nan_in_value_and_gradient(name: str) -> None:
    solve, statuses = NO_MINIMIZER[name]
    solution, gradient = jax.jit(
        lambda p: (solve(p), jax.grad(lambda p: jnp.sum(solve(p).value))(p))
    )(jnp.asarray(1.0))  # fmt: skip
    assert solution.status.name in statuses
    assert np.isnan(solution.value).all()
    assert np.isnan(gradient)
    with pytest.raises(adjoint.SolveError, match=r"argmin with (QuasiNewton|HostSolver)"):
        adjoint.require(solution)


def test_what_is_no_minimization_is_refused() -> None:
    with pytest.raises(TypeError, match="QuasiNewton"):
        adjoint.argmin(ridge, jnp.zeros(4), RIDGE_P, adjoint.Newton())
    with pytest.raises(TypeError, match="expected a real scalar"):
        adjoint.argmin(lambda x, p: x * p, jnp.zeros(2), jnp.ones(2))
    with pytest.raises(TypeError, match="expected a real scalar"):
        adjoint.argmin(lambda x, p: jnp.sum(1j * x * p), jnp.zeros(2), jnp.ones(2))
    with pytest.raises(ValueError, match="max_steps"):
        adjoint.QuasiNewton(max_steps=0)
    with pytest.raises(ValueError, match="rtol"):
        adjoint.QuasiNewton(rtol=0.0)


def test_what_the_objective_closes_over_is_differentiated() -> None:
    def closes_over(p: Any) -> Any:
        return adjoint.argmin(
            lambda x, q: jnp.sum((x - p * q) ** 2), jnp.zeros(2), jnp.ones(2)
        ).value[0]

    assert float(jax.grad(closes_over)(1.0)) == pytest.approx(1.0, rel=1e-8)


@pytest.mark.parametrize("empty", [lambda x, p: x[:0], lambda x, p: {"a": x[:0], "b": p[:0]}])
@pytest.mark.slow
def test_constraints_without_entries_are_none(empty):
    f = lambda x, p: jnp.sum((x - p) ** 2)
    for given in (
        {"equality": empty},
        {"inequality": empty},
        {"equality": empty, "inequality": empty},
    ):
        found = adjoint.argmin(f, jnp.zeros(2), jnp.ones(2), **given)
        np.testing.assert_allclose(found.value, [1.0, 1.0], rtol=1e-12)
        sizes = [
            found.stats[name].size
            for name in ("equality_multipliers", "inequality_multipliers", "active")
        ]
        assert sizes == [0, 0, 0]
        np.testing.assert_allclose(
            adjoint.minimize(f_of_x, jnp.zeros(2), **dict.fromkeys(given, empty_of_x)).value,
            1,
            rtol=1e-6,
        )
    # Beside others they add nothing.
    beside = adjoint.argmin(
        f, jnp.zeros(2), jnp.ones(2), equality=lambda x, p: x[0] + x[1] - 1, inequality=empty
    )
    np.testing.assert_allclose(beside.value, [0.5, 0.5], rtol=1e-10)


def f_of_x(x):
    return jnp.sum((x - 1) ** 2)


def empty_of_x(x):
    return x[:0]


def test_unknowns_without_entries_are_refused():
    with pytest.raises(ValueError, match="x0 without numbers"):
        adjoint.argmin(lambda x, p: jnp.sum(x) + p, jnp.zeros(0), jnp.ones(()))


@pytest.mark.parametrize("exponent", [100, -100])
def test_f_near_the_ends_of_its_range(exponent: int) -> None:
    """10 (x_1 - p_0 x_0^2)^2 + (p_1 - x_0)^2 + 1: x = (p_1, p_0 p_1^2), squares have no room."""
    scale = jnp.ldexp(jnp.ones((), "float32"), exponent)

    def x(p: Any) -> Any:
        def f(x: Any, p: Any) -> Any:
            return scale * (10 * (x[1] - p[0] * x[0] ** 2) ** 2 + (p[1] - x[0]) ** 2 + 1)

        return adjoint.argmin(f, jnp.array([-0.7, 0.9], "float32"), p)

    p = jnp.array([1.0, 1.2], "float32")
    # Single precision, and a valley whose f'' has a condition of some hundreds.
    np.testing.assert_allclose(adjoint.require(x(p)), [1.2, 1.44], rtol=1e-4)
    slope = jax.grad(lambda p: x(p).value[1])(p)
    np.testing.assert_allclose(slope, [1.44, 2.4], rtol=1e-4)
