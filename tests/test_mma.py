"""MMA: published optima with their multipliers, in every mode, laws, faults and bad input."""

import itertools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hock_schittkowski import hs76, hs76_limits, rosen_suzuki, rosen_suzuki_limits

import adjoint
from adjoint import GCMMA, MMA, SQP, Euclidean, Status, minimize
from adjoint.optimize.diagonal_hessian import DiagonalHessian, learn
from adjoint.optimize.lagrangian import infeasible_stationary
from adjoint.optimize.problem import Domain
from adjoint.optimize.state import Constraints, Multipliers


class Case(NamedTuple):
    """A problem with its published optimum."""

    f: Callable[[Any], Any]
    h: Callable[[Any], Any]
    start: list[float]
    bounds: tuple[Any, Any]
    value: float
    x: list[float]
    digits: float  # half a unit of the last published place, of x


BEAM = jnp.array([61.0, 37.0, 19.0, 7.0, 1.0])


def truss_stresses(x: Any) -> Any:
    """Of the two bars, less their limit; area x_0, half of the distance of the supports x_1."""
    length = 0.124 * jnp.sqrt(1 + x[1] ** 2)
    return jnp.stack(
        [length * (8 / x[0] + 1 / (x[0] * x[1])) - 1, length * (8 / x[0] - 1 / (x[0] * x[1])) - 1]
    )


def hs35(x: Any) -> Any:
    return (
        9
        - 8 * x[0]
        - 6 * x[1]
        - 4 * x[2]
        + 2 * x[0] ** 2
        + 2 * x[1] ** 2
        + x[2] ** 2
        + 2 * x[0] * (x[1] + x[2])
    )


# The beam and the truss: Svanberg (1987), sections 6.1 and 6.2. HS: W. Hock, K. Schittkowski, Test
# Examples for Nonlinear Programming Codes (1981), at their starts; the bounds, where theirs are
# infinite, are far from the optimum.
CASES = {
    "beam": Case(
        lambda x: 0.0624 * jnp.sum(x),
        lambda x: jnp.sum(BEAM / x**3) - 1,
        [5.0] * 5,
        (1.0, 10.0),
        1.339956,
        [6.016, 5.309, 4.494, 3.502, 2.153],
        6e-4,
    ),
    "truss": Case(
        lambda x: x[0] * jnp.sqrt(1 + x[1] ** 2),
        truss_stresses,
        [1.5, 0.5],
        (jnp.array([0.2, 0.1]), jnp.array([4.0, 1.6])),
        1.51,
        [1.41, 0.38],
        5e-3,
    ),
    "HS34": Case(
        lambda x: -x[0],
        lambda x: jnp.exp(x[:2]) - x[1:],
        [0.0, 1.05, 2.9],
        (0.0, jnp.array([100.0, 100.0, 10.0])),
        -np.log(np.log(10)),
        [np.log(np.log(10)), np.log(10), 10.0],
        1e-6,
    ),
    "HS35": Case(
        hs35,
        lambda x: x[0] + x[1] + 2 * x[2] - 3,
        [0.5] * 3,
        (0.0, 3.0),
        1 / 9,
        [4 / 3, 7 / 9, 4 / 9],
        1e-6,
    ),
    "HS43": Case(
        rosen_suzuki,
        rosen_suzuki_limits,
        [0.0] * 4,
        (-5.0, 5.0),
        -44.0,
        [0.0, 1.0, 2.0, -1.0],
        1e-6,
    ),
    "HS76": Case(
        hs76, hs76_limits, [0.5] * 4, (0.0, 5.0), -4.681818181, [3 / 11, 23 / 11, 0.0, 6 / 11], 1e-6
    ),
}
ACTIVE = {
    "beam": [True],
    "truss": [True, False],
    "HS34": [True, True],
    "HS35": [True],
    "HS43": [True, False, True],
    "HS76": [True, False, False],
}


# The others are as large as none of the tests, so that all has to be compiled for them.
FAST = ("truss",)


def solve(case: Case, method: Any = None, **options: Any) -> Any:
    start = jnp.asarray(case.start)
    return minimize(
        case.f, start, method or MMA(), bounds=case.bounds, inequality=case.h, **options
    )


def assert_optimal(case: Case, solution: Any, active: list[bool]) -> None:
    """The published optimum, and the conditions of optimality with the multipliers.

    They are Nocedal and Wright's, theorem 12.1.
    """
    x, multipliers = adjoint.require(solution), np.asarray(solution.stats["multipliers"])
    np.testing.assert_allclose(x, case.x, rtol=0, atol=case.digits)
    assert solution.status == Status.SUCCESS
    assert float(solution.stats["violation"]) <= 1e-8
    c, J = np.atleast_1d(case.h(x)), np.atleast_2d(jax.jacrev(case.h)(x))
    assert np.all(c <= 1e-8)
    np.testing.assert_array_equal(multipliers > 0, active)
    np.testing.assert_array_equal(multipliers[~np.array(active)], 0)
    gradient = np.asarray(jax.grad(case.f)(x)) + multipliers @ J
    lower, upper = (np.broadcast_to(np.asarray(b), gradient.shape) for b in case.bounds)
    held = ((x <= lower) & (gradient > 0)) | ((x >= upper) & (gradient < 0))
    np.testing.assert_allclose(gradient[~held], 0, rtol=0, atol=1e-6)


class TestPublishedOptima:
    @pytest.mark.parametrize(
        "name", [n if n in FAST else pytest.param(n, marks=pytest.mark.slow) for n in CASES]
    )
    def test_optimum_and_multipliers(self, name: str) -> None:
        case = CASES[name]
        solution = solve(case)
        assert_optimal(case, solution, ACTIVE[name])
        last_place = {"truss": 5e-3, "beam": 6e-7}.get(name, 1e-7)
        assert float(solution.stats["value"]) == pytest.approx(case.value, abs=last_place)

    @pytest.mark.slow
    @pytest.mark.parametrize("name", ["truss", "HS34", "HS43"])
    def test_conservative(self, name: str) -> None:
        """HS34 in (0, 100) learns second derivatives of 1e5 in spans, against small slopes."""
        case = CASES[name]
        solution = solve(case, GCMMA())
        assert_optimal(case, solution, ACTIVE[name])
        history = solution.stats["history"]
        # Once within the constraints all iterates are, and f falls, up to the tolerance of the
        # subproblem: 1e-10 of a slope of 20 times asymptotes that are up to 30 away.
        start = int(np.argmax(history["violation"] == 0))
        assert np.all(history["violation"][start:] <= 1e-12)
        assert np.all(np.diff(history["value"][start:]) <= 6e-8)

    @pytest.mark.slow
    def test_bounds_alone(self) -> None:
        target, lower = jnp.array([0.3, 0.7, -1.0]), jnp.array([0.0, 0.0, 0.25])
        f = lambda x: jnp.sum((x - target) ** 2)
        solution = minimize(f, jnp.full(3, 0.5), GCMMA(), bounds=(lower, 1.0))
        np.testing.assert_allclose(adjoint.require(solution), [0.3, 0.7, 0.25], rtol=0, atol=1e-8)


def learned(slope: Callable[[Any], Any], points: list[list[float]]) -> DiagonalHessian:
    """From the slopes of one function at these points, in spans."""
    n = len(points[0])
    hessian = DiagonalHessian(jnp.zeros((1, n)), jnp.zeros((1, n)), jnp.zeros((2, 1)))
    x = jnp.array(points)
    for before, after in itertools.pairwise(x):
        hessian = learn(hessian, (slope(after) - slope(before))[None], after - before)
    return hessian


class TestCurvature:
    POINTS = ([0.5, 0.5, 0.5], [0.6, 0.2, 0.5], [0.4, 0.3, 0.6], [0.45, 0.35, 0.5])

    def test_of_a_sum_of_functions_of_one_unknown_each(self) -> None:
        """f = a . x^2 / 2: right after two steps, where the second has been foretold.

        x_2 has moved in the second only.
        """
        a = jnp.array([1.0, 20.0, 3.0])
        np.testing.assert_allclose(
            learned(lambda x: a * x, list(self.POINTS)).better, [a], rtol=1e-12
        )

    def test_of_a_coupled_function(self) -> None:
        """f = x' A x / 2: s' D s = s' y for the latest step s; D changes least, along s^2."""
        A = jnp.array([[4.0, 3.5, -1.0], [3.5, 4.0, 0.5], [-1.0, 0.5, 2.0]])
        before, after = (learned(lambda x: A @ x, list(self.POINTS[:count])) for count in (3, 4))
        s = jnp.array(self.POINTS[3]) - jnp.array(self.POINTS[2])
        D, change = after.better[0], after.averaged[0] - before.averaged[0]
        np.testing.assert_array_equal(D, after.averaged[0])
        np.testing.assert_allclose(s @ (D * s), s @ A @ s, rtol=1e-12)
        np.testing.assert_allclose(change / s**2, change[0] / s[0] ** 2, rtol=1e-9)

    def test_a_step_within_rounding_tells_nothing(self) -> None:
        known = learned(lambda x: 2 * x, list(self.POINTS))
        again = learn(known, jnp.full((1, 3), 1e-3), jnp.full(3, 1e-9))
        jax.tree.map(np.testing.assert_array_equal, again, known)

    @pytest.mark.slow
    def test_it_saves_steps(self) -> None:
        """f and constraints of HS43 are sums of functions of one x_j each: 10 evaluations.

        It takes 16 where all is spread evenly.
        """
        assert int(solve(CASES["HS43"]).stats["evaluations"]) <= 12


class TestLaws:
    @pytest.mark.slow
    def test_compiled_and_host_take_the_same_steps(self) -> None:
        case = CASES["truss"]

        def solved(start: Any) -> Any:
            solution = minimize(case.f, start, MMA(), bounds=case.bounds, inequality=case.h)
            return solution.value, solution.stats["iterations"], solution.stats["multipliers"]

        starts = jnp.array([case.start, [3.0, 1.0]])
        in_lanes = jax.jit(jax.vmap(solved))(starts)
        for lane, start in enumerate(starts):
            on_host = solved(start)
            assert int(in_lanes[1][lane]) == int(on_host[1])
            # Batched systems are solved by another routine, which rounds otherwise.
            np.testing.assert_allclose(in_lanes[0][lane], on_host[0], rtol=1e-9)
            np.testing.assert_allclose(in_lanes[2][lane], on_host[2], rtol=0, atol=1e-7)

    @pytest.mark.slow
    def test_a_permutation_of_the_unknowns_permutes_the_iterates(self) -> None:
        order, iterates = np.array([3, 0, 4, 2, 1]), []
        for weights in (BEAM, BEAM[order]):
            seen: list[Any] = []
            bend = lambda x, weights=weights: jnp.sum(weights / x**3) - 1
            minimize(
                jnp.sum,
                jnp.full(5, 5.0),
                MMA(),
                bounds=(1.0, 10.0),
                inequality=bend,
                callback=seen.append,
                max_steps=6,
            )
            iterates.append(np.stack([step.x for step in seen]))
        np.testing.assert_allclose(iterates[1], iterates[0][:, order], rtol=1e-9)


class TestFaults:
    def test_a_flipped_component_of_the_gradient(self) -> None:
        # It leads to x_1 = 1, where the derivative that is told is zero within the bounds, and f
        # larger than at the start.
        target, weights = np.array([0.7, 0.2]), np.array([1.0, 3.0])
        f = lambda x: float(weights @ (x - target) ** 2)
        wrong = lambda x: 2 * weights * (x - target) * np.array([1.0, -1.0])
        limits = {
            "bounds": (-1.0, 1.0),
            "inequality": lambda x: jnp.stack([x[0] + x[1] - 1.5, x[0] - 2]),
        }
        solution = minimize(f, jnp.array([-0.3, 0.4]), MMA(), gradient=wrong, **limits)
        assert solution.status == Status.UNTRUSTED_GRADIENT
        assert float(solution.stats["value"]) <= f(np.array([-0.3, 0.4]))

    def test_conservative_steps_on_a_flipped_gradient_end_soon(self) -> None:
        # No curvature makes approximations of the wrong slope conservative.
        target, weights = np.array([0.7, 0.2]), np.array([1.0, 3.0])
        f = lambda x: float(weights @ (x - target) ** 2)
        wrong = lambda x: 2 * weights * (x - target) * np.array([1.0, -1.0])
        limits = {
            "bounds": (-1.0, 1.0),
            "inequality": lambda x: jnp.stack([x[0] + x[1] - 1.5, x[0] - 2]),
        }
        solution = minimize(f, jnp.array([-0.3, 0.4]), GCMMA(), gradient=wrong, **limits)
        assert solution.status == Status.UNTRUSTED_GRADIENT
        assert int(solution.stats["evaluations"]) <= 40

    @pytest.mark.slow
    @pytest.mark.parametrize("method", [MMA(), GCMMA()])
    def test_bounds_where_the_constraint_is_thousands(self, method: Any) -> None:
        # Twenty boxes: x_j = (sum c^(1/4) / d)^(1/3) c_j^(1/4), by Lagrange's condition. At the
        # lower bounds the limit is used 8000 times, and to there the first approximations from the
        # uniform beam lead.
        k, d = np.arange(20, 0, -1.0), 2.0
        c = k**3 - (k - 1) ** 3
        uniform = 20 / d ** (1 / 3)
        sag = lambda x: jnp.sum(c / x**3) / d - 1
        solution = minimize(
            jnp.sum,
            jnp.full(20, uniform),
            method,
            bounds=(uniform / 20, 2 * uniform),
            inequality=sag,
        )
        exact = (np.sum(c**0.25) / d) ** (1 / 3) * c**0.25
        np.testing.assert_allclose(adjoint.require(solution), exact, rtol=1e-5)
        np.testing.assert_allclose(solution.stats["value"], exact.sum(), rtol=1e-9)

    def test_a_stationary_violation_is_told_from_one_on_the_way(self) -> None:
        domain = Domain(jnp.zeros(2), jnp.full(2, 3.0), jnp.zeros(()), Euclidean(), lambda v: v)
        h = lambda x: jnp.stack([x[0] - 1, 2 - x[0], x[1] - 5])

        def found(x: list[float], multipliers: list[float]) -> bool:
            at = jnp.array(x)
            values = jnp.array(multipliers)
            known = Multipliers(Constraints(h(at), jax.jacrev(h)(at)), values, values)
            return bool(infeasible_stationary(at, known, domain))

        # (x - 1)^2 + (2 - x)^2 is stationary at 3/2 alone, |x - 1| + |2 - x| from 1 to 2; within
        # the constraints nothing is.
        assert found([1.5, 0.0], [0.0, 0.0, 0.0])
        assert not found([1.4, 0.0], [0.0, 0.0, 0.0])
        assert found([1.4, 0.0], [7.0, 7.0, 1.0])
        assert not found([0.5, 0.0], [0.0, 7.0, 0.0])
        assert not found([0.5, 0.0], [7.0, 7.0, 0.0])
        # Where |x - 1| + |2 - x| has a kink: one is met, and holds back the other.
        assert found([2.0, 0.0], [7.0, 7.0, 0.0])

    @pytest.mark.parametrize("start", [[1.0, 4.0], [0.0, 0.0]])
    @pytest.mark.parametrize(
        "method",
        [MMA(), *(pytest.param(m, marks=pytest.mark.slow) for m in (GCMMA(), SQP(), None))],
    )
    def test_a_disk_that_does_not_reach_a_line(self, method: Any, start: list[float]) -> None:
        """x^2 + y^2 <= 1 and x + y >= 3, whose distance is 3 / sqrt(2) - 1."""
        apart = lambda x: jnp.stack([jnp.sum(x**2) - 1, 3 - x[0] - x[1]])
        f = lambda x: -x[0] + 4 * x[1]
        solution = minimize(f, jnp.array(start), method, bounds=(-5.0, 5.0), inequality=apart)
        assert solution.status == Status.INFEASIBLE
        # The default asks several methods in turn.
        assert int(solution.stats["evaluations"]) <= (50 if method else 150)

    def test_infeasible_constraints(self) -> None:
        # x_0 <= 1 and x_0 >= 2: the least violation is 1/2, at 3/2.
        impossible = lambda x: jnp.stack([x[0] - 1, 2 - x[0]])
        solution = minimize(
            jnp.sum, jnp.full(2, 0.5), MMA(), bounds=(0.0, 3.0), inequality=impossible
        )
        assert solution.status == Status.INFEASIBLE
        assert float(solution.stats["violation"]) == pytest.approx(0.5, abs=1e-5)

    @pytest.mark.slow
    def test_a_constraint_that_is_no_number(self) -> None:
        nowhere = lambda x: jnp.sum(x) * jnp.nan
        solution = minimize(jnp.sum, jnp.full(2, 0.5), MMA(), bounds=(0.0, 1.0), inequality=nowhere)
        assert solution.status == Status.NONFINITE_OBJECTIVE
        # Not a number for x < 1/2 only: the minimizer of 1 + (x - 0.6)^2 is reached by shorter
        # steps.
        partly = lambda x: jnp.sqrt(x[0] - 0.5) - 2
        f = lambda x: 1 + (x[0] - 0.6) ** 2
        solution = minimize(f, jnp.full(1, 0.9), MMA(), bounds=(0.0, 1.0), inequality=partly)
        np.testing.assert_allclose(adjoint.require(solution), 0.6, rtol=0, atol=1e-7)

    def test_a_minimum_of_zero(self) -> None:
        # In one unknown the approximations come down to the secant method, whose steps fall faster
        # than linearly.
        solution = minimize(lambda x: (x[0] - 0.6) ** 2, jnp.full(1, 0.9), MMA(), bounds=(0.0, 1.0))
        np.testing.assert_allclose(adjoint.require(solution), 0.6, rtol=0, atol=1e-7)
        assert int(solution.stats["evaluations"]) <= 15

    def test_a_fixed_unknown_stays(self) -> None:
        lower, upper = jnp.array([0.5, 0.0]), jnp.array([0.5, 1.0])
        limit = lambda x: 1 - x[0] - x[1]
        solution = minimize(
            lambda x: x[0] + 2 * x[1],
            jnp.full(2, 0.9),
            MMA(),
            bounds=(lower, upper),
            inequality=limit,
        )
        np.testing.assert_allclose(adjoint.require(solution), [0.5, 0.5], rtol=0, atol=1e-8)
        np.testing.assert_allclose(solution.stats["multipliers"], [2.0], rtol=0, atol=1e-7)


class TestRefusals:
    def test_what_it_cannot_honor(self) -> None:
        with pytest.raises(ValueError, match="got no bounds, expected finite bounds"):
            minimize(jnp.sum, jnp.ones(2), MMA())
        with pytest.raises(ValueError, match="MMA: got an infinite bound"):
            minimize(jnp.sum, jnp.ones(2), MMA(), bounds=(0.0, jnp.inf))
        with pytest.raises(ValueError, match=r"equality.*AugmentedLagrangian\(\)"):
            minimize(jnp.sum, jnp.ones(2), MMA(), bounds=(0.0, 1.0), equality=lambda x: x[0] - 1)
