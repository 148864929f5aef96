"""When a run may stop: what success promises, from starts with huge f, and the conditions.

The conditions are tested by themselves.
"""

from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adjoint import BFGS, LBFGS, NewtonKrylov, Status, SteepestDescent, minimize
from adjoint.optimize import stopping
from adjoint.optimize.stopping import RUNNING, STOPPING, Evidence, first_that_holds


def evidence(**known: Any) -> Evidence:
    """Of f = 1 with nothing left to gain, but for what is given."""
    nothing = dict.fromkeys(Evidence._fields, 0.0) | {
        "value": 1.0,
        "rounding": 1e-15,
        "newton_share": np.inf,
    }
    return Evidence(
        **{name: jnp.asarray(value) for name, value in (nothing | {"faded": False} | known).items()}
    )


class TestConditions:
    def test_beside_f(self) -> None:
        share = STOPPING.settled
        assert bool(stopping.is_settled(evidence(slope=0.9 * share), knows_curvature=False))
        assert not bool(stopping.is_settled(evidence(slope=1.1 * share), knows_curvature=False))

    def test_what_second_derivatives_predict_counts(self) -> None:
        assert not bool(stopping.is_settled(evidence(predicted=1e-3), knows_curvature=True))
        assert bool(stopping.is_settled(evidence(predicted=1e-12), knows_curvature=True))

    def test_zero_beside_a_huge_start_is_not_enough(self) -> None:
        """f = 1e18 after 1e38 is zero by rounding, as is its slope.

        x may go as far again as it is large.
        """
        valley = {"value": 1e18, "total": 1e38, "recent": 1e38, "slope": 2e18, "slope_here": 2e18}
        assert bool(stopping.is_zero(jnp.asarray(1e18), jnp.asarray(1e38)))
        assert not bool(stopping.is_settled(evidence(**valley), knows_curvature=False))

    @pytest.mark.parametrize(
        "known",
        [{"recent": 1.0, "slope_here": 1e-10}, {"newton_share": 1e-9}, {"faded": True}],
        ids=str,
    )
    def test_zero_is_a_minimum_when_x_is_close(self, known: dict[str, Any]) -> None:
        at = {"value": 1e-24, "total": 1.0, "slope": 1e-10, "slope_here": 1e-10} | known
        assert bool(stopping.is_settled(evidence(**at), knows_curvature=False))
        # The same where f is not zero beside what was gained.
        assert not bool(
            stopping.is_settled(evidence(**at | {"total": 1e-7}), knows_curvature=False)
        )

    def test_zero_is_a_minimum_where_curvature_says_so(self) -> None:
        """f is no more than what 100 units in the last place of x change it by."""
        at = {"value": 1e-28, "total": 1.0, "slope": 1e-14}
        assert bool(stopping.vanishes(evidence(**at), jnp.asarray(1.0)))
        for less in ({"value": 1e-24}, {"slope": 1e-10}, {"total": 1e-12}):
            assert not bool(stopping.vanishes(evidence(**at | less), jnp.asarray(1.0)))
        # A steep f is as curved as it is large.
        assert not bool(stopping.vanishes(evidence(**at), jnp.asarray(1e-25)))

    def test_what_was_gained_before_a_descent_hides_nothing(self) -> None:
        at = {"rounding": 1e-14, "slope": 1e-3}
        assert not bool(stopping.hides_slope(evidence(**at), knows_curvature=False))
        assert bool(stopping.hides_slope(evidence(**at | {"recent": 1e12}), knows_curvature=False))

    @settings(max_examples=20, deadline=None, derandomize=True)
    @given(
        unit=st.floats(1e-12, 1e12),
        slope=st.floats(1e-12, 1.0),
        value=st.floats(1e-25, 1.0),
        recent=st.floats(1e-10, 1e3),
    )
    def test_the_unit_of_f_does_not_matter(
        self, unit: float, slope: float, value: float, recent: float
    ) -> None:
        numbers = {
            "value": value,
            "total": 1e3,
            "recent": recent,
            "slope": slope,
            "slope_here": slope,
        }
        numbers |= {"rounding": 1e-15 * value, "predicted": slope**2}
        scaled = {name: unit * number for name, number in numbers.items()}
        for knows in (False, True):
            plain = bool(stopping.is_settled(evidence(**numbers), knows))
            assert bool(stopping.is_settled(evidence(**scaled), knows)) == plain
            plain = bool(stopping.hides_slope(evidence(**numbers), knows))
            assert bool(stopping.hides_slope(evidence(**scaled), knows)) == plain

    def test_the_first_row_that_holds_decides(self) -> None:
        yes, no = jnp.ones((), bool), jnp.zeros((), bool)
        assert (
            int(first_that_holds((Status.SUCCESS, no), (Status.STALLED, yes)))
            == Status.STALLED.code
        )
        assert (
            int(first_that_holds((Status.INFEASIBLE, yes), (Status.STALLED, yes)))
            == Status.INFEASIBLE.code
        )
        assert int(first_that_holds((Status.STALLED, no))) == RUNNING


def rosenbrock(x: Any) -> Any:
    """Minimum 0 at (1, 1)."""
    return 100 * (x[1] - x[0] ** 2) ** 2 + (1 - x[0]) ** 2


def decay(x: Any) -> Any:
    """2 exp(-t), fitted; minimum 0 at (2, -1)."""
    t = jnp.linspace(0.0, 2.0, 9)
    return jnp.sum((x[0] * jnp.exp(x[1] * t) - 2 * jnp.exp(-t)) ** 2)


def steep_fit(x: Any) -> Any:
    """2 exp(-t) with an amplitude that may die out on the way: then f is 19, and no minimum."""
    t = jnp.linspace(0.0, 1.0, 11)
    return jnp.sum((x[0] * jnp.exp(x[1] * t) - 2 * jnp.exp(-t)) ** 2)


def quartic(x: Any) -> Any:
    """Minimum 0 at (1, 2), where f'' is singular."""
    return (x[0] - 1) ** 4 + (x[1] - 2) ** 4 + (x[0] * x[1] - 2) ** 2


def penalized(x: Any) -> Any:
    """Minimum 0 at (1, 1); the penalty hides x_1 until it has come down to its rounding."""
    return 1e20 * (x[0] ** 2 - 1) ** 2 + (x[1] - 1) ** 2 + (x[1] - 1) ** 4


METHODS = [
    BFGS(),
    *(
        pytest.param(m, marks=pytest.mark.slow)
        for m in (None, NewtonKrylov(), LBFGS(), SteepestDescent())
    ),
]


@pytest.mark.parametrize("method", METHODS, ids=repr)
@pytest.mark.parametrize(
    ("f", "start"),
    [
        (rosenbrock, (1e9, 1e9)),
        (rosenbrock, (-1e5, 1e5)),
        (rosenbrock, (3e7, -1e3)),
        (rosenbrock, (1e12, 7e11)),
        (rosenbrock, (1e15, 7e14)),
        (decay, (1.0, 20.0)),
        (steep_fit, (1.0, 40.0)),
        (steep_fit, (5.0, 100.0)),
        (quartic, (1e9, 7e8)),
        (quartic, (1e20, 7e19)),
        (penalized, (3.0, 0.5)),
    ],
    ids=lambda v: getattr(v, "__name__", str(v)),
)
def test_a_success_from_a_huge_start_has_arrived(
    f: Any, start: tuple[float, ...], method: Any
) -> None:
    """All of them end at zero and are of order one around their minimizers.

    The penalty leaves f rounded by 1e-5, where x has lost its last three digits.
    """
    solution = minimize(f, jnp.asarray(start), method, max_evaluations=1500)
    assert not bool(solution.status.ok) or float(solution.stats["value"]) < 1e-4


@pytest.mark.parametrize(
    "method",
    [BFGS(), *(pytest.param(m, marks=pytest.mark.slow) for m in (None, LBFGS()))],
    ids=repr,
)
def test_a_zero_where_second_derivatives_are_singular_is_a_success(method: Any) -> None:
    """Steps stay shares of the distance, so that none of them tells how near it is."""
    for f in (quartic, lambda x: (x[0] - x[1]) ** 2 + (x[0] - 3) ** 4):
        solution = minimize(f, jnp.array([5.0, 7.0]), method)
        assert bool(solution.status.ok)
        assert float(solution.stats["value"]) < 1e-20
        assert int(solution.stats["evaluations"]) <= 250


def test_a_zero_of_rounded_terms_at_zero_is_a_success() -> None:
    """exp(x) - 1 is rounded by as much at 1e-15 as at 1."""
    for scale in (1.0, 1e-9):
        f = lambda x, scale=scale: jnp.sum((jnp.exp(x / scale) - 1) ** 2 + jnp.sin(x / scale) ** 2)
        solution = minimize(f, scale * jnp.array([0.3, -0.2, 0.7]), BFGS())
        assert bool(solution.status.ok)
        assert float(solution.stats["value"]) < 1e-20


@pytest.mark.parametrize("method", [BFGS(), pytest.param(None, marks=pytest.mark.slow)], ids=repr)
def test_a_zero_that_is_reached_is_a_success(method: Any) -> None:
    """Where x ends at zero, wholly or in one entry, no size of x tells how close is close."""
    for f in (lambda x: jnp.sum(x**2), lambda x: (x[0] - 1) ** 2 + x[1] ** 2 + (x[0] * x[1]) ** 2):
        solution = minimize(f, jnp.array([5.0, 3.0]), method)
        assert bool(solution.status.ok)
        # Within 1e-8 of the size that x has had, which is 5.
        assert float(solution.stats["value"]) < 1e-15
        assert int(solution.stats["evaluations"]) <= 40


def plateau(x: Any) -> Any:
    """Minimum 0 at log 2; where exp(x_i) dies out f is 4, flat, and bent downwards."""
    return jnp.sum((jnp.exp(x) - 2) ** 2)


@pytest.mark.parametrize(
    "start",
    [(30.0, 80.0, 2.0), pytest.param((-16.0, 2.0), marks=pytest.mark.slow)],
    ids=str,
)
def test_a_plateau_is_no_minimum_where_second_derivatives_are_at_hand(
    start: tuple[float, ...],
) -> None:
    """Newton's method gives up halfway, BFGS leaps beyond, and its success is looked into."""
    solution = minimize(plateau, jnp.asarray(start))
    assert bool(solution.status.ok)
    assert float(solution.stats["value"]) < 1e-15
