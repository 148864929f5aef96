"""What the user gave to `minimize` as the statement of a problem on flat vectors; refused where it makes none."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.core
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Bool, Float, PyTree

from adjoint.inner_products import Euclidean, InnerProduct
from adjoint.inputs import describe, refuse, warn_if_cut
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
    function: Any,
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
    x = x.astype(x.dtype)  # a weak type, as of jnp.full(3, 1.0), would make the first step compile twice
    lower, upper = _bounds(bounds, x0, x)
    constraints = tuple(c for c in (equality, inequality) if c is not None)
    captured = [*jax.tree.leaves((x, lower, upper, inner_product, noise))]
    for name, constraint in (("equality", equality), ("inequality", inequality)):
        if constraint is not None:
            captured += _trace(name, constraint, x, unravel)[0]
    if gradient is None:
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
    equalities = 0 if equality is None else sum(a.size for a in _trace("equality", equality, x, unravel)[1])
    domain = Domain(lower, upper, jnp.asarray(noise, x.dtype), metric, unravel, equalities)
    traced = any(isinstance(value, jax.core.Tracer) for value in captured)
    if traced and gradient is not None:
        refuse("minimize", "gradient=, which is called on the host, inside jit or vmap", "a call outside of them", "")
    return Statement(x, Objective(function, constraints, unravel, gradient), domain, traced)


def require_scalar(statement: Statement, method: Method) -> None:
    """Refuse an objective that does not return what the method minimizes."""
    objective = statement.objective
    if objective.gradient is not None:
        return
    shape: Any = jax.eval_shape(lambda x: objective.function(objective.unravel(x)), statement.x)
    if getattr(method, "least_squares", False):
        if not all(jnp.issubdtype(leaf.dtype, jnp.floating) for leaf in jax.tree.leaves(shape)):
            refuse("minimize", f"residuals {describe(shape)}", "real numbers", "Return r, not |r|^2.", TypeError)
        return
    if not (hasattr(shape, "shape") and shape.shape == () and jnp.issubdtype(shape.dtype, jnp.floating)):
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
        refuse("minimize", "x0 without numbers", "an array or a pytree of arrays", "Give a starting point.", TypeError)
    arrays = jax.tree.map(jnp.asarray, x0)
    for leaf in jax.tree.leaves(arrays):
        if not jnp.issubdtype(leaf.dtype, jnp.floating):
            refuse(
                "minimize", f"x0 with {describe(leaf)}", "real floating-point numbers", "Use .astype(float).", TypeError
            )
    kinds = {str(leaf.dtype) for leaf in jax.tree.leaves(arrays)}
    if len(kinds) > 1:
        refuse("minimize", f"x0 in {' and '.join(sorted(kinds))}", "one precision", "Convert one of them.", TypeError)
    return arrays


def _trace(name: str, function: Callable[[PyTree], Any], x: Array, unravel: Callable[[Array], PyTree]) -> Any:
    """What a function captured, and the shapes that it returns."""
    if not callable(function):
        refuse(
            "minimize", f"{name} = {describe(function)}", "a function of x", f"Pass {name} as a function.", TypeError
        )
    program = jax.make_jaxpr(lambda x: function(unravel(x)))(x)
    if name != "objective" and not (
        program.out_avals and all(jnp.issubdtype(a.dtype, jnp.floating) for a in program.out_avals)
    ):
        refuse(
            "minimize", f"{name} that returns no real numbers", "an array of real numbers", "Return what has to vanish."
        )
    return list(program.consts), program.out_avals


def _bounds(bounds: Any, x0: PyTree, x: Array) -> tuple[Array | None, Array | None]:
    if bounds is None:
        return None, None
    if not (isinstance(bounds, tuple | list) and len(bounds) == 2):
        refuse("minimize", f"bounds = {describe(bounds)}", "a pair (lower, upper)", "Use inf where there is none.")
    lower, upper = (_bound(side, bound, x0, x) for side, bound in zip(("lower", "upper"), bounds, strict=True))
    crossing: Bool[Array, " n"] = lower > upper
    if not isinstance(crossing, jax.core.Tracer) and bool(jnp.any(crossing | jnp.isnan(lower) | jnp.isnan(upper))):
        i = int(jnp.argmax(crossing | jnp.isnan(lower) | jnp.isnan(upper)))
        given = f"the bounds {float(lower[i])} and {float(upper[i])} of entry {i}"
        refuse("minimize", given, "lower <= upper", "Exchange them, or correct the one that is wrong.")
    return lower, upper


def _bound(side: str, bound: PyTree, x0: PyTree, x: Array) -> Array:
    if np.ndim(bound) == 0 and len(jax.tree.leaves(bound)) == 1 and not isinstance(bound, dict | list | tuple):
        return jnp.full_like(x, bound)
    try:
        full = jax.tree.map(lambda v, b: jnp.broadcast_to(jnp.asarray(b), jnp.shape(v)), x0, bound)
    except ValueError:
        given = f"the {side} bound {jax.tree.map(jnp.shape, bound)}"
        refuse(
            "minimize", given, f"a number, or like x0, {jax.tree.map(jnp.shape, x0)}", "Use inf where there is none."
        )
    return ravel_pytree(full)[0].astype(x.dtype)
