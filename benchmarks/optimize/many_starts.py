"""Many starts at once: `minimize` under `jit` and `vmap` against optimistix.

The function is Rosenbrock's in 10 dimensions.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optimistix
from jaxtyping import Array, Float

import adjoint
from benchmarks.harness import Competitor, Plan, time_by_turns
from benchmarks.optimize.cases import rosenbrock
from benchmarks.optimize.peers import OPTIMISTIX_BFGS, OPTIMISTIX_TOLERANCE
from benchmarks.optimize.solvers import BFGS

N = 10
STARTS = 1000
SPREAD = 2.0
# A run is over when the gradient is below this: at the start it is about 1e3.
STATIONARY = 1e-4


@jax.jit
@jax.vmap
def _ours(x: Float[Array, " n"]) -> Float[Array, " n"]:
    return adjoint.minimize(rosenbrock, x, adjoint.BFGS()).value


@jax.jit
@jax.vmap
def _theirs(x: Float[Array, " n"]) -> Float[Array, " n"]:
    solver = optimistix.BFGS(rtol=OPTIMISTIX_TOLERANCE, atol=OPTIMISTIX_TOLERANCE)
    return optimistix.minimise(
        lambda y, args: rosenbrock(y), solver, x, max_steps=1000, throw=False
    ).value


_gradients = jax.jit(jax.vmap(jax.grad(rosenbrock)))


def many_starts(plan: Plan) -> list[dict[str, Any]]:
    """Seconds of all starts together, and the share that ended where the gradient vanishes."""
    generator = np.random.default_rng(0)

    def draw() -> Array:
        return jnp.asarray(generator.uniform(-SPREAD, SPREAD, (STARTS, N)))

    functions = {BFGS: _ours, OPTIMISTIX_BFGS: _theirs}
    starts = draw()
    stationary = {}
    for name, function in functions.items():
        norms = jnp.linalg.norm(_gradients(function(starts)), axis=1)
        stationary[name] = float(jnp.mean(norms <= STATIONARY))
    measures = {
        name: {"seconds": lambda x, function=function: jax.block_until_ready(function(x))}
        for name, function in functions.items()
    }
    times = time_by_turns(
        [Competitor(name, draw, measure) for name, measure in measures.items()], plan
    )
    return [
        {"solver": name, "seconds": times[name]["seconds"], "stationary": stationary[name]}
        for name in functions
    ]
