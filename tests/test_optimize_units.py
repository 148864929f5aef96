"""Laws of units: the same run in any units of x, f and constraints; contradicting constraints.

Each entry of x has its own unit.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jaxtyping import Array

import adjoint
from adjoint import (
    BFGS,
    GCMMA,
    LBFGS,
    MMA,
    SQP,
    AugmentedLagrangian,
    GaussNewton,
    Newton,
    NewtonKrylov,
    Status,
    minimize,
)

START = jnp.array([-1.2, 1.0, 0.7])
LOWER, UPPER = jnp.full(3, -2.0), jnp.full(3, 0.9)


def residuals(x: Array) -> Array:
    """Of Rosenbrock's function in the first two entries, and of a third that follows from them."""
    return jnp.stack([10 * (x[1] - x[0] ** 2), 1 - x[0], x[2] - x[0] * x[1]])


def valley(x: Array) -> Array:
    return jnp.sum(residuals(x) ** 2)


def growth(x: Array) -> Array:
    return jnp.sum(jnp.exp(x)) + x[0] * x[1]


def limits(x: Array) -> Array:
    return jnp.stack([x @ x - 2.0, 1.0 - x[0] - x[1] - x[2]])


# Method, objective, the power of it that f is in (residuals are in units of the root of f), bounds
# and inequality.
CASES: dict[str, tuple[Any, Callable[[Array], Array], float, bool, bool]] = {
    "BFGS": (BFGS(), valley, 1.0, False, False),
    "BFGS within bounds": (BFGS(), valley, 1.0, True, False),
    "LBFGS": (LBFGS(), valley, 1.0, False, False),
    "Newton": (Newton(), valley, 1.0, False, False),
    "Newton within bounds": (Newton(), valley, 1.0, True, False),
    "GaussNewton": (GaussNewton(), residuals, 0.5, False, False),
    "MMA": (MMA(), growth, 1.0, True, True),
    "GCMMA": (GCMMA(), growth, 1.0, True, True),
    "default": (None, valley, 1.0, False, False),
    "default within constraints": (None, growth, 1.0, True, True),
}
# By their docstrings the sizes of entries are their units only where these count for f, so that one
# factor for all is safe.
ONE_FOR_ALL = ("BFGS", "BFGS within bounds", "LBFGS")
SLOW = {
    "LBFGS",
    "Newton",
    "Newton within bounds",
    "GCMMA",
    "default",
    "default within constraints",
    "BFGS",
    "GaussNewton",
}


def run_in_units(name: str) -> Callable[..., tuple[Array, Array, Array]]:
    """x in the first units, evaluations and status of a run in any, compiled once.

    So rounding is the same.
    """
    method, function, power, bounded, constrained = CASES[name]

    @jax.jit
    def run(unit: Array, unit_of_f: Array, unit_of_c: Array) -> tuple[Array, Array, Array]:
        options: dict[str, Any] = {}
        if bounded:
            options["bounds"] = (LOWER * unit, UPPER * unit)
        if constrained:
            options["inequality"] = lambda x: unit_of_c * limits(x / unit)
            options["constraint_tolerance"] = 1e-8 * unit_of_c
        solution = minimize(
            lambda x: unit_of_f**power * function(x / unit), START * unit, method, **options
        )
        return solution.value / unit, solution.stats["evaluations"], solution.status.code

    return run


powers = st.integers(-20, 20)


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=pytest.mark.slow) if n in SLOW else n for n in CASES]
)
def test_the_same_run_in_any_units(name: str) -> None:
    """Powers of two change no rounding: the same iterates, bit by bit, and so the same end."""
    run = run_in_units(name)
    x, evaluations, code = run(jnp.ones(3), jnp.asarray(1.0), jnp.asarray(1.0))
    assert Status(code).ok

    @settings(max_examples=12, deadline=None, derandomize=True)
    @given(st.tuples(powers, powers, powers), powers, powers)
    def law(units: tuple[int, int, int], of_f: int, of_c: int) -> None:
        shared = (units[0],) * 3 if name in ONE_FOR_ALL else units
        scaled = run(
            jnp.exp2(jnp.array(shared, float)), jnp.exp2(2.0 * (of_f // 2)), jnp.exp2(float(of_c))
        )
        np.testing.assert_allclose(scaled[0], x, rtol=1e-12)
        assert scaled[1:] == (evaluations, code)

    law()


@pytest.mark.parametrize(("dtype", "exponent"), [("float32", 100), ("float64", 900)])
@pytest.mark.parametrize(
    "method",
    [
        BFGS(),
        *(pytest.param(m, marks=pytest.mark.slow) for m in (None, LBFGS(), Newton())),
        *(pytest.param(m, marks=pytest.mark.slow) for m in (NewtonKrylov(), MMA(), SQP())),
    ],
    ids=repr,
)
def test_f_near_the_ends_of_its_range(method: Any, dtype: str, exponent: int) -> None:
    """The squares of its derivatives have no room there; every step is the same, bit by bit."""

    def found(scale: Any) -> Any:
        steps: list[Any] = []
        f = lambda x: scale * ((x[1] - x[0] ** 2) ** 2 + (1 - x[0]) ** 2 + 1)
        solution = minimize(
            f,
            jnp.array([-0.7, 0.9], dtype),
            method,
            bounds=(-2.0, 2.0),
            rtol=1e-3,
            callback=steps.append,
        )
        return solution, [step.x for step in steps], [step.value for step in steps]

    one = jnp.ones((), dtype)
    plain, path, values = found(one)
    assert plain.status.ok
    assert jnp.isfinite(plain.stats["stationarity"])
    for scale in (jnp.ldexp(one, exponent), jnp.ldexp(one, -exponent)):
        scaled, its_path, its_values = found(scale)
        assert scaled.status == plain.status
        np.testing.assert_array_equal(its_path, path)
        np.testing.assert_array_equal(its_values, np.asarray(values) * float(scale))
        for name in ("value", "stationarity"):
            assert scaled.stats[name] == plain.stats[name] * scale


def test_what_is_told_and_asked_is_in_the_user_s_unit_of_f() -> None:
    """atol and the multipliers; at x = (1, 1) the multiplier of x_0 + x_1 = 2 is -2 scale."""
    scale = 2.0**40
    f = lambda x: scale * jnp.sum(x**2)
    alone = minimize(f, jnp.array([3.0, 1.0]), BFGS(), rtol=0.0, atol=1e3)
    assert alone.status.ok
    assert alone.stats["stationarity"] <= 1e3
    under = minimize(f, jnp.array([3.0, 1.0]), SQP(), equality=lambda x: jnp.sum(x) - 2)
    assert under.status.ok
    np.testing.assert_allclose(under.stats["multipliers"], [-2 * scale], rtol=1e-7)


@pytest.mark.slow
@pytest.mark.parametrize("unit", [1e1, 1e3, 1e5])
def test_the_cantilever_of_svanberg_in_other_lengths(unit: float) -> None:
    """K.

    Svanberg, Int. J. Numer. Methods Eng. 24 (1987), section 6.1: weight 1.339956, in as many
    evaluations.
    """
    weights = jnp.array([61.0, 37, 19, 7, 1])

    def solve(unit: float) -> Any:
        return minimize(
            lambda x: 0.0624 * jnp.sum(x) / unit,
            jnp.full(5, 5.0) * unit,
            MMA(),
            bounds=(unit, 10 * unit),
            inequality=lambda x: jnp.sum(weights / (x / unit) ** 3) - 1,
        )

    first, other = solve(1.0), solve(unit)
    assert float(other.stats["value"]) == pytest.approx(1.339956, abs=1e-6)
    assert abs(int(other.stats["evaluations"]) - int(first.stats["evaluations"])) <= 1


def apart(x: Array) -> Array:
    """x_1 >= x_0 + 1 and x_1 <= x_0."""
    return jnp.stack([x[0] - x[1] + 1, x[1] - x[0]])


def disc_and_plane(x: Array) -> Array:
    """|x| <= 1 and x_0 >= 2."""
    return jnp.stack([x @ x - 1, 2 - x[0]])


class TestContradictions:
    @pytest.mark.parametrize(
        ("method", "limits"),
        [
            (MMA(), apart),
            pytest.param(MMA(), disc_and_plane, marks=pytest.mark.slow),
            pytest.param(GCMMA(), apart, marks=pytest.mark.slow),
            pytest.param(GCMMA(), disc_and_plane, marks=pytest.mark.slow),
            pytest.param(AugmentedLagrangian(), apart, marks=pytest.mark.slow),
            pytest.param(AugmentedLagrangian(), disc_and_plane, marks=pytest.mark.slow),
        ],
    )
    def test_inequalities_with_no_common_point(
        self, method: Any, limits: Callable[[Array], Array]
    ) -> None:
        start = jnp.array([1.0, 5.0])
        solution = minimize(
            lambda x: -x[0] + 4 * x[1], start, method, bounds=(-5.0, 5.0), inequality=limits
        )
        assert solution.status == Status.INFEASIBLE
        # Augmented Lagrangians raise the penalty of a circle ten times, with a run of BFGS each.
        most = 300 if isinstance(method, AugmentedLagrangian) else 50
        assert int(solution.stats["evaluations"]) <= most

    @pytest.mark.slow
    @pytest.mark.parametrize("scale", [1.0, 100.0])
    def test_equations_with_no_common_point(self, scale: float) -> None:
        equations = lambda x: jnp.stack([x[0] + x[1] - 1, scale * (x[0] + x[1] - 2)])
        solution = minimize(
            lambda x: jnp.sum(x**2),
            jnp.array([0.2, 0.3]),
            AugmentedLagrangian(),
            equality=equations,
        )
        assert solution.status == Status.INFEASIBLE
        assert int(solution.stats["evaluations"]) <= 200

    @pytest.mark.slow
    @pytest.mark.parametrize("method", [MMA(), AugmentedLagrangian()])
    def test_a_long_way_to_the_constraints_is_no_contradiction(self, method: Any) -> None:
        """Along a curved valley of the violation from afar: x_1 = 1e2 from 0, x_0 = x_1^2 / 100."""
        limits = lambda x: jnp.stack(
            [100 - x[1], x[0] - x[1] ** 2 / 100 - 1, x[1] ** 2 / 100 - x[0] - 1]
        )
        solution = minimize(
            jnp.sum, jnp.zeros(2), method, bounds=(-500.0, 500.0), inequality=limits
        )
        np.testing.assert_allclose(adjoint.require(solution), [99.0, 100.0], rtol=1e-5)
