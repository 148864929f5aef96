"""A value with its own derivative, against JAX's of the formula behind it, in every mode."""

import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from adjoint.tracing.rule import attach_derivative

W = np.random.default_rng(0).normal(size=(3, 3))


def formula(p: Any, q: Any, k: Any) -> Any:
    """y = tanh(W p) q^k: two operands, and an integer one."""
    return jnp.tanh(W @ p) * q**k


def rule(y: Any, operands: Any, tangents: Any, fixed: Any) -> Any:
    """Written with y, as implicit derivatives are: a y taken for constant shows at order two."""
    _, q, k = operands
    p_dot, q_dot, k_dot = tangents
    assert k_dot.dtype == jax.dtypes.float0
    scale = q**k
    return (scale - y**2 / scale) * (W @ p_dot) + fixed * k * y / q * q_dot


def known(p: Any, q: Any, k: Any = 2) -> Any:
    y = np.asarray if isinstance(p, np.ndarray) else jax.lax.stop_gradient
    return attach_derivative(rule, y(formula(p, q, k)), (p, q, k), jnp.ones(()))


P, Q = jnp.array([0.3, -0.2, 0.5]), jnp.asarray(1.3)
MODES = {
    "grad": lambda f: jax.grad(f, (0, 1)),
    "jacfwd": lambda f: jax.jacfwd(f, (0, 1)),
    "hessian": lambda f: jax.hessian(f, (0, 1)),
    "reverse over reverse": lambda f: jax.jacrev(jax.jacrev(f, (0, 1)), (0, 1)),
    "forward over forward": lambda f: jax.jacfwd(jax.jacfwd(f, (0, 1)), (0, 1)),
    "reverse over forward": lambda f: jax.jacrev(jax.jacfwd(f, (0, 1)), (0, 1)),
    "third derivative": lambda f: jax.jacrev(jax.hessian(f, 0), (0, 1)),
}
PLACES = {
    "plain": lambda f: lambda p, q: jnp.sum(jnp.sin(f(p, q))),
    "scan": lambda f: (
        lambda p, q: jax.lax.scan(lambda s, _: (s + f(p + s, q), None), p, length=2)[0].sum()
    ),
    "map": lambda f: (
        lambda p, q: jnp.sum(jax.lax.map(lambda s: f(p, s * q), jnp.array([0.5, 2.0])) ** 2)
    ),
    "vmap over p": lambda f: (
        lambda p, q: jnp.sum(jax.vmap(lambda s: f(s * p, q))(jnp.array([0.5, 2.0])) ** 2)
    ),
    "vmap over q": lambda f: (
        lambda p, q: jnp.sum(jax.vmap(lambda s: f(p, s * q))(jnp.array([0.5, 2.0])) ** 2)
    ),
    "vmap of vmap": lambda f: (
        lambda p, q: jnp.sum(
            jax.vmap(jax.vmap(f, (None, 0)), (0, None))(
                jnp.stack([p, 2 * p]), jnp.stack([q, q + 1, q**2])
            )
            ** 2
        )
    ),
    "checkpoint": lambda f: lambda p, q: jnp.sum(jax.checkpoint(f)(p, q) ** 2),
}


FAST = [
    (mode, place)
    for mode in ("grad", "hessian", "reverse over reverse")
    for place in ("scan", "vmap of vmap")
]
FAST += [("jacfwd", "vmap over p")]
SLOW = [
    pytest.param(*case, marks=pytest.mark.slow)
    for case in itertools.product(MODES, PLACES)
    if case not in FAST
]


@pytest.mark.parametrize(("mode", "place"), [*FAST, *SLOW])
def test_every_mode_is_that_of_the_formula(mode: str, place: str) -> None:
    found = jax.jit(MODES[mode](PLACES[place](known)))(P, Q)
    expected = jax.jit(MODES[mode](PLACES[place](lambda p, q: formula(p, q, 2))))(P, Q)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-11, atol=1e-12)


@pytest.mark.slow
def test_eager_and_vmap_of_derivatives() -> None:
    scales = jnp.array([0.5, 1.0, 2.0])
    found = jax.vmap(jax.hessian(lambda s: jnp.sum(known(s * P, Q))))(scales)
    np.testing.assert_allclose(
        found, jax.vmap(jax.hessian(lambda s: jnp.sum(formula(s * P, Q, 2))))(scales), rtol=1e-12
    )


def test_the_value_is_kept_bit_by_bit_and_what_is_fixed_has_no_derivative() -> None:
    y = jnp.array([1.0, np.nextafter(2.0, 3.0)])
    only_fixed = lambda q: attach_derivative(lambda _y, _p, p_dot, q: q * p_dot, y, jnp.ones(2), q)
    np.testing.assert_array_equal(only_fixed(3.0), y)
    np.testing.assert_array_equal(jax.jacfwd(only_fixed)(3.0), 0)
