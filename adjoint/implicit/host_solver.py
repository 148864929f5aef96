"""Root finders of others: NumPy functions that JAX cannot look into, and those of optimistix.

The functions may be SciPy's, or call an executable.
"""

from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Inexact, Int32, PyTree

from adjoint.implicit.residual import RootProblem
from adjoint.inputs import describe, refuse
from adjoint.tracing.host_batching import HostStructure, make_lane_call


@dataclass(frozen=True, eq=False)
class HostSolver:
    """Any root finder as a solver for `root`: ``solve(x0, p) -> x`` on NumPy arrays.

    It is called outside of JAX. Derivatives never enter it. It may iterate, call executables and
    read files. What it returns is examined by `root`, so a solver that stops early or finds
    something else ends in `NOT_CONVERGED`. Ask it for a tolerance of 1e-10 or so: the derivative is
    as accurate as the root. Make the object once and reuse it: to JAX, a new one is a new program.

    Parameters
    ----------
    solve
        Function of x0 and p, NumPy arrays or pytrees of them as given to `root`; returns x,
        structured as x0. It must not call JAX. To report a failure, return NaN or raise
        `ArithmeticError`; any other exception ends the computation.

    Examples
    --------
    >>> import jax, jax.numpy as jnp, scipy.optimize, adjoint
    >>> F = lambda x, p: x**3 + x - p
    >>> solver = adjoint.HostSolver(
    ...     lambda x0, p: scipy.optimize.root(lambda x: F(x, p), x0, tol=1e-12).x
    ... )
    >>> x = lambda p: adjoint.root(F, jnp.array([1.0]), p, solver).value[0]
    >>> round(float(jax.grad(x)(jnp.array([10.0]))[0]), 6)  # 1 / (3 x^2 + 1)
    0.076923
    """

    solve: Callable[[PyTree, PyTree], PyTree]
    _calls: dict[Hashable, Callable[..., tuple[Array, ...]]] = field(
        default_factory=dict, init=False, repr=False
    )

    def __post_init__(self) -> None:
        if not callable(self.solve):
            refuse(
                "HostSolver",
                describe(self.solve),
                "a function solve(x0, p) -> x",
                "Pass the function.",
                TypeError,
            )

    def __getstate__(self) -> dict[str, Any]:
        """Without the calls to the host that were made of it, which cannot leave the process."""
        return {"solve": self.solve}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _calls={})

    def find(
        self, problem: RootProblem, x0: Inexact[Array, " n"], p: PyTree
    ) -> tuple[Inexact[Array, " n"], Int32[Array, ""]]:
        unknowns = HostStructure.of(jax.eval_shape(problem.unravel, x0))
        parameters = HostStructure.of(p)
        result = (jax.ShapeDtypeStruct(x0.shape, x0.dtype),)
        ranks = (1, *map(len, parameters.shapes))

        def solve(x0: np.ndarray, *p: np.ndarray) -> tuple[np.ndarray]:
            x = self.solve(unknowns.unravel(x0), parameters.unflatten(p))
            return (unknowns.ravel(x, "HostSolver", "x from solve", "x0"),)

        key = (unknowns, parameters)
        if key not in self._calls:
            self._calls[key] = make_lane_call(solve, result, ranks)
        (x,) = self._calls[key](x0, *jax.tree.leaves(p))
        return x, jnp.zeros((), jnp.int32)


@dataclass(frozen=True)
class OptimistixRootFinder:
    """A root finder of optimistix in the form that `root` takes; made by `root` itself."""

    finder: Any
    max_steps: int = 1000

    def find(
        self, problem: RootProblem, x0: Inexact[Array, " n"], p: PyTree
    ) -> tuple[Inexact[Array, " n"], Int32[Array, ""]]:
        import optimistix

        solution = optimistix.root_find(
            problem.F, self.finder, x0, p, max_steps=self.max_steps, throw=False
        )
        return solution.value, jnp.asarray(solution.stats["num_steps"], jnp.int32)
