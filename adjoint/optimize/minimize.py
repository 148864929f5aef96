"""minimize: the front door of the optimizers.

It chooses a method, runs it by one of the two loops, and says how it ended.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import jax
import jax.core
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import PyTree

from adjoint.inner_products import InnerProduct
from adjoint.inputs import refuse, takes_jax_functions
from adjoint.optimize.bfgs import BFGS
from adjoint.optimize.choice import SMALL, as_method, choose, honoring
from adjoint.optimize.driver import Step
from adjoint.optimize.problem import Domain, Method
from adjoint.optimize.run import Limits
from adjoint.optimize.stages import Stage, compiled_stages, counts_more, host_stages
from adjoint.optimize.state import Query
from adjoint.optimize.statement import Statement, require_scalar, start_outside, state
from adjoint.run.checkpoint import Checkpoint
from adjoint.solution import Solution
from adjoint.stats import StaticText
from adjoint.status import Status

if TYPE_CHECKING:
    import scipy.optimize


@takes_jax_functions(
    "minimize",
    "Functions of NumPy: pass the derivative of the objective as gradient=, and wrap what else "
    "there is "
    "in adjoint.external(function, vjp=..., like=...).",
)
def minimize(
    objective: Callable[[PyTree], PyTree],
    x0: PyTree,
    method: Any = None,
    *,
    bounds: "tuple[PyTree, PyTree] | scipy.optimize.Bounds | None" = None,
    equality: Callable[[PyTree], PyTree] | None = None,
    inequality: Callable[[PyTree], PyTree] | None = None,
    inner_product: InnerProduct | None = None,
    gradient: Callable[[PyTree], PyTree] | None = None,
    noise: float = 0.0,
    rtol: float = 1e-8,
    atol: float = 0.0,
    constraint_tolerance: float = 1e-8,
    max_steps: int = 1000,
    max_evaluations: int = 100_000,
    max_seconds: float | None = None,
    callback: Callable[[Step], object] | None = None,
    checkpoint: Checkpoint | None = None,
) -> Solution[PyTree]:
    """Minimize f(x) under lower <= x <= upper, g(x) = 0, h(x) <= 0; say honestly how it ended.

    Parameters
    ----------
    objective
        f, a real scalar of x, written in JAX (what JAX cannot trace goes through `external`, or
        comes with its `gradient`).
    x0
        Where to start: an array or a pytree of real arrays of one dtype. A start outside of the
        bounds is projected; by how much is in ``stats["start_outside"]``.
    method
        `SteepestDescent`, `BFGS`, `LBFGS`, `Newton`, `NewtonKrylov`, `GaussNewton`, `MMA`, `GCMMA`,
        `AugmentedLagrangian`, `SQP` or `OC`, or an optimizer of optax as it is, such as
        ``optax.adam(1e-2)``; None chooses by size, bounds, constraints and derivatives, and
        ``stats["method"]`` says what and why.
    bounds
        (lower, upper), each a number or structured and shaped like x0; infinite, or None for a
        whole side, where there is none. Or `scipy.optimize.Bounds`. A pair (lowest, highest) for
        each unknown, the other form of SciPy, is refused, as is all that can be read in both ways.
    equality, inequality
        g and h, functions of x that return arrays: g(x) = 0 and h(x) <= 0. (The inequalities of
        SciPy are >= 0: change their signs.)
    inner_product
        Measures steps and derivatives, and makes gradients of derivatives: `Euclidean` (default),
        `Weighted`, `Sobolev`. With the default `BFGS`, `LBFGS`, `Newton` and `GaussNewton` measure
        their steps in units of the entries of x0.
    gradient
        f' as a function of x. With it, objective and gradient are called on the host with NumPy
        arrays.
    noise
        Uncertainty of f, absolute; estimated when progress stops and this is zero.
    rtol, atol
        A run may stop when the projected derivative (of the Lagrangian, with constraints), times
        the sizes that the entries of x have reached, is at most rtol times that at the start, or
        times the forces of the constraints where these are larger: the same in all units. As a
        steep start makes that a large number, little must be left to gain, too: a change of any
        entry by its size changes f by at most 1e-5 of f to first order, and a Newton step, where
        the method knows one, gains at most 1e-8 of f. Where f is zero beside what was gained, that
        says nothing: then a Newton step must change no entry by more than 1e-8, or f be no more
        than what 100 units in the last place of x change it by, by its slopes or its curvature. A
        dual norm of at most atol, in units of f per unit of x, is enough by itself.
    constraint_tolerance
        Largest violation of a constraint, in its unit, that counts as none: state constraints as
        shares of what they limit.
    max_steps, max_evaluations, max_seconds
        Limits; the last one is looked at between evaluations, outside of `jit` only.
    callback
        Called with a `Step` after each step, outside of `jit` only. A true answer ends the run.
    checkpoint
        Where to save the run and to go on from, outside of `jit` only. With it or a `callback`,
        Ctrl-C and SIGTERM let the evaluation in progress finish and end the run as `INTERRUPTED`; a
        second one is a `KeyboardInterrupt` at once.

    Returns
    -------
    solution
        `Solution` with ``value``, the best point found, structured like x0 (never NaN in place of
        it: the status tells whether it is a minimizer), ``status``, and ``stats``: ``value`` of f,
        ``stationarity``, ``violation``, ``iterations``, ``evaluations`` (of f with f'),
        ``hessians``, ``products`` (f'' v), ``noise`` (of f, or with constraints of the Lagrangian,
        as far as the run has met it, else zero), ``start_outside``, ``method``, with constraints
        ``multipliers``, and, outside of `jit`, ``history``.

    Raises
    ------
    ValueError, TypeError
        For what makes no problem, and for a method that cannot honor what was given, naming those
        that can.

    Notes
    -----
    **Derivative**: none; `argmin` differentiates minimizers.

    **Units**: those of f, and of all x by one factor, change no run. Those of single entries of x
    change none of `MMA`, `GCMMA`, and, where no entry starts at zero, `Newton` and `GaussNewton`;
    `BFGS` and `LBFGS` say when; the others depend on them.

    **Status**: `SUCCESS`; `NOISE_FLOOR`, a success of its own kind; `NOT_CONVERGED`,
    `MAX_EVALUATIONS` or `TIME_LIMIT` at a limit; `STALLED`; `UNTRUSTED_GRADIENT`, when differences
    of f contradict f'; `UNBOUNDED`; `INFEASIBLE`; `NONFINITE_OBJECTIVE`; `INTERRUPTED`. At a
    minimum only the derivative is known to vanish: it may be a local one.

    **Cost**: evaluations as counted, and on the host less than a millisecond around each. Under
    `jit` and `vmap` the same steps run in one compiled loop.

    Source: Nocedal and Wright, Numerical Optimization, 2nd ed., Springer (2006).

    Examples
    --------
    >>> import jax.numpy as jnp, adjoint
    >>> rosenbrock = lambda x: 100 * (x[1] - x[0] ** 2) ** 2 + (1 - x[0]) ** 2
    >>> solution = adjoint.minimize(
    ...     rosenbrock, jnp.array([-1.2, 1.0]), adjoint.BFGS(), bounds=(-2.0, 0.5)
    ... )
    >>> [round(float(v), 4) for v in adjoint.require(solution)], solution.status
    ([0.5, 0.25], Status.SUCCESS)
    """
    statement = state(objective, x0, bounds, equality, inequality, inner_product, gradient, noise)
    methods, why = _methods(method, statement, equality, inequality)
    limits = _limits(
        statement.x.dtype, rtol, atol, constraint_tolerance, max_steps, max_evaluations
    )
    if statement.traced:
        _refuse_on_host_only(max_seconds=max_seconds, callback=callback, checkpoint=checkpoint)
        return _solution(compiled_stages(statement, methods, limits), statement, methods, why)
    stages, columns = host_stages(statement, methods, limits, max_seconds, callback, checkpoint)
    solution = _solution(stages, statement, methods, why)
    return Solution(
        solution.value, solution.status, solution.stats | {"history": columns}, solution.origin
    )


def _methods(
    method: Any, statement: Statement, equality: Any, inequality: Any
) -> tuple[tuple[Method, ...], str]:
    """The methods to try in turn, and why these."""
    given = {
        "bounds": statement.domain.bounded,
        "equality": equality is not None,
        "inequality": inequality is not None,
    }
    if method is None:
        n = statement.x.size
        constrained = given["equality"] or given["inequality"]
        require_scalar(statement, BFGS())
        # Asked only where the answer decides, since it takes a tracing of the objective.
        twice = (
            n <= SMALL
            and not constrained
            and statement.objective.has_second_derivatives(statement.x)
        )
        methods, why = choose(
            n, _is_boxed(statement.domain), given["equality"], given["inequality"], twice
        )
    else:
        methods = (as_method(method),)
        why = "as asked"
    for chosen in methods:
        present = [name for name, is_given in given.items() if is_given]
        missing = [name for name in present if name not in chosen.handles]
        if missing:
            refuse(
                f"minimize with {type(chosen).__name__}",
                " and ".join(missing),
                f"none, as this method cannot honor {'it' if len(missing) == 1 else 'them'}",
                f"Use {' or '.join(honoring(present) or ['adjoint.argmin'])}.",
            )
        if statement.objective.gradient is not None and (
            chosen.queries != (Query.VALUE,) or getattr(chosen, "least_squares", False)
        ):
            refuse(
                f"minimize with {type(chosen).__name__}",
                "gradient=, which leaves second derivatives unknown",
                "an objective that JAX can trace",
                "Take BFGS(), LBFGS() or SteepestDescent(); or wrap the objective in "
                "adjoint.external.",
            )
        if hasattr(chosen, "require"):
            chosen.require(statement.domain)  # pyright: ignore[reportAttributeAccessIssue]
        require_scalar(statement, chosen)
    return methods, why


def _is_boxed(domain: Domain) -> bool:
    """Whether every unknown is known to have two finite bounds."""
    bounds = [domain.lower, domain.upper]
    return all(
        b is not None and not isinstance(b, jax.core.Tracer) and bool(jnp.all(jnp.isfinite(b)))
        for b in bounds
    )


def _limits(
    dtype: DTypeLike,
    rtol: float,
    atol: float,
    constraint_tolerance: float,
    max_steps: int,
    most: int,
) -> Limits:
    for name, value in (
        ("rtol", rtol),
        ("atol", atol),
        ("constraint_tolerance", constraint_tolerance),
    ):
        if not isinstance(value, jax.core.Tracer) and not value >= 0:
            refuse(
                "minimize",
                f"{name} = {value}",
                "a number that is not negative",
                f"Leave {name} out.",
            )
    for name, value in (("max_steps", max_steps), ("max_evaluations", most)):
        if not isinstance(value, jax.core.Tracer) and value < 1:
            refuse("minimize", f"{name} = {value}", "a positive integer", f"Leave {name} out.")
    # In float32 a derivative that is smaller than the first one by 1e-8 is all rounding.
    numbers = jnp if isinstance(rtol, jax.core.Tracer) else np
    visible = numbers.where(rtol > 0, numbers.maximum(rtol, 32 * float(jnp.finfo(dtype).eps)), 0)
    relative, absolute, tolerance = (
        jnp.asarray(value, dtype) for value in (visible, atol, constraint_tolerance)
    )
    return Limits(relative, absolute, tolerance, max_steps, most)


def _refuse_on_host_only(**given: object) -> None:
    for name, value in given.items():
        if value is not None:
            refuse(
                "minimize",
                f"{name} inside jit or vmap",
                "a call outside of them",
                f"Leave {name} out, or do not jit.",
            )


_ADD_UP = ("iterations", "evaluations", "hessians", "products")


def _solution(
    stages: list[Stage], statement: Statement, methods: tuple[Method, ...], why: str
) -> Solution[PyTree]:
    """The last stage that ran and counts, with the counts of all."""
    result = stages[0]
    for stage in stages[1:]:
        counts = {
            name: result.stats[name] + jnp.where(result.final, 0, stage.stats[name])
            for name in _ADD_UP
        }
        kept = result.final | ~counts_more(stage, result)
        both = result._replace(begun=None), stage._replace(begun=None)
        ended = result.final | stage.final
        result = jax.tree.map(lambda a, b, kept=kept: jnp.where(kept, a, b), *both)
        result = result._replace(stats=result.stats | counts, final=ended)
    x, stats, code = result.x, result.stats, result.code
    names = [type(method).__name__ for method in methods[: len(stages)]]
    said = StaticText(f"{', then '.join(names)}: {why}")
    stats = stats | {"start_outside": start_outside(statement), "method": said}
    return Solution(statement.domain.unravel(x), Status(code), stats, f"minimize with {names[-1]}")
