"""The right answers, by SciPy's integrators at tolerances near roundoff, to compare with.

Only f and its products with vectors are those of the competitors. Neither the methods nor the steps
are: DOP853 (order 8) or Radau here, and the equations of the derivatives are integrated beside the
solution or after it, each under error control.
"""

import itertools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float

from benchmarks.answers import relative_error
from benchmarks.ode.cases import Case

# Relative, and in units of the largest of each kind absolute.
TOLERANCE = 1e-12
# Up to so many derivatives are integrated forward, beside the solution.
FEW = 16
# The right answers change by up to 2e-8 from ten times the tolerance, so by less than this with a
# smaller one; errors below it are called equal.
NOISE_FLOOR = 1e-8


class Right(NamedTuple):
    """g and its derivatives by the factors."""

    value: float
    gradient: Float[np.ndarray, " parameters"]


def gradient_error(case: Case, found: Any, expected: Float[np.ndarray, " parameters"]) -> float:
    """The larger relative 2-norm error of the gradients by the initial state and the parameters."""
    found = np.asarray(found)
    return max(
        relative_error(*pair) for pair in zip(case.parts(found), case.parts(expected), strict=True)
    )


# The largest takes minutes, and is asked for twice: for explicit and for implicit solvers.
_found: dict[Any, Right] = {}


def answers(case: Case, factors: Any) -> Right:
    """g and its gradient; computed once for each problem.

    Raises
    ------
    ArithmeticError
        When an integrator of SciPy gives up.
    """
    arrays = (case.y0, case.p, case.ts, case.data, case.scale, factors)
    known = (case.f, case.by_start, *((np.shape(a), np.asarray(a).tobytes()) for a in arrays))
    if known not in _found:
        by = by_variational_equations if case.parameters <= FEW else by_adjoint_equations
        _found[known] = by(case, factors)
    return _found[known]


def by_variational_equations(case: Case, factors: Any) -> Right:
    """S' = f_y S + f_p p_factors beside y' = f, S(0) = the derivative of y0; dg = (dg/dy) S."""
    factors = jnp.asarray(factors)
    (y0, p), tangents = _by_factors(case, factors)
    size = case.n * (1 + factors.size)

    def rate(t: Array, z: Array) -> Array:
        y = z[: case.n]
        S = z[case.n :].reshape(factors.size, case.n)

        def along(s: Array, p_dot: Any) -> tuple[Array, Array]:
            return jax.jvp(lambda y, p: case.f(t, y, p), (y, p), (s, p_dot))

        f, S_rate = jax.vmap(along, out_axes=(None, 0))(S, tangents[1])
        return jnp.concatenate([f, S_rate.ravel()])

    # S has the units of y: both are small where the scale is.
    units = np.tile(case.scale, 1 + factors.size)
    scaled = jax.jit(lambda t, z: rate(t, z * units) / units)
    jacobian = jax.jit(jax.jacfwd(lambda z, t: scaled(t, z)))
    start = np.concatenate([y0, np.ravel(tangents[0])]) / units
    more: dict[str, Any] = {"jac": lambda t, z: np.asarray(jacobian(z, t))} if case.is_stiff else {}
    legs = _integrate(
        scaled, start, [0.0, *case.ts], "Radau" if case.is_stiff else "DOP853", **more
    )
    z = np.array([leg.y[:, -1] for leg in legs]) * units
    assert z.shape == (case.ts.size, size)
    ys = z[:, : case.n]
    S = z[:, case.n :].reshape(case.ts.size, factors.size, case.n)
    value, by_states = jax.value_and_grad(case.misfit)(jnp.asarray(ys))
    return Right(float(value), np.einsum("kin,kn->i", S, np.asarray(by_states)))


def by_adjoint_equations(case: Case, factors: Any) -> Right:
    """lam' = -f_y' lam, mu' = -f_p' lam, backwards from the last datum; lam jumps by dg/dy at each.

    y is DOP853's interpolant.
    """
    factors = jnp.asarray(factors)
    y0, parameters = case.split(factors)
    p, unravel = ravel_pytree(parameters)
    f = jax.jit(lambda t, y: case.f(t, y, parameters))
    times = [0.0, *case.ts]
    legs = _integrate(f, np.asarray(y0), times, "DOP853", dense_output=True)
    ys = np.array([leg.y[:, -1] for leg in legs])
    value, by_states = jax.value_and_grad(case.misfit)(jnp.asarray(ys))

    @jax.jit
    def backward(t: Array, y: Array, z: Array) -> Array:
        _, pull = jax.vjp(lambda y, p: case.f(t, y, unravel(p)), y, p)
        return -jnp.concatenate(pull(z[: case.n]))

    z = np.zeros(case.n + p.size)
    for leg, by_state, t1, t0 in zip(
        legs[::-1], np.asarray(by_states)[::-1], times[:0:-1], times[-2::-1], strict=True
    ):
        z[: case.n] += by_state
        (back,) = _integrate(lambda t, z, y=leg.sol: backward(t, y(t), z), z, [t1, t0], "DOP853")
        z = back.y[:, -1]
    _, pull = jax.vjp(case.split, factors)
    return Right(
        float(value),
        np.asarray(pull((jnp.asarray(z[: case.n]), unravel(jnp.asarray(z[case.n :]))))[0]),
    )


def _by_factors(case: Case, factors: Array) -> Any:
    """(y0, p), and their derivatives by each factor."""
    columns = jax.vmap(lambda e: jax.jvp(case.split, (factors,), (e,))[1])(jnp.eye(factors.size))
    return case.split(factors), columns


def _integrate(
    rate: Any, start: np.ndarray, times: list[float], method: str, **more: Any
) -> list[Any]:
    """From each time to the next, anew, so that no interpolation enters."""
    from scipy.integrate import solve_ivp

    legs = []
    for span in itertools.pairwise(times):
        atol = TOLERANCE * max(1e-3, float(np.abs(start).max()))
        leg: Any = solve_ivp(
            lambda t, z: np.asarray(rate(t, z)),
            span,
            start,
            method,
            rtol=TOLERANCE,
            atol=atol,
            **more,
        )
        if not leg.success:
            raise ArithmeticError(f"the reference stopped at t = {leg.t[-1]}: {leg.message}")
        legs.append(leg)
        start = leg.y[:, -1]
    return legs
