"""What goes wrong with roots, fixed points, minimizers ends in NaN everywhere, with its status.

That is in value and gradient. The modes are eager, jit, vmap (one bad lane between two good ones),
grad, and jit of grad. Faults are numbers, so that one compiled function serves all faults of a
form; a form is compiled anew at every eager call, so it runs eagerly with one fault.
"""

from collections.abc import Callable, Iterable
from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from implicit_faults import (
    FAULTS,
    FIXED_POINTS,
    FORMS,
    ONES,
    ROOTS,
    Fault,
    N,
    System,
    residual,
    step,
)

import adjoint
from adjoint import Solution


def value_and_pull_back(form: str) -> Callable[[System, Any], tuple[Solution, System]]:
    """(p, x0) -> the solution and the gradient of the sum of x with respect to all of p."""

    def evaluate(p: System, x0: Any) -> tuple[Solution, System]:
        def value_and_solution(p: System) -> tuple[Any, Solution]:
            solution = FORMS[form].solve(p, x0)
            return solution.value, solution

        x, pull_back, solution = jax.vjp(value_and_solution, p, has_aux=True)
        return solution, pull_back(jnp.ones_like(x))[0]

    return evaluate


@cache
def compiled_solve(form: str) -> Callable[..., Solution]:
    return jax.jit(FORMS[form].solve)


@cache
def compiled_gradient(form: str) -> Callable[..., tuple[Solution, System]]:
    return jax.jit(value_and_pull_back(form))


@cache
def batched_gradient(form: str) -> Callable[..., tuple[Solution, System]]:
    return jax.jit(jax.vmap(value_and_pull_back(form)))


def assert_failed(solution: Solution, statuses: tuple[str, ...]) -> None:
    assert solution.status.name in statuses
    assert np.all(np.isnan(solution.value)), "a failed solve returned a finite number"
    with pytest.raises(adjoint.SolveError):
        adjoint.require(solution)


def assert_all_nan(gradient: System) -> None:
    for name, leaf in gradient.items():
        assert np.all(np.isnan(leaf)), (
            f"the gradient with respect to {name} is finite somewhere: {leaf}"
        )


def assert_solved(form: str, solution: Solution, gradient: System, p: System) -> None:
    assert solution.status.name == "SUCCESS"
    expected = FORMS[form].dx_db(np.asarray(solution.value), p).T @ ONES
    np.testing.assert_allclose(gradient["b"], expected, rtol=1e-8)


def _rows(faults: Iterable[Fault], slow: set[str]) -> Any:
    rows = [
        pytest.param(f, marks=[pytest.mark.slow] if f.form in slow else [], id=str(f))
        for f in faults
    ]
    return pytest.mark.parametrize("fault", rows)


_of_its_own = {f.form: f for f in FAULTS if "NONFINITE_INPUT" not in f.statuses}
one_fault_of_each_form = _rows(_of_its_own.values(), set(FORMS) - {"Newton", "HostSolver"})


class TestEveryFault:
    @one_fault_of_each_form
    def test_eager(self, fault: Fault) -> None:
        assert_failed(
            FORMS[fault.form].solve(*jax.tree.map(jnp.asarray, fault.spoiled)), fault.statuses
        )

    @_rows(FAULTS, set(FORMS) - {"Newton", "HostSolver", "argmin"})
    def test_jit(self, fault: Fault) -> None:
        assert_failed(compiled_solve(fault.form)(*fault.spoiled), fault.statuses)

    @one_fault_of_each_form
    def test_grad(self, fault: Fault) -> None:
        solution, gradient = value_and_pull_back(fault.form)(
            *jax.tree.map(jnp.asarray, fault.spoiled)
        )
        assert_failed(solution, fault.statuses)
        assert_all_nan(gradient)

    @_rows(FAULTS, {"sparse Newton", "Picard", "Anderson"})
    def test_jit_of_grad(self, fault: Fault) -> None:
        solution, gradient = compiled_gradient(fault.form)(*fault.spoiled)
        assert_failed(solution, fault.statuses)
        assert_all_nan(gradient)

    @_rows(FAULTS, {"sparse Newton", "NewtonKrylov", "Picard", "Anderson"})
    def test_vmap_spoils_only_the_bad_lane(self, fault: Fault) -> None:
        p, x0 = FORMS[fault.form].healthy
        other = p | {"b": 0.9 * p["b"]}
        lanes = [(p, x0), fault.spoiled, (other, x0)]
        batch = batched_gradient(fault.form)(
            *jax.tree.map(lambda *leaves: np.stack(leaves), *lanes)
        )
        first, (solution, gradient), last = (
            jax.tree.map(lambda leaf, k=k: leaf[k], batch) for k in range(3)
        )
        assert_solved(fault.form, *first, p)
        assert_solved(fault.form, *last, other)
        assert_failed(solution, fault.statuses)
        assert_all_nan(gradient)
        with pytest.raises(
            adjoint.SolveError, match=r"lane 1, the first of 1 that failed out of 3"
        ):
            adjoint.require(batch[0])


@pytest.mark.parametrize(
    "form",
    [
        pytest.param(f, marks=pytest.mark.slow if f in ("sparse Newton", *FIXED_POINTS) else [])
        for f in FORMS
    ],
)
def test_healthy_problems_are_solved(form: str) -> None:
    """The value by the equations that it is to fulfil, the gradient by dx/db."""
    p, x0 = FORMS[form].healthy
    solution, gradient = compiled_gradient(form)(p, x0)
    assert_solved(form, solution, gradient, p)
    x = np.asarray(solution.value)
    if form in ROOTS or form == "HostSolver":
        np.testing.assert_allclose(residual(x, p), 0, atol=1e-12)
    elif form in FIXED_POINTS:
        np.testing.assert_allclose(step(x, p), x, rtol=1e-10)
    else:
        slope = p["A"] @ x + p["c"] * x**3 - p["b"]
        along = np.array([2.0, -1.0]) if "G" in p else np.eye(N)
        np.testing.assert_allclose(along @ slope, 0, atol=1e-12)
        np.testing.assert_allclose(p["G"] @ x - p["g"] if "G" in p else 0, 0, atol=1e-12)


ANSWER: dict[str, Callable[[np.ndarray], Any]] = {}
ANSWERING = adjoint.HostSolver(lambda _, p: np.cbrt(p) if p[0] == 1 else ANSWER["now"](np.cbrt(p)))


def answered(p: Any) -> Any:
    """The sum of x of x^3 = p, by a solver that gives the present answer unless p_0 = 1."""
    return jnp.sum(adjoint.root(lambda x, p: x**3 - p, jnp.ones(2), p, ANSWERING).value)


COMPILED, COMPILED_GRADIENT, BATCHED = (
    jax.jit(answered),
    jax.jit(jax.grad(answered)),
    jax.jit(jax.vmap(answered)),
)
MODES: dict[str, Callable[[], Any]] = {
    "eager": lambda: answered(jnp.full(2, 8.0)),
    "jit": lambda: COMPILED(jnp.full(2, 8.0)),
    "vmap": lambda: BATCHED(jnp.array([[1.0, 2.0], [8.0, 1.0], [1.0, 4.0]])),
    "grad": lambda: jax.grad(answered)(jnp.full(2, 8.0)),
    "jit of grad": lambda: COMPILED_GRADIENT(jnp.full(2, 8.0)),
}
BAD_ANSWERS: dict[str, tuple[Callable[[np.ndarray], Any], str]] = {
    "longer": (lambda x: np.append(x, 1.0), r"HostSolver: got x .*\(3,\)"),
    "another rank": (lambda x: x[None], r"HostSolver: got x .*\(1, 2\)"),
    "another structure": (lambda x: {"x": x}, r"HostSolver: got x .*'x'"),
    "complex": (lambda x: x + 1j, r"HostSolver: got x .*complex128"),
    "none": (lambda _: None, r"HostSolver: got x "),
    "an error": (lambda x: x[7], "index 7 is out of bounds"),
}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("answer", BAD_ANSWERS)
def test_what_a_host_solver_must_not_return_ends_the_computation(answer: str, mode: str) -> None:
    """Under `vmap` in the second of three lanes."""
    ANSWER["now"], message = BAD_ANSWERS[answer]
    with pytest.raises(Exception, match=message):
        jax.block_until_ready(MODES[mode]())
    ANSWER["now"] = lambda x: x
    np.testing.assert_allclose(COMPILED_GRADIENT(jnp.full(2, 8.0)), 1 / 12, rtol=1e-12)
