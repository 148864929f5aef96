"""Solvers outside of `jax.jit`: compiled once, found again by just what is computed."""

import gc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import monitoring

import adjoint
from adjoint.tracing.programs import ProgramCache, compiled, programs
from adjoint.tracing.quick_compile import is_small
from adjoint.tracing.traced_function import TracedFunction

ONE = jnp.ones(1)
# Each solves for something of (a, p), where the user's function closes over a.
SOLVERS: dict[str, Callable[[Any, Any], Any]] = {
    "root": lambda a, p: adjoint.root(lambda x, p: a * x + x**3 - p, ONE, p).value[0],
    "linear_solve": lambda a, p: adjoint.linear_solve(
        adjoint.MatrixFree(lambda x: a * x, 1), p
    ).value[0],
    "recurrence": lambda a, p: adjoint.recurrence(lambda k, x, p: a * x + p, ONE, p, 3).value[0],
}
SLOW_SOLVERS: dict[str, Callable[[Any, Any], Any]] = {
    "fixed_point": lambda a, p: adjoint.fixed_point(
        lambda x, p: jnp.cos(a * x) * p / 9, ONE, p
    ).value[0],
    "argmin": lambda a, p: adjoint.argmin(
        lambda x, p: jnp.sum((a * x - p) ** 2 + x**2), ONE, p
    ).value[0],
    "argmin with constraints": lambda a, p: adjoint.argmin(
        lambda x, p: jnp.sum((a * x - p) ** 2), 0 * ONE, p, inequality=lambda x, p: x - 2
    ).value[0],
    "steady_state": lambda a, p: adjoint.steady_state(lambda t, y, p: p - a * y, ONE, p, 9.0).value[
        0
    ],
    "ode_solve": lambda a, p: adjoint.ode_solve(lambda t, y, p: -a * y * p, ONE, p, 0.0, 1.0).value[
        0
    ],
    "hybrid_solve": lambda a, p: adjoint.hybrid_solve(
        lambda t, y, p: a * p,
        ONE,
        p,
        0.0,
        0.1,
        adjoint.Event(lambda t, y, p: a - y[0] / 2, lambda t, y, p: a * y),
        max_events=1,
    ).value.y[0],
}
ALL = [
    *(pytest.param(solve, id=name) for name, solve in SOLVERS.items()),
    *(pytest.param(solve, id=name, marks=pytest.mark.slow) for name, solve in SLOW_SOLVERS.items()),
]


class Compilations:
    """How many programs JAX compiled while it was listening."""

    def __enter__(self) -> "Compilations":
        self.count = 0
        monitoring.register_event_duration_secs_listener(self._hear)
        return self

    def _hear(self, event: str, duration_secs: float, **kwargs: str | int) -> None:
        self.count += "backend_compile" in event

    def __exit__(self, *_: object) -> None:
        monitoring.unregister_event_duration_listener(self._hear)


@pytest.mark.parametrize("solve", ALL)
def test_what_changed_is_seen_and_what_did_not_is_not_compiled_again(
    solve: Callable[[Any, Any], Any],
) -> None:
    p = jnp.array([3.0])
    settings = {"a": jnp.array(2.0)}

    def value(p: Any) -> Any:
        return solve(settings["a"], p)

    first, gradient = jax.value_and_grad(value)(p)
    with Compilations() as compilations:
        again, gradient_again = jax.value_and_grad(value)(p)
        settings["a"] = jnp.array(2.5)
        changed, gradient_changed = jax.value_and_grad(value)(p)
    assert compilations.count == 0
    assert (again, *gradient_again) == (first, *gradient)
    # By a program of its own, with the number within.
    other, other_gradient = jax.jit(jax.value_and_grad(lambda p: solve(2.5, p)))(p)
    np.testing.assert_allclose(changed, other, rtol=1e-9)
    np.testing.assert_allclose(gradient_changed, other_gradient, rtol=1e-7)
    assert abs(changed - first) > 1e-3


@pytest.mark.parametrize("solve", ALL)
def test_what_is_closed_over_is_differentiated(solve: Callable[[Any, Any], Any]) -> None:
    p = jnp.array([3.0])
    derivative = jax.grad(solve)(2.0, p)
    h = 1e-4
    difference = (solve(jnp.array(2.0 + h), p) - solve(jnp.array(2.0 - h), p)) / (2 * h)
    np.testing.assert_allclose(derivative, difference, rtol=1e-5)


def root_of(residual: Callable[..., Any], p: Any = 8.0) -> float:
    return float(adjoint.root(residual, jnp.array(1.0), p).value)


def test_numbers_of_python_arrays_of_numpy_and_attributes_are_seen_as_they_are() -> None:
    class Model:
        exponent = 3
        table = np.array([1.0, 2.0])

    model = Model()

    def residual(x: Any, p: Any) -> Any:
        return x**model.exponent * model.table[0] - p

    assert root_of(residual) == pytest.approx(2.0)
    model.table[0] = 8.0
    assert root_of(residual) == pytest.approx(1.0)
    model.exponent = 1
    model.table = np.array([4.0])
    assert root_of(residual) == pytest.approx(2.0)


def test_a_preconditioner_may_be_made_anew_and_hold_what_is_traced() -> None:
    def solve(a: Any) -> Any:
        solver = adjoint.GMRES(preconditioner=lambda v: v / a)
        return adjoint.linear_solve(
            adjoint.MatrixFree(lambda x: a * x, 3), jnp.ones(3), solver
        ).value[0]

    jax.grad(solve)(2.0)
    with Compilations() as compilations:
        assert float(jax.grad(solve)(4.0)) == pytest.approx(-1 / 16)
    assert compilations.count == 0
    assert float(jax.jit(jax.grad(solve))(4.0)) == pytest.approx(-1 / 16)
    assert float(jax.jit(jax.grad(solve))(5.0)) == pytest.approx(-1 / 25)


def test_a_solver_that_can_change_belongs_to_no_program_that_is_kept() -> None:
    class Bisection:
        upper = 4.0

        def find(self, problem: Any, x0: Any, p: Any) -> Any:
            return jnp.full_like(x0, self.upper / 2), jnp.zeros((), jnp.int32)

    solver = Bisection()
    of = lambda: adjoint.root(lambda x, p: x - p, jnp.array(1.0), 2.0, solver)
    assert of().status.ok
    solver.upper = 6.0
    assert not of().status.ok


def test_the_cache_keeps_the_programs_used_last() -> None:
    cache = ProgramCache(2)
    made: list[str] = []

    def find(key: str) -> Any:
        return cache.find_or_make(key, lambda: made.append(key) or (lambda: key))()

    assert [find(key) for key in "abacab"] == list("abacab")
    assert made == ["a", "b", "c", "b"]
    assert len(cache) == 2
    cache.clear()
    assert len(cache) == 0


def test_programs_differ_in_types_and_in_what_is_static() -> None:
    programs.clear()
    for operand in (
        jnp.ones(2),
        jnp.ones(3),
        jnp.ones(2, np.float32),
        jnp.asarray(2.0),
        jnp.ones(()),
        [jnp.ones(2)],
    ):
        compiled(_double, operand)
    assert len(programs) == 6
    compiled(_double, jnp.zeros(2))
    assert len(programs) == 6


def _double(x: Any) -> Any:
    return jax.tree.map(lambda leaf: 2 * leaf, x)


@pytest.mark.slow
def test_a_thousand_calls_leave_nothing_behind() -> None:
    """Less than 0.05 MB a call; it was 3.8."""

    def megabytes() -> float:
        gc.collect()
        return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 / 1e6

    call = lambda k: adjoint.root(lambda x, p: x**3 + x - p, ONE, ONE * k)
    call(1.0)
    before = megabytes()
    for k in range(1000):
        call(float(k))
    assert (megabytes() - before) / 1000 < 0.05


LARGE = jnp.ones((40, 40))


@pytest.mark.parametrize(
    ("function", "x", "small"),
    [
        (lambda x: jnp.sin(x) ** 3, jnp.ones(32), True),
        (lambda x: jnp.sin(x) ** 3, jnp.ones(33), False),
        (lambda x: jnp.sum(LARGE) * x, jnp.ones(2), False),
        (lambda x: x * jnp.sum(jnp.ones((40, 40)) * x[0]), jnp.ones(2), False),
        (
            lambda x: jax.lax.fori_loop(
                0, 3, lambda k, x: x + jnp.sum(jnp.outer(jnp.arange(40.0), jnp.arange(40.0))), x
            ),
            jnp.ones(2),
            False,
        ),
        (lambda x: jax.jit(lambda x: x + 1)(x), jnp.ones(2), True),
    ],
)
def test_small_is_what_makes_no_large_array(
    function: Callable[[Any], Any], x: Any, small: bool
) -> None:
    assert is_small((TracedFunction.of(function, x), jnp.ones(3))) == small
    assert not is_small((TracedFunction.of(function, x), jnp.ones(1025)))


def test_a_program_inside_of_another_has_no_options_of_its_own() -> None:
    """The same solve alone, inside of jit, and differentiated."""
    solve = lambda p: adjoint.root(lambda x, p: x**3 + x - p, ONE, p).value[0]
    p = jnp.array([2.0])
    np.testing.assert_allclose(
        [solve(p), jax.jit(solve)(p), *jax.vmap(solve)(p[None]), jax.grad(solve)(p)[0] * 4], 1.0
    )
