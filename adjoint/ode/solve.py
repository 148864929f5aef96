"""ode_solve: y' = f(t, y, p), samples of y and integrals along it, with their derivatives."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jax.typing import ArrayLike
from jaxtyping import Array, PyTree

from adjoint.inputs import all_finite, none_is_nan, refuse, takes_jax_functions, warn_if_cut
from adjoint.ode.arguments import require_fit, require_problem, require_sensitivity, runge_kutta
from adjoint.ode.certificate import ENOUGH_DIGITS, certify
from adjoint.ode.choice import at_stability_limit, choose
from adjoint.ode.discrete import Cotangents, Gradient
from adjoint.ode.integrate import Outcome, integrate
from adjoint.ode.integrator import Integrator
from adjoint.ode.jumps import require_jumps
from adjoint.ode.mass_matrix import MassMatrix
from adjoint.ode.runge_kutta import RungeKutta, Tolerances
from adjoint.ode.sensitivity import Sensitivity
from adjoint.ode.tangent import push
from adjoint.ode.vector_field import Parameters, Problem, make_problem, strongly_typed
from adjoint.solution import Solution, poison
from adjoint.stats import StaticText
from adjoint.status import Status, first_failure
from adjoint.tracing.programs import compiled
from adjoint.tracing.rule import forward_only, with_forward_mode
from adjoint.tracing.traced_function import TracedFunction, trace_at_door

# Outer room of every rule: forward, the sensitivity remembers what it needs; backward, it pulls the
# cotangents of y(t1) and of the samples back to y0, p and the sample times; in forward mode
# `tangent.push` makes y_dot of the same. All that F closed over is among the varying parameters.
# Loops whose length is found when running have no transpose: reverse mode goes innermost.


@dataclass(frozen=True)
class Plan:
    """How to solve, and how to take derivatives."""

    integrator: Integrator
    sensitivity: Sensitivity


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _solve(
    plan: Plan, y0: Array, varying: list[Array], s: Array, constant: list[Array]
) -> tuple[Array, Array, Outcome]:
    y1, samples, _, outcome = integrate(plan.integrator, y0, Parameters(varying, constant), s)
    return y1, samples, outcome


def _solve_fwd(
    plan: Plan, y0: Array, varying: list[Array], s: Array, constant: list[Array]
) -> tuple[tuple[Array, Array, Outcome], PyTree]:
    p = Parameters(varying, constant)
    value, memory = forward_only(plan.sensitivity.forward(plan.integrator, y0, p, s), "ode_solve")
    return value, (memory, y0, p, s)


def _solve_bwd(plan: Plan, residuals: PyTree, bars: PyTree) -> PyTree:
    memory, y0, p, s = residuals
    y1_bar, samples_bar, _ = bars
    gradient: Gradient = plan.sensitivity.backward(
        plan.integrator, memory, y0, p, s, Cotangents(y1_bar, samples_bar)
    )
    # A select in f answers a NaN with a clean zero; after a failed solve every number must be NaN.
    finite = jnp.all(jnp.isfinite(y1_bar)) & jnp.all(jnp.isfinite(samples_bar))
    gradient = forward_only(poison(gradient, finite), "ode_solve")
    return gradient.y0, gradient.varying, gradient.s, None


_solve.defvjp(_solve_fwd, _solve_bwd)


def _solve_tangent(plan: Plan, residuals: PyTree, dots: PyTree) -> tuple[Array, Array, None]:
    memory, y0, p, s = residuals
    y1_dot, samples_dot = push(plan.sensitivity, plan.integrator, memory, y0, p, s, dots[:3])
    return *forward_only((y1_dot, samples_dot), "ode_solve"), None


solve_in_both_modes: Any = with_forward_mode(_solve, _solve_tangent)


def solve_plan(plan: Plan, problem: Problem) -> tuple[Array, Array, Outcome]:
    """y at s = 1, the samples and the outcome, to be differentiated as planned."""
    return solve_in_both_modes(plan, problem.y0, problem.p.varying, problem.s, problem.p.constant)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class _Request:
    """The functions of the user as they were traced, and all else that is known when tracing."""

    f: TracedFunction
    running_cost: TracedFunction | None
    method: RungeKutta = field(metadata={"static": True})
    tolerances: Tolerances = field(metadata={"static": True})
    max_steps: int = field(metadata={"static": True})
    steps: int | None = field(metadata={"static": True})
    mass: MassMatrix | None = field(metadata={"static": True})
    sensitivity: Sensitivity | None = field(metadata={"static": True})
    certificate: bool = field(metadata={"static": True})
    ends_vary: tuple[bool, bool] = field(metadata={"static": True})
    jumps_vary: bool = field(metadata={"static": True})
    max_step: float | None = field(metadata={"static": True})


@takes_jax_functions("ode_solve")
def ode_solve(
    f: Callable[..., PyTree],
    y0: PyTree,
    p: PyTree,
    t0: ArrayLike,
    t1: ArrayLike,
    *,
    ts: ArrayLike | Sequence[float] | None = None,
    running_cost: Callable[..., PyTree] | None = None,
    solver: Any = None,
    rtol: float = 1e-6,
    atol: float = 1e-9,
    max_steps: int = 4096,
    steps: int | None = None,
    jumps: Any = None,
    max_step: float | None = None,
    mass_matrix: Any = None,
    sensitivity: Sensitivity | None = None,
    mode: Literal["reverse", "both"] = "reverse",
    certificate: bool = False,
) -> Solution[Any]:
    """Solve y' = f(t, y, p), y(t0) = y0, with derivatives of y(t1), y(ts) and a cost's integral.

    Parameters
    ----------
    f
        f(t, y, p), structured as y.
    y0
        The state at t0: an array or a pytree of floating-point arrays of one dtype.
    p
        Parameters, a pytree. f may also close over values that are being differentiated.
    t0, t1
        The ends; t1 may lie before t0. Derivatives are taken where they are JAX arrays, not Python
        numbers.
    ts
        Times between t0 and t1, in the direction of time, at which to return y: by the interpolant
        of an explicit solver, of order 4 for ``Tsit5``; of a stiff solver by a step to each of
        them, as accurate as y(t1), at the cost of that step.
    running_cost
        g(t, y, p), a number or a pytree, to be integrated from t0 to t1, under the same error
        control.
    solver
        An explicit or diagonally implicit Runge-Kutta solver of diffrax: ``diffrax.Tsit5()``
        (default), ``Dopri5``, ``Dopri8``, ``Bosh3``, ``Heun``, ``Midpoint``, ``Ralston``; for stiff
        problems ``Kvaerno5``, ``Kvaerno4``, ``Kvaerno3``.
    rtol, atol
        The error of a step is kept below atol + rtol |y|; of a stiff solver's step below a
        hundredth of that.
    max_steps
        At most so many attempts at a step.
    steps
        Take so many equal steps instead, without error control.
    jumps
        Times between t0 and t1 at which f or running_cost jumps, in any order; they may depend on
        p. The solve stops and restarts there, f sees one side of a jump only, and derivatives hold
        what its time adds. Give them for switches, pulses and piecewise inputs. A switch at a state
        is an `Event` of `hybrid_solve`.
    max_step
        The largest step, in the unit of t: for pulses whose times are not known, half the shortest
        of them.
    mass_matrix
        Solve M y' = f(t, y, p) instead, with a constant M of the flattened y, singular for
        algebraic equations (of index 1); with a stiff solver only. y0 need not be consistent: M y0
        is kept, the rest of it is a guess for `root`.
    sensitivity
        How derivatives are computed: `DiscreteAdjoint`, `InterpolatingAdjoint`, `GaussAdjoint`,
        `BacksolveAdjoint`, `ForwardSensitivity`; None chooses by sizes, and takes
        `InterpolatingAdjoint` where an explicit solver is at its stability limit.
    mode
        Deprecated and without effect, to be removed after one release: derivatives are there in
        both modes.
    certificate
        Estimate how many digits of a gradient by y0 and p, by this sensitivity, can be believed,
        from a solve of other steps; NaN and `UNTRUSTED` when there is less than one. Of jumps of f
        the remedy is jumps, of pulses that no step saw max_step.

    Returns
    -------
    solution
        `Solution` with ``value`` y(t1), or the states at ts, stacked; with a running cost the pair
        (states, integral); ``status``; ``stats``: ``steps``, ``rejected``, ``at_stability_limit``,
        ``sensitivity`` (which, and why), and with a certificate ``gradient_digits``, ``growth``,
        ``disagreement``.

    Raises
    ------
    ValueError, TypeError
        When f, y0, the times or the solver do not make a problem, before any solving.

    Notes
    -----
    **Derivative**: with respect to y0, p, t0, t1, ts and what f closes over, as the sensitivity
    says. Steps are constant shares of t1 - t0 in it, and of each interval between jumps; with
    ``steps`` it is that of the steps, right or not. Forward mode takes the tangent of the steps in
    one direction (of `DiscreteAdjoint`), the columns of `ForwardSensitivity`, or, for the
    continuous ones, at the stability limit, and where the steps do not suit the tangent, a solve
    with the tangent in its error test. Hessians by `jax.jacfwd` of the gradient; reverse over
    reverse is refused.

    **Status**: `MAX_STEPS`, `STEP_UNDERFLOW` (blow-up, NaN, a discontinuity), `DIVERGED` (with
    `steps`), `NONFINITE_INPUT`, `OUT_OF_RANGE` (ts), `UNTRUSTED`. Then the value is NaN, and so is
    every derivative.

    **Cost**: the solve, and for a gradient mostly 1 to 5 more, see the sensitivities, for J v 1 to
    3; some 100 for a certificate. Outside of `jax.jit` it is compiled once, and found again by what
    f computes.

    Source: Y. Cao, S. Li, L. Petzold, R. Serban, SIAM J. Sci. Comput. 24, 2003; A. Griewank, A.
    Walther, Evaluating Derivatives, 2nd ed., 2008.

    Examples
    --------
    >>> import jax, jax.numpy as jnp, adjoint
    >>> def swing(t, y, length):
    ...     return jnp.array([y[1], -9.81 / length * jnp.sin(y[0])])
    >>> def angle(length):
    ...     return adjoint.ode_solve(swing, jnp.array([0.1, 0.0]), length, 0.0, 1.0).value[0]
    >>> round(float(angle(2.0)), 4), round(float(jax.grad(angle)(2.0)), 4)
    (-0.0599, 0.0443)
    """
    dtype = require_problem("ode_solve", f, y0, p, t0, t1, rtol, atol, max_steps, mode)
    if steps is not None and (not isinstance(steps, int) or steps < 1):
        refuse(
            "ode_solve",
            f"steps = {steps!r}",
            "a positive integer",
            "It must be known when tracing.",
        )
    warn_if_cut("ode_solve", y0=y0, p=p, ts=ts)
    times = None if ts is None else jnp.asarray(ts, dtype)
    if times is not None and (times.ndim != 1 or times.size == 0):
        refuse(
            "ode_solve",
            f"ts of shape {times.shape}",
            "a list of times",
            "Pass a one-dimensional array.",
        )
    require_sensitivity("ode_solve", sensitivity)
    breaks = require_jumps(jumps, max_step, steps, dtype)
    y0 = strongly_typed(y0)
    p = jax.tree.map(jnp.asarray, p)
    ends = (jnp.asarray(t0, dtype), jnp.asarray(t1, dtype))
    method = runge_kutta("ode_solve", solver, steps)
    mass = None
    if mass_matrix is not None:
        mass = MassMatrix.of("ode_solve", mass_matrix, ravel_pytree(y0)[0].size, dtype)
        require_fit(method, sensitivity, certificate)
        if breaks is not None and mass.is_singular:
            given = "jumps with a singular mass_matrix"
            remedy = "Solve up to each jump, and go on from there."
            refuse("ode_solve", given, "a regular mass_matrix", remedy)
    (slope, cost), (start, y0, p), (end, times, breaks) = trace_at_door(
        (f, running_cost), (ends[0], y0, p), ends[1], times, breaks
    )
    request = _Request(
        slope,
        cost,
        method,
        Tolerances(rtol, atol),
        max_steps,
        steps,
        mass,
        sensitivity,
        certificate,
        (isinstance(t0, jax.Array), isinstance(t1, jax.Array)),
        any(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(jumps)),
        max_step,
    )
    return compiled(_solve_request, request, y0, p, (start, end), times, breaks)


def _solve_request(
    request: _Request,
    y0: PyTree,
    p: PyTree,
    ends: tuple[Array, Array],
    ts: Array | None,
    jumps: Array | None,
) -> Solution[Any]:
    breaks = (jumps, request.jumps_vary, request.max_step)
    problem = make_problem(
        request.f, request.running_cost, y0, p, ends, request.ends_vary, ts, *breaks
    )
    integrator = Integrator(
        problem.field,
        request.method,
        request.tolerances,
        request.max_steps,
        request.steps,
        mass := request.mass and request.mass.with_costs(problem.y0.size),
        problem.limits,
    )
    start_code = jnp.zeros((), jnp.int32)
    if mass is not None:
        y0, start_code = mass.consistent_start(problem.field, problem.y0, problem.p)
        problem = problem._replace(y0=y0)
    sensitivity, words = _sensitivity(request, integrator, problem)
    y1, samples, outcome = solve_plan(Plan(integrator, sensitivity), problem)
    stats = {
        "steps": outcome.accepted,
        "rejected": outcome.rejected,
        "at_stability_limit": at_stability_limit(outcome),
        "sensitivity": StaticText(words),
    }
    status = first_failure(Status(start_code), _status(problem, outcome))
    if request.certificate:
        found = certify(integrator, sensitivity, problem.y0, problem.p)
        stats |= {
            "gradient_digits": found.digits,
            "growth": found.growth,
            "disagreement": found.disagreement,
        }
        status = first_failure(status, (Status.UNTRUSTED, ~(found.digits >= ENOUGH_DIGITS)))
    y1, samples = poison((y1, samples), status.ok)
    end, integral = problem.split(y1)
    states = end if ts is None else jax.vmap(lambda y: problem.split(y)[0])(samples)
    value = states if request.running_cost is None else (states, integral)
    name = request.method.solver.__name__
    y = problem.y0
    return Solution(value, status, stats, f"ode_solve with {name} ({y.size} states, {y.dtype})")


def _sensitivity(request: _Request, integrator: Integrator, problem: Problem) -> tuple[Any, str]:
    if request.sensitivity is not None:
        return request.sensitivity, f"{type(request.sensitivity).__name__}: as asked"
    chosen = choose(integrator, problem.y0, problem.p, problem.s.size)
    instead = (
        "; InterpolatingAdjoint where at_stability_limit" if chosen.may_change(integrator) else ""
    )
    return chosen, f"{type(chosen.sensitivity).__name__}: {chosen.why}{instead}"


def _status(problem: Problem, outcome: Outcome) -> Status:
    in_order = jnp.all(jnp.diff(problem.s) >= 0) & jnp.all((problem.s >= 0) & (problem.s <= 1))
    # An infinite parameter, such as a bound that is not there, is a fair one; what it spoils ends
    # in the code of the steps.
    are_numbers = all_finite((problem.y0, problem.s)) & none_is_nan(problem.p.varying)
    status = first_failure(
        (Status.NONFINITE_INPUT, ~are_numbers),
        (Status.OUT_OF_RANGE, ~in_order),
        Status(outcome.code),
    )
    return jax.lax.stop_gradient(status)
