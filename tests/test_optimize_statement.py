"""What the front doors of the optimizers accept and refuse.

It is inputs in SciPy's form, functions of NumPy, and first derivatives only.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize
from jaxtyping import Array, PyTree

import adjoint
from adjoint import BFGS, GaussNewton, Status, minimize
from adjoint.optimize.statement import Statement, state

Bounds: Any = scipy.optimize.Bounds


def squares(x: PyTree) -> Array:
    """Of the distances of all entries from 1."""
    return sum((jnp.sum((leaf - 1) ** 2) for leaf in jax.tree.leaves(x)), jnp.zeros(()))


def stated(x0: PyTree, bounds: Any) -> Statement:
    return state(squares, x0, bounds, None, None, None, None, 0.0)


class TestBounds:
    @pytest.mark.parametrize(
        ("x0", "bounds"),
        [
            (jnp.zeros(2), [(0.0, 1.0), (0.0, 1.0)]),
            (jnp.zeros(2), ((-5.0, 0.2), (0.0, 5.0))),
            (jnp.zeros(2), [(None, 1.0), (0.0, None)]),
            (jnp.zeros(2), [np.zeros(2), np.ones(2)]),
            (jnp.zeros(2), (np.zeros(2), [1.0, 1.0])),
            (jnp.zeros((2, 2)), [[[0, 1], [0, 1]], [[0, 1], [0, 1]]]),
            ([0.0, 0.0], [[0.0, 1.0], [0.0, 1.0]]),
            ((jnp.zeros(2), jnp.zeros(3)), ((0.0, 1.0), (0.0, 1.0))),
        ],
    )
    def test_what_can_be_read_in_both_ways_is_refused(self, x0: PyTree, bounds: Any) -> None:
        with pytest.raises(ValueError, match=r"as SciPy has it.*scipy\.optimize\.Bounds"):
            stated(x0, bounds)

    @pytest.mark.parametrize("bounds", [[(0, 1)] * 3, np.array([(0.0, 1.0)] * 3), ((0, 1),) * 3])
    def test_pairs_of_entries_are_refused_and_called_so(self, bounds: Any) -> None:
        with pytest.raises(
            ValueError, match=r"a pair for each entry, as SciPy has it.*\(lower, upper\)"
        ):
            stated(jnp.zeros(3), bounds)

    @pytest.mark.parametrize(
        ("x0", "bounds"),
        [
            # (lowest, highest) of each column would be spread over the rows as a lower and an upper
            # bound.
            (jnp.zeros((3, 2)), [(0.0, 1.0), (0.0, 1.0)]),
            (jnp.zeros((3, 2)), (jnp.zeros(2), 1.0)),
            (jnp.zeros(3), ([0.0, None, 0.0], [1.0, 1.0, 1.0])),
            ({"a": jnp.zeros(2)}, ({"a": jnp.zeros(3)}, 1.0)),
            (jnp.zeros(3), Bounds([0, 0], [1, 1])),
            ({"a": jnp.zeros(2)}, {"a": (0, 1)}),
        ],
    )
    def test_another_shape_than_that_of_x0_is_refused(self, x0: PyTree, bounds: Any) -> None:
        with pytest.raises(ValueError, match=r"like x0|as x0 has|pair"):
            stated(x0, bounds)

    @pytest.mark.parametrize(
        ("x0", "bounds", "lower", "upper"),
        [
            (jnp.zeros(2), (jnp.zeros(2), jnp.ones(2)), [0, 0], [1, 1]),
            (jnp.zeros(2), (0.0, [1.0, 2.0]), [0, 0], [1, 2]),
            (jnp.zeros(2), (0.0, None), [0, 0], [np.inf, np.inf]),
            (jnp.zeros(1), (None, 1.0), [-np.inf], [1]),
            (jnp.zeros(3), ([0.0, 1.0, 2.0], 5), [0, 1, 2], [5, 5, 5]),
            (
                (jnp.zeros(1), jnp.zeros(2)),
                ((jnp.zeros(1), jnp.ones(2)), 2.0),
                [0, 1, 1],
                [2, 2, 2],
            ),
            ({"a": jnp.zeros(2), "b": 0.0}, ({"a": 0.0, "b": -1.0}, 3.0), [0, 0, -1], [3, 3, 3]),
            (jnp.zeros(2), Bounds([0, 1], [2, np.inf]), [0, 1], [2, np.inf]),
            (jnp.zeros((2, 2)), Bounds(0, np.arange(1.0, 5.0)), [0] * 4, [1, 2, 3, 4]),
            ((0.0, 0.0), Bounds([0, 1], [2, 3]), [0, 1], [2, 3]),
        ],
    )
    def test_what_can_be_read_in_one_way(
        self, x0: PyTree, bounds: Any, lower: Any, upper: Any
    ) -> None:
        domain = stated(x0, bounds).domain
        np.testing.assert_array_equal(np.asarray(domain.lower), lower)
        np.testing.assert_array_equal(np.asarray(domain.upper), upper)

    @pytest.mark.slow
    def test_the_minimizer_within_bounds_of_scipy(self) -> None:
        # The nearest point of the box [-5, 0.2] x [0, 5] to (1, 1).
        box = Bounds([-5.0, 0.0], [0.2, 5.0])
        solution = minimize(squares, jnp.full(2, 0.1), BFGS(), bounds=box)
        np.testing.assert_allclose(adjoint.require(solution), [0.2, 1.0], atol=1e-8)


class TestFormsOfSciPy:
    @pytest.mark.parametrize(
        ("name", "given", "remedy"),
        [
            ("inequality", {"type": "ineq", "fun": lambda x: x}, "sign changed"),
            ("inequality", scipy.optimize.NonlinearConstraint(lambda x: x, 0, 1), "<= 0"),
            ("equality", [{"type": "eq", "fun": lambda x: x}], "to be zero"),
            ("gradient", True, "jac=True"),
        ],
    )
    def test_no_functions(self, name: str, given: Any, remedy: str) -> None:
        with pytest.raises(TypeError, match=f"{name} = .*{remedy}"):
            minimize(squares, jnp.zeros(2), **{name: given})

    def test_argmin_knows_them_too(self) -> None:
        with pytest.raises(TypeError, match=r"argmin: got inequality.*sign changed"):
            adjoint.argmin(
                lambda x, p: squares(x - p), jnp.zeros(2), jnp.ones(2), inequality={"fun": squares}
            )  # pyright: ignore[reportArgumentType]

    @pytest.mark.parametrize(
        ("f", "gradient", "message"),
        [
            (
                lambda x: (float(x @ x), 2 * x),
                lambda x: 2 * x,
                "an objective that returns a tuple.*gradient=",
            ),
            (lambda x: x**2, lambda x: 2 * x, "an objective that returns float64 array"),
            (
                lambda x: float(x @ x),
                lambda x: float(np.sum(2 * x)),
                r"gradient= that returns \[\(\)\].*\[\(2,\)\]",
            ),
            (lambda x: float(x @ x), lambda x: {"x": 2 * x}, "like x"),
        ],
    )
    def test_functions_on_the_host_that_return_something_else(
        self, f: Any, gradient: Any, message: str
    ) -> None:
        with pytest.raises(TypeError, match=message):
            minimize(f, jnp.ones(2), gradient=gradient)

    def test_gauss_newton_of_the_sum_of_squares_itself(self) -> None:
        # |f|^2 / 2 has its minima where f = 0, f has its own at 1.
        with pytest.raises(TypeError, match="residuals r"):
            minimize(lambda x: squares(x) - 1, jnp.zeros(2), GaussNewton())


def with_numpy(x: Array, *_: Any) -> Any:
    return np.linalg.norm(x)  # pyright: ignore[reportArgumentType]


def with_if(x: Array, *_: Any) -> Any:
    return jnp.sum(x) if x[0] > 0 else jnp.sum(x**2)


def with_assignment(x: Array, *_: Any) -> Any:
    found = np.zeros(2)
    found[0] = x[0]
    return found


ONES = jnp.ones(2)
DOORS: dict[str, tuple[Callable[[Any], Any], str]] = {
    "minimize": (lambda f: minimize(f, ONES), "gradient=.*external"),
    "minimize, constraint": (lambda f: minimize(squares, ONES, inequality=f), "external"),
    "argmin": (lambda f: adjoint.argmin(f, ONES, ONES), "gradient=.*external"),
    "argmin, constraint": (
        lambda f: adjoint.argmin(lambda x, p: squares(x - p), ONES, ONES, inequality=f),
        "external",
    ),
    "root": (lambda f: adjoint.root(f, ONES, ONES), "external"),
    "fixed_point": (lambda f: adjoint.fixed_point(f, ONES, ONES), "external"),
    "ode_solve": (
        lambda f: adjoint.ode_solve(lambda t, y, p: f(y), ONES, ONES, 0.0, 1.0),
        "external",
    ),
    "recurrence": (lambda f: adjoint.recurrence(lambda k, x, p: f(x), ONES, ONES, 3), "external"),
    "linear_solve": (
        lambda f: adjoint.linear_solve(adjoint.MatrixFree(f, 2), ONES, adjoint.GMRES()),
        "external",
    ),
    "verify_gradient": (
        lambda f: adjoint.verify_gradient(lambda p: jnp.sum(f(p)), ONES),
        "external",
    ),
}


class TestFunctionsOfNumPy:
    @pytest.mark.parametrize("door", DOORS)
    def test_the_message_names_the_line_and_the_remedy(self, door: str) -> None:
        self.refuses(door, with_numpy)

    @pytest.mark.parametrize("function", [with_if, with_assignment])
    def test_other_wishes_for_numbers(self, function: Any) -> None:
        self.refuses("minimize", function)

    def refuses(self, door: str, function: Any) -> None:
        call, remedy = DOORS[door]
        where = (
            f"^{door.partition(',')[0]}: got a function that needs "
            f"numbers.*test_optimize_statement.py.*{remedy}"
        )
        with pytest.raises(TypeError, match=where) as raised:
            call(function)
        assert raised.value.__cause__ is not None

    def test_other_errors_of_the_user_pass(self) -> None:
        def broken(x: Array) -> Array:
            raise TypeError("of the user's own")

        with pytest.raises(TypeError, match=r"^of the user's own"):
            minimize(broken, ONES)

    def test_an_argument_that_has_to_be_known_keeps_the_words_of_jax(self) -> None:
        with pytest.raises(jax.errors.ConcretizationTypeError):
            jax.jit(lambda n: adjoint.recurrence(lambda k, x, p: x, ONES, ONES, int(n)).value)(3)


def black_box(power: int) -> Any:
    """sum (x - 1)^power, with its first derivative alone."""
    return adjoint.external(
        lambda x: np.sum((x - 1) ** power),
        vjp=lambda x, y_bar: power * (x - 1) ** (power - 1) * y_bar,
        like=jnp.zeros(()),
    )


@jax.custom_vjp
def with_its_own_rule(x: Array) -> Array:
    return jnp.sum((x - 1) ** 2)


with_its_own_rule.defvjp(
    lambda x: (with_its_own_rule(x), x), lambda x, y_bar: (2 * (x - 1) * y_bar,)
)


class TestFirstDerivativesOnly:
    @pytest.mark.parametrize(
        "n", [2, *(pytest.param(n, marks=pytest.mark.slow) for n in (1, 100, 101))]
    )
    def test_the_default_is_a_method_of_first_derivatives(self, n: int) -> None:
        solution = minimize(black_box(2), jnp.zeros(n), bounds=(-5.0, 5.0))
        np.testing.assert_allclose(adjoint.require(solution), 1, atol=1e-8)

    def test_a_rule_that_jax_cannot_differentiate(self) -> None:
        objective = stated(jnp.zeros(3), None).objective
        assert objective.has_second_derivatives(jnp.zeros(3))
        assert not replace(objective, function=with_its_own_rule).has_second_derivatives(
            jnp.zeros(3)
        )

    @pytest.mark.slow
    def test_a_minimizer_of_such_a_rule(self) -> None:
        solution = minimize(with_its_own_rule, jnp.zeros(3))
        np.testing.assert_allclose(adjoint.require(solution), 1, atol=1e-8)
        assert "without second derivatives" in str(solution.stats["method"])

    @pytest.mark.slow
    def test_inside_jit_and_with_constraints(self) -> None:
        f, middle = black_box(2), jax.jit(lambda x: minimize(black_box(2), x).value)(jnp.zeros(3))
        np.testing.assert_allclose(middle, 1, atol=1e-8)
        half = adjoint.external(
            lambda x: np.sum(x) - x.size / 2,
            vjp=lambda x, y_bar: np.ones(x.shape) * y_bar,
            like=jnp.zeros(()),
        )
        for given in (
            {"inequality": half},
            {"equality": half},
            {"inequality": half, "bounds": (-5.0, 5.0)},
        ):
            solution = minimize(f, jnp.zeros(2), **given)  # pyright: ignore[reportArgumentType]
            np.testing.assert_allclose(adjoint.require(solution), 0.5, atol=1e-6)

    @pytest.mark.slow
    def test_what_has_second_derivatives_is_minimized_by_them(self) -> None:
        assert "with second derivatives" in str(minimize(squares, jnp.zeros(2)).stats["method"])

    def test_what_has_no_derivative_at_all_says_so(self) -> None:
        endless = lambda x: jax.lax.while_loop(lambda y: y < 2, lambda y: 2 * y, jnp.sum(x**2))
        with pytest.raises(ValueError, match="Reverse-mode differentiation does not work"):
            minimize(endless, jnp.ones(2))

    def test_a_status_of_constraints_names_their_sign(self) -> None:
        assert "SciPy" in Status.INFEASIBLE.message
