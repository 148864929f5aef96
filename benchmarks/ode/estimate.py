"""How near `DiscreteAdjoint`'s estimate of the error of a gradient is to the error itself.

Where nothing is wrong, on the problems of `cases.py` that have few parameters, at several
tolerances: what `ENOUGH` and `ENOUGH_BESIDE_SOLUTION` of `adjoint.ode` must let pass. And where all
is wrong, in a component that rests beside one that moves: what they must not.

    python -m benchmarks.ode.estimate
"""

from collections.abc import Iterator
from dataclasses import replace
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

import adjoint
from adjoint.ode.error_estimate import ENOUGH_BESIDE_SOLUTION
from adjoint.ode.integrate import Record
from adjoint.ode.integrator import Integrator
from adjoint.ode.repair import estimated_sweep
from adjoint.ode.step_adjoint import Cotangents, Gradient
from adjoint.ode.tangent_control import ENOUGH
from adjoint.ode.vector_field import Parameters
from benchmarks.machine import made_with
from benchmarks.ode.cases import ATOL_SHARE, Case, double_pendulum, lotka_volterra
from benchmarks.ode.reference import answers, gradient_error

RTOLS = (1e-4, 1e-6, 1e-8, 1e-10)
# Times of the double pendulum, in s: from 4 s on its errors grow tenfold with each second.
ENDS = (1.0, 2.0, 4.0, 6.0)
# Of the component that rests, in rad/s; the other one has 1.
FREQUENCY = 7.0
SHARES = (1.0, 1e-3, 1e-6)


# The estimates of gradients and of solutions, in the order of the solves. Not a field of `Watched`:
# programs are kept, and all of these are equal.
_estimates: list[tuple[float, float]] = []


class Watched(adjoint.DiscreteAdjoint):
    """The gradient of the steps as they are, whose estimates are kept."""

    def backward(
        self,
        integrator: Integrator,
        record: Record,
        y0: Array,
        p: Parameters,
        s: Array,
        bars: Cotangents,
    ) -> Gradient:
        """One sweep, and no repair."""
        schedule = self._schedule(integrator, y0)
        gradient, of_y0, of_p, of_solution = estimated_sweep(
            schedule, integrator, record, y0, p, s, bars
        )
        of_gradient = jnp.max(jnp.stack([of_y0, *of_p]))
        jax.debug.callback(
            lambda *errors: _estimates.append((float(errors[0]), float(errors[1]))),
            of_gradient,
            of_solution,
        )
        return gradient


class Row(NamedTuple):
    """Errors relative to what they are of."""

    problem: str
    rtol: float
    estimate: float
    error: float
    of_solution: float


def of_case(name: str, case: Case) -> Row:
    """With the right gradient by SciPy."""
    factors = case.draw(np.random.default_rng(0))

    def misfit(factors: Array) -> Array:
        y0, p = case.split(factors)
        ys = adjoint.ode_solve(
            case.f,
            y0,
            p,
            0.0,
            case.ts[-1],
            ts=case.ts,
            rtol=case.rtol,
            atol=case.atol,
            max_steps=2**15,
            sensitivity=Watched(),
        ).value
        return case.misfit(ys)

    gradient = jax.block_until_ready(jax.grad(misfit)(factors))
    jax.effects_barrier()
    estimate, of_solution = _estimates[-1]
    right = answers(replace(case, rtol=1e-12), factors).gradient
    return Row(name, case.rtol, estimate, gradient_error(case, gradient, right), of_solution)


def at_rest(share: float, rtol: float) -> Row:
    """x'' = -x beside z'' = p - w^2 z from rest; x(3) + share z(3) by p, by formula."""

    def beside(_: Array, y: Array, p: Array) -> Array:
        return jnp.stack([y[1], -y[0], y[3], p - FREQUENCY**2 * y[2]])

    def output(p: Array) -> Array:
        start = jnp.array([1.0, 0.0, 0.0, 0.0])
        y = adjoint.ode_solve(
            beside, start, p, 0.0, 3.0, rtol=rtol, atol=ATOL_SHARE * rtol, sensitivity=Watched()
        ).value
        return y[0] + share * y[2]

    found = float(jax.grad(output)(jnp.array(0.0)))
    jax.effects_barrier()
    right = share * (1 - np.cos(3 * FREQUENCY)) / FREQUENCY**2
    estimate, of_solution = _estimates[-1]
    return Row(
        f"at rest, a share of {share:g}", rtol, estimate, abs(found / right - 1), of_solution
    )


def rows() -> Iterator[Row]:
    """Each problem at each tolerance."""
    for rtol in RTOLS:
        yield of_case("Lotka-Volterra", lotka_volterra().with_rtol(rtol))
        for end in ENDS:
            yield of_case(f"double pendulum, {end:g} s", double_pendulum(end).with_rtol(rtol))
        for share in SHARES:
            yield at_rest(share, rtol)


def main() -> None:
    """The table, in Markdown."""
    jax.config.update("jax_enable_x64", True)
    made = made_with(())
    print(f"# The estimate of `DiscreteAdjoint` beside the error (jax {made['jax']})\n")
    print(
        f"By the estimate a gradient may be wrong by {ENOUGH:g} rtol, or by "
        f"{ENOUGH_BESIDE_SOLUTION:g} times y.\n"
    )
    columns = (
        "problem",
        "rtol",
        "estimate / rtol",
        "error / rtol",
        "estimate / error",
        "of y / rtol",
    )
    print(f"| {' | '.join(columns)} |")
    print("|---|---|---|---|---|---|")
    for row in rows():
        print(
            f"| {row.problem} | {row.rtol:g} | {row.estimate / row.rtol:.2g} "
            f"| {row.error / row.rtol:.2g} | {row.estimate / row.error:.2g} "
            f"| {row.of_solution / row.rtol:.2g} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
