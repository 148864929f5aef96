"""From a checkpoint to a run and back: what makes two runs the same, how a state is laid out."""

import hashlib
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from adjoint.inputs import refuse
from adjoint.optimize.objective import Objective
from adjoint.optimize.problem import Domain, Method
from adjoint.optimize.run import Limits, Run
from adjoint.optimize.stopping import RUNNING
from adjoint.run.checkpoint import Checkpoint, Generations, Snapshot
from adjoint.status import Status

History = list[dict[str, float]]


class Continuation:
    """The files of one run; of several in one call of `minimize`, each `stage` has its own.

    So a call that is repeated finds the finished runs finished, takes the same decisions after
    them, and goes on in the stage that was stopped.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        stage: int,
        objective: Objective,
        method: Method,
        x: Array,
        domain: Domain,
        limits: Limits,
    ):
        self.every = checkpoint.every
        self._limits = limits
        self._is_last = not _of_stage(Path(checkpoint.path), stage + 1).exists()
        self._files = Generations(
            _of_stage(Path(checkpoint.path), stage),
            _problem(stage, objective, method, x, domain, limits),
            {"jax": jax.__version__, "device": jax.default_backend()},
        )

    def load(self, like: Run) -> tuple[Run, History, float] | None:
        """The saved run, its history and its seconds, or None.

        `like` has the shapes of the run, as of `jax.eval_shape`.
        """
        snapshot = self._files.load()
        if snapshot is None:
            return None
        leaves, structure = jax.tree.flatten(like)
        given = [(array.shape, array.dtype) for array in snapshot.arrays]
        if given != [(leaf.shape, leaf.dtype) for leaf in leaves]:
            refuse(
                "Checkpoint",
                f"{self._files.path} with {len(given)} arrays that do not fit",
                f"the {len(leaves)} arrays of this method's state",
                "Go on with the version of adjoint that wrote it, or delete it to start anew.",
            )
        run = jax.tree.unflatten(structure, [jnp.asarray(array) for array in snapshot.arrays])
        # The next stage began where this one ended.
        run = _reopened(run, self._limits) if self._is_last else run
        return run, snapshot.history, snapshot.seconds

    def save(self, run: Run, history: History, seconds: float) -> None:
        leaves = jax.tree.leaves(jax.device_get(run))
        self._files.save(Snapshot([np.asarray(leaf) for leaf in leaves], history, seconds))


def _of_stage(path: Path, stage: int) -> Path:
    return path if stage == 0 else path.with_name(f"{path.name}.stage{stage}")


def _reopened(run: Run, limits: Limits) -> Run:
    """A run that ended at a limit which has been raised since goes on.

    Nothing but its code told that it had ended.
    """
    code = int(run.code)
    more_steps = code == Status.NOT_CONVERGED.code and int(run.state.iterations) < limits.max_steps
    more_evaluations = (
        code == Status.MAX_EVALUATIONS.code and int(run.counts[0]) < limits.max_evaluations
    )
    return (
        run._replace(code=jnp.full_like(run.code, RUNNING))
        if more_steps or more_evaluations
        else run
    )


def _problem(
    stage: int,
    objective: Objective,
    method: Method,
    x: Float[Array, " n"],
    domain: Domain,
    limits: Limits,
) -> dict[str, str]:
    """What is run, in words that are the same in every process."""
    shape = jax.ShapeDtypeStruct(x.shape, x.dtype)
    shapes = jax.tree.map(lambda v: v.shape, jax.eval_shape(objective.unravel, shape))
    traced = (
        (objective.function, *objective.constraints)
        if objective.gradient is None
        else objective.constraints
    )
    named = () if objective.gradient is None else (objective.function, objective.gradient)
    return {
        "stage": str(stage),
        "method": _without_addresses(repr(method)),
        "x": f"{x.dtype}[{x.size}] as {shapes}",
        "start": _digest([x]),
        "inner product": type(domain.inner_product).__name__,
        "bounds, noise and weights": _digest(
            [*jax.tree.leaves(domain), _without_addresses(repr(domain.inner_product))]
        ),
        "tolerances": ", ".join(f"{float(v):.17g}" for v in limits[:3]),
        "functions": ", ".join(getattr(f, "__qualname__", type(f).__qualname__) for f in named),
        "objective's program": _digest(
            [_program(lambda v, f=f: f(objective.unravel(v)), shape) for f in traced]
        ),
    }


def _program(function: Callable[[Array], Any], shape: jax.ShapeDtypeStruct) -> Any:
    program = jax.make_jaxpr(function)(shape)
    return [_without_addresses(str(program.jaxpr)), *program.consts]


def _without_addresses(text: str) -> str:
    return re.sub(r"0x[0-9a-f]+", "", text)


def _digest(things: list[object]) -> str:
    """Of texts and arrays, a few letters of their SHA-256."""
    digest = hashlib.sha256()
    for thing in jax.tree.leaves(things):
        if jnp.issubdtype(getattr(thing, "dtype", np.uint8), jax.dtypes.prng_key):
            thing = jax.random.key_data(thing)
        array = np.asarray(thing.encode() if isinstance(thing, str) else thing)
        digest.update(f"{array.dtype.str}{array.shape}".encode() + array.tobytes())
    return digest.hexdigest()[:16]
