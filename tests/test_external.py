"""Black boxes with their user's derivatives against twins written for JAX, in every mode."""

import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from external_cases import (
    BOX,
    FORWARD,
    LIKE,
    PLACES,
    REVERSE,
    REVERSE_BOX,
    Function,
    V,
    W,
    X,
    assert_close,
    in_every_mode,
    jvp,
    twin,
    value,
    vjp,
)

from adjoint.implicit.external import external


class TestFirstDerivatives:
    @pytest.mark.parametrize("place", PLACES)
    def test_equal_those_of_the_twin(self, place: str) -> None:
        found, expected = (
            jax.jit(in_every_mode(REVERSE | FORWARD, PLACES[place](f)))(X) for f in (BOX, twin)
        )
        assert_close(found, expected)

    @pytest.mark.parametrize("place", ["plain", "scan"])
    def test_reverse_mode_needs_no_jvp(self, place: str) -> None:
        found, expected = (
            jax.jit(in_every_mode(REVERSE, PLACES[place](f)))(X) for f in (REVERSE_BOX, twin)
        )
        assert_close(found, expected)

    def test_eager(self) -> None:
        assert_close(jax.grad(lambda x: jnp.sum(BOX(x)))(X), vjp(X, np.ones(3)))
        assert_close(jax.jvp(BOX, (X,), (V,)), (value(X), jvp(X, V)))
        assert_close(jax.vmap(jax.vjp(BOX, X)[1])(jnp.eye(3)), (jax.jacrev(twin)(X),))

    def test_value_is_that_of_the_function_bit_by_bit(self) -> None:
        np.testing.assert_array_equal(jax.jit(BOX)(X), value(np.asarray(X)))

    def test_vmap_shares_what_is_not_batched(self) -> None:
        pairs = external(lambda x: x[0] * x[1], vjp=lambda x, b: (x[1] * b, x[0] * b), like=LIKE)
        total = lambda a, b: jnp.sum(pairs((a, b)) * W)
        found = jax.vmap(jax.grad(total, (0, 1)), (None, 0))(W, jnp.stack([W, 2 * W]))
        assert_close(found, (jnp.stack([W * W, 2 * W * W]), jnp.stack([W * W, W * W])))

    def test_single_precision(self) -> None:
        box = external(value, vjp=vjp, jvp=jvp, like=np.zeros(3, np.float32), verify=True)
        x = X.astype(jnp.float32)
        found = jax.jit(lambda x: (box(x), jax.jacrev(box)(x), jax.jacfwd(box)(x)))(x)
        assert {a.dtype for a in found} == {jnp.dtype("float32")}
        J = jax.jacrev(twin)(X)
        assert_close(found, (twin(X), J, J), 1e-6)
        dtypes = []

        def recorded(derivative: Any) -> Any:
            return lambda x, other: (
                dtypes.append((str(x.dtype), str(other.dtype))) or derivative(x, other)
            )

        mixed = external(value, vjp=recorded(vjp), jvp=recorded(jvp), like=LIKE)
        found = jax.jit(lambda x: (jax.jacrev(mixed)(x), jax.jacfwd(mixed)(x)))(x)
        assert [a.dtype for a in found] == ["float32", "float64"]
        assert set(dtypes) == {("float32", "float64"), ("float32", "float32")}
        assert_close(found, (J, J), 1e-6)


class TestPytrees:
    """y = {"work": s (a . b^k), "force": b^k a}, k an integer, s single and without axes."""

    @staticmethod
    def twin(x: Any) -> Any:
        power = x["b"] ** x["k"]
        return {"work": x["s"].astype(jnp.float64) * (x["a"] @ power), "force": power * x["a"]}

    @staticmethod
    def vjp(x: Any, y_bar: Any) -> Any:
        a, b, k, s = x["a"], x["b"], x["k"], x["s"]
        power_bar = y_bar["work"] * s * a + y_bar["force"] * a
        a_bar = y_bar["work"] * s * b**k + y_bar["force"] * b**k
        return {
            "a": a_bar,
            "b": k * b ** (k - 1) * power_bar,
            "k": 0.0,
            "s": y_bar["work"] * (a @ b**k),
        }

    @staticmethod
    def jvp(x: Any, x_dot: Any) -> Any:
        a, b, k, s = x["a"], x["b"], x["k"], x["s"]
        assert x_dot["k"] == 0
        power_dot = k * b ** (k - 1) * x_dot["b"]
        work_dot = x_dot["s"] * (a @ b**k) + s * (x_dot["a"] @ b**k + a @ power_dot)
        return {"work": work_dot, "force": power_dot * a + b**k * x_dot["a"]}

    X: ClassVar[Any] = {"a": W, "b": jnp.array([1.1, 0.4, -0.9]), "k": 3, "s": jnp.float32(0.5)}

    def test_every_leaf(self) -> None:
        box = external(
            lambda x: {
                "work": x["s"] * (x["a"] @ x["b"] ** x["k"]),
                "force": x["b"] ** x["k"] * x["a"],
            },
            vjp=self.vjp,
            jvp=self.jvp,
            like={"work": jnp.zeros(()), "force": jnp.zeros(3)},
            verify=True,
        )
        assert_close(box(self.X), self.twin(self.X))
        both = {"jacrev": jax.jacrev, "jacfwd": jax.jacfwd}
        # Rounded to single precision where s is differentiated; by the rest alone not.
        for names, tolerance in (("abs", 1e-7), ("ab", 1e-12)):
            moving = {name: self.X[name] for name in names}
            found, expected = (
                jax.jit(in_every_mode(both, lambda moving, f=f: f(self.X | moving)))(moving)
                for f in (box, self.twin)
            )
            assert_close(found, expected, tolerance)


def test_an_executable_that_reads_and_writes_files(tmp_path: Path) -> None:
    """y = (|x|^2, x_0 x_1) by a program of its own, which gets all that it needs from files."""
    program = tmp_path / "program.py"
    program.write_text(
        "import sys\nimport numpy as np\n"
        "task, x = sys.argv[1], np.load('x.npy')\n"
        "J = np.array([2 * x, [x[1], x[0], 0]])\n"
        "y = np.array([x @ x, x[0] * x[1]]) if task == 'value' else np.load('y_bar.npy') @ J\n"
        "np.save('result.npy', y)\n"
    )

    def run(task: str, **arrays: np.ndarray) -> np.ndarray:
        for name, array in arrays.items():
            np.save(tmp_path / f"{name}.npy", array)
        subprocess.run([sys.executable, str(program), task], cwd=tmp_path, check=True)
        return np.load(tmp_path / "result.npy")

    box = external(
        lambda x: run("value", x=x),
        vjp=lambda x, y_bar: run("vjp", x=x, y_bar=y_bar),
        like=jnp.zeros(2),
    )
    g, x_bar = jax.jit(jax.value_and_grad(lambda x: box(x)[0] * box(x)[1]))(
        jnp.array([1.0, 2.0, 3.0])
    )
    # g = |x|^2 x_0 x_1
    np.testing.assert_allclose(g, 28, rtol=1e-15)
    np.testing.assert_allclose(x_bar, [2 * 2 + 14 * 2, 4 * 2 + 14 * 1, 6 * 2], rtol=1e-15)


class TestCost:
    def test_value_and_gradient_are_one_call_each(self) -> None:
        calls: Counter[str] = Counter()

        def counted(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
            def call(*arguments: Any) -> Any:
                calls[name] += 1
                return function(*arguments)

            return call

        box = external(
            counted("function", value), vjp=counted("vjp", vjp), jvp=counted("jvp", jvp), like=LIKE
        )
        gradient = jax.value_and_grad(lambda x: jnp.sum(box(x) ** 2))
        for compiled in (
            gradient,
            jax.jit(gradient),
            jax.value_and_grad(jax.jit(lambda x: jnp.sum(box(x) ** 2))),
        ):
            calls.clear()
            jax.block_until_ready(compiled(X))
            assert calls == {"function": 1, "vjp": 1}
        calls.clear()
        jax.block_until_ready(jax.vmap(gradient)(jnp.stack([X, 2 * X])))
        assert calls == {"function": 2, "vjp": 2}
        calls.clear()
        jax.block_until_ready(jax.jit(jax.jacfwd(box))(X))
        assert calls == {"function": 1, "jvp": 4}

    def test_one_object_is_compiled_once(self) -> None:
        traces = []
        compiled = jax.jit(lambda x: traces.append(x) or BOX(x))
        for k in range(3):
            compiled(k * X)
        assert len(traces) == 1
        first = BOX.calls.copy()  # type: ignore[attr-defined]
        BOX(X)
        assert first == BOX.calls  # type: ignore[attr-defined]


class TestFailures:
    """log x, which fails below zero by ArithmeticError or by NaN."""

    @staticmethod
    def box(function: Callable[[Any], Any]) -> Function:
        return external(
            function, vjp=lambda x, b: b / x, jvp=lambda x, d: d / x, like=jnp.zeros(2), verify=True
        )

    @staticmethod
    def raising(x: Any) -> Any:
        if np.any(x < 0):
            raise FloatingPointError("log of a negative number")
        return np.log(x)

    def test_arithmetic_error_is_nan_in_value_and_derivatives_of_its_lane_alone(self) -> None:
        box = self.box(self.raising)
        lanes = jnp.array([[1.0, 2.0], [-1.0, 2.0], [3.0, 4.0]])
        for weights in (jnp.ones(2), jnp.zeros(2)):
            y, x_bar = jax.jit(jax.vmap(jax.value_and_grad(lambda x, w=weights: w @ box(x))))(lanes)
            np.testing.assert_array_equal(np.isnan(y), [False, True, False])
            np.testing.assert_array_equal(x_bar[1], np.nan)
            np.testing.assert_allclose(
                x_bar[::2], np.asarray(weights) / np.asarray(lanes[::2]), rtol=1e-15
            )
        np.testing.assert_array_equal(jax.jit(jax.jacfwd(box))(lanes[1]), np.nan)

    def test_arithmetic_error_of_a_derivative_is_nan(self) -> None:
        def fails(*_: Any) -> Any:
            raise ZeroDivisionError

        box = external(value, vjp=fails, jvp=fails, like=LIKE)
        assert np.all(np.isfinite(box(X)))
        np.testing.assert_array_equal(jax.jacrev(box)(X), np.nan)
        np.testing.assert_array_equal(jax.jacfwd(box)(X), np.nan)

    def test_nan_passes_through_to_what_depends_on_it(self) -> None:
        with np.errstate(all="ignore"):
            box = self.box(lambda x: np.where(x < 0, np.nan, np.log(np.abs(x))))
            x = jnp.array([-1.0, 2.0])
            np.testing.assert_array_equal(np.isnan(box(x)), [True, False])
            np.testing.assert_array_equal(jax.jacrev(box)(x), [[np.nan, np.nan], [0, 0.5]])
            np.testing.assert_array_equal(jax.jacfwd(box)(x), [[np.nan, np.nan], [0, 0.5]])
