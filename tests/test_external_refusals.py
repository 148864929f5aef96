"""external refuses second derivatives, forward mode without jvp, bad arguments and bad results."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from external_cases import (
    BOX,
    FORWARD,
    LIKE,
    PLACES,
    REVERSE_BOX,
    Function,
    V,
    W,
    X,
    assert_close,
    jvp,
    twin,
    value,
    vjp,
)

from adjoint.implicit.external import external

SECOND: dict[str, Callable[[Function], Function]] = {
    "hessian": lambda g: jax.hessian(lambda x: jnp.sum(g(x))),
    "jvp of grad": lambda g: lambda x: jax.jvp(jax.grad(lambda x: jnp.sum(g(x))), (x,), (V,)),
    "grad of grad": lambda g: jax.grad(lambda x: V @ jax.grad(lambda x: jnp.sum(g(x)))(x)),
    "forward over forward": lambda g: jax.jacfwd(jax.jacfwd(g)),
    "reverse over forward": lambda g: jax.jacrev(jax.jacfwd(g)),
    "jvp of jitted grad": lambda g: (
        lambda x: jax.jvp(jax.jit(jax.grad(lambda x: jnp.sum(g(x)))), (x,), (V,))
    ),
    "grad of linearize": lambda g: jax.grad(lambda x: jnp.sum(jax.linearize(g, x)[1](V))),
    "grad of jitted linear map": lambda g: jax.grad(
        lambda x: jnp.sum(jax.jit(jax.vjp(g, x)[1])(g(X))[0])
    ),
}


class TestRefusals:
    @pytest.mark.parametrize("place", PLACES)
    @pytest.mark.parametrize("mode", SECOND)
    def test_second_derivatives(self, mode: str, place: str) -> None:
        with pytest.raises(
            NotImplementedError, match=r"second derivative.*a black box has only first derivatives"
        ):
            jax.jit(SECOND[mode](PLACES[place](BOX)))(X)

    @pytest.mark.parametrize("place", ["plain", "scan"])
    def test_second_derivatives_in_eager_mode(self, place: str) -> None:
        for derivative in SECOND.values():
            with pytest.raises(
                NotImplementedError,
                match=r"second derivative.*a black box has only first derivatives",
            ):
                derivative(PLACES[place](BOX))(X)

    @pytest.mark.parametrize("wrap", [lambda f: f, jax.jit], ids=["eager", "jit"])
    def test_second_derivatives_of_a_linear_objective_without_jvp(self, wrap: Any) -> None:
        for mode in (
            "hessian",
            "jvp of grad",
            "grad of grad",
            "jvp of jitted grad",
            "grad of jitted linear map",
        ):
            with pytest.raises(
                NotImplementedError, match=r"a black box has only first derivatives"
            ):
                wrap(SECOND[mode](REVERSE_BOX))(X)

    def test_second_derivatives_inside_a_batch(self) -> None:
        with pytest.raises(NotImplementedError, match=r"a black box has only first derivatives"):
            jax.vmap(jax.hessian(lambda x: jnp.sum(BOX(x))))(jnp.stack([X, X]))

    def test_a_derivative_by_what_is_linear_anyway_is_not_refused(self) -> None:
        """By x_dot and y_bar, in which J x_dot and J' y_bar are linear."""
        by_dot = jax.jacrev(lambda v: jax.jvp(BOX, (X,), (v,))[1])(V)
        by_bar = jax.jacfwd(lambda w: jax.vjp(BOX, X)[1](w)[0])(W)
        J = jax.jacrev(twin)(X)
        assert_close((by_dot, by_bar), (J, J.T))

    @pytest.mark.parametrize("mode", FORWARD)
    @pytest.mark.parametrize("place", ["plain", "scan", "vmap"])
    def test_forward_mode_without_jvp(self, mode: str, place: str) -> None:
        derivative = FORWARD[mode](PLACES[place](REVERSE_BOX))
        for compiled in (derivative, jax.jit(derivative)):
            with pytest.raises(NotImplementedError, match=r"external: got forward mode.*pass jvp="):
                compiled(X)

    def test_bad_arguments_at_once(self) -> None:
        with pytest.raises(TypeError, match=r"vjp = float64 array.*expected a function"):
            external(value, vjp=np.zeros(3), like=LIKE)  # type: ignore[arg-type]
        for like, given in (
            (jnp.arange(3), "int64 array"),
            ([1.0], "float 1.0"),
            (jnp.zeros(2, complex), "complex128"),
        ):
            with pytest.raises(
                TypeError, match=f"external: got like with {given}.*float32 or float64"
            ):
                external(value, vjp=vjp, like=like)
        for like in ({}, jnp.zeros((0, 3))):
            with pytest.raises(ValueError, match=r"like without numbers"):
                external(value, vjp=vjp, like=like)
        for x in ("text", X * 1j, X.astype(jnp.float16)):
            with pytest.raises(
                TypeError, match=r"external: got x with .*expected arrays of float32, float64"
            ):
                BOX(x)
        for x in (jnp.arange(4), (), jnp.zeros((0,))):
            with pytest.raises(ValueError, match=r"external: got x without floating-point numbers"):
                BOX(x)

    @pytest.mark.parametrize(
        ("replaced", "message"),
        [
            (
                {"function": lambda _: np.ones(2)},
                r"got y from function with shapes \(\(2,\),\), expected .*\(3,\).*like",
            ),
            (
                {"function": lambda x: {"y": x}},
                r"got y from function with PyTreeDef\(\{'y': \*\}\)",
            ),
            (
                {"function": lambda x: 1j * value(x)},
                r"dtypes \['complex128'\], expected \['float64'\], like like",
            ),
            (
                {"vjp": lambda _, y_bar: y_bar},
                r"got x_bar from vjp with shapes \(\(3,\),\), expected .*\(4,\).*like x",
            ),
            ({"vjp": lambda *_: None}, "got x_bar from vjp with PyTreeDef"),
            (
                {"jvp": lambda _, x_dot: x_dot},
                r"got y_dot from jvp with shapes \(\(4,\),\), expected .*\(3,\)",
            ),
            ({"vjp": lambda *_: 1 / len}, "TypeError: unsupported operand"),
        ],
    )
    def test_wrong_results_are_named(self, replaced: dict[str, Any], message: str) -> None:
        parts = {"function": value, "vjp": vjp, "jvp": jvp} | replaced
        box = external(parts["function"], vjp=parts["vjp"], jvp=parts["jvp"], like=LIKE)
        derivative = jax.jacfwd(box) if "jvp" in replaced else jax.grad(lambda x: jnp.sum(box(x)))
        for compiled in (derivative, jax.jit(derivative)):
            with pytest.raises(Exception, match=message):
                jax.block_until_ready(compiled(X))
