"""Is x a root of F(x, p), and F_x regular there and within the error of x?

Whatever found x is judged by this. All is measured in the sizes of the terms of each equation and
of each unknown, so that no verdict depends on a unit.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float, PyTree

from adjoint.implicit.residual import JacobianAction, RootProblem
from adjoint.inputs import all_finite, none_is_nan
from adjoint.linear.equilibrated import Equilibrated, Scales, scales_of
from adjoint.linear.krylov import Krylov
from adjoint.linear.outcome import Outcome, probe_vector
from adjoint.norm import norm
from adjoint.status import Status, first_failure
from adjoint.tracing import loops


def left_over_limit(dtype: DTypeLike) -> float:
    """The largest Newton correction that may be left, as a share of the size of the unknown.

    A derivative is as wrong as the root it is taken at; 5e-7 in float64, 2e-3 in float32.
    """
    return float(jnp.finfo(dtype).eps) ** 0.4


def perturbation(dtype: DTypeLike) -> float:
    """The share of F's terms by which F is pushed to see if it is linear within the error of x.

    Far above the rounding errors of F, so that they do not look like a nonlinearity: 2e-12 in
    float64, 7e-6 in float32.
    """
    return float(jnp.finfo(dtype).eps) ** 0.75


# F is pushed by at least so many of its rounding errors, so that those do not look like a
# nonlinearity.
ROUNDING = 30
# Lengths of the steps that rounding errors are seen over. Each sees none by chance with a
# probability of about one half.
SAMPLES = (1.0, -1.0, 0.7, -0.7, 0.45, -0.45, 0.3, -0.3)
# Where F departs from its linear model by more than this share under such a push, x is a fold
# within its own error.
NONLINEARITY = 0.1


class Examination(NamedTuple):
    """What was found out about a root, and the factors of F_x there."""

    factor: PyTree
    status: Status
    residual: Float[Array, ""]
    correction: Float[Array, ""]
    nonlinearity: Float[Array, ""]


def typical_size(x: Array, x0: Array) -> Float[Array, " n"]:
    """The size of each unknown: its own, or that of its way from the start."""
    return jnp.maximum(jnp.abs(x), jnp.abs(x - x0))


def examine(problem: RootProblem, x: Array, x0: Array, p: PyTree) -> Examination:
    """The verdict on x, found from x0 at the parameters p."""
    F = problem.F
    solver = Equilibrated(problem.linear_solver)
    F_of_x = F(x, p)
    J = problem.jacobian(x, p)
    scales = scales_of(J, typical_size(x, x0))
    factor = solver.factor(J, scales)
    probe = jnp.flip(jnp.asarray(probe_vector(x.size), x.dtype))
    push_size = jnp.maximum(
        perturbation(x.dtype) * scales.rows, ROUNDING * _rounding(problem, J, x, x0, p, F_of_x)
    )
    push = push_size * probe
    (correction, response), outcome = _solve_both(solver, factor, J, -F_of_x, push)
    left_over = _left_over(correction, scales)
    # Where F changes by less than it is rounded by, as at a turning point whose terms cancel, this
    # is 1 or more. What an iteration leaves of the push is no nonlinearity, even if it is large
    # beside the rounding of some equations.
    change = F(x + response, p) - F_of_x
    departure = norm((change - J.matvec(response)) / push_size) / norm(probe)
    # Over a correction that is not mere rounding F_x must not change either; at a double root it
    # changes by half. By products with F_x, since differences of F drown in its rounding errors
    # when F_x is nearly singular.
    there = JacobianAction(F, x + correction, p).matvec(correction) + F_of_x
    turned = norm(there / scales.rows) / norm(F_of_x / scales.rows)
    departure = jnp.where(
        left_over > perturbation(x.dtype), jnp.maximum(departure, turned), departure
    )
    status = first_failure(
        _status_of_inputs(problem, F_of_x, x0, p),
        _status_of_solve(problem, outcome, p),
        (Status.NOT_CONVERGED, ~(left_over <= left_over_limit(x.dtype))),
        (Status.DEGENERATE, ~(departure <= NONLINEARITY)),
    )
    return Examination(factor, status, norm(F_of_x), left_over, departure)


def _rounding(
    problem: RootProblem, J: Any, x: Array, x0: Array, p: PyTree, F_of_x: Array
) -> Float[Array, " n"]:
    """The rounding errors of each equation.

    They are large where terms cancel that F_x does not show, such as 1 in exp(x) - 1. They are what
    F departs from its linear model by, over steps too short for anything else.
    """
    probe = perturbation(x.dtype) * typical_size(x, x0) * jnp.asarray(probe_vector(x.size), x.dtype)

    def sample(largest: Array, share: Array) -> tuple[Array, None]:
        d = share * probe
        error = jnp.abs(problem.F(x + d, p) - F_of_x - J.matvec(d))
        return jnp.maximum(largest, error), None

    # One after the other: all at once would take two vectors each.
    shares = jnp.asarray(SAMPLES, x.dtype)
    return loops.scan(sample, jnp.abs(0 * F_of_x), shares)[0]


def _solve_both(
    solver: Equilibrated, factor: PyTree, J: Any, minus_F: Array, push: Array
) -> tuple[Float[Array, "2 n"], Outcome]:
    """Newton correction and response to the push, solved together to compile an iteration once."""
    asked = jnp.stack([minus_F, push])
    if not isinstance(solver.solver, Krylov):
        return jax.vmap(lambda b: solver.solve(factor, J, b))(asked)
    # By turns, so that one basis is stored at a time. A push has about 1 / sqrt(n) of its size
    # along any direction, also the one that F_x hardly resists: that part of the response is known
    # to a tenth when the residual is a tenth of it.
    rtol = solver.solver.rtol
    enough = min(max(rtol, 0.1 / push.size**0.5), 0.1 * NONLINEARITY)
    tolerances = jnp.asarray([rtol, enough], push.real.dtype)
    return jax.lax.map(
        lambda b_and_rtol: solver.solve_to(factor, J, *b_and_rtol), (asked, tolerances)
    )


def _left_over(correction: Array, scales: Scales) -> Array:
    """The largest correction of an unknown as a share of its size.

    Of one whose size nothing tells, any is too large.
    """
    size = jnp.where(scales.known, scales.columns, jnp.abs(correction))
    return jnp.max(jnp.abs(correction) / jnp.where(size > 0, size, 1))


def _status_of_inputs(problem: RootProblem, F_of_x: Array, x0: Array, p: PyTree) -> Status:
    """An infinite parameter, such as an absent bound, is fair unless it comes out in F."""
    inputs = (problem.F.captured, p)
    comes_out = ~all_finite(inputs) & ~all_finite(F_of_x)
    return first_failure(
        (Status.NONFINITE_INPUT, ~none_is_nan(inputs) | ~all_finite(x0) | comes_out)
    )


def _status_of_solve(problem: RootProblem, outcome: Outcome, p: PyTree) -> Status:
    """Of the two solves.

    A solver of roots that ran away makes NaN of its own: that must not pass for an input.
    """
    status = first_failure(*map(Status, outcome.code))
    made_here = (status == Status.NONFINITE_INPUT) & all_finite((problem.F.captured, p))
    return first_failure((Status.NOT_CONVERGED, made_here), status)
