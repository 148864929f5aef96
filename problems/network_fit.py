"""Element values of a network fitted to voltages by L-BFGS, and their standard errors."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float

import adjoint
from problems.network import Bench, Values

MEMORY = 30  # pairs of steps and gradient changes that L-BFGS keeps


@dataclass(frozen=True)
class Iteration:
    """One set of element values.

    Attributes
    ----------
    p
        The fitted logarithms.
    voltages
        Of all nodes in all experiments, in V.
    misfit
        Root mean square of the measured voltages' misfit, in V.
    newton_steps
        Of the slowest experiment.
    seconds
        Wall time; in the first iteration with compilation.
    """

    iteration: int
    p: Values
    voltages: Float[np.ndarray, "experiments nodes"]
    misfit: float
    newton_steps: int
    seconds: float


def fit_iterations(circuit: Bench, tolerance: float, max_iterations: int) -> Iterator[Iteration]:
    """Fit by L-BFGS from nominal values to a root mean square misfit of ``tolerance`` (in V).

    It also ends where no step lowers the misfit any more.

    Raises
    ------
    adjoint.SolveError
        When the voltages of the nominal circuit, or of one on the way, are not found.
    """
    from scipy.optimize import line_search

    begin = time.perf_counter()
    v = adjoint.require(jax.jit(circuit.solve)(circuit.guess, jnp.zeros(circuit.sources.shape)))
    scale, to_p = ravel_pytree(_scale(jax.jit(circuit.sensitivity)(circuit.guess, v)))
    judge = _Judge(circuit, lambda y: to_p(jnp.divide(y, scale)), v)
    method = optax.scale_by_lbfgs(memory_size=MEMORY)
    update = jax.jit(method.update)
    y = np.asarray(ravel_pytree(circuit.guess)[0] * scale)
    state = method.init(jnp.asarray(y))
    value = judge.value(y)
    gradient = judge.gradient(y)
    for number in range(1, max_iterations + 1):
        direction, state = update(jnp.asarray(gradient), state, jnp.asarray(y))
        step = -np.asarray(direction)
        length = line_search(judge.value, judge.gradient, y, step, gradient, value)[0]
        if length is None:
            return
        y = y + length * step
        value = judge.value(y)
        gradient = judge.gradient(y)
        solution = judge.accept(y)
        misfit = float(np.sqrt(value / circuit.voltages.size))
        steps = int(np.max(solution.stats["iterations"]))
        p = jax.tree.map(np.asarray, to_p(jnp.asarray(y) / scale))
        yield Iteration(
            number, p, np.asarray(solution.value), misfit, steps, time.perf_counter() - begin
        )
        begin = time.perf_counter()
        if misfit <= tolerance:
            return


def _scale(sensitivity: Values) -> Values:
    """The norms of the columns of d v / d p, from a hundredth of the largest on.

    So no value runs away at first.
    """
    norms = jax.tree.map(lambda columns: jnp.linalg.norm(columns, axis=(0, 1)), sensitivity)
    largest = jnp.max(ravel_pytree(norms)[0])
    return jax.tree.map(lambda norm: jnp.maximum(norm, 0.01 * largest), norms)


class _Judge:
    """The sum of the squared misfits and its gradient for a line search.

    It is one compiled function, in which Newton starts warm.
    """

    def __init__(self, circuit: Bench, to_p: Callable[[Array], Values], start: Array):
        def misfit(y: Array, start: Array) -> Any:
            solution = circuit.solve(to_p(y), start)
            return jnp.sum((solution.value[:, circuit.measured] - circuit.voltages) ** 2), solution

        self._analyze = jax.jit(jax.value_and_grad(misfit, has_aux=True))
        self._start = start
        self._at = None
        self._found = None

    def _look(self, y: np.ndarray) -> Any:
        if self._at is None or not np.array_equal(y, self._at):
            self._at, self._found = (
                y.copy(),
                jax.block_until_ready(self._analyze(jnp.asarray(y), self._start)),
            )
        return self._found

    def value(self, y: np.ndarray) -> float:
        value = float(self._look(y)[0][0])
        # A circuit that could not be solved is no step to take.
        return value if np.isfinite(value) else np.inf

    def gradient(self, y: np.ndarray) -> np.ndarray:
        return np.asarray(self._look(y)[1])

    def accept(self, y: np.ndarray) -> adjoint.Solution[Array]:
        """The voltages at y, from which Newton's method starts from now on."""
        solution = self._look(y)[0][1]
        self._start = adjoint.require(solution)
        return solution


def standard_errors(
    circuit: Bench, p: Values, v: Float[np.ndarray, "experiments nodes"], noise: float
) -> Values:
    """Standard errors of the logarithms when the voltages' noise is ``noise`` (in V).

    They come from the diagonal of (J' J)^-1, J = d v / d p.
    """
    columns = jax.jit(circuit.sensitivity)(p, jnp.asarray(v))
    J = np.concatenate(
        [np.asarray(part).reshape(-1, part.shape[-1]) for part in jax.tree.leaves(columns)], axis=1
    )
    # By singular values; directions that no voltage shows get an enormous error instead of a
    # division by zero.
    _, singular, right = np.linalg.svd(J, full_matrices=False)
    singular = np.maximum(singular, np.finfo(float).tiny ** 0.5)
    errors = noise * np.linalg.norm(right.T / singular, axis=1)
    if J.shape[0] < J.shape[1]:
        errors = np.full(J.shape[1], np.inf)
    return jax.tree.map(
        np.asarray, ravel_pytree(jax.tree.map(jnp.asarray, p))[1](jnp.asarray(errors))
    )
