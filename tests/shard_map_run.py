"""Gradients inside `shard_map` on two devices against the loop over devices.

Run by test_shard_map.py in a process of its own. Prints the largest error of each case named on the
command line, over the value and the gradients with respect to what is sharded and what is
replicated; the gradient of the latter is the sum over the devices.
"""

import sys
from collections.abc import Callable
from typing import Any

import diffrax
import jax
import jax.numpy as jnp
import numpy as np

import adjoint

jax.config.update("jax_enable_x64", True)
KNOWN = jnp.linspace(1.0, 2.0, 6)
DIAGONAL = adjoint.SparsePattern(np.arange(6), np.arange(6), (6, 6))
BLACK_BOX = adjoint.external(
    lambda p: p[0] * p[1] ** 2,
    vjp=lambda p, bar: (bar * p[1] ** 2, 2 * bar * p[0] * p[1]),
    like=jnp.ones(6),
)
BOUNCE = adjoint.Event(lambda t, y, p: y[0], lambda t, y, p: jnp.array([0.0, -p[1] * y[1]]))


def dense(k: Any, w: Any, solver: Any = None) -> Any:
    return adjoint.linear_solve(jnp.diag(k) + 0.1, w, solver).value


def matrix_free(k: Any, w: Any, b: Any, solver: Any = None) -> Any:
    A = adjoint.MatrixFree(lambda x: k * x + 0.1 * jnp.sum(x * w) * w, 6, positive_definite=True)
    return adjoint.linear_solve(A, b, solver).value


def factors(k: Any, w: Any) -> Any:
    factorization = adjoint.factorize(jnp.diag(k) + 0.1 * w)
    return (
        factorization.solve(w).value
        + factorization.solve_transpose(w * w).value
        + factorization.logdet()
    )


def cubic(x: Any, p: Any) -> Any:
    return p[0] * x**3 + x - p[1]


def contraction(x: Any, p: Any) -> Any:
    return 0.5 * jnp.cos(0.2 * p[0] * x) * p[1]


def fall(t: Any, y: Any, p: Any) -> Any:
    return jnp.array([y[1], -p[0]])


def swing(k: Any, w: Any, sensitivity: Any = None, **options: Any) -> Any:
    def f(t: Any, y: Any, p: Any) -> Any:
        return jnp.array([y[1], -p[0] * jnp.sin(y[0])])

    return adjoint.ode_solve(f, w[:2], k, 0.0, 1.0, sensitivity=sensitivity, **options).value


def closed_over(k: Any, w: Any) -> Any:
    def f(t: Any, y: Any, p: Any) -> Any:
        return -p * jnp.where(y > 0, y, 0) * w[:2] * KNOWN[:2]

    sensitivity = adjoint.DiscreteAdjoint()
    return adjoint.ode_solve(f, jnp.ones(2), k[0], 0.0, 1.0, sensitivity=sensitivity).value


CASES: dict[str, Callable[[Any, Any], Any]] = {
    "LU": dense,
    "LU of what is replicated": lambda k, w: dense(w, k),
    "Cholesky": lambda k, w: dense(k, w, adjoint.Cholesky()),
    "CG of a known array": lambda k, w: matrix_free(k, KNOWN, w),
    "CG of what is closed over": lambda k, w: matrix_free(k, w, KNOWN),
    "CG of a replicated matrix": lambda k, w: matrix_free(KNOWN, w, k),
    "MINRES": lambda k, w: matrix_free(k, KNOWN, w, adjoint.MINRES()),
    "GMRES": lambda k, w: dense(k, w, adjoint.GMRES()),
    "GMRES with a preconditioner": lambda k, w: dense(
        k, w, adjoint.GMRES(preconditioner=lambda v: v / k)
    ),
    "sparse": lambda k, w: adjoint.linear_solve(DIAGONAL.matrix(k), w).value,
    "factorize": factors,
    "root": lambda k, w: adjoint.root(cubic, jnp.ones(6), (k, w)).value,
    "root of what is closed over": lambda k, w: (
        adjoint.root(lambda x, p: cubic(x, (p, w * KNOWN)), KNOWN, k).value
    ),
    "root by GMRES": lambda k, w: (
        adjoint.root(cubic, jnp.ones(6), (k, w), adjoint.NewtonKrylov()).value
    ),
    "root by a pattern": lambda k, w: (
        adjoint.root(cubic, KNOWN, (k, w), jacobian_pattern=DIAGONAL).value
    ),
    "fixed_point": lambda k, w: adjoint.fixed_point(contraction, jnp.ones(6), (k, w)).value,
    "fixed_point by its transpose": lambda k, w: (
        adjoint.fixed_point(
            contraction,
            jnp.ones(6),
            (k, w),
            adjoint.Picard(),
            linear_solver=adjoint.TransposedIteration(),
        ).value
    ),
    "steady_state": lambda k, w: (
        adjoint.steady_state(lambda t, y, p: p[0] - p[1] * y**3, jnp.ones(6), (k, w), 30.0).value
    ),
    "recurrence": lambda k, w: adjoint.recurrence(lambda i, x, p: 0.9 * x * w + p, w, k, 20).value,
    "recurrence by checkpoints": lambda k, w: (
        adjoint.recurrence(lambda i, x, p: 0.9 * x * w + p, w, k, 20, checkpoints=3).value
    ),
    "ode_solve": lambda k, w: swing(k[:2], w),
    "ode_solve, discrete": lambda k, w: swing(k, w, adjoint.DiscreteAdjoint()),
    "ode_solve, forward": lambda k, w: swing(k, w, adjoint.ForwardSensitivity()),
    "ode_solve, interpolating": lambda k, w: swing(k, w, adjoint.InterpolatingAdjoint()),
    "ode_solve, Gauss": lambda k, w: swing(k, w, adjoint.GaussAdjoint()),
    "ode_solve, backsolve": lambda k, w: swing(k, w, adjoint.BacksolveAdjoint()),
    "ode_solve, stiff": lambda k, w: swing(k, w, solver=diffrax.Kvaerno5()),
    "ode_solve, samples": lambda k, w: swing(
        k, w, adjoint.DiscreteAdjoint(2), ts=jnp.array([0.0, 0.5])
    ),
    "ode_solve of what is closed over": closed_over,
    "hybrid_solve": lambda k, w: (
        adjoint.hybrid_solve(
            fall, w[:2], (9.81 * k[0] / 2, 0.8 * w[0]), 0.0, 1.0, BOUNCE, max_events=2
        ).value.y
    ),
    "external": lambda k, w: BLACK_BOX((k, w)),
    "argmin": lambda k, w: (
        adjoint.argmin(lambda x, p: jnp.sum((x - p[0] * p[1]) ** 2), jnp.zeros(6), (k, w)).value
    ),
}


def largest_error(solve: Callable[[Any, Any], Any]) -> float:
    devices = jax.devices()
    mesh, P = jax.sharding.Mesh(np.array(devices), ("d",)), jax.sharding.PartitionSpec
    ks, w = (
        jnp.stack([jnp.linspace(2.0, 3.0, 6) + 0.1 * i for i in range(len(devices))]),
        jnp.ones(6),
    )
    of_both = jax.value_and_grad(lambda k, w: jnp.sum(solve(k, w)), argnums=(0, 1))

    def of_one_device(k: Any, w: Any) -> Any:
        value, (k_bar, w_bar) = of_both(k[0], w)
        return value[None], k_bar[None], w_bar

    inside = jax.shard_map(
        of_one_device, mesh=mesh, in_specs=(P("d"), P()), out_specs=(P("d"), P("d"), P())
    )
    found = jax.jit(inside)(ks, w)
    values, bars = zip(*(of_both(k, w) for k in ks), strict=True)
    expected = jnp.stack(values), jnp.stack([bar[0] for bar in bars]), sum(bar[1] for bar in bars)
    return max(float(jnp.max(jnp.abs(a - b))) for a, b in zip(found, expected, strict=True))


if __name__ == "__main__":
    for name in sys.argv[1:] or CASES:
        try:
            print(f"{name}: {largest_error(CASES[name]):.1e}", flush=True)
        except (ValueError, TypeError) as error:
            print(f"{name}: {' '.join(str(error).split())[:300]}", flush=True)
