"""The gradient of f(x, p) by x as a residual, whose derivatives use that f_xx is symmetric.

    g = f_x,     g_dot = f_xx x_dot + f_xp p_dot,     (x, p)_bar = d/dt (f_x, f_p)(x + t g_bar, p)

Both are forward mode over reverse mode of f. JAX's own adjoint of a gradient is reverse over
reverse, which a loop of unknown length, as of an ODE solve inside f, does not have. (Pearlmutter,
Fast exact multiplication by the Hessian, Neural Computation 6, 1994.)
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
from jaxtyping import Array, PyTree

from adjoint.tracing.linear_map import is_inexact
from adjoint.tracing.rule import push_forward, with_forward_mode
from adjoint.tracing.traced_function import TracedFunction


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _gradient(_: None, f: TracedFunction, x: PyTree, p: PyTree) -> PyTree:
    return jax.grad(lambda x: f(x, p))(x)


def _gradient_fwd(_: None, f: TracedFunction, x: PyTree, p: PyTree) -> tuple[PyTree, PyTree]:
    # By the rule itself: its derivatives of higher order are symmetric, too.
    return gradient_of_traced(None, f, x, p), (f, x, p)


def _gradient_bwd(_: None, residuals: PyTree, g_bar: PyTree) -> PyTree:
    f, x, p = residuals
    leaves, structure = jax.tree.flatten((f, p))
    moving = [k for k, leaf in enumerate(leaves) if is_inexact(leaf)]

    def value(x: PyTree, moved: list[Array]) -> Array:
        given = list(leaves)
        for k, leaf in zip(moving, moved, strict=True):
            given[k] = leaf
        f, p = jax.tree.unflatten(structure, given)
        return f(x, p)

    def gradients(x: PyTree) -> PyTree:
        return jax.grad(value, argnums=(0, 1))(x, [leaves[k] for k in moving])

    _, (x_bar, bars) = jax.jvp(gradients, (x,), (g_bar,))
    found = dict(zip(moving, bars, strict=True))
    f_bar, p_bar = jax.tree.unflatten(structure, [found.get(k) for k in range(len(leaves))])
    return f_bar, x_bar, p_bar


_gradient.defvjp(_gradient_fwd, _gradient_bwd)


def _gradient_tangent(_: None, residuals: PyTree, dots: PyTree) -> PyTree:
    return push_forward(lambda f, x, p: jax.grad(lambda x: f(x, p))(x), residuals, dots)


gradient_of_traced: Any = with_forward_mode(_gradient, _gradient_tangent)


def symmetric_gradient(f: Callable[[PyTree, PyTree], Array], x: PyTree, p: PyTree) -> PyTree:
    """f_x(x, p), structured as x; f may close over traced values."""
    return gradient_of_traced(None, TracedFunction.of(f, x, p), x, p)
