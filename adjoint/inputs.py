"""Checks of what a user passes in, made at trace time, before any computing; one template for every message.

Each message says what was given, what was expected and what to do, in this order.
"""

from typing import Any, NoReturn

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array


def refuse(where: str, given: str, expected: str, remedy: str, error: type[Exception] = ValueError) -> NoReturn:
    """Raise `error` with the library's one message template."""
    raise error(f"{where}: got {given}, expected {expected}. {remedy}")


def describe(x: Any) -> str:
    """A value in words for a message: 'float64 array of shape (3, 4)'."""
    if hasattr(x, "shape") and hasattr(x, "dtype"):
        return f"{x.dtype} array of shape {tuple(x.shape)}"
    return f"{type(x).__name__} {x!r}" if isinstance(x, int | float | complex | str) else f"a {type(x).__name__}"


def as_inexact_array(where: str, name: str, x: Any) -> Array:
    """`x` as a floating-point or complex array; integers are refused, since they carry no derivative."""
    if not isinstance(x, jax.Array | np.ndarray | np.generic | float | complex | list | tuple):
        refuse(
            where,
            f"{name} = {describe(x)}",
            "an array of floating-point numbers",
            f"Pass {name} as a JAX or NumPy array.",
            TypeError,
        )
    array = jnp.asarray(x)
    if not jnp.issubdtype(array.dtype, jnp.inexact):
        refuse(
            where,
            f"{name} = {describe(array)}",
            "floating-point or complex entries",
            f"Convert it: {name}.astype(float). Integers have no derivative.",
            TypeError,
        )
    if array.dtype.itemsize // (2 if jnp.issubdtype(array.dtype, jnp.complexfloating) else 1) < 4:
        refuse(
            where,
            f"{name} = {describe(array)}",
            "single or double precision",
            f"Convert it: {name}.astype(jnp.float32).",
            TypeError,
        )
    return array


def require_mode(where: str, mode: Any) -> None:
    """Refuse what is no mode. The two that were have no effect any more: all rules serve both."""
    if mode not in ("reverse", "both"):
        remedy = "Leave it out: derivatives are there in both modes."
        refuse(where, f"mode = {mode!r}", '"reverse" or "both"', remedy)


def require_same_precision(where: str, first: tuple[str, Any], second: tuple[str, Any]) -> Any:
    """The common dtype of two arrays of one precision (real and complex may meet); mixed precision is refused."""
    (name_1, dtype_1), (name_2, dtype_2) = first, second
    if jnp.finfo(dtype_1).dtype != jnp.finfo(dtype_2).dtype:
        refuse(
            where,
            f"{name_1} in {dtype_1} with {name_2} in {dtype_2}",
            "both in one precision",
            f"Convert one: {name_2}.astype({jnp.finfo(dtype_1).dtype}); a silent conversion would lose digits or time.",
            TypeError,
        )
    return jnp.promote_types(dtype_1, dtype_2)


def require_tolerance_and_limit(where: str, rtol: float, max_steps: int, usual: tuple[float, int]) -> None:
    """Refuse what would keep an iteration from ending, or from starting."""
    if not rtol > 0:
        refuse(where, f"rtol = {rtol}", "a positive number", f"{usual[0]} is usual.")
    if max_steps < 1:
        refuse(where, f"max_steps = {max_steps}", "a positive integer", f"{usual[1]} is usual.")


def require_shape(where: str, name: str, given: tuple[int, ...], expected: str, fits: bool, remedy: str) -> None:
    """Refuse `name` unless its shape `fits` what is `expected`."""
    if not fits:
        refuse(where, f"{name} of shape {tuple(given)}", expected, remedy)
