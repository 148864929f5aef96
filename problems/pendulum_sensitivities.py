"""The sensitivities of a double pendulum: forward, backward, and how many digits they have."""

from collections.abc import Iterator
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

import adjoint
from problems.pendulum import Everything, Pendulum, State, motion, normal_modes

TIGHT = 1e-13  # tolerance of what others are compared with
MOST_STEPS = 50_000
SAMPLES = 80
QUANTITIES = ("a1", "a2", "w1", "w2")
CAUSES = ("a1(0)", "a2(0)", "w1(0)", "w2(0)", "l1", "l2", "m1", "m2", "g")


def numbers(y: State) -> Float[Array, "... 4"]:
    """(a_1, a_2, w_1, w_2)."""
    return jnp.concatenate(y, axis=-1)


@partial(jax.jit, static_argnums=2)
def sensitivities(
    of: Everything, times: Float[Array, " times"], tolerance: float
) -> tuple[adjoint.Solution[State], Everything]:
    """y and derivatives of (a, w) by everything, forward; leaves have axes (times, 4) first."""

    def states(of: Everything) -> tuple[Array, adjoint.Solution[State]]:
        solution = adjoint.ode_solve(
            motion,
            *of,
            0.0,
            times[-1],
            ts=times,
            rtol=tolerance,
            atol=tolerance,
            max_steps=MOST_STEPS,
            mode="both",
        )
        return numbers(solution.value), solution

    d, solution = jax.jacfwd(states, has_aux=True)(of)
    return solution, d


@partial(jax.jit, static_argnums=2)
def sensitivities_by_adjoint(of: Everything, t: Float[Array, ""], tolerance: float) -> Everything:
    """Derivatives of (a, w)(t) by four adjoint solves.

    They are those of the steps that were made, where `sensitivities` has its own.
    """

    def end(of: Everything) -> Array:
        y, p = of
        sensitivity = adjoint.DiscreteAdjoint()
        solution = adjoint.ode_solve(
            motion,
            y,
            p,
            0.0,
            t,
            rtol=tolerance,
            atol=tolerance,
            max_steps=MOST_STEPS,
            sensitivity=sensitivity,
        )
        return numbers(solution.value)

    return jax.jacrev(end)(of)


def sensitivity_table(forward: Float[np.ndarray, "4 9"], backward: Float[np.ndarray, "4 9"]) -> str:
    """Each derivative of `QUANTITIES` by `CAUSES` in both modes, as CSV."""
    rows = [["derivative", "forward", "adjoint"]]
    for i, what in enumerate(QUANTITIES):
        rows += [
            [f"d {what} / d {by}", *(repr(float(d[i, j])) for d in (forward, backward))]
            for j, by in enumerate(CAUSES)
        ]
    return "".join(",".join(row) + "\n" for row in rows)


def certified(of: Everything, t: float, tolerance: float) -> adjoint.Solution[State]:
    """y(t), or NaN where no digit of its gradient can be believed."""
    return adjoint.ode_solve(
        motion,
        *of,
        0.0,
        t,
        rtol=tolerance,
        atol=tolerance,
        max_steps=MOST_STEPS,
        sensitivity=adjoint.DiscreteAdjoint(),
        certificate=True,
    )


class Growth(NamedTuple):
    """The sensitivity to the start at one time: its size, its digits, and whether it is trusted."""

    norm: float
    promised_digits: float
    real_digits: float
    trusted: bool


def growth(
    of: Everything, times: Float[np.ndarray, " times"], tolerance: float
) -> Iterator[Growth]:
    """|S(t)|, digits that the certificate gives, and those that a solve to 1e-13 confirms."""
    solution, d = sensitivities(of, jnp.asarray(times), TIGHT)
    adjoint.require(solution)
    for t, reference in zip(times, np.concatenate(d.start, axis=2), strict=True):
        S = np.concatenate(sensitivities_by_adjoint(of, jnp.asarray(t), tolerance).start, axis=1)
        size = np.linalg.norm(reference)
        error = np.linalg.norm(S - reference)
        solution = certified(of, float(t), tolerance)
        digits = float(solution.stats["gradient_digits"])
        yield Growth(float(size), digits, float(-np.log10(error / size)), bool(solution.status.ok))


def mode_error(p: Pendulum, amplitude: float = 1e-5) -> float:
    """How far small oscillations are from a(0) cos(omega t) for two slow periods.

    The closed form neglects amplitude^2.
    """
    omegas, modes = normal_modes(p)
    times = jnp.linspace(0.0, 4 * np.pi / omegas[0], SAMPLES + 1)
    errors = []
    for omega, mode in zip(omegas, modes.T, strict=True):
        solution, _ = sensitivities(
            Everything(State(amplitude * mode, jnp.zeros(2)), p), times, TIGHT
        )
        angles = adjoint.require(solution).angles / amplitude
        errors.append(np.abs(angles - jnp.outer(jnp.cos(omega * times), mode)).max())
    return float(max(errors))
