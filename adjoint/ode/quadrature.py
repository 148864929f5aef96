"""One step of the adjoint with the integral of F_p' lam over it, the step's part of p_bar.

One pull at a stage gives both F_y' lam, of which the step is made, and F_p' lam, whose sum with the
weights of the Runge-Kutta method is the integral: the quadrature of an explicit step costs no
evaluation of its own.
"""

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, PyTree

from adjoint.ode.integrator import Integrator, State
from adjoint.ode.runge_kutta import weighted
from adjoint.tracing import loops


class Field(Protocol):
    """The slope of the adjoint, lam, or of (u, lam) where the solution runs back with it."""

    def __call__(self, s: Array, lam: Array, along: PyTree) -> Array:
        """The slope at s."""
        ...

    def solution(self, s: Float[Array, " nodes"], along: PyTree) -> Float[Array, "nodes ..."]:
        """What `with_parameters` needs of the solution at these s."""
        ...

    def with_parameters(
        self, s: Array, lam: Array, u: Array, along: PyTree
    ) -> tuple[Array, list[Array]]:
        """The slope at s, and F_p' lam."""
        ...


class AdjointStep(NamedTuple):
    """lam at the end of a step and its error, the integral of F_p' lam and its error."""

    lam: Float[Array, " n"]
    error: Float[Array, " n"]
    integral: list[Array]
    integral_error: list[Array]
    converged: Bool[Array, ""]


# A step of the adjoint with its quadrature: (backward, (start, end), lam, along) -> AdjointStep. A
# step goes back, so that its h is negative and the integral is minus the sum of h b_i F_p' lam_i.
Rule = Callable[[Integrator, tuple[Array, Array], Array, Any], AdjointStep]


def stage_quadrature(
    backward: Integrator, s: tuple[Array, Array], lam: Array, along: PyTree
) -> AdjointStep:
    """The integral and its error by the weights of the Runge-Kutta method at its own stages."""
    return _by_stages(backward, s, lam, along)[0]


def _by_stages(
    backward: Integrator, s: tuple[Array, Array], lam: Array, along: PyTree
) -> tuple[AdjointStep, Float[Array, "stages n"]]:
    """The step, and the slopes of its stages times h."""
    if backward.method.is_implicit:
        return _implicit(backward, s, lam, along)
    return _explicit(backward, s, lam, along)


# Up to so many numbers, 8 MiB in double precision, F_p' lam is kept at all nodes and summed at
# once, which is faster: otherwise it is computed once for each sum. Beyond, sums are made on the
# way.
FEW = 2**20


def _explicit(
    backward: Integrator, s: tuple[Array, Array], lam: Array, along: PyTree
) -> tuple[AdjointStep, Float[Array, "stages n"]]:
    """By one copy of the field, in a loop.

    Of six copies in a row XLA makes kernels that compute the same parts several times.
    """
    tableau = backward.method.tableau
    h = s[1] - s[0]
    dtype = lam.dtype
    a, c = _full_tableau(tableau)
    at = s[0] + jnp.asarray(c, dtype) * h
    # All at once: one by one they would be interpolated in each kernel that needs them.
    u = backward.field.solution(at, along)
    keeps = _are_few(backward, s[0], lam, u[0], along)

    def stage(carry: PyTree, row: PyTree) -> tuple[PyTree, list[Array]]:
        k, sums = carry
        a_i, b_i, s_i, u_i, i = row
        slope, rates = backward.field.with_parameters(s_i, lam + weighted(a_i, k), u_i, along)
        k = k.at[i].set(h * slope)
        return ((k, sums), rates) if keeps else ((k, _added(sums, b_i, rates)), [])

    k = jnp.zeros((tableau.num_stages, lam.size), dtype)
    b = -h * jnp.asarray(_weights(tableau), dtype)
    rows = (jnp.asarray(a, dtype), b.T, at, u, jnp.arange(tableau.num_stages))
    (k, sums), rates = loops.scan(stage, (k, _zeros(backward, s[0], lam, u[0], along, 2)), rows)
    integral, integral_error = _sums(b, rates) if keeps else sums
    change = weighted(tableau.b_sol, k)
    error = weighted(tableau.b_error, k)
    return AdjointStep(lam + change, error, integral, integral_error, jnp.array(True)), k


def _implicit(
    backward: Integrator, s: tuple[Array, Array], lam: Array, along: PyTree
) -> tuple[AdjointStep, Float[Array, "stages n"]]:
    """The stages are known only when all iterations are done."""
    tableau = backward.method.tableau
    h = s[1] - s[0]
    dtype = lam.dtype
    step = backward.step_with_moving_ends(s, State(lam, backward.field(s[0], lam, along)), along)
    a, c = _full_tableau(tableau)
    at = s[0] + jnp.asarray(c, dtype) * h
    stages = lam[None, :] + weighted(a, step.stages)
    integral, error = _sums_at(
        backward, at, -h * jnp.asarray(_weights(tableau), dtype), stages, along
    )
    return AdjointStep(step.y, step.error, integral, error, step.converged), step.stages


def _full_tableau(tableau: Any) -> tuple[np.ndarray, np.ndarray]:
    """a and c of all stages."""
    a = np.zeros((tableau.num_stages, tableau.num_stages))
    for i, row in enumerate(tableau.a_lower, start=1):
        a[i, :i] = row
    if tableau.a_diagonal is not None:
        a += np.diag(tableau.a_diagonal)
    return a, np.concatenate([[tableau.c1], tableau.c])


def _weights(tableau: Any) -> np.ndarray:
    """Of the integral, and of its error."""
    return np.stack([tableau.b_sol, tableau.b_error])


def _are_few(backward: Integrator, s: Array, lam: Array, u: Array, along: PyTree) -> bool:
    """Whether F_p' lam at all nodes are few numbers."""
    size = sum(zeros.size for zeros in _zeros(backward, s, lam, u, along, 1)[0])
    return size * backward.method.tableau.num_stages <= FEW


def _zeros(
    backward: Integrator, s: Array, lam: Array, u: Array, along: PyTree, count: int
) -> list[list[Array]]:
    """So many sums of F_p' lam before the first term."""
    _, rates = jax.eval_shape(lambda: backward.field.with_parameters(s, lam, u, along))
    return [[jnp.zeros(rate.shape, rate.dtype) for rate in rates] for _ in range(count)]


def _added(sums: list[list[Array]], weights: Array, rates: list[Array]) -> list[list[Array]]:
    """The sums with one more term in each."""
    return [
        [total + (w * rate).astype(rate.dtype) for total, rate in zip(sum_, rates, strict=True)]
        for sum_, w in zip(sums, weights, strict=True)
    ]


def _sums(weights: Float[Array, "sums nodes"], rates: list[Array]) -> list[list[Array]]:
    """For each row of weights the sum of w_i F_p' lam_i, in the dtype of p."""
    return [[weighted(row, rate) for rate in rates] for row in weights]


def _sums_at(
    backward: Integrator,
    s: Array,
    weights: Float[Array, "sums nodes"],
    lam: Float[Array, "nodes n"],
    along: PyTree,
) -> list[list[Array]]:
    """The same, with F_p' lam at each of s."""
    u = backward.field.solution(s, along)

    def rates_at(s: Array, lam: Array, u: Array) -> list[Array]:
        return backward.field.with_parameters(s, lam, u, along)[1]

    if _are_few(backward, s[0], lam[0], u[0], along):
        return _sums(weights, jax.vmap(rates_at)(s, lam, u))

    def add(sums: list[list[Array]], node: PyTree) -> tuple[list[list[Array]], None]:
        w, *at = node
        return _added(sums, w, rates_at(*at)), None

    zeros = _zeros(backward, s[0], lam[0], u[0], along, len(weights))
    return loops.scan(add, zeros, (weights.T, s, lam, u))[0]


# Nodes (those not negative) and weights on [-1, 1] of the rule with 7 points: Kronrod, Nodes and
# Weights of Quadrature Formulas, 1965.
KRONROD_NODES = np.array([0.0, 0.4342437493468026, 0.7745966692414834, 0.9604912687080202])
KRONROD_WEIGHTS = np.array(
    [0.4509165386584741, 0.4013974147759622, 0.2684880898683334, 0.1046562260264673]
)


def gauss_kronrod(
    backward: Integrator, s: tuple[Array, Array], lam: Array, along: PyTree
) -> AdjointStep:
    """The integral by 7 points on the interpolant of lam, and its error.

    The error is the difference to the rule of the stages, which does not use the interpolant: for a
    stiff step that may be poor.
    """
    step, k = _by_stages(backward, s, lam, along)
    nodes = np.concatenate([-KRONROD_NODES[:0:-1], KRONROD_NODES])
    weights = np.concatenate([KRONROD_WEIGHTS[:0:-1], KRONROD_WEIGHTS]) / 2
    h = s[1] - s[0]
    at = s[0] + jnp.asarray((1 + nodes) / 2, lam.dtype) * h
    inside = jax.vmap(lambda s_i: backward.method.interpolate(s, lam, step.lam, k, s_i))(at)
    (integral,) = _sums_at(backward, at, -h * jnp.asarray(weights[None], lam.dtype), inside, along)
    return step._replace(
        integral=integral,
        integral_error=[
            new - of_stages for new, of_stages in zip(integral, step.integral, strict=True)
        ],
    )
