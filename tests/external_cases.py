"""A black box with derivatives of its user's, and its twin written for JAX.

Places and modes to differentiate them in are here, too.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from adjoint.implicit.external import external

M = np.random.default_rng(0).normal(size=(3, 4))
X = jnp.array([0.1, 0.2, -0.3, 0.4])
V = jnp.array([1.0, 0.0, 2.0, -1.0])
W = jnp.array([0.7, -1.2, 0.4])


def value(x: Any) -> Any:
    return np.tanh(M @ x)


def vjp(x: Any, y_bar: Any) -> Any:
    return M.T @ ((1 - np.tanh(M @ x) ** 2) * y_bar)


def jvp(x: Any, x_dot: Any) -> Any:
    return (1 - np.tanh(M @ x) ** 2) * (M @ x_dot)


def twin(x: Any) -> Any:
    return jnp.tanh(M @ x)


LIKE = jax.ShapeDtypeStruct((3,), jnp.float64)
BOX = external(value, vjp=vjp, jvp=jvp, like=LIKE)
REVERSE_BOX = external(value, vjp=vjp, like=LIKE)

Function = Callable[[Any], Any]


def in_scan(f: Function) -> Function:
    """The first three of x <- x + (f(x), 0), each weighed."""

    def step(x: Any, weight: Any) -> tuple[Any, Any]:
        y = f(x)
        return x.at[:3].add(0.3 * y), weight @ y

    return lambda x: jax.lax.scan(step, x, jnp.stack([W, -W, 2 * W]))[1]


PLACES: dict[str, Callable[[Function], Function]] = {
    "plain": lambda f: lambda x: f(x) ** 2,
    "scan": in_scan,
    "vmap": lambda f: lambda x: jax.vmap(f)(jnp.stack([x, x**2, 2 * x])).ravel() ** 2,
    "vmap of vmap": lambda f: (
        lambda x: (
            jax.vmap(jax.vmap(lambda s, t: f(s * x + t), (0, None)), (None, 0))(W, x[:2]).ravel()
            ** 2
        )
    ),
    "checkpoint": lambda f: lambda x: jax.checkpoint(lambda x: f(jnp.sin(x)) ** 2)(x),
    "jit inside": lambda f: lambda x: jax.jit(f)(x) ** 2,
    "nested": lambda f: lambda x: f(jnp.concatenate([f(x), x[:1]])),
}
REVERSE: dict[str, Callable[[Function], Function]] = {
    "grad": lambda g: jax.grad(lambda x: jnp.sum(jnp.sin(g(x)))),
    "jacrev": jax.jacrev,
    "vmap of grad": lambda g: (
        lambda x: jax.vmap(jax.grad(lambda x: jnp.sum(g(x) ** 2)))(jnp.stack([x, 2 * x]))
    ),
}
FORWARD: dict[str, Callable[[Function], Function]] = {
    "jvp": lambda g: lambda x: jax.jvp(g, (x,), (V,)),
    "jacfwd": jax.jacfwd,
    "linearize": lambda g: lambda x: jax.linearize(g, x)[1](V),
}


def in_every_mode(modes: dict[str, Callable[[Function], Function]], f: Function) -> Function:
    return lambda x: {name: derivative(f)(x) for name, derivative in modes.items()}


def assert_close(found: Any, expected: Any, tolerance: float = 1e-12) -> None:
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance)
