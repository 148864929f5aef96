"""Black boxes with derivatives of their user's, against the same functions written for JAX, in
every mode.
"""

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
    """y = {"work": s (a . b^k), "force": b^k a}, k an integer, s in single precision and without
    axes.
    """

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
