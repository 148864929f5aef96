"""recurrence: x[k+1] = f(k, x[k], p) and costs along the way, gradients in bounded memory."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, PyTree

from adjoint.inputs import (
    all_finite,
    none_is_nan,
    refuse,
    require_mode,
    takes_jax_functions,
    warn_if_cut,
)
from adjoint.ode.checkpoints import Schedule, require_checkpoints, sweep_back
from adjoint.ode.vector_field import Parameters, VectorField
from adjoint.solution import Solution, poison
from adjoint.status import Status, first_failure
from adjoint.tracing import loops
from adjoint.tracing.programs import Static, compiled
from adjoint.tracing.rule import forward_only, instantiate, with_forward_mode
from adjoint.tracing.traced_function import TracedFunction, trace_at_door

# The rule, with the costs as further states of x:
#
#     lam[N] = x_bar,   lam[k] = (df/dx)(k, x[k])' lam[k+1]
#     p_bar = sum (df/dp)(k, x[k])' lam[k+1]
#
# (Strang, Computational Science and Engineering, 2007, section 8.7; Griewank and Walther,
# Evaluating Derivatives, 2nd ed., ch. 12.)


@dataclass(frozen=True)
class _Plan:
    field: VectorField
    steps: int
    schedule: Schedule

    def advance(self, k: Array | int, x: Array, p: Parameters) -> Array:
        """x[k + 1]; the loops of JAX count in the widest integers, and f was traced with these."""
        return self.field(jnp.asarray(k, jnp.int32), x, p)


class _Sweep(NamedTuple):
    x: Array
    varying: list[Array]


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _recur(plan: _Plan, x0: Array, varying: list[Array], constant: list[Array]) -> Array:
    p = Parameters(varying, constant)
    return loops.fori_loop(0, plan.steps, lambda k, x: plan.advance(k, x, p), x0)


def _recur_fwd(
    plan: _Plan, x0: Array, varying: list[Array], constant: list[Array]
) -> tuple[Array, PyTree]:
    p = Parameters(varying, constant)
    spacing = plan.schedule.spacing

    def advance(k: Array, carry: PyTree) -> PyTree:
        x, kept = carry
        slot = k // spacing
        is_kept = k % spacing == 0
        return plan.advance(k, x, p), kept.at[slot].set(jnp.where(is_kept, x, kept[slot]))

    kept = jnp.zeros((max(-(-plan.steps // spacing), 1), x0.size), x0.dtype)
    x, kept = loops.fori_loop(0, plan.steps, advance, (x0, kept))
    return forward_only(x, "recurrence"), (forward_only(kept, "recurrence"), x0, p)


def _recur_bwd(plan: _Plan, residuals: PyTree, x_bar: Array) -> tuple[Array, list[Array], None]:
    kept, _, p = residuals

    def advance(k: Array, x: Array) -> Array:
        return plan.advance(k, x, p)

    def pull(k: Array, x: Array, lam: _Sweep) -> _Sweep:
        _, adjoint = jax.vjp(
            lambda x, varying: plan.advance(k, x, Parameters(varying, p.constant)), x, p.varying
        )
        x_bar, varying_bar = adjoint(lam.x)
        return _Sweep(
            x_bar, [total + new for total, new in zip(lam.varying, varying_bar, strict=True)]
        )

    lam = _Sweep(x_bar, [jnp.zeros_like(v) for v in p.varying])
    lam = sweep_back(plan.schedule, advance, pull, kept, plan.steps, lam)
    # A select in f answers a NaN with a clean zero; after a failure every number must be NaN.
    lam = forward_only(poison(lam, jnp.all(jnp.isfinite(x_bar))), "recurrence")
    return lam.x, lam.varying, None


_recur.defvjp(_recur_fwd, _recur_bwd)


def _recur_tangent(plan: _Plan, residuals: PyTree, dots: PyTree) -> Array:
    """x_dot[k + 1] = (df/dx) x_dot[k] + (df/dp) p_dot, beside the states once more."""
    _, x0, p = residuals
    x_dot, varying_dot = instantiate((x0, p.varying), (dots[0], dots[1]))

    def push(k: Array, carry: PyTree) -> PyTree:
        def advance(x: Array, varying: list[Array]) -> Array:
            return plan.advance(k, x, Parameters(varying, p.constant))

        return jax.jvp(advance, (carry[0], p.varying), (carry[1], varying_dot))

    _, x_dot = loops.fori_loop(0, plan.steps, push, (x0, x_dot))
    return forward_only(x_dot, "recurrence")


recur: Any = with_forward_mode(_recur, _recur_tangent)


@takes_jax_functions("recurrence")
def recurrence(
    f: Callable[..., PyTree],
    x0: PyTree,
    p: PyTree,
    steps: int,
    *,
    running_cost: Callable[..., PyTree] | None = None,
    checkpoints: int | None = None,
    mode: Literal["reverse", "both"] = "reverse",
) -> Solution[Any]:
    """Repeat x[k+1] = f(k, x[k], p) for k < steps, with gradients that need not store all states.

    Parameters
    ----------
    f
        f(k, x, p), structured as x; k is an integer array.
    x0
        x[0]: an array or a pytree of floating-point arrays of one dtype.
    p
        Parameters, a pytree.
    steps
        How many.
    running_cost
        g(k, x, p), summed over x[0] to x[steps - 1].
    checkpoints
        How many states may be stored at once. None: all where they fit into 64 MiB, else about 2
        sqrt(steps) of them, each step being repeated once. A small number is kept by a binomial
        schedule, which repeats steps more often.
    mode
        Deprecated and without effect, to be removed after one release: derivatives are there in
        both modes.

    Returns
    -------
    solution
        `Solution` with ``value`` x[steps], or with a running cost the pair (x[steps], its sum);
        ``status``; no ``stats``.

    Raises
    ------
    ValueError, TypeError
        When f does not return what it is given, or x0 is not of one dtype.

    Notes
    -----
    **Derivative**: lam[k] = (df/dx)' lam[k+1] backwards through the states, p_bar = sum of (df/dp)'
    lam[k+1]; with respect to x0, p and whatever f closes over. Every schedule takes the same steps
    in the same order. In forward mode x_dot[k+1] = (df/dx) x_dot[k] + (df/dp) p_dot. Hessians by
    `jax.jacfwd` of the gradient; reverse over reverse is refused.

    **Status**: `DIVERGED` when a number is not finite at the end, `NONFINITE_INPUT` when one is not
    at the start.

    **Cost**: for a gradient 2 to 4 times the steps, and the memory of the checkpoints.

    Source: A. Griewank, A. Walther, Algorithm 799: revolve, ACM Trans. Math. Softw. 26, 2000.

    Examples
    --------
    >>> import jax, jax.numpy as jnp, adjoint
    >>> balance = lambda rate: (
    ...     adjoint.recurrence(lambda k, x, r: (1 + r) * x, jnp.array(100.0), rate, 10).value
    ... )
    >>> round(float(balance(0.05)), 2), round(float(jax.grad(balance)(0.05)), 2)  # 1000 * 1.05**9
    (162.89, 1551.33)
    """
    _check(steps, checkpoints, mode)
    warn_if_cut("recurrence", x0=x0, p=p)
    x0 = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.result_type(leaf)), x0)
    p = jax.tree.map(jnp.asarray, p)
    dtypes = {jnp.result_type(leaf) for leaf in jax.tree.leaves(x0)}
    if len(dtypes) != 1 or not all(jnp.issubdtype(d, jnp.inexact) for d in dtypes):
        names = " and ".join(sorted(str(d) for d in dtypes)) or "no arrays"
        refuse(
            "recurrence",
            f"x0 with {names}",
            "floating-point arrays of one dtype",
            "Convert them.",
            TypeError,
        )
    _require_same("f", jax.eval_shape(lambda *a: f(*a), 0, x0, p), x0)
    (f, cost), (_, x0, p), _ = trace_at_door((f, running_cost), (jnp.zeros((), jnp.int32), x0, p))
    return compiled(_repeat, Static((steps, checkpoints)), f, cost, x0, p)


def _repeat(
    known: Static, f: TracedFunction, running_cost: TracedFunction | None, x0: PyTree, p: PyTree
) -> Solution[Any]:
    steps, checkpoints = known.value
    flat, unravel = ravel_pytree(x0)
    costs = jnp.zeros(0, flat.dtype)
    unravel_costs = None
    if running_cost is not None:
        like = jax.eval_shape(running_cost, jnp.zeros((), jnp.int32), x0, p)
        costs, unravel_costs = ravel_pytree(
            jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, flat.dtype), like)
        )

    def advance(k: Array, z: Array, p: PyTree, known: list[list[Array]]) -> Array:
        x = unravel(z[: flat.size])
        parts = [ravel_pytree(f.with_known(known[0])(k, x, p))[0]]
        if running_cost is not None:
            cost = ravel_pytree(running_cost.with_known(known[1])(k, x, p))[0]
            parts.append(z[flat.size :] + cost.astype(flat.dtype))
        return jnp.concatenate(parts)

    start = jnp.concatenate([flat, costs])
    constants = [function.known for function in (f, running_cost) if function is not None]
    field, parameters = VectorField.of(advance, jnp.zeros((), jnp.int32), start, p, constants)
    start, parameters = loops.vary_alike((start, parameters))
    schedule = Schedule.of(checkpoints, max(steps, 1), start.size * start.dtype.itemsize)
    plan = _Plan(field, steps, schedule)
    z = recur(plan, start, parameters.varying, parameters.constant)
    code = _code(start, parameters, z)
    z = poison(z, code == 0)
    x = unravel(z[: flat.size])
    value = x if unravel_costs is None else (x, unravel_costs(z[flat.size :]))
    return Solution(
        value, Status(code), {}, f"recurrence of {steps} steps ({flat.size} states, {flat.dtype})"
    )


def _code(start: Array, p: Parameters, end: Array) -> Array:
    status = first_failure(
        (Status.NONFINITE_INPUT, ~all_finite(start) | ~none_is_nan(p.varying)),
        (Status.DIVERGED, ~all_finite(end)),
    )
    return jax.lax.stop_gradient(status.code)


def _check(steps: int, checkpoints: int | None, mode: str) -> None:
    if not isinstance(steps, int) or steps < 0:
        refuse(
            "recurrence",
            f"steps = {steps!r}",
            "an integer of at least 0",
            "It must be known when tracing.",
        )
    require_checkpoints("recurrence", checkpoints)
    require_mode("recurrence", mode)


def _require_same(name: str, given: PyTree, expected: PyTree) -> None:
    """f must return the structure, shapes and dtype of x."""

    def shapes(tree: PyTree) -> PyTree:
        return jax.tree.map(lambda leaf: (jnp.shape(leaf), str(jnp.result_type(leaf))), tree)

    if shapes(given) != shapes(expected):
        refuse(
            "recurrence",
            f"{name} that returns {shapes(given)}",
            f"{shapes(expected)}, as x0",
            "Return an array for each array of x, of its shape and dtype.",
        )
