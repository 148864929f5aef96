"""Every example in a docstring of the library runs and prints what it says."""

import doctest
import importlib
import pkgutil

import jax
import pytest

import adjoint

MODULES = [info.name for info in pkgutil.walk_packages(adjoint.__path__, "adjoint.")]


# Their examples take seconds to compile.
SLOW = [
    f"adjoint.{name}"
    for name in (
        "implicit.argmin",
        "implicit.fixed_point",
        "implicit.host_solver",
        "implicit.minimizer",
        "implicit.newton",
        "implicit.root",
        "tracing.host_call",
        "linear.iterative",
        "linear.multigrid",
        "ode.events",
        "ode.shadowing",
        "ode.steady_state",
        "optimize.bfgs",
        "optimize.gcmma",
        "optimize.mma",
        "optimize.optimality_criteria",
    )
]


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow if name in SLOW else ()) for name in MODULES]
)
def test_examples(name: str) -> None:
    module = importlib.import_module(name)
    with jax.numpy_rank_promotion("allow"):
        result = doctest.testmod(module, optionflags=doctest.NORMALIZE_WHITESPACE)
    assert result.failed == 0


def test_the_slow_ones_are_modules() -> None:
    assert set(SLOW) <= set(MODULES)


def test_public_names_have_docstrings_and_solvers_have_examples() -> None:
    for name in adjoint.__all__:
        assert (getattr(adjoint, name).__doc__ or "").strip(), name
    for name in (
        "linear_solve",
        "factorize",
        "LU",
        "Cholesky",
        "SparseDirect",
        "CG",
        "MINRES",
        "GMRES",
        "MatrixFree",
    ):
        assert ">>>" in getattr(adjoint, name).__doc__, name
