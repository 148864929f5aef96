"""CasADi's integrator with CVODES of SUNDIALS.

The same equations in CasADi's symbols, their adjoints by CVODES backwards. CasADi's programs run
outside JAX, and are called through `jax.pure_callback`, which takes some 0.08 ms.
"""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jaxtyping import Array

from benchmarks.answers import GRADIENT, VALUE
from benchmarks.contest import Function
from benchmarks.ode.cases import Brusselator, Case, Network


def functions(case: Case) -> dict[str, tuple[Function, ...]]:
    """What is timed; the program is built when JAX traces, so that building counts as compiling."""

    def value(factors: Array, _: Any, __: Any) -> Array:
        program = _program(case, VALUE)
        shape = jax.ShapeDtypeStruct((), float)
        return jax.pure_callback(
            lambda x: program(np.asarray(x)).full().reshape(()), shape, factors
        )

    def value_and_gradient(factors: Array, _: Any, __: Any) -> tuple[Array, Array]:
        program = _program(case, GRADIENT)

        def call(x: Any) -> tuple[np.ndarray, np.ndarray]:
            g, gradient = program(np.asarray(x))
            return g.full().reshape(()), gradient.full().ravel()

        shapes = (jax.ShapeDtypeStruct((), float), jax.ShapeDtypeStruct(factors.shape, float))
        return jax.pure_callback(call, shapes, factors)

    return {VALUE: (value,), GRADIENT: (value_and_gradient,)}


def _program(case: Case, measure: str) -> Any:
    import casadi as ca  # pyright: ignore[reportMissingImports]

    factors = ca.MX.sym("factors", case.parameters)
    n = case.n if case.by_start else 0
    y0 = ca.DM(case.y0) * factors[:n] if case.by_start else ca.DM(case.y0)
    solve = ca.integrator("solve", "cvodes", equation(case), 0.0, case.ts, _settings(case))
    ys = solve(x0=y0, p=ca.DM(case.p) * factors[n:])["xf"]
    misses = (ys - ca.DM(case.data.T)) / ca.repmat(ca.DM(case.scale), 1, case.ts.size)
    g = ca.sumsqr(misses) / (2 * case.data.size)
    outputs = [g] if measure == VALUE else [g, ca.gradient(g, factors)]
    return ca.Function("program", [factors], outputs)


def _settings(case: Case) -> dict[str, Any]:
    """Tolerances as all have them; Adams' method with functional iteration where nothing is stiff.

    Multistep methods take more and cheaper steps, so they are allowed more.
    """
    settings = {
        "reltol": case.rtol,
        "abstol": case.atol,
        "max_num_steps": 10 * case.max_steps,
        "show_eval_warnings": False,
    }
    if case.is_stiff or isinstance(case.f, Brusselator):
        return settings
    return settings | {
        "linear_multistep_method": "adams",
        "nonlinear_solver_iteration": "functional",
    }


def equation(case: Case) -> dict[str, Any]:
    """y' = f(t, y, p) in CasADi's symbols.

    These are its scalar ones except for networks, which are products of matrices.
    """
    import casadi as ca  # pyright: ignore[reportMissingImports]

    symbol: Any = ca.MX.sym if isinstance(case.f, Network) else ca.SX.sym
    y = symbol("y", case.n)
    p = symbol("p", case.p.size)
    if isinstance(case.f, Network):
        rate = _network(case.f, y, p)
    elif isinstance(case.f, Brusselator):
        rate = _brusselator(case.f, y, p)
    else:
        rate = ca.vertcat(*_FEW_STATES[case.problem](ca.vertsplit(y), ca.vertsplit(p)))
    return {"x": y, "p": p, "ode": rate}


def _prey_and_predator(y: list[Any], p: list[Any]) -> list[Any]:
    return [p[0] * y[0] - p[1] * y[0] * y[1], p[3] * y[0] * y[1] - p[2] * y[1]]


def _pendulum(y: list[Any], p: list[Any]) -> list[Any]:
    import casadi as ca  # pyright: ignore[reportMissingImports]

    a_1, a_2, w_1, w_2 = y
    m_1, m_2, l_1, l_2, g = p
    sine = ca.sin(a_1 - a_2)
    cosine = ca.cos(a_1 - a_2)
    m = m_1 + m_2
    force_1 = -m_2 * l_2 * w_2**2 * sine - m * g * ca.sin(a_1)
    force_2 = l_1 * w_1**2 * sine - g * ca.sin(a_2)
    denominator = m_1 + m_2 * sine**2
    rate_1 = (force_1 - m_2 * cosine * force_2) / (l_1 * denominator)
    return [w_1, w_2, rate_1, (m * force_2 - cosine * force_1) / (l_2 * denominator)]


def _robertson(y: list[Any], p: list[Any]) -> list[Any]:
    slow = p[0] * y[0]
    fast = p[1] * y[1] ** 2
    back = p[2] * y[1] * y[2]
    return [back - slow, slow - back - fast, fast]


_FEW_STATES: dict[str, Callable[[list[Any], list[Any]], list[Any]]] = {
    "Lotka-Volterra": _prey_and_predator,
    "double pendulum": _pendulum,
    "Robertson": _robertson,
}


def _network(network: Network, y: Any, p: Any) -> Any:
    """Columns are those of the batch: CasADi's matrices lie column by column, JAX's row by row."""
    import casadi as ca  # pyright: ignore[reportMissingImports]

    first = 0
    h = ca.reshape(y, network.features, network.batch)
    for i, (rows, columns) in enumerate(network.shapes):
        middle = first + rows * columns
        W = ca.reshape(p[first:middle], columns, rows).T
        h = W @ h + ca.repmat(p[middle : middle + rows], 1, network.batch)
        h = ca.tanh(h) if i < 2 else h
        first = middle + rows
    return ca.vec(h)


def _brusselator(field: Brusselator, y: Any, p: Any) -> Any:
    import casadi as ca  # pyright: ignore[reportMissingImports]

    n = field.N**2
    node = np.arange(field.N**2).reshape(field.N, field.N)
    around = [np.roll(node, shift, axis).ravel().tolist() for shift in (1, -1) for axis in (0, 1)]

    def laplacian(z: Any) -> Any:
        return (field.N - 1) ** 2 * (sum((z[nodes] for nodes in around), start=-4 * z))

    u = y[:n]
    v = y[n:]
    c = p[:n]
    b = p[n : 2 * n]
    a = p[2 * n :]
    reaction = u**2 * v
    return ca.vertcat(
        a * laplacian(u) + b + reaction - (c + 1) * u, a * laplacian(v) + c * u - reaction
    )
