"""external(verify=True): wrong derivatives are named, right ones of noisy functions pass."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from external_cases import LIKE, M, X, jvp, value, vjp

from adjoint.implicit.external import external


def noisy(x: Any) -> Any:
    """The value with noise of 1e-7, the same at every call with the same x."""
    digits = np.frombuffer(np.asarray(x).tobytes(), np.uint32)
    return value(x) + 1e-7 * np.random.default_rng(digits).normal(size=3)


SQUARE = np.random.default_rng(1).normal(size=(4, 4))


class TestVerify:
    def run(self, function: Any = value, vjp: Any = vjp, jvp: Any = None, like: Any = LIKE) -> None:
        box = external(function, vjp=vjp, jvp=jvp, like=like, verify=True)
        jax.block_until_ready(jax.jit(box)(X))

    def test_right_derivatives_pass(self) -> None:
        self.run()
        self.run(jvp=jvp)
        self.run(noisy, jvp=jvp)
        # Constant, linear, and very small functions.
        self.run(lambda _: np.ones(3), vjp=lambda *_: np.zeros(4), jvp=lambda *_: np.zeros(3))
        self.run(lambda x: M @ x, vjp=lambda _, b: M.T @ b, jvp=lambda _, d: M @ d)
        self.run(lambda x: 1e-12 * value(x), vjp=lambda x, b: 1e-12 * vjp(x, b))

    @pytest.mark.parametrize(
        "wrong",
        [
            lambda x, b: 1.001 * vjp(x, b),
            lambda x, b: -vjp(x, b),
            lambda x, b: vjp(x, b) * [1, 1, -1, 1],
            lambda x, b: vjp(x, b)[[1, 0, 2, 3]],
            lambda x, b: M.T @ ((1 + np.tanh(M @ x) ** 2) * b),
            lambda x, b: vjp(x + 1e-3, b),
            lambda *_: np.full(4, np.nan),
        ],
        ids=["1.001", "sign", "sign of one", "swapped", "sign inside", "another x", "NaN"],
    )
    @pytest.mark.parametrize("function", [value, noisy])
    def test_a_wrong_vjp_is_named_with_both_numbers(self, function: Any, wrong: Any) -> None:
        number = r"(-?[\d.e-]+|nan)"
        message = (
            rf"<vjp\(x, y_bar\), x_dot> = {number}.*expected -?[\d.e-]+ \+- .*differences.*Wrong: "
            r"vjp\."
        )
        for forward in (None, jvp):
            with pytest.raises(Exception, match=f"ValueError: external: got {message}"):
                self.run(function, wrong, forward)

    def test_a_transposed_matrix(self) -> None:
        like = jnp.zeros(4)
        self.run(lambda x: SQUARE @ x, lambda _, b: SQUARE.T @ b, lambda _, d: SQUARE @ d, like)
        with pytest.raises(Exception, match=r"Wrong: vjp\."):
            self.run(lambda x: SQUARE @ x, lambda _, b: SQUARE @ b, lambda _, d: SQUARE @ d, like)
        with pytest.raises(Exception, match=r"Wrong: jvp\."):
            self.run(
                lambda x: SQUARE @ x, lambda _, b: SQUARE.T @ b, lambda _, d: SQUARE.T @ d, like
            )
        with pytest.raises(Exception, match=r"Wrong: vjp and jvp\."):
            self.run(lambda x: SQUARE @ x, lambda _, b: SQUARE @ b, lambda _, d: SQUARE.T @ d, like)

    def test_a_wrong_jvp_is_named(self) -> None:
        with pytest.raises(Exception, match=r"<y_bar, jvp\(x, x_dot\)> = .*Wrong: jvp\."):
            self.run(jvp=lambda x, d: 1.001 * jvp(x, d))

    def test_a_mismatch_below_the_noise_is_still_found_between_the_two(self) -> None:
        def very_noisy(x: Any) -> Any:
            return value(x) + 1e5 * (noisy(x) - value(x))

        self.run(very_noisy, jvp=jvp)
        with pytest.raises(Exception, match=r"expected one number.*too noisy to tell"):
            self.run(very_noisy, jvp=lambda x, d: 1.001 * jvp(x, d))

    def test_a_small_output_counts_as_much_as_a_large_one(self) -> None:
        scales = np.array([1e9, 1.0, 1e-9])
        self.run(lambda x: scales * value(x), lambda x, b: vjp(x, scales * b))

        def split(y: Any) -> Any:
            return [y[0], y[1], y[2]]

        like = [jnp.zeros(())] * 3
        with pytest.raises(Exception, match=r"Wrong: vjp\."):
            self.run(
                lambda x: split(scales * value(x)),
                lambda x, b: vjp(x, [1, 1, 1.01] * scales * b),
                None,
                like,
            )

    def test_only_once_and_again_after_a_failure(self) -> None:
        calls = []
        box = external(
            lambda x: calls.append(x) or value(x), vjp=vjp, jvp=jvp, like=LIKE, verify=True
        )
        jax.block_until_ready(jax.vmap(box)(jnp.stack([X, 2 * X])))
        first = len(calls)
        assert 20 < first < 100
        jax.block_until_ready(jax.jit(box)(3 * X))
        jax.block_until_ready(box(jnp.float32(3) * X.astype(jnp.float32)))
        assert len(calls) == first + 2
        wrong = external(value, vjp=lambda x, b: 2 * vjp(x, b), like=LIKE, verify=True)
        for _ in range(2):
            with pytest.raises(Exception, match=r"Wrong: vjp\."):
                jax.block_until_ready(wrong(X))

    def test_an_error_next_to_a_small_parameter(self) -> None:
        """The first direction moves each number by its own magnitude and cannot see it.

        The second moves all alike.
        """
        x = jnp.array([1e-9, 1.0, 1.0, 1.0])
        box = external(value, vjp=lambda x, b: vjp(x, b) * [-1, 1, 1, 1], like=LIKE, verify=True)
        with pytest.raises(Exception, match=r"Wrong: vjp\."):
            jax.block_until_ready(box(x))
        jax.block_until_ready(external(value, vjp=vjp, jvp=jvp, like=LIKE, verify=True)(x))
