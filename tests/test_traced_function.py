"""Two traces are one program exactly if they compute the same.

A false "same" is a wrong number that nobody sees.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from adjoint.tracing.traced_function import TracedFunction

X = jnp.array([0.3, -0.7, 1.1])


def structure(function: Callable[..., Any], *arguments: Any) -> Any:
    """What a compiled program of this function is found by."""
    traced = TracedFunction.of(function, *(arguments or (X,)))
    return jax.tree.structure(traced), [jax.typeof(leaf) for leaf in jax.tree.leaves(traced)]


def doubled(rule_factor: float, nested: bool = True) -> Callable[[Any], Any]:
    """2 x with the derivative `rule_factor`, whose rule calls the function, as in JAX's manual."""

    @jax.custom_jvp
    def f(x: Any) -> Any:
        return 2 * x

    f.defjvp(
        lambda primals, dots: (f(*primals) if nested else 2 * primals[0], rule_factor * dots[0])
    )
    return f


def pulled(rule_factor: float) -> Callable[[Any], Any]:
    """2 x with `rule_factor` in its adjoint."""

    @jax.custom_vjp
    def f(x: Any) -> Any:
        return 2 * x

    f.defvjp(lambda x: (2 * x, x), lambda x, bar: (rule_factor * bar,))
    return f


def of_rule_of_rule(factor: float) -> Callable[[Any], Any]:
    """A function that differs in its second derivative alone."""
    inner = doubled(factor)

    @jax.custom_jvp
    def f(x: Any) -> Any:
        return x * x

    f.defjvp(lambda primals, dots: (primals[0] ** 2, inner(primals[0]) * dots[0]))
    return f


def scanned(length: int, factor: float = 2.0) -> Callable[[Any], Any]:
    return lambda x: jax.lax.scan(lambda c, _: (factor * c, None), x, None, length=length)[0]


def jitted_with(table: np.ndarray) -> Callable[[Any], Any]:
    return jax.jit(lambda x: x * table)


DIFFERENT = {
    "a literal": (lambda x: 2.0 * x, lambda x: 3.0 * x),
    "the sign of zero": (lambda x: x * 0.0, lambda x: x * -0.0),
    "an exponent": (lambda x: x**2, lambda x: x**3),
    "an activation": (jnp.tanh, jnp.sin),
    "a branch of relu": (jax.nn.relu, jax.nn.relu6),
    "an argument": (lambda x, y: x - y, lambda x, y: y - x),
    "an order": (lambda x: jnp.sin(jnp.cos(x)), lambda x: jnp.cos(jnp.sin(x))),
    "a result": (lambda x: (x, 2 * x), lambda x: (2 * x, x)),
    "the structure of a result": (lambda x: {"a": x}, lambda x: [x]),
    "a dtype": (lambda x: x.astype(jnp.float32).astype(x.dtype), lambda x: x),
    "a length": (scanned(3), scanned(4)),
    "a literal in a loop": (scanned(3), scanned(3, 2.5)),
    "a literal in a branch": (
        lambda x: jax.lax.cond(x[0] > 0, lambda: x, lambda: 2.0 * x),
        lambda x: jax.lax.cond(x[0] > 0, lambda: x, lambda: 3.0 * x),
    ),
    "a static argument": (
        lambda x: jnp.sum(x, axis=0, keepdims=True),
        lambda x: jnp.sum(x, axis=0)[None] * 1,
    ),
    "the direction of a scan": (jnp.cumsum, lambda x: jax.lax.cumsum(x, reverse=True)),
    "an index": (lambda x: x[0], lambda x: x[1]),
    "numbers held by a jitted function": (
        jitted_with(np.arange(3.0)),
        jitted_with(np.arange(3.0) + 1),
    ),
    "a rule of custom_jvp": (doubled(2.0), doubled(3.0)),
    "a rule of custom_jvp, not nested": (doubled(2.0, nested=False), doubled(3.0, nested=False)),
    "a rule of custom_vjp": (pulled(2.0), pulled(3.0)),
    "a second derivative": (of_rule_of_rule(2.0), of_rule_of_rule(3.0)),
    "a rule in a scan": (
        lambda x: jax.lax.scan(lambda c, _: (doubled(2.0)(c), None), x, None, length=2)[0],
        lambda x: jax.lax.scan(lambda c, _: (doubled(3.0)(c), None), x, None, length=2)[0],
    ),
    "a callback": (
        lambda x: jax.pure_callback(np.sin, x, x, vmap_method="sequential"),
        lambda x: jax.pure_callback(np.cos, x, x, vmap_method="sequential"),
    ),
    "a precision": (lambda x: jnp.dot(x, x), lambda x: jnp.dot(x, x, precision="highest")),
    "what is stopped": (lambda x: x * x, lambda x: x * jax.lax.stop_gradient(x)),
    "a bit pattern of a random number": (
        lambda x: x + jax.random.normal(jax.random.key(0)),
        lambda x: x + jax.random.normal(jax.random.key(1)),
    ),
}


@pytest.mark.parametrize("pair", DIFFERENT.values(), ids=DIFFERENT)
def test_what_computes_something_else_is_another_program(pair: Any) -> None:
    f, g = pair
    arguments = (X, X) if "y" in getattr(getattr(f, "__code__", None), "co_varnames", ()) else (X,)
    assert structure(f, *arguments) != structure(g, *arguments)


MAKERS = {
    "arithmetic": lambda: lambda x: 2.0 * x**3 + jnp.sin(x),
    "jax.nn": lambda: (
        lambda x: jax.nn.relu(x) + jax.nn.silu(x) + jax.nn.softmax(x) + jax.nn.gelu(x)
    ),
    "a rule that calls itself": lambda: doubled(2.0),
    "a rule without end": lambda: jnp.sinc,
    "custom_vjp": lambda: pulled(2.0),
    "a scan": lambda: scanned(4),
    "a callback": lambda: lambda x: jax.pure_callback(np.sin, x, x, vmap_method="sequential"),
    "an inner jit": lambda: lambda x: jax.jit(lambda y: y * 2)(x),
    "logsumexp": lambda: jax.nn.logsumexp,
    "a solve": lambda: lambda x: jnp.linalg.solve(jnp.diag(x), x),
    "a random number": lambda: lambda x: x + jax.random.normal(jax.random.key(0)),
}


@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
def test_what_is_made_anew_for_every_call_is_the_same_program(make: Callable[[], Any]) -> None:
    assert structure(make()) == structure(make())


def test_arrays_are_leaves_and_no_part_of_the_program() -> None:
    def holding(constant: Any) -> Callable[[Any], Any]:
        return lambda x: x * constant

    one, other = (TracedFunction.of(holding(c), X) for c in (jnp.arange(3.0), jnp.ones(3)))
    assert jax.tree.structure(one) == jax.tree.structure(other)
    np.testing.assert_array_equal(other(X), X)
    assert structure(holding(np.ones(3, np.float32))) != structure(holding(np.ones(3)))
    assert structure(holding(jnp.ones(3))) != structure(holding(jnp.ones(())))


def test_what_is_read_from_outside_is_read_anew() -> None:
    setting = {"a": 2.0}

    def f(x: Any) -> Any:
        return setting["a"] * x

    first = TracedFunction.of(f, X)
    setting["a"] = 3.0
    second = TracedFunction.of(f, X)
    np.testing.assert_array_equal(second(X), 3 * X)
    assert first.program != second.program


def test_a_numpy_array_that_was_written_to_is_seen_as_it_is() -> None:
    table = np.ones(3)
    inner = lambda x: jax.jit(lambda y: y * table)(x)
    before = structure(inner)
    table[:] = 2.0
    assert structure(inner) != before


def test_a_rule_that_reads_from_outside_is_compared_as_it_is() -> None:
    setting = {"a": 2.0}

    @jax.custom_jvp
    def f(x: Any) -> Any:
        return 2 * x

    f.defjvp(lambda primals, dots: (2 * primals[0], setting["a"] * dots[0]))
    before = structure(f)
    setting["a"] = 3.0
    assert structure(f) != before


def test_a_rule_that_holds_a_traced_value_is_equal_to_itself_alone() -> None:
    def of(a: Any) -> Any:
        @jax.custom_jvp
        def f(x: Any) -> Any:
            return 2 * x

        f.defjvp(lambda primals, dots: (2 * primals[0], a * dots[0]))
        program = TracedFunction.of(f, X).program
        assert program == program
        assert program != TracedFunction.of(f, X).program
        return a

    jax.jit(of)(1.0)


def test_what_is_known_has_no_derivative_and_what_is_traced_has() -> None:
    table = jnp.arange(3.0)

    def of(a: Any) -> Any:
        traced = TracedFunction.of(lambda x: a * x * table, X)
        assert len(traced.closed_over), len(traced.known) == (1, 1)
        return jnp.sum(traced(X))

    assert float(jax.grad(of)(2.0)) == pytest.approx(float(jnp.sum(X * table)))
    traced = TracedFunction.of(lambda x: x * table, X)
    (bar,) = jax.grad(lambda known: jnp.sum(traced.with_known(known)(X)))(traced.known)
    np.testing.assert_array_equal(bar, 0 * table)
