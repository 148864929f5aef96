"""Checks that every ODE rule passes and its mutants fail, on a copy of the library."""

import functools
import importlib
from collections.abc import Callable
from typing import Any

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
from mutation import COPY
from ode_cases import coupled, error, exact, solved

CHECKS: dict[str, Callable[[], None]] = {}


def module(name: str) -> Any:
    """A module of the copied `adjoint/ode`, while there is one."""
    return importlib.import_module(f"{COPY}.ode.{name}")


def check(function: Callable[[], None]) -> Callable[[], None]:
    CHECKS[function.__name__] = function
    return function


@functools.cache
def expected(kind: str) -> Any:
    return jax.jit(jax.value_and_grad(functools.partial(exact, kind)))(coupled())


def compare(kind: str, sensitivity: Any, tolerance: float = 2e-4, **options: Any) -> None:
    g = functools.partial(
        solved, module("solve").ode_solve, kind, sensitivity=sensitivity, **options
    )
    assert error(jax.jit(jax.value_and_grad(g))(coupled()), expected(kind)) < tolerance


@check
def discrete() -> None:
    compare("samples", module("discrete").DiscreteAdjoint(), steps=4)


@check
def forward() -> None:
    compare("terminal", module("forward").ForwardSensitivity())


@check
def tangents() -> None:
    compare("terminal", module("forward").ForwardSensitivity(), steps=4)


def forward_mode(sensitivity: Any) -> None:
    """The tangent along p, y0 and sample times together, against the closed form's cotangents."""
    case = coupled()
    g = functools.partial(solved, module("solve").ode_solve, "samples", sensitivity=sensitivity)
    dots = jax.tree.map(
        lambda leaf: 1 + jnp.arange(leaf.size, dtype=leaf.dtype).reshape(leaf.shape), case
    )
    dots = dots._replace(ts=jnp.array([0.0, 1.0, 2.0, 0.0]))
    _, bars = expected("samples")
    wanted = sum(
        jnp.vdot(a, b) for a, b in zip(jax.tree.leaves(bars), jax.tree.leaves(dots), strict=True)
    )
    assert error(jax.jit(lambda case: jax.jvp(g, (case,), (dots,))[1])(case), wanted) < 1e-4


@check
def discrete_tangent() -> None:
    forward_mode(module("discrete").DiscreteAdjoint())


@check
def column_tangent() -> None:
    forward_mode(module("forward").ForwardSensitivity())


@check
def variational_tangent() -> None:
    forward_mode(module("continuous").InterpolatingAdjoint())


@check
def tangent_at_rest() -> None:
    """A pendulum at rest, linearized: y_dot = (cos(w t), -w sin(w t)) when moved by (1, 0)."""
    w = 3.0
    f = lambda t, y, p: jnp.stack([y[1], -(w**2) * jnp.sin(y[0])])
    discrete = module("discrete").DiscreteAdjoint()

    def end(y: Any) -> Any:
        return module("solve").ode_solve(f, y, 1.0, 0.0, 5.0, sensitivity=discrete).value

    y_dot = jax.jvp(end, (jnp.zeros(2),), (jnp.array([1.0, 0.0]),))[1]
    np.testing.assert_allclose(y_dot, [np.cos(5 * w), -w * np.sin(5 * w)], atol=1e-4)


@check
def recurrence_tangent() -> None:
    """x[3] = q^3 x0 + (q^2 + q + 1) w."""
    recur = module("recurrence").recurrence
    x = lambda q, w: recur(lambda k, x, p: p[0] * x + p[1], 2.0, (q, w), 3).value
    np.testing.assert_allclose(
        jax.jvp(x, (0.5, 1.0), (1.0, 3.0))[1], 3 * 0.25 * 2 + 2 + 3 * 1.75, rtol=1e-12
    )


@check
def implicit_samples() -> None:
    compare("samples", module("discrete").DiscreteAdjoint(), solver=diffrax.Kvaerno5(), steps=3)


@check
def implicit() -> None:
    compare("terminal", module("discrete").DiscreteAdjoint(), solver=diffrax.Kvaerno5(), steps=3)


@check
def many_states() -> None:
    module("runge_kutta").MANY = 1
    implicit()


@check
def far_factors() -> None:
    """(x_0, 4 x_0 + 2 x_1) = (1, 2) by the factors of the identity."""
    A, factors = jnp.array([[1.0, 4.0], [0.0, 2.0]]), jax.scipy.linalg.lu_factor(jnp.eye(2))
    solve = lambda b: module("refinement").solve_by_nearby_factors(A, b, factors)
    (found,) = jax.linear_transpose(solve, jnp.ones(2))(jnp.array([1.0, 2.0]))
    assert error(found, jnp.array([1.0, -1.0])) < 1e-12


@check
def continuous() -> None:
    compare("samples", module("continuous").GaussAdjoint(), steps=4)


@check
def continuous_hessian() -> None:
    """By t1 and the last sample time, which lies at t1."""
    case = coupled()
    g = functools.partial(solved, module("solve").ode_solve, "samples")
    found, wanted = (
        jax.jit(jax.jacfwd(lambda ts, f=f: jax.grad(f)(case._replace(ts=ts)).p))(case.ts)
        for f in (
            functools.partial(g, sensitivity=module("continuous").GaussAdjoint()),
            functools.partial(exact, "samples"),
        )
    )
    assert error(found, wanted) < 1e-3


@check
def second_at_start() -> None:
    """y' = p y from 1: of the sample at s = 0 the derivative by its time and p is 1."""
    grow = lambda _, y, p: p * y
    ts = jnp.array([0.0, 1.0])
    discrete = module("discrete").DiscreteAdjoint()

    def first(p: Any, ts: Any) -> Any:
        return (
            module("solve")
            .ode_solve(grow, jnp.ones(1), p, 0.0, 1.0, ts=ts, sensitivity=discrete)
            .value[0, 0]
        )

    found = jax.jit(jax.jacfwd(jax.grad(first), argnums=1))(jnp.asarray(2.0), ts)
    assert error(found, jnp.array([1.0, 0.0])) < 1e-6


@check
def interpolating() -> None:
    compare("terminal", module("continuous").InterpolatingAdjoint(), steps=2)


@check
def interpolating_implicit() -> None:
    compare(
        "terminal", module("continuous").InterpolatingAdjoint(), solver=diffrax.Kvaerno5(), steps=4
    )


@check
def backsolve() -> None:
    compare("terminal", module("backsolve").BacksolveAdjoint(), steps=4)
