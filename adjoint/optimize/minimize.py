"""minimize: the front door of the optimizers."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, PyTree

from adjoint.inner_products import Euclidean, InnerProduct
from adjoint.optimize.bfgs import BFGS
from adjoint.optimize.driver import Step, compiled, on_host
from adjoint.optimize.objective import Objective
from adjoint.optimize.problem import Domain, Method
from adjoint.optimize.progress import Limits, Run
from adjoint.solution import Columns, Solution, Status, Words


def minimize(
    objective: Callable[[PyTree], Any],
    x0: PyTree,
    method: Any = None,
    *,
    bounds: tuple[PyTree, PyTree] | None = None,
    equality: Callable[[PyTree], PyTree] | None = None,
    inequality: Callable[[PyTree], PyTree] | None = None,
    inner_product: InnerProduct | None = None,
    gradient: Callable[[PyTree], PyTree] | None = None,
    rtol: float = 1e-8,
    atol: float = 0.0,
    constraint_tolerance: float = 1e-8,
    noise: float = 0.0,
    max_steps: int = 1000,
    max_evaluations: int = 100_000,
    max_seconds: float | None = None,
    callback: Callable[[Step], Any] | None = None,
) -> Solution[PyTree]:
    """Minimize f(x) subject to lower <= x <= upper, g(x) = 0 and h(x) <= 0."""
    x, unravel = ravel_pytree(jax.tree.map(jnp.asarray, x0))
    constraints = tuple(c for c in (equality, inequality) if c is not None)
    function = Objective(objective, constraints, unravel, gradient)
    lower, upper = (None, None) if bounds is None else (_bound(b, x0, x) for b in bounds)
    domain = Domain(
        lower, upper, jnp.asarray(noise, x.dtype), inner_product or Euclidean(), unravel, _equalities(equality, x0)
    )
    limits = Limits(*(jnp.asarray(v, x.dtype) for v in (rtol, atol, constraint_tolerance)), max_steps, max_evaluations)
    method = method or BFGS()
    if isinstance(x, jax.core.Tracer):
        return _solution(compiled(function, method, x, domain, limits), domain, method)
    history: list[dict[str, float]] = []

    def watch(step: Step) -> bool:
        history.append(step.numbers())
        return bool(callback(step)) if callback is not None else False

    run = on_host(function, method, x, domain, limits, max_seconds, watch)
    solution = _solution(run, domain, method)
    columns = Columns((name, np.array([row[name] for row in history])) for name in history[0])
    return Solution(solution.value, solution.status, solution.stats | {"history": columns}, solution.origin)


def _bound(bound: PyTree, x0: PyTree, x: Array) -> Array:
    if np.ndim(bound) == 0 and not isinstance(bound, dict | list | tuple):
        return jnp.full_like(x, bound)
    return ravel_pytree(jax.tree.map(lambda b, v: jnp.broadcast_to(b, v.shape), bound, x0))[0].astype(x.dtype)


def _equalities(equality: Any, x0: PyTree) -> int:
    return 0 if equality is None else sum(v.size for v in jax.tree.leaves(jax.eval_shape(equality, x0)))


def _solution(run: Run, domain: Domain, method: Method) -> Solution[PyTree]:
    finished = run.code == Status.SUCCESS.code
    x = jnp.where(finished, run.state.at.x, run.best.x)
    stats = {
        "value": jnp.where(finished, run.state.at.value, run.best.value),
        "stationarity": jnp.where(finished, run.measure.stationarity, run.best.stationarity),
        "violation": jnp.where(finished, run.measure.violation, run.best.violation),
        "iterations": run.state.iterations,
        "evaluations": run.counts[0],
        "hessians": run.counts[1],
        "products": run.counts[2],
        "noise": run.noise,
        "method": Words(type(method).__name__),
    }
    return Solution(domain.unravel(x), Status(run.code), stats, f"minimize with {type(method).__name__}")
