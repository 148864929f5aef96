"""Why a solve ended: a status that is data in compiled code, and what each status means."""

from collections.abc import Iterable
from typing import Any, ClassVar, Self

import jax
import jax.core
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool

from adjoint.inputs import refuse


@jax.tree_util.register_pytree_node_class
class Status:
    """Why a solve ended, as a value that lives inside `jit` and `vmap`.

    A status holds one integer code, or an array of them under `vmap`. Compare it with the named
    members: the result is a boolean (array), so `jnp.where(solution.status == Status.SUCCESS, ...)`
    works in compiled code. On the host a status is true where the solve succeeded: ``if
    solution.status`` is ``if solution.status.ok``.

    Parameters
    ----------
    code
        Integer code, one of the members' codes.

    Examples
    --------
    >>> import adjoint
    >>> adjoint.Status.SINGULAR.name
    'SINGULAR'
    >>> bool(adjoint.Status.SINGULAR), bool(adjoint.Status.SUCCESS)
    (False, True)
    """

    SUCCESS: ClassVar["Status"]
    NONFINITE_INPUT: ClassVar["Status"]
    SINGULAR: ClassVar["Status"]
    ILL_CONDITIONED: ClassVar["Status"]
    NOT_POSITIVE_DEFINITE: ClassVar["Status"]
    NOT_CONVERGED: ClassVar["Status"]
    RESIDUAL_TOO_LARGE: ClassVar["Status"]
    DEGENERATE: ClassVar["Status"]
    MAX_STEPS: ClassVar["Status"]
    STEP_UNDERFLOW: ClassVar["Status"]
    DIVERGED: ClassVar["Status"]
    OUT_OF_RANGE: ClassVar["Status"]
    MAX_EVENTS: ClassVar["Status"]
    UNTRUSTED: ClassVar["Status"]
    NOISE_FLOOR: ClassVar["Status"]
    STALLED: ClassVar["Status"]
    MAX_EVALUATIONS: ClassVar["Status"]
    TIME_LIMIT: ClassVar["Status"]
    UNBOUNDED: ClassVar["Status"]
    INFEASIBLE: ClassVar["Status"]
    NONFINITE_OBJECTIVE: ClassVar["Status"]
    UNTRUSTED_GRADIENT: ClassVar["Status"]
    INTERRUPTED: ClassVar["Status"]

    _explanations: ClassVar[tuple[tuple[str, str], ...]] = (
        ("SUCCESS", "the solve succeeded"),
        (
            "NONFINITE_INPUT",
            "the matrix, the right-hand side or a parameter holds NaN, or Inf that comes out; "
            "find where it enters by running with JAX_DEBUG_NANS=1 in the environment",
        ),
        (
            "SINGULAR",
            "the matrix, or F_x of a root, is singular to working precision; (a) a boundary "
            "condition or a constraint may be missing, (b) a row or a column may be zero, (c) two "
            "equations may say the same, (d) where the residual of a root is not small, F may "
            "have no root: the iteration ends where |F| is smallest",
        ),
        (
            "ILL_CONDITIONED",
            "the matrix is so ill-conditioned that no digit of the solution is certain; (a) "
            "rescale the unknowns or the equations, (b) raise a vanishing stiffness",
        ),
        (
            "NOT_POSITIVE_DEFINITE",
            "the matrix was solved as positive definite and is not; (a) use LU() or "
            "SparseDirect(), or MINRES() if it is symmetric, (b) a boundary condition may be "
            "missing, (c) a minimizer may be a saddle: start elsewhere",
        ),
        (
            "NOT_CONVERGED",
            "the iteration stopped before it reached its tolerance; (a) raise max_steps, (b) "
            "start closer, or give a preconditioner to a linear solver, (c) loosen rtol, (d) use "
            "a direct or another solver, (e) where the residual of a root stays large, F may have "
            "no root",
        ),
        (
            "RESIDUAL_TOO_LARGE",
            "the returned vector does not solve the system; (a) symmetric=True or "
            "positive_definite=True may be false claims, (b) the matvec may not be linear, (c) "
            "the matrix may be close to singular",
        ),
        (
            "DEGENERATE",
            "the solution is not a differentiable function of the parameters here; (a) at a fold "
            "or multiple root two solutions meet, or end, (b) an inequality may be active with a "
            "multiplier of zero, (c) of events two may come at one time with an order that "
            "matters, one may only touch zero, or the state may go on beyond its condition after "
            "the jump: switch it to a mode of rest",
        ),
        (
            "MAX_STEPS",
            "the steps ran out before the end of the time interval; (a) raise max_steps, (b) "
            "loosen rtol and atol, (c) the problem may be stiff: take solver=diffrax.Kvaerno5()",
        ),
        (
            "STEP_UNDERFLOW",
            "the step size fell to nothing; (a) the solution may blow up before the end, (b) the "
            "right-hand side may return NaN or be discontinuous: make the switch an event, (c) an "
            "implicit stage may have no solution",
        ),
        (
            "DIVERGED",
            "the states grew out of the range of numbers; (a) the steps may be too long: take "
            "more, or an adaptive or implicit solver, (b) the right-hand side may return NaN, (c) "
            "the recurrence may be unstable",
        ),
        (
            "OUT_OF_RANGE",
            "a sample time is not between t0 and t1, or the sample times are not in order; sort "
            "ts in the direction of time",
        ),
        (
            "MAX_EVENTS",
            "more events happened than max_events, or more than can be told apart; (a) raise it, "
            "(b) events may follow each other ever faster, as the impacts of a ball that comes to "
            "rest: end before stats['accumulation_time'], or let a jump switch to a mode of rest",
        ),
        (
            "UNTRUSTED",
            "the solution may be right but its derivative is not to be believed; (a) the problem "
            "may be chaotic: shorten the time interval or tighten rtol and atol, (b) an explicit "
            "solver may be at its stability limit",
        ),
        (
            "NOISE_FLOOR",
            "a minimizer as far as can be seen: what is left to gain is lost in the noise or the "
            "rounding of the objective, which counts as a success; to get closer (a) tighten the "
            "tolerances of the solver inside, (b) use float64",
        ),
        (
            "STALLED",
            "no step along a descent direction decreases the objective, although its gradient is "
            "right; (a) the objective may have a kink or a jump, (b) give its noise=, (c) use "
            "another method",
        ),
        (
            "MAX_EVALUATIONS",
            "the evaluations ran out before the tolerance was reached; raise max_evaluations, or "
            "start closer",
        ),
        (
            "TIME_LIMIT",
            "the time ran out before the tolerance was reached; raise max_seconds, or go on from "
            "the value",
        ),
        (
            "UNBOUNDED",
            "the objective falls without end; (a) a sign may be wrong, (b) give bounds, or a "
            "constraint that is missing",
        ),
        (
            "INFEASIBLE",
            "no point within the constraints was found; (a) they may contradict each other, (b) a "
            "sign may be wrong: inequality(x) is to be <= 0, SciPy's >= 0, (c) start where they "
            "hold",
        ),
        (
            "NONFINITE_OBJECTIVE",
            "the objective or its gradient is NaN or Inf at the start; (a) start elsewhere, (b) "
            "find where it enters by running with JAX_DEBUG_NANS=1 in the environment",
        ),
        (
            "UNTRUSTED_GRADIENT",
            "the gradient is not the derivative of the objective: differences of values along the "
            "last direction disagree with it; find out where with adjoint.verify_gradient",
        ),
        (
            "INTERRUPTED",
            "stopped by a signal or by the callback; the value is the best point so far, and a "
            "checkpoint goes on from here",
        ),
    )

    def __init__(self, code: Any):
        self.code = code

    def tree_flatten(self) -> tuple[tuple[Any], None]:
        return (self.code,), None

    @classmethod
    def tree_unflatten(cls, _: None, children: Iterable[Array]) -> Self:
        (code,) = children
        return cls(code)

    @property
    def ok(self) -> Bool[Array, "..."]:
        """True where the solve succeeded: `SUCCESS`, or `NOISE_FLOOR` of `minimize`."""
        return jnp.asarray(
            (self.code == Status.SUCCESS.code) | (self.code == Status.NOISE_FLOOR.code)
        )

    def __bool__(self) -> bool:
        if isinstance(self.code, jax.core.Tracer) or np.ndim(self.code) > 0:
            kind = (
                "a traced status"
                if isinstance(self.code, jax.core.Tracer)
                else f"{np.size(self.code)} statuses"
            )
            remedy = (
                "Use jnp.where(solution.status.ok, ...) in compiled code, "
                "jnp.all(solution.status.ok) for a batch."
            )
            refuse("Status", f"{kind} as a condition", "one status, on the host", remedy, TypeError)
        return bool(self.ok)

    @property
    def name(self) -> str:
        """The member's name; on the host and for a single status only."""
        return self._explanations[int(self)][0]

    @property
    def message(self) -> str:
        """What happened and what to do about it; on the host and for a single status only."""
        return self._explanations[int(self)][1]

    def __eq__(self, other: object) -> Any:
        if not isinstance(other, Status):
            return NotImplemented
        return self.code == other.code

    def __ne__(self, other: object) -> Any:
        if not isinstance(other, Status):
            return NotImplemented
        return self.code != other.code

    def __hash__(self) -> int:
        return hash(int(self))

    def __int__(self) -> int:
        return int(np.asarray(self.code))

    def __repr__(self) -> str:
        if isinstance(self.code, jax.core.Tracer):
            return f"Status(traced {self.code.shape})"
        if np.ndim(self.code) == 0 and 0 <= int(self) < len(self._explanations):
            return f"Status.{self.name}"
        return f"Status({self.code!r})"


# numpy scalars, so that importing the library does not start a JAX backend.
for _code, (_name, _) in enumerate(Status._explanations):
    setattr(Status, _name, Status(np.int32(_code)))


def first_failure(*found: Status | tuple[Status, Bool[Array, "..."]]) -> Status:
    """The first failure among statuses, or pairs of one and whether it applies; else success."""
    code = jnp.asarray(Status.SUCCESS.code)
    for one in reversed(found):
        status, applies = one if isinstance(one, tuple) else (one, ~one.ok)
        code = jnp.where(applies, status.code, code)
    return Status(code.astype(jnp.int32))
