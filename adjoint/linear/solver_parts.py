"""A solver as a pytree, so that it can be an operand of a compiled program that is found again."""

from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from adjoint.linear.multigrid import Multigrid
from adjoint.tracing.programs import Static, Transient, as_static
from adjoint.tracing.traced_function import TracedFunction, trace_at_door


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class SolverParts:
    """A solver, as known when tracing, and its preconditioner, which may hold arrays."""

    known: Any
    preconditioner: TracedFunction | None

    @classmethod
    def of(cls, solver: Any, x: Array) -> "SolverParts":
        """Apart for unknowns like x."""
        if jax.tree.structure(solver) != jax.tree.structure(0):
            return cls(solver, None)
        M = getattr(solver, "preconditioner", None)
        if M is None or isinstance(M, Multigrid):
            return cls(as_static(solver), None)
        (traced,), _, _ = trace_at_door((M,), (jnp.zeros_like(x),))
        without: Any = replace(solver, preconditioner=None)
        return cls(as_static(without), traced)

    def whole(self) -> Any:
        solver = self.known.value if isinstance(self.known, Static | Transient) else self.known
        return (
            solver
            if self.preconditioner is None
            else replace(solver, preconditioner=self.preconditioner)
        )
