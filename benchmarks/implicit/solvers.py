"""Who takes part: this library's root finders and their peers.

Each is x = solve(F, x0, p) that JAX differentiates by p. All start at the same point and stop at
the same size of the last Newton step; all Krylov methods have one tolerance, except in the steps of
`NewtonKrylov`, which are rough by design. What a library has no root finder for is given Newton's
method as its users write it.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.scipy.sparse.linalg import cg
from jaxtyping import Array

import adjoint
from benchmarks.answers import GRADIENT, PRODUCT, VALUE, objective
from benchmarks.contest import Function
from benchmarks.implicit.cases import Case
from benchmarks.machine import installed_version

# Relative to x; convergence is quadratic, so after the last step the error is about its square.
STEP_TOLERANCE = 1e-6
# Relative residual: tight enough for a gradient to 1e-6, and above the roundoff.
KRYLOV_TOLERANCE = 1e-8
# As many as the other Newton iterations take; one fewer gives a gradient that is wrong by more than
# 1e-6.
UNROLLED_STEPS = 7

# Of systems that take seconds, value and gradient alone are measured, and once.
GRADIENT_ALONE_ABOVE = 200_000

Residual = Callable[[Array, Array], Array]
DENSE = ("dense", "batch")
SPARSE = ("bratu",)


@dataclass(frozen=True)
class RootFinder:
    """A way to find x with F(x, p) = 0.

    Attributes
    ----------
    name
        For the tables.
    solve
        ``solve(case, F, x0, p)``, the x of one system; differentiable by JAX with respect to p.
    problems
        Those that it is meant for.
    ours
        Whether it is this library's.
    package
        What must be installed.
    growth
        Time grows about like n**growth, to foresee what would take too long.
    largest
        Number of unknowns up to which it is of interest.
    """

    name: str
    solve: Callable[[Case, Residual, Array, Array], Array]
    problems: tuple[str, ...]
    ours: bool = False
    package: str = "jax"
    growth: float = 1.5
    largest: float = float("inf")

    def obstacle(self, case: Case) -> str | None:
        """Why it cannot take part, or None."""
        if installed_version(self.package) is None:
            return f"the package {self.package} is not installed"
        return f"compared up to n = {self.largest:.0f} only" if case.n > self.largest else None

    def constants(self, case: Case) -> Any:
        """What is passed to the compiled function."""
        return jax.tree.map(jnp.asarray, case.constants)


def functions(finder: RootFinder, case: Case) -> dict[str, tuple[Function, ...]]:
    """What is timed, as functions of (p, v, constants).

    Where there are several, the first that JAX supports counts.
    """

    def g(p: Array, constants: Any) -> Array:
        def of_one(p: Array) -> Array:
            x0 = jnp.zeros(case.unknowns)
            return objective(finder.solve(case, lambda x, p: case.residual(x, p, constants), x0, p))

        return (
            of_one(p)
            if case.systems == 1
            else jnp.sum(jax.vmap(of_one)(p.reshape(case.systems, -1)))
        )

    def forward_over_reverse(p: Array, v: Array, constants: Any) -> Array:
        return adjoint.hvp(lambda p: g(p, constants), p, v)

    def reverse_over_reverse(p: Array, v: Array, constants: Any) -> Array:
        return jax.grad(lambda p: jnp.vdot(jax.grad(g)(p, constants), v))(p)

    gradient = {GRADIENT: (lambda p, _, constants: jax.value_and_grad(g)(p, constants),)}
    if case.n > GRADIENT_ALONE_ABOVE:
        return gradient
    return {
        VALUE: (lambda p, _, constants: g(p, constants),),
        **gradient,
        PRODUCT: (forward_over_reverse, reverse_over_reverse),
    }


def _ours(
    linear_solver: Callable[[Case], Any], solver: Callable[..., Any] = adjoint.Newton
) -> Callable[..., Array]:
    def solve(case: Case, F: Residual, x0: Array, p: Array) -> Array:
        chosen = linear_solver(case)
        pattern = case.pattern if isinstance(chosen, adjoint.SparseDirect) else None
        newton = solver(rtol=STEP_TOLERANCE)
        return adjoint.root(F, x0, p, newton, linear_solver=chosen, jacobian_pattern=pattern).value

    return solve


def _newton(F: Callable[[Array], Array], x0: Array, step: Callable[[Any, Array], Array]) -> Array:
    """Newton's method without safeguards; step(F, x) = -F_x^-1 F."""

    def advance(state: Any) -> Any:
        x, _ = state
        dx = step(F, x)
        return x + dx, jnp.linalg.norm(dx) > STEP_TOLERANCE * jnp.linalg.norm(x + dx)

    return jax.lax.while_loop(lambda state: state[1], advance, (x0, jnp.asarray(True)))[0]


def _dense_step(F: Callable[[Array], Array], x: Array) -> Array:
    return -jnp.linalg.solve(jax.jacfwd(F)(x), F(x))


def _krylov_step(F: Callable[[Array], Array], x: Array) -> Array:
    F_x, push = jax.linearize(F, x)
    return -cg(push, F_x, tol=KRYLOV_TOLERANCE)[0]


def _dense_tangent_solve(push: Callable[[Array], Array], b: Array) -> Array:
    return jnp.linalg.solve(jax.jacobian(push)(b), b)


def _krylov_tangent_solve(push: Callable[[Array], Array], b: Array) -> Array:
    # JAX's cg cannot be transposed here (jax #5552), so it is told that the matrix is symmetric.
    def solve(push: Callable[[Array], Array], b: Array) -> Array:
        return cg(push, b, tol=KRYLOV_TOLERANCE)[0]

    return jax.lax.custom_linear_solve(push, b, solve, symmetric=True)


def _custom_root(step: Any, tangent_solve: Any) -> Callable[..., Array]:
    def solve(_case: Case, F: Residual, x0: Array, p: Array) -> Array:
        find = partial(_newton, step=step)
        return jax.lax.custom_root(lambda x: F(x, p), x0, find, tangent_solve)

    return solve


def _jaxopt(step: Any, name: str, **settings: float) -> Callable[..., Array]:
    def solve(_case: Case, F: Residual, x0: Array, p: Array) -> Array:
        from jaxopt import implicit_diff, linear_solve  # pyright: ignore[reportMissingImports]

        adjoint_solve = partial(getattr(linear_solve, name), **settings)

        @implicit_diff.custom_root(F, solve=adjoint_solve)
        def find(x0: Array, p: Array) -> Array:
            return _newton(lambda x: F(x, p), x0, step)

        return find(x0, p)

    return solve


def _unrolled(step: Any) -> Callable[..., Array]:
    def solve(_case: Case, F: Residual, x0: Array, p: Array) -> Array:
        return jax.lax.fori_loop(0, UNROLLED_STEPS, lambda _, x: x + step(lambda x: F(x, p), x), x0)

    return solve


def _optimistix(_case: Case, F: Residual, x0: Array, p: Array) -> Array:
    import optimistix

    return optimistix.root_find(
        F, optimistix.Newton(STEP_TOLERANCE, STEP_TOLERANCE), x0, p, throw=False
    ).value


def _optimistix_krylov(_case: Case, F: Residual, x0: Array, p: Array) -> Array:
    import lineax
    import optimistix

    # Its tolerance holds for each entry. Those of all right-hand sides are of about 1; of small
    # ones it would ask for more than roundoff leaves, if the absolute tolerance were not as large
    # as the relative one.
    linear = lineax.CG(KRYLOV_TOLERANCE, KRYLOV_TOLERANCE)
    newton = optimistix.Newton(STEP_TOLERANCE, STEP_TOLERANCE, linear_solver=linear)
    rule = optimistix.ImplicitAdjoint(linear)
    definite = frozenset({lineax.positive_semidefinite_tag})
    return optimistix.root_find(F, newton, x0, p, adjoint=rule, tags=definite, throw=False).value


def _multigrid(case: Case) -> adjoint.CG:
    """No peer has a preconditioner; ours is built from F_x."""
    m = round(case.unknowns**0.5)
    return adjoint.CG(KRYLOV_TOLERANCE, preconditioner=adjoint.Multigrid((m, m)))


SOLVERS: tuple[RootFinder, ...] = (
    RootFinder("adjoint Newton, LU", _ours(lambda _: adjoint.LU()), DENSE, ours=True, growth=2.5),
    RootFinder(
        "adjoint Newton, SuperLU",
        _ours(lambda _: adjoint.SparseDirect("superlu")),
        SPARSE,
        ours=True,
    ),
    RootFinder(
        "adjoint Newton, PARDISO",
        _ours(lambda _: adjoint.SparseDirect("pardiso")),
        SPARSE,
        ours=True,
        package="pypardiso",
    ),
    RootFinder(
        "adjoint Newton, CG", _ours(lambda _: adjoint.CG(KRYLOV_TOLERANCE)), SPARSE, ours=True
    ),
    RootFinder("adjoint Newton, CG, Multigrid", _ours(_multigrid), SPARSE, ours=True),
    RootFinder(
        "adjoint NewtonKrylov, CG, Multigrid",
        _ours(_multigrid, adjoint.NewtonKrylov),
        SPARSE,
        ours=True,
    ),
    RootFinder(
        "adjoint NewtonKrylov, GMRES",
        _ours(lambda _: adjoint.GMRES(KRYLOV_TOLERANCE), adjoint.NewtonKrylov),
        SPARSE,
        ours=True,
        growth=2.0,
        largest=20_000,
    ),
    RootFinder(
        "optimistix Newton, ImplicitAdjoint", _optimistix, DENSE, package="optimistix", growth=2.5
    ),
    RootFinder("optimistix Newton, CG", _optimistix_krylov, SPARSE, package="optimistix"),
    RootFinder(
        "jaxopt custom_root, solve_lu",
        _jaxopt(_dense_step, "solve_lu"),
        DENSE,
        package="jaxopt",
        growth=2.5,
    ),
    RootFinder(
        "jaxopt custom_root, solve_cg",
        _jaxopt(_krylov_step, "solve_cg", tol=KRYLOV_TOLERANCE),
        SPARSE,
        package="jaxopt",
    ),
    RootFinder(
        "lax.custom_root, dense", _custom_root(_dense_step, _dense_tangent_solve), DENSE, growth=2.5
    ),
    RootFinder("lax.custom_root, CG", _custom_root(_krylov_step, _krylov_tangent_solve), SPARSE),
    RootFinder("unrolled Newton, dense", _unrolled(_dense_step), DENSE, growth=2.5),
    RootFinder("unrolled Newton, CG", _unrolled(_krylov_step), SPARSE),
)
PEERS = ("pypardiso", "optimistix", "lineax", "jaxopt")
