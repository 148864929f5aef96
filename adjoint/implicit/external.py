"""external: y = f(x) by a black box, with the derivatives that its user supplies."""

import threading
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from typing import NoReturn

import jax
import jax.flatten_util
import jax.numpy as jnp
import numpy as np
from jax.extend.core import Primitive
from jax.interpreters import batching, mlir
from jaxtyping import Array, Float, PyTree

from adjoint.implicit.external_verification import verify_on_host
from adjoint.inputs import describe, refuse
from adjoint.tracing import loops
from adjoint.tracing.host_batching import HostStructure, make_lane_call
from adjoint.tracing.rule import attach_derivative

# The rule, for y = f(x) with J = f'(x) known by its products alone:
#
#     y_dot = J x_dot    (jvp),        x_bar = J' y_bar    (vjp).
#
# JAX knows one linear map whose transpose can be told: `lax.custom_linear_solve`. The system is the
# identity, for unknowns (u, v), and what is told for its solutions is
#
#     (u, v) = (0, J b_u)    for the right-hand side (b_u, b_v),
#     (u, v) = (J' c_v, 0)   for the transposed one, (c_u, c_v).
#
# A second derivative is the only thing that would look at the identity: a zero in it that depends
# on x refuses that.


@dataclass(frozen=True)
class _Tangent:
    """y_dot = J x_dot, with J' for its transpose."""

    calls: "_Calls"

    def __call__(self, y: Array, x: PyTree, x_dot: PyTree, fixed: None) -> Array:
        calls = self.calls
        leaves = jax.tree.leaves(x)
        dots = [dot for dot in jax.tree.leaves(x_dot) if dot.dtype != jax.dtypes.float0]
        # (u, v) as one vector: where x is differentiated in part, JAX transposes no tuple of
        # tangents and zeros.
        u, unravel = jax.flatten_util.ravel_pytree(dots)
        b = jnp.concatenate([u.astype(jnp.promote_types(u.dtype, y.dtype)), jnp.zeros_like(y)])
        is_lost = jnp.isnan(y)
        zero = attach_derivative(_refuse_second_derivative, jnp.zeros((), b.dtype), x, None)

        def push(_: object, b: Array) -> Array:
            if calls.box.jvp is None:
                v = _refused_forward_mode.bind(b[u.size :])
            else:
                v = calls.push(leaves, unravel(b[: u.size].astype(u.dtype)))
            return jnp.concatenate(
                [jnp.zeros_like(b[: u.size]), jnp.where(is_lost, jnp.nan, v).astype(b.dtype)]
            )

        def pull(_: object, c: Array) -> Array:
            y_bar = c[u.size :].astype(y.dtype)
            # An output that is NaN has no derivative: it spoils what depends on it; where all are,
            # nothing is known at all.
            is_spoiled = jnp.any(is_lost & (y_bar != 0)) | jnp.all(is_lost)
            x_bar, _ = jax.flatten_util.ravel_pytree(calls.pull(leaves, y_bar))
            return jnp.concatenate(
                [jnp.where(is_spoiled, jnp.nan, x_bar).astype(b.dtype), jnp.zeros_like(y, b.dtype)]
            )

        return loops.custom_linear_solve(lambda b: b + zero, b, push, pull)[u.size :].astype(
            y.dtype
        )


def _refuse_second_derivative(*_: object) -> NoReturn:
    refuse(
        "external",
        "a second derivative to compute",
        "first derivatives only: a black box has only first derivatives",
        "Take gradients alone, or write f as the root of a residual that JAX can trace "
        "(adjoint.root with HostSolver).",
        NotImplementedError,
    )


def _refuse_forward_mode(*_: object, **__: object) -> NoReturn:
    refuse(
        "external",
        "forward mode (jvp, jacfwd, linearize) without jvp",
        "reverse mode (grad, vjp, jacrev), which vjp serves",
        "For forward mode pass jvp=, a function jvp(x, x_dot) -> y_dot. Second derivatives there "
        "are none: "
        "a black box has only first derivatives.",
        NotImplementedError,
    )


# It stands where reverse mode only traces J, and refuses where forward mode would run it.
_refused_forward_mode = Primitive("external_forward_mode")
_refused_forward_mode.def_impl(_refuse_forward_mode)
_refused_forward_mode.def_abstract_eval(lambda y_dot: y_dot)
mlir.register_lowering(_refused_forward_mode, _refuse_forward_mode)
batching.primitive_batchers[_refused_forward_mode] = lambda v, dims: (
    _refused_forward_mode.bind(*v),
    dims[0],
)


@dataclass(eq=False)
class _BlackBox:
    """A callable y = f(x); JAX knows it by its identity."""

    function: Callable[[PyTree], PyTree]
    vjp: Callable[[PyTree, PyTree], PyTree]
    jvp: Callable[[PyTree, PyTree], PyTree] | None
    like: PyTree
    is_verified: bool
    lock: threading.Lock = field(default_factory=threading.Lock)
    calls: dict[Hashable, "_Calls"] = field(default_factory=dict)

    def __call__(self, x: PyTree) -> PyTree:
        x = jax.tree.map(_as_input, x)
        structures = HostStructure.of(x), HostStructure.of(self.like)
        if not any(
            leaf.size for leaf in jax.tree.leaves(x) if jnp.issubdtype(leaf.dtype, jnp.floating)
        ):
            refuse(
                "external",
                "x without floating-point numbers",
                "at least one array of them",
                "Integers are constants.",
            )
        if structures not in self.calls:
            self.calls[structures] = _Calls(self, *structures)
        calls = self.calls[structures]
        x = loops.vary_alike(x)
        (y,) = calls.value(*jax.lax.stop_gradient(jax.tree.leaves(x)))
        return calls.y.unravel(attach_derivative(_Tangent(calls), y, x, None))


class _Calls:
    """A black box for one structure of x: its three functions on arrays, called from JAX.

    Arrays are all leaves of x, the leaves of x that have a derivative, or y as one vector.
    """

    def __init__(self, box: _BlackBox, x: HostStructure, y: HostStructure):
        self.box = box
        self.x = x
        self.y = y
        ranks = tuple(map(len, x.shapes))
        moving = [place for place, is_moving in enumerate(x.is_inexact) if is_moving]
        x_bars = tuple(jax.ShapeDtypeStruct(x.shapes[place], x.dtypes[place]) for place in moving)
        self.value = make_lane_call(self._examined_value_on_host, (y.flat,), ranks)
        self._pull = make_lane_call(self.pull_on_host, x_bars, (1, *ranks))
        self._push = make_lane_call(
            self._push_lane, (y.flat,), (*ranks, *(ranks[place] for place in moving))
        )

    @property
    def has_jvp(self) -> bool:
        return self.box.jvp is not None

    def pull(self, leaves: Sequence[Array], y_bar: Array) -> tuple[Array, ...]:
        return self._pull(y_bar, *leaves)

    def push(self, leaves: Sequence[Array], dots: Sequence[Array]) -> Array:
        (y_dot,) = self._push(*leaves, *dots)
        return y_dot

    def value_on_host(self, *leaves: np.ndarray) -> np.ndarray:
        y = self.box.function(self.x.unflatten(leaves))
        return self.y.ravel(y, "external", "y from function", "like").astype(self.y.flat.dtype)

    def pull_on_host(self, y_bar: np.ndarray, *leaves: np.ndarray) -> list[np.ndarray]:
        x_bar = self.box.vjp(self.x.unflatten(leaves), self.y.unravel(y_bar))
        return self.moving(self.x.leaves_of(x_bar, "external", "x_bar from vjp", "x"))

    def push_on_host(self, leaves: Sequence[np.ndarray], dots: Sequence[np.ndarray]) -> np.ndarray:
        assert self.box.jvp is not None
        x_dot = self.moved([np.zeros_like(leaf) for leaf in leaves], dots)
        y_dot = self.box.jvp(self.x.unflatten(leaves), self.x.unflatten(x_dot))
        return self.y.ravel(y_dot, "external", "y_dot from jvp", "like")

    def moving(self, leaves: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Those of all leaves of x that have a derivative."""
        return [
            leaf for leaf, is_moving in zip(leaves, self.x.is_inexact, strict=True) if is_moving
        ]

    def moved(self, leaves: Sequence[np.ndarray], others: Sequence[np.ndarray]) -> list[np.ndarray]:
        """All leaves of x, with `others` for those that have a derivative."""
        remaining = iter(others)
        return [
            next(remaining) if is_moving else leaf
            for leaf, is_moving in zip(leaves, self.x.is_inexact, strict=True)
        ]

    def _push_lane(self, *arrays: np.ndarray) -> tuple[np.ndarray]:
        count = len(self.x.shapes)
        return (self.push_on_host(arrays[:count], arrays[count:]),)

    def _examined_value_on_host(self, *leaves: np.ndarray) -> tuple[np.ndarray]:
        y = self.value_on_host(*map(np.copy, leaves))
        if not self.box.is_verified and np.all(np.isfinite(y)):
            with self.box.lock:
                if not self.box.is_verified:
                    verify_on_host(self, leaves, y)
                    self.box.is_verified = True
        return (y,)


def external(
    function: Callable[[PyTree], PyTree],
    *,
    vjp: Callable[[PyTree, PyTree], PyTree],
    jvp: Callable[[PyTree, PyTree], PyTree] | None = None,
    like: PyTree,
    verify: bool = False,
) -> Callable[[PyTree[Float[Array, "..."]]], PyTree[Float[Array, "..."]]]:
    """y = f(x) by a black box as a JAX function, with x_bar = J' y_bar and y_dot = J x_dot given.

    The three functions take and return NumPy arrays or pytrees of them. They may call executables
    and read and write files, and must not call JAX. Make the result once and reuse it: to JAX, a
    new one is a new program.

    Parameters
    ----------
    function
        x -> y. x is one array or pytree of arrays, float32 or float64; integers in it are
        constants. To report a failure, return NaN or raise `ArithmeticError`; any other exception
        ends the computation, as JAX's ``JaxRuntimeError`` with the exception's text.
    vjp
        (x, y_bar) -> x_bar = J' y_bar, structured as x. What it returns in the place of integers is
        not used.
    jvp
        (x, x_dot) -> y_dot = J x_dot, structured as y, for forward mode. In the place of integers,
        x_dot is zero.
    like
        What y looks like: an array, a ``jax.ShapeDtypeStruct``, or a pytree of them, float32 or
        float64.
    verify
        Whether to test vjp and jvp at the first x that the function is called with: against each
        other (the dot-product test) and against extrapolated central differences, in two seeded
        random directions. An error that is smaller than 1e-5 (1e-3 in float32), or hidden by the
        noise of the function, is let pass. About 50 calls of the function.

    Returns
    -------
    f
        x -> y, for `grad`, `vjp`, `jacrev`, `vmap`, `jit`, `scan`, `checkpoint`, and, with `jvp`,
        `jvp`, `jacfwd`, `linearize`.

    Raises
    ------
    ValueError, TypeError
        At once, for `like` or an x without floating-point arrays. From the running program, inside
        the text of JAX's ``JaxRuntimeError``: when a function returns something of another
        structure, and for derivatives that `verify` disproves.
    NotImplementedError
        For a second derivative, which a black box does not have; for forward mode without `jvp`.

    Notes
    -----
    **Derivative**: first order only. Where y is NaN, so is its derivative.

    **Cost**: value and gradient take one call of `function` and one of `vjp`. Under `vmap`, one
    call per lane, one by one.

    Examples
    --------
    >>> import jax, jax.numpy as jnp, numpy as np, adjoint
    >>> f = adjoint.external(
    ...     lambda x: np.sin(x),
    ...     vjp=lambda x, y_bar: np.cos(x) * y_bar,
    ...     like=jnp.zeros(2),
    ...     verify=True,
    ... )
    >>> [
    ...     round(float(v), 6) for v in jax.grad(lambda x: jnp.sum(f(x)))(jnp.array([0.0, 1.0]))
    ... ]  # cos x
    [1.0, 0.540302]
    """
    for name, given in (("function", function), ("vjp", vjp), ("jvp", jvp)):
        if not (callable(given) or (given is None and name == "jvp")):
            refuse(
                "external",
                f"{name} = {describe(given)}",
                "a function on NumPy arrays",
                "Pass the function.",
                TypeError,
            )
    leaves = jax.tree.leaves(like)
    for leaf in leaves:
        if str(getattr(leaf, "dtype", None)) not in ("float32", "float64"):
            expected = "arrays or jax.ShapeDtypeStruct of float32 or float64"
            refuse(
                "external",
                f"like with {describe(leaf)}",
                expected,
                "Give shape and dtype of what function returns.",
                TypeError,
            )
    if not any(leaf.size for leaf in leaves):
        refuse(
            "external",
            "like without numbers",
            "at least one array",
            "Give shape and dtype of what function returns.",
        )
    shapes = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), like)
    return _BlackBox(function, vjp, jvp, shapes, is_verified=not verify)


def _as_input(leaf: object) -> Array:
    is_array = isinstance(leaf, jax.Array | np.ndarray | np.generic | float | int)
    kind = (
        str(leaf.dtype)
        if isinstance(leaf, jax.Array | np.ndarray | np.generic)
        else type(leaf).__name__
    )
    if not is_array or not (
        kind in ("float", "float32", "float64", "bool") or kind.strip("u").startswith("int")
    ):
        expected = "arrays of float32, float64 or integers"
        refuse(
            "external",
            f"x with {describe(leaf)}",
            expected,
            "Convert it, for example by x.astype(float).",
            TypeError,
        )
    return jnp.asarray(leaf)
