"""The user's functions as answers: traced by JAX, or called on the host with their gradient."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.core
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float, PyTree

from adjoint.inputs import describe, refuse
from adjoint.optimize.problem import Method
from adjoint.optimize.run import Run
from adjoint.optimize.state import Evaluation, Query
from adjoint.tracing import loops

Function = Callable[[PyTree], PyTree]


@dataclass(frozen=True)
class Objective:
    """f and c by the structure of x; hashed by identity of the functions.

    By this, what was compiled is found again.

    Attributes
    ----------
    function
        f; for least squares, its residuals.
    constraints
        Functions whose outputs, flat and one after the other, are c.
    unravel
        Makes x from a flat vector.
    gradient
        f', when `function` is called on the host and not by JAX.
    """

    function: Function
    constraints: tuple[Function, ...]
    unravel: Callable[[Array], PyTree]
    gradient: Function | None = None

    def evaluation(self, method: Method, run: Run) -> Evaluation:
        """What the run wants to know, by JAX; to be compiled."""
        if len(method.queries) == 1:
            return self.answer_to(method.queries[0], method, run)
        branches = [
            lambda run, kind=kind: self.answer_to(kind, method, run) for kind in method.queries
        ]
        index = jnp.searchsorted(jnp.asarray([int(kind) for kind in method.queries]), run.query)
        return loops.switch(index, branches, run)

    def answer_to(self, query: Query, method: Method, run: Run) -> Evaluation:
        """What a query of this kind asks for."""
        empty = self.empty(method, run.state.point)
        least_squares = getattr(method, "least_squares", False)
        match query:
            case Query.VALUE:
                return (
                    self._least_squares(run.point, empty)
                    if least_squares
                    else self._value(run.point, empty)
                )
            case Query.HESSIAN:
                return empty._replace(hessian=self._hessian(run, least_squares))
            case Query.PRODUCT:
                return empty._replace(product=self._product(run, least_squares))

    def empty(self, method: Method, x: Float[Array, " n"]) -> Evaluation:
        """An evaluation of zeros, with a place for what the method ever asks."""
        n = x.size
        zero = jnp.zeros((), x.dtype)
        m = self.constraint_count(x)
        return Evaluation(
            zero,
            jnp.zeros_like(x),
            jnp.zeros(m, x.dtype) if m else None,
            jnp.zeros((m, n), x.dtype) if m else None,
            jnp.zeros((n, n), x.dtype) if Query.HESSIAN in method.queries else None,
            jnp.zeros_like(x) if Query.PRODUCT in method.queries else None,
        )

    def constraint_count(self, x: Float[Array, " n"]) -> int:
        """m."""
        return sum(_size(c, self.unravel, x) for c in self.constraints)

    def has_second_derivatives(self, x: Float[Array, " n"]) -> bool:
        """Whether JAX can differentiate f' once more.

        Black boxes and some solvers know first derivatives only. Where it cannot, whoever refuses
        says so when f'' is traced, or when it is lowered; nothing is computed.
        """
        if self.gradient is not None:
            return False
        gradient = jax.grad(self._flat)
        shape = jax.ShapeDtypeStruct(x.shape, x.dtype)
        try:
            program = jax.make_jaxpr(jax.jacfwd(gradient))(shape).jaxpr
            constants = [
                jax.ShapeDtypeStruct(v.aval.shape, v.aval.dtype) for v in program.constvars
            ]
            # Constants as arguments, since inside of jit some are traced.
            jax.jit(lambda constants, x: jax.core.eval_jaxpr(program, constants, x)).lower(
                constants, shape
            )
        except (TypeError, ValueError, NotImplementedError):
            jax.eval_shape(gradient, shape)  # what has not even a first derivative says so here
            return False
        return True

    def on_host(self, x: Float[Array, " n"], empty: Evaluation) -> Evaluation:
        """f and f' as the user's functions give them, c and c' by JAX."""
        tree = jax.tree.map(np.asarray, self.unravel(x))
        assert self.gradient is not None
        value = self.function(tree)
        gradient = self.gradient(tree)
        if isinstance(value, tuple | list) or np.shape(value) != ():
            given = f"an objective that returns {describe(value)}"
            refuse(
                "minimize",
                given,
                "one number",
                "Return f alone, and its derivative by gradient=.",
                TypeError,
            )
        value = np.asarray(value, x.dtype)
        if _shapes(gradient) != _shapes(tree):
            given = f"gradient= that returns {_shapes(gradient)[1]}"
            refuse(
                "minimize",
                given,
                f"the derivative, like x, {_shapes(tree)[1]}",
                "Return f'(x).",
                TypeError,
            )
        derivative = ravel_pytree(gradient)[0].astype(x.dtype)
        return self._constrained(x, empty._replace(value=jnp.asarray(value), derivative=derivative))

    def _flat(self, x: Array) -> Array:
        return self.function(self.unravel(x))

    def _residuals(self, x: Array) -> Array:
        return ravel_pytree(self._flat(x))[0]

    def _c(self, x: Array) -> Array:
        return jnp.concatenate([ravel_pytree(c(self.unravel(x)))[0] for c in self.constraints])

    def _value(self, x: Array, empty: Evaluation) -> Evaluation:
        value, derivative = jax.value_and_grad(self._flat)(x)
        return self._constrained(x, empty._replace(value=value, derivative=derivative))

    def _constrained(self, x: Array, evaluation: Evaluation) -> Evaluation:
        if not self.constraints:
            return evaluation
        c, back = jax.vjp(self._c, x)
        jacobian = jax.vmap(lambda row: back(row)[0])(jnp.eye(c.size, dtype=c.dtype))
        return evaluation._replace(constraints=c, jacobian=jacobian)

    def _least_squares(self, x: Array, empty: Evaluation) -> Evaluation:
        """f = |r|^2 / 2 and f' = r_x' r."""
        r, back = jax.vjp(self._residuals, x)
        return empty._replace(value=r @ r / 2, derivative=back(r)[0])

    def _hessian(self, run: Run, least_squares: bool) -> Array:
        """f'', or (f + weights . c)'', or r_x' r_x of the Gauss-Newton method."""
        x = run.state.point
        if least_squares:
            J = jax.jacfwd(self._residuals)(x)
            return J.T @ J
        return jax.jacfwd(jax.grad(self._lagrangian(run)))(x)

    def _product(self, run: Run, least_squares: bool) -> Array:
        x = run.state.point
        v = run.state.vector
        assert v is not None
        if least_squares:
            J_v = jax.jvp(self._residuals, (x,), (v,))[1]
            return jax.vjp(self._residuals, x)[1](J_v)[0]
        return jax.jvp(jax.grad(self._lagrangian(run)), (x,), (v,))[1]

    def _lagrangian(self, run: Run) -> Callable[[Array], Array]:
        if not self.constraints or run.state.multipliers is None:
            return self._flat
        weights = run.unit_of_f * run.state.multipliers.weights
        return lambda x: self._flat(x) + weights @ self._c(x)


def _shapes(tree: PyTree) -> tuple[Any, list[tuple[int, ...]]]:
    """The structure, and the shapes of its arrays."""
    return jax.tree.structure(tree), [np.shape(leaf) for leaf in jax.tree.leaves(tree)]


def _size(function: Function, unravel: Callable[[Array], PyTree], x: Array) -> int:
    shapes = jax.eval_shape(lambda x: function(unravel(x)), jax.ShapeDtypeStruct(x.shape, x.dtype))
    return sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(shapes))
