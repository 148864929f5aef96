"""Checks of what a user passes in, at trace time; one template for every message.

Each message says what was given, what was expected and what to do, in this order.
"""

import sys
import warnings
from collections.abc import Callable, Iterator
from functools import wraps
from pathlib import Path
from types import TracebackType
from typing import Any, NoReturn, ParamSpec, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, PyTree

PACKAGE = str(Path(__file__).parent)


class PrecisionWarning(UserWarning):
    """Numbers given in double precision are cut to single precision, because JAX's x64 mode is off.

    Examples
    --------
    >>> import warnings, adjoint
    >>> warnings.simplefilter("ignore", adjoint.PrecisionWarning)  # when single precision is meant
    """


Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")

# What a function raises that wants the numbers behind a traced value: `np.linalg.norm(x)`,
# `float(x)`, `if x > 0`.
_WANTS_NUMBERS = (
    jax.errors.TracerArrayConversionError,
    jax.errors.TracerIntegerConversionError,
    jax.errors.ConcretizationTypeError,
)
_EXTERNAL = "What is NumPy alone goes through adjoint.external(function, vjp=..., like=...)."
# Packages through which a function of the user is called, so that none of their lines is its own.
_CALLERS = ("adjoint", "jax", "jaxlib", "numpy", "equinox", "diffrax", "optimistix", "jaxtyping")


def refuse(
    where: str, given: str, expected: str, remedy: str, error: type[Exception] = ValueError
) -> NoReturn:
    """Raise `error` with the library's one message template."""
    raise error(f"{where}: got {given}, expected {expected}. {remedy}")


def describe(x: Any) -> str:
    """A value in words for a message: 'float64 array of shape (3, 4)'."""
    if hasattr(x, "shape") and hasattr(x, "dtype"):
        return f"{x.dtype} array of shape {tuple(x.shape)}"
    return (
        f"{type(x).__name__} {x!r}"
        if isinstance(x, int | float | complex | str)
        else f"a {type(x).__name__}"
    )


def as_inexact_array(where: str, name: str, x: Any) -> Array:
    """`x` as floating-point or complex array; integers are refused: they carry no derivative."""
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


def require_mode(where: str, mode: object) -> None:
    """Refuse what is no mode. The two that were have no effect any more: all rules serve both."""
    if mode not in ("reverse", "both"):
        remedy = "Leave it out: derivatives are there in both modes."
        refuse(where, f"mode = {mode!r}", '"reverse" or "both"', remedy)


def double_precision_remedy() -> str:
    """How to get double precision, as a sentence; x64 is JAX's name for it."""
    if jax.dtypes.canonicalize_dtype(np.float64) == np.float64:
        return "Pass float64 arrays for about 16."
    return (
        'For about 16, call jax.config.update("jax_enable_x64", True) at the start of the program.'
    )


def warn_if_cut(where: str, **given: PyTree) -> None:
    """Warn where NumPy arrays in double precision are about to be cut to single, naming them.

    The warning points at the line of the user's that called the library, once for each line.
    Python's own record of what was shown is emptied by every `warnings.catch_warnings`, and JAX
    enters many.
    """
    if jax.dtypes.canonicalize_dtype(np.float64) == np.float64:
        return
    cut = [
        name
        for name, tree in given.items()
        if any(_is_double(leaf) for leaf in jax.tree.leaves(tree))
    ]
    if not cut:
        return
    frame = sys._getframe()
    depth = 1
    while frame.f_back is not None and frame.f_code.co_filename.startswith(PACKAGE):
        frame = frame.f_back
        depth += 1
    line = (where, frame.f_code.co_filename, frame.f_lineno)
    if line in _lines_warned:
        return
    _lines_warned.add(line)
    message = (
        f"{where}: got {' and '.join(cut)} in double precision, which JAX cuts to float32, about 7 "
        "digits, because its "
        f"x64 mode is off. {double_precision_remedy()} If single precision is meant, pass float32 "
        "arrays."
    )
    warnings.warn(message, PrecisionWarning, stacklevel=depth)


_lines_warned: set[tuple[str, str, int]] = set()


def _is_double(leaf: object) -> bool:
    return isinstance(leaf, np.ndarray) and leaf.dtype in (
        np.dtype(np.float64),
        np.dtype(np.complex128),
    )


def is_inexact(leaf: object) -> bool:
    """Whether a leaf is a real or complex floating-point number, or an array of them."""
    return jnp.issubdtype(jnp.result_type(leaf), jnp.inexact)


def all_finite(tree: PyTree) -> Bool[Array, ""]:
    """Whether no number of the tree is NaN or infinite."""
    return _everywhere(jnp.isfinite, tree)


def none_is_nan(tree: PyTree) -> Bool[Array, ""]:
    """Whether no number of the tree is NaN.

    A bound that is not there is infinite, and a fair number.
    """
    return _everywhere(lambda leaf: ~jnp.isnan(leaf), tree)


def _everywhere(holds: Any, tree: PyTree) -> Bool[Array, ""]:
    leaves = [jnp.all(holds(leaf)) for leaf in jax.tree.leaves(tree) if is_inexact(leaf)]
    return jnp.all(jnp.stack(leaves)) if leaves else jnp.ones((), bool)


def require_same_precision(where: str, first: tuple[str, Any], second: tuple[str, Any]) -> Any:
    """The common dtype of two arrays of one precision; mixed precision is refused.

    Real and complex may meet.
    """
    (name_1, dtype_1), (name_2, dtype_2) = first, second
    if jnp.finfo(dtype_1).dtype != jnp.finfo(dtype_2).dtype:
        refuse(
            where,
            f"{name_1} in {dtype_1} with {name_2} in {dtype_2}",
            "both in one precision",
            f"Convert one: {name_2}.astype({jnp.finfo(dtype_1).dtype}); a silent conversion would "
            "lose digits or time.",
            TypeError,
        )
    return jnp.promote_types(dtype_1, dtype_2)


_FUNCTIONS = {
    "equality": "Pass a function whose value is to be zero; SciPy's 'eq' is its 'fun'.",
    "inequality": (
        "Pass a function whose values are to be <= 0; SciPy's 'ineq' is its 'fun' with the sign "
        "changed."
    ),
    "gradient": (
        "Pass a function that returns the derivative, structured like x; SciPy's jac=True is two "
        "functions here."
    ),
}


def require_function(where: str, name: str, function: object) -> None:
    """Refuse what is no function, such as SciPy's dictionaries of constraints or jac=True."""
    if not callable(function):
        remedy = _FUNCTIONS.get(name, f"Pass {name} as a function.")
        refuse(where, f"{name} = {describe(function)}", "a function of x", remedy, TypeError)


def require_tolerance_and_limit(
    where: str, rtol: float, max_steps: int, usual: tuple[float, int]
) -> None:
    """Refuse what would keep an iteration from ending, or from starting."""
    if not rtol > 0:
        refuse(where, f"rtol = {rtol}", "a positive number", f"{usual[0]} is usual.")
    if max_steps < 1:
        refuse(where, f"max_steps = {max_steps}", "a positive integer", f"{usual[1]} is usual.")


def require_shape(
    where: str, name: str, given: tuple[int, ...], expected: str, fits: bool, remedy: str
) -> None:
    """Refuse `name` unless its shape `fits` what is `expected`."""
    if not fits:
        refuse(where, f"{name} of shape {tuple(given)}", expected, remedy)


def takes_jax_functions(
    where: str, remedy: str = _EXTERNAL
) -> Callable[[Callable[Parameters, Result]], Callable[Parameters, Result]]:
    """A decorator of a public function `where` that calls functions of the user with traced values.

    Where one of these needs numbers, as NumPy functions do, the error names its line and the
    `remedy`, in place of JAX's bare ``TracerArrayConversionError``.
    """

    def decorate(function: Callable[Parameters, Result]) -> Callable[Parameters, Result]:
        @wraps(function)
        def explained(*args: Parameters.args, **kwargs: Parameters.kwargs) -> Result:
            try:
                return function(*args, **kwargs)
            except Exception as error:
                line = _line_of_user(error.__traceback__)
                if line is None or not any(isinstance(e, _WANTS_NUMBERS) for e in _chain(error)):
                    raise
                try:
                    refuse(
                        where,
                        f"a function that needs numbers where JAX traces it, in {line}",
                        "a function written with jax.numpy",
                        "Use jax.numpy in place of NumPy and math, and jnp.where in place of if. "
                        f"{remedy}",
                        TypeError,
                    )
                except TypeError as explanation:
                    raise explanation from error

        return explained

    return decorate


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """The error and those that led to it."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _line_of_user(traceback: TracebackType | None) -> str | None:
    """The innermost line that belongs to none of the calling packages.

    And to no package at all, where there is such a line.
    """
    installed = None
    own = None
    while traceback is not None:
        module = str(traceback.tb_frame.f_globals.get("__name__", ""))
        path = Path(traceback.tb_frame.f_code.co_filename)
        if module.partition(".")[0] not in _CALLERS:
            line = f"line {traceback.tb_lineno} of {path.name}"
            if "site-packages" in path.parts:
                installed = line
            else:
                own = line
        traceback = traceback.tb_next
    return own or installed
