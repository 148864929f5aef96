"""Minimizers for `argmin`: quasi-Newton, and an augmented Lagrangian around it for constraints.

They only have to come close: `argmin` ends with Newton's method on the conditions of optimality,
and examines the result.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int32

from adjoint.inputs import refuse, require_tolerance_and_limit
from adjoint.norm import norm
from adjoint.tracing import loops

Objective = Callable[[Array], Array]
# Nocedal and Wright, section 17.4: how much a violation must shrink for the penalty to stay, and
# the penalty's growth.
SHRINK = 0.25
GROWTH = 10.0
PENALTY_START = 10.0
PENALTY_LIMIT = 1e8
OUTER_STEPS = 30
# The share of its size to which the constraints are met before Newton's method takes over.
CLOSE = 1e-7


@dataclass(frozen=True)
class QuasiNewton:
    """BFGS of optimistix, storing an n x n matrix, up to 1,000 unknowns; L-BFGS beyond.

    Parameters
    ----------
    rtol
        Tolerance on step and decrease, relative.
    max_steps
        Limit on the number of steps, of each minimization when there are constraints.

    Examples
    --------
    >>> import jax.numpy as jnp, adjoint
    >>> solver = adjoint.QuasiNewton(max_steps=50)
    >>> solution = adjoint.argmin(
    ...     lambda x, p: jnp.sum((x - p) ** 4 + (x - p) ** 2), jnp.zeros(2), jnp.ones(2), solver
    ... )
    >>> [round(float(v), 6) for v in adjoint.require(solution)]
    [1.0, 1.0]
    """

    rtol: float = 1e-8
    max_steps: int = 1000

    def __post_init__(self) -> None:
        require_tolerance_and_limit(type(self).__name__, self.rtol, self.max_steps, (1e-8, 1000))

    def minimize(
        self, f: Objective, x0: Float[Array, " n"]
    ) -> tuple[Float[Array, " n"], Int32[Array, ""]]:
        import optimistix

        if loops.axes_of(x0):
            remedy = (
                "Pass check_vma=False to jax.shard_map, or solve "
                "adjoint.root(jax.grad(objective), x0, p)."
            )
            refuse(
                "argmin",
                "a call inside jax.shard_map with its check of types",
                "one without",
                remedy,
            )
        rtol = max(self.rtol, 32 * float(jnp.finfo(x0.dtype).eps))
        method = optimistix.BFGS if x0.size <= 1000 else optimistix.LBFGS
        solution = optimistix.minimise(
            lambda x, _: f(x), method(rtol, rtol), x0, max_steps=self.max_steps, throw=False
        )
        return solution.value, jnp.asarray(solution.stats["num_steps"], jnp.int32)

    def minimize_under(
        self, f: Objective, c: Objective, may_be_slack: np.ndarray, x0: Float[Array, " n"]
    ) -> tuple[Float[Array, " n"], Int32[Array, ""]]:
        """f subject to c = 0, or c <= 0 where it may be slack, by the augmented Lagrangian.

        x and the multipliers m take turns. It is f + sum(max(0, m + r c)^2 - m^2) / 2r, without the
        max for equations (Nocedal and Wright, equation 17.36 and exercise 17.6).
        """

        class State(NamedTuple):
            x: Array
            m: Array
            penalty: Array
            violation: Array
            steps: Array
            round: Array

        def pushed(x: Array, m: Array, penalty: Array) -> Array:
            push = m + penalty * c(x)
            return jnp.where(may_be_slack, jnp.maximum(push, 0), push)

        def proceed(s: State) -> Array:
            return (s.violation > CLOSE * (1 + norm(s.x))) & (s.round < OUTER_STEPS)

        def advance(s: State) -> State:
            def lagrangian(x: Array) -> Array:
                return f(x) + jnp.sum(pushed(x, s.m, s.penalty) ** 2) / (2 * s.penalty)

            x, steps = self.minimize(lagrangian, s.x)
            m = pushed(x, s.m, s.penalty)
            # The change of the multipliers tells violation and lack of complementarity in one.
            violation = jnp.max(jnp.abs(m - s.m)) / s.penalty
            stiffer = jnp.minimum(GROWTH * s.penalty, PENALTY_LIMIT)
            penalty = jnp.where(violation <= SHRINK * s.violation, s.penalty, stiffer)
            return State(x, m, penalty, violation, s.steps + steps, s.round + 1)

        zero = jnp.zeros((), jnp.int32)
        infinite = jnp.asarray(jnp.inf, x0.dtype)
        start = State(
            x0, jnp.zeros_like(c(x0)), jnp.asarray(PENALTY_START, x0.dtype), infinite, zero, zero
        )
        end = loops.while_loop(proceed, advance, start)
        return end.x, end.steps
