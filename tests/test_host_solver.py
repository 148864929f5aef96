"""HostSolver and optimistix's root finders in `root`: examined, never differentiated.

Derivatives never enter the solver, and what it returns is examined.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optimistix
import pytest
import scipy.optimize

import adjoint


def residual(x: Any, p: Any) -> Any:
    """Two equations with x_0 = p_0^(1/3) and x_1 = p_1 x_0."""
    return {"u": x["u"] ** 3 - p[0], "v": x["v"] - p[1] * x["u"]}


START = {"u": jnp.ones(1), "v": jnp.zeros(1)}
P = jnp.array([8.0, 3.0])


class Watched:
    """A solver on NumPy that notes its calls and, as Python's float and SciPy, refuses tracers."""

    def __init__(self) -> None:
        self.calls = 0
        self.solver = adjoint.HostSolver(self)

    def __call__(self, x0: Any, p: Any) -> Any:
        for leaf in (*jax.tree.leaves(x0), *jax.tree.leaves(p)):
            assert type(leaf) is np.ndarray
        self.calls += 1
        u = float(
            scipy.optimize.root_scalar(
                lambda u: u**3 - float(p[0]), bracket=(0.0, 100.0), xtol=1e-15
            ).root
        )
        return {"u": np.array([u]), "v": np.array([float(p[1]) * u])}


def test_differentiation_does_not_enter_the_solver() -> None:
    watched = Watched()
    g = lambda p: adjoint.root(residual, START, p, watched.solver).value["v"][0]
    # g = p_1 p_0^(1/3)
    value, gradient = jax.block_until_ready(jax.jit(jax.value_and_grad(g))(P))
    assert watched.calls == 1
    np.testing.assert_allclose(value, 6.0, rtol=1e-12)
    np.testing.assert_allclose(gradient, [3 / 12, 2.0], rtol=1e-10)
    hessian = jax.block_until_ready(jax.jit(jax.hessian(g))(P))
    assert watched.calls == 2
    np.testing.assert_allclose(
        hessian, [[-3 * 2 / (9 * 32), 1 / 12], [1 / 12, 0.0]], rtol=1e-9, atol=1e-12
    )
    lanes = jax.block_until_ready(jax.jit(jax.vmap(jax.grad(g)))(jnp.stack([P, P, 2 * P])))
    assert watched.calls == 5
    np.testing.assert_allclose(lanes[:2], [gradient, gradient], rtol=1e-10)


@pytest.mark.parametrize("bad", ["nan", "off", "raises"])
def test_what_it_returns_is_examined(bad: str) -> None:
    def solve(_x0: Any, p: Any) -> Any:
        if bad == "raises":
            raise FloatingPointError("no root")
        return np.full(1, np.nan) if bad == "nan" else np.cbrt(p) * (1 + 1e-5)

    solver = adjoint.HostSolver(solve)
    x = jax.jit(lambda p: adjoint.root(lambda x, p: x**3 - p, jnp.ones(1), p, solver))(
        jnp.array([8.0])
    )
    assert x.status.name == "NOT_CONVERGED"
    assert np.isnan(x.value).all()


def test_a_wrong_shape_is_named() -> None:
    solver = adjoint.HostSolver(lambda _x0, _p: np.zeros(3))
    with pytest.raises(Exception, match=r"HostSolver: got x .*\(3,\)"):
        jax.block_until_ready(
            adjoint.root(lambda x, p: x**3 - p, jnp.ones(1), jnp.ones(1), solver).value
        )
    with pytest.raises(TypeError, match="a function"):
        adjoint.HostSolver("solve")  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("method", [optimistix.Newton, optimistix.Dogleg])
def test_a_root_finder_of_optimistix_serves(method: Any) -> None:
    finder = method(rtol=1e-12, atol=1e-12)
    x = lambda p: adjoint.root(lambda x, p: x**3 + x - p, jnp.array([1.0]), p, finder).value[0]
    value, gradient = jax.jit(jax.value_and_grad(x))(jnp.array([10.0]))
    np.testing.assert_allclose([value, gradient[0]], [2.0, 1 / 13], rtol=1e-10)
