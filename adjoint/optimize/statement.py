"""What the user gave to `minimize`, on flat vectors; refused where it states no problem."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.core
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float, PyTree

from adjoint.inner_products import Euclidean, InnerProduct
from adjoint.inputs import describe, refuse, require_function, warn_if_cut
from adjoint.optimize.objective import Objective
from adjoint.optimize.problem import Domain, Method


class Statement(NamedTuple):
    """A problem, and whether it is stated inside a function that is being traced.

    Attributes
    ----------
    x, objective, domain
        The start, the functions, and where x may be.
    traced
        Whether any part of it is known only inside `jit` or `vmap`.
    """

    x: Float[Array, " n"]
    objective: Objective
    domain: Domain
    traced: bool


def state(
    function: Callable[..., PyTree],
    x0: PyTree,
    bounds: Any,
    equality: Any,
    inequality: Any,
    inner_product: InnerProduct | None,
    gradient: Any,
    noise: Any,
) -> Statement:
    """The statement of minimize's arguments."""
    warn_if_cut("minimize", x0=x0, bounds=bounds)
    x, unravel = ravel_pytree(_numbers(x0))
    x = x.astype(
        x.dtype
    )  # a weak type, as of jnp.full(3, 1.0), would make the first step compile twice
    lower, upper = _bounds(bounds, x0, x)
    constraints = tuple(c for c in (equality, inequality) if c is not None)
    captured = [*jax.tree.leaves((x, lower, upper, inner_product, noise))]
    for name, constraint in (("equality", equality), ("inequality", inequality)):
        if constraint is not None:
            captured += _trace(name, constraint, x, unravel)[0]
    if gradient is not None:
        require_function("minimize", "gradient", gradient)
        require_function("minimize", "objective", function)
    else:
        captured += _trace("objective", function, x, unravel)[0]
    if any(hasattr(value, "tangent") for value in captured if isinstance(value, jax.core.Tracer)):
        refuse(
            "minimize",
            "a start or an objective that depends on a value that is being differentiated",
            "constants",
            "adjoint.argmin(objective, x0, p) finds a minimizer and differentiates it by p.",
        )
    metric = inner_product if inner_product is not None else Euclidean()
    if not isinstance(metric, InnerProduct):
        refuse(
            "minimize",
            f"inner_product = {describe(metric)}",
            "Euclidean(), Weighted(...) or Sobolev(...)",
            "",
            TypeError,
        )
    equalities = (
        0 if equality is None else sum(a.size for a in _trace("equality", equality, x, unravel)[1])
    )
    domain = Domain(lower, upper, jnp.asarray(noise, x.dtype), metric, unravel, equalities)
    traced = any(isinstance(value, jax.core.Tracer) for value in captured)
    if traced and gradient is not None:
        refuse(
            "minimize",
            "gradient=, which is called on the host, inside jit or vmap",
            "a call outside of them",
            "",
        )
    return Statement(x, Objective(function, constraints, unravel, gradient), domain, traced)


def require_scalar(statement: Statement, method: Method) -> None:
    """Refuse an objective that does not return what the method minimizes."""
    objective = statement.objective
    if objective.gradient is not None:
        return
    shape: Any = jax.eval_shape(lambda x: objective.function(objective.unravel(x)), statement.x)
    if getattr(method, "least_squares", False):
        if not all(jnp.issubdtype(leaf.dtype, jnp.floating) for leaf in jax.tree.leaves(shape)):
            refuse(
                "minimize",
                f"residuals {describe(shape)}",
                "real numbers",
                "Return r, not |r|^2.",
                TypeError,
            )
        if hasattr(shape, "shape") and shape.shape == ():
            # Of f itself GaussNewton would minimize f^2 / 2, which is another problem where f goes
            # below zero.
            refuse(
                "minimize with GaussNewton",
                "a number",
                "the array of residuals r, whose |r|^2 / 2 is minimized",
                "Return r, not its sum of squares; a single residual as an array of shape (1,).",
                TypeError,
            )
        return
    if not (
        hasattr(shape, "shape") and shape.shape == () and jnp.issubdtype(shape.dtype, jnp.floating)
    ):
        refuse(
            "minimize",
            f"an objective that returns {describe(shape)}",
            "a real scalar",
            "Return one number, such as jnp.sum(residuals**2).",
            TypeError,
        )


def start_outside(statement: Statement) -> Float[Array, ""]:
    """How far the start is outside of the bounds, in its worst entry; it is projected."""
    if not statement.domain.bounded:
        return jnp.zeros((), statement.x.dtype)
    return jnp.max(jnp.abs(statement.domain.project(statement.x) - statement.x), initial=0.0)


def _numbers(x0: PyTree) -> PyTree:
    leaves = jax.tree.leaves(x0)
    if not leaves or not any(np.size(leaf) for leaf in leaves):
        refuse(
            "minimize",
            "x0 without numbers",
            "an array or a pytree of arrays",
            "Give a starting point.",
            TypeError,
        )
    arrays = jax.tree.map(jnp.asarray, x0)
    for leaf in jax.tree.leaves(arrays):
        if not jnp.issubdtype(leaf.dtype, jnp.floating):
            refuse(
                "minimize",
                f"x0 with {describe(leaf)}",
                "real floating-point numbers",
                "Use .astype(float).",
                TypeError,
            )
    kinds = {str(leaf.dtype) for leaf in jax.tree.leaves(arrays)}
    if len(kinds) > 1:
        refuse(
            "minimize",
            f"x0 in {' and '.join(sorted(kinds))}",
            "one precision",
            "Convert one of them.",
            TypeError,
        )
    return arrays


def _trace(
    name: str, function: Callable[[PyTree], Any], x: Array, unravel: Callable[[Array], PyTree]
) -> Any:
    """What a function captured, and the shapes that it returns."""
    require_function("minimize", name, function)
    program = jax.make_jaxpr(lambda x: function(unravel(x)))(x)
    if name != "objective" and not (
        program.out_avals and all(jnp.issubdtype(a.dtype, jnp.floating) for a in program.out_avals)
    ):
        refuse(
            "minimize",
            f"{name} that returns no real numbers",
            "an array of real numbers",
            "Return what has to vanish.",
        )
    return list(program.consts), program.out_avals


_BOTH_SIDES = (
    "Write bounds=(lower, upper) with each a number or an array like x0, or "
    "scipy.optimize.Bounds(lower, upper)."
)


def _bounds(bounds: Any, x0: PyTree, x: Array) -> tuple[Array | None, Array | None]:
    """Lower and upper bounds of every entry; what can be read as SciPy's pairs is refused."""
    if bounds is None:
        return None, None
    if hasattr(bounds, "lb") and hasattr(bounds, "ub"):
        sides = [
            _side_of_scipy(side, bound, x0, x)
            for side, bound in (("lower", bounds.lb), ("upper", bounds.ub))
        ]
    else:
        _require_one_reading(bounds, x0)
        sides = [
            _bound(side, bound, x0, x)
            for side, bound in zip(("lower", "upper"), bounds, strict=True)
        ]
    lower, upper = sides
    crossing: Bool[Array, " n"] = lower > upper
    if not isinstance(crossing, jax.core.Tracer) and bool(
        jnp.any(crossing | jnp.isnan(lower) | jnp.isnan(upper))
    ):
        i = int(jnp.argmax(crossing | jnp.isnan(lower) | jnp.isnan(upper)))
        given = (
            f"the lower bound {float(lower[i])} and the upper bound {float(upper[i])} of entry {i}"
        )
        refuse("minimize", given, "lower <= upper", f"Correct one of them. {_BOTH_SIDES}")
    return lower, upper


def _require_one_reading(bounds: Any, x0: PyTree) -> None:
    """Refuse what is no pair (lower, upper), or what SciPy would read as two of them.

    SciPy's are (lowest, highest), for each of two unknowns. Plain sequences of numbers leave both
    readings where x0 has an axis of length two in each place, as x0 itself has two parts. Arrays
    and pytrees of arrays in a tuple are a lower and an upper bound, as is documented.
    """
    if not (isinstance(bounds, tuple | list) and len(bounds) == 2):
        rows = bounds if isinstance(bounds, tuple | list) or np.ndim(bounds) == 2 else ()
        pairs = len(rows) > 0 and all(_length(pair) == 2 for pair in rows)
        given = f"bounds = {describe(bounds)}" + (
            ", of a pair for each entry, as SciPy has it" if pairs else ""
        )
        refuse("minimize", given, "a pair (lower, upper)", _BOTH_SIDES)
    if isinstance(x0, list | tuple):
        is_pair = len(x0) == 2 and all(
            type(side) in (list, tuple) and len(side) == 2 for side in bounds
        )
        both = is_pair and any(isinstance(leaf, int | float) for leaf in jax.tree.leaves(bounds))
    else:
        shape = np.shape(x0) if isinstance(x0, jax.Array | np.ndarray) else ()
        all_two = len(shape) > 0 and set(shape) == {2}
        plain = isinstance(bounds, list) or any(isinstance(side, list | tuple) for side in bounds)
        both = all_two and plain and all(_length(side) == 2 for side in bounds)
    if both:
        refuse(
            "minimize",
            f"bounds = {bounds}, which is (lower, upper), or (lowest, highest) of each unknown as "
            "SciPy has it",
            "bounds that can be read in one way",
            _BOTH_SIDES,
        )


def _length(side: object) -> int | None:
    """Of a sequence or an array; None for what has none."""
    if isinstance(side, list | tuple):
        return len(side)
    return (
        np.shape(side)[0]
        if isinstance(side, jax.Array | np.ndarray) and np.ndim(side) > 0
        else None
    )


def _side_of_scipy(side: str, bound: Any, x0: PyTree, x: Array) -> Array:
    """One side of `scipy.optimize.Bounds`: one number, like x0, or flat with x0's entries."""
    bound = jnp.asarray(bound, x.dtype)
    if bound.size == 1:
        return jnp.full_like(x, bound.ravel()[0])
    fits = bound.shape in (
        (x.size,),
        np.shape(x0) if isinstance(x0, jax.Array | np.ndarray) else (x.size,),
    )
    if not fits:
        given = f"scipy.optimize.Bounds with a {side} bound of shape {bound.shape}"
        refuse(
            "minimize", given, f"one number, or {x.size} as x0 has", "Use inf where there is none."
        )
    return bound.ravel()


def _bound(side: str, bound: PyTree, x0: PyTree, x: Array) -> Array:
    if bound is None:
        return jnp.full_like(x, -jnp.inf if side == "lower" else jnp.inf)
    is_number = not isinstance(bound, dict | list | tuple) and np.ndim(bound) == 0
    if is_number and len(jax.tree.leaves(bound)) == 1:
        return jnp.full_like(x, jnp.asarray(bound))

    def like(v: Any, b: Any) -> Array:
        if _shape(b) not in ((), np.shape(v)):
            raise ValueError
        return jnp.broadcast_to(jnp.asarray(b, jnp.result_type(v)), np.shape(v))

    try:
        full = jax.tree.map(like, x0, bound)
    except (ValueError, TypeError):
        is_pair = isinstance(bound, list | tuple) and _length(bound) == 2
        given = (
            f"the {side} bound {bound}, which SciPy would read as (lowest, highest) of one unknown"
            if is_pair and not isinstance(x0, list | tuple)
            else f"the {side} bound {jax.tree.map(np.shape, bound)}"
        )
        refuse(
            "minimize", given, f"a number, or like x0, {jax.tree.map(np.shape, x0)}", _BOTH_SIDES
        )
    return ravel_pytree(full)[0].astype(x.dtype)


def _shape(b: ArrayLike) -> tuple[int, ...]:
    """Of numbers; refused where None stands for some of them."""
    if any(leaf is None for leaf in jax.tree.leaves(b, is_leaf=lambda leaf: leaf is None)):
        raise ValueError
    return np.shape(b)
