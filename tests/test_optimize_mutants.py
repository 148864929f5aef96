"""Deliberate mutants of minimize, each killed by a problem whose minimum is known in closed form.

The checks run on a fresh copy of the library (see `mutation.library`); problems have one to three
unknowns, so that little is compiled.
"""

import importlib
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jaxtyping import Array
from mutation import COPY, HOME, Mutant, library
from optimize_mutants import OPTIMIZE_MUTANTS

CHECKS: dict[str, Callable[[Any], None]] = {}


class Copied:
    """The modules of a copied library by their names: `lib.minimize` is `optimize/minimize.py`."""

    def __getattr__(self, name: str) -> Any:
        folder = "" if (HOME / f"{name}.py").exists() else "optimize."
        return importlib.import_module(f"{COPY}.{folder}{name}")


def check(function: Callable[[Any], None]) -> Callable[[Any], None]:
    CHECKS[function.__name__] = function
    return function


def rosenbrock(x: Array) -> Array:
    """Minimum 0 at (1, 1)."""
    return 100 * (x[1] - x[0] ** 2) ** 2 + (1 - x[0]) ** 2


def disc(x: Array) -> Array:
    """|x| <= 1."""
    return x @ x - 1


@check
def huge_start(lib: Any) -> None:
    """No success far from the only minimum, however much has been gained."""
    for start in ((1e9, 1e9), (3e7, -1e3), (1e15, 7e14)):
        solution = lib.minimize.minimize(
            rosenbrock, jnp.array(start), lib.bfgs.BFGS(), max_evaluations=1500
        )
        assert not bool(solution.status.ok) or float(solution.stats["value"]) < 1e-4


@check
def conditions(lib: Any) -> None:
    """Of f = 1, where a step by second derivatives gains 1e-3; and of f = 1e-28 where x is 1."""
    stopping = lib.stopping
    known = {name: jnp.zeros(()) for name in stopping.Evidence._fields}
    known |= {"value": jnp.ones(()), "rounding": jnp.asarray(1e-15), "faded": jnp.array(False)}
    gains = stopping.Evidence(**known | {"predicted": jnp.asarray(1e-3)})
    assert not bool(stopping.is_settled(gains, knows_curvature=True))
    assert bool(stopping.is_settled(gains, knows_curvature=False))
    zero = {"value": jnp.asarray(1e-28), "total": jnp.ones(()), "slope": jnp.asarray(1e-14)}
    assert bool(stopping.vanishes(stopping.Evidence(**known | zero), jnp.ones(())))


@check
def zero_at_zero(lib: Any) -> None:
    """Minimum 0 where one entry, or all of x, ends at zero: no size of x tells how close it is."""
    for f in (
        lambda x: jnp.sum(x**2),
        lambda x: (x[0] - 1) ** 2 + x[1] ** 2 + (x[0] * x[1]) ** 2,
    ):
        solution = lib.minimize.minimize(f, jnp.array([5.0, 3.0]), lib.bfgs.BFGS())
        assert bool(solution.status.ok)
        assert float(solution.stats["value"]) < 1e-15
        assert int(solution.stats["evaluations"]) <= 40


@check
def noise(lib: Any) -> None:
    """Values that jitter, slopes that do not: a minimizer as far as can be seen."""
    for level in (1e-4, 1e-6):
        start = jnp.array([-1.2, 1.0, 0.7])

        def noisy(x: Array, level: float = level) -> Array:
            jitter = level * jnp.sin(1e8 * jnp.sum(jax.lax.stop_gradient(x)))
            return 1 + rosenbrock(x[:2]) + rosenbrock(x[1:]) + jitter

        assert bool(lib.minimize.minimize(noisy, start, lib.bfgs.BFGS()).status.ok)


@check
def plateau(lib: Any) -> None:
    """Minimum 0 at log 2; where exp(x_i) dies out f is 4, flat, and bent downwards."""
    solution = lib.minimize.minimize(
        lambda x: jnp.sum((jnp.exp(x) - 2) ** 2), jnp.array([30.0, 80.0, 2.0])
    )
    assert bool(solution.status.ok)
    assert float(solution.stats["value"]) < 1e-15


@check
def unit_of_f(lib: Any) -> None:
    """At 1e-30 in single precision products of slopes have no room."""
    unit = np.float32(2.0**-100)
    solution = lib.minimize.minimize(
        lambda x: unit * rosenbrock(x),
        jnp.array([-1.2, 1.0], jnp.float32),
        lib.bfgs.BFGS(),
        bounds=(-2.0, 2.0),
        rtol=1e-3,
        max_evaluations=200,
    )
    assert bool(solution.status.ok)
    np.testing.assert_allclose(solution.value, 1.0, rtol=1e-3)


def _noisy_in_units(lib: Any, unit: float, noise: float) -> Any:
    def noisy(x: Array) -> Array:
        jitter = 1e-4 * jnp.sin(1e8 * jnp.sum(jax.lax.stop_gradient(x)))
        return unit * (rosenbrock(x) + jitter)

    start = jnp.array([-1.2, 1.0])
    return lib.minimize.minimize(noisy, start, lib.bfgs.BFGS(), noise=unit * noise)


@check
def unit_of_noise(lib: Any) -> None:
    """A noise in the unit of f changes nothing when the unit does."""
    plain, large = (_noisy_in_units(lib, unit, 1e-4) for unit in (1.0, 2.0**30))
    assert int(plain.stats["evaluations"]) == int(large.stats["evaluations"])
    assert plain.status.name == large.status.name


@check
def told_noise(lib: Any) -> None:
    """What is found of the noise is told in the user's unit of f."""
    plain, large = (_noisy_in_units(lib, unit, 0.0) for unit in (1.0, 2.0**30))
    assert float(large.stats["noise"]) == 2.0**30 * float(plain.stats["noise"])


@check
def unit_of_atol(lib: Any) -> None:
    """A limit on |f'| in the user's unit of f, of 2^40 |x - 1|^2."""
    solution = lib.minimize.minimize(
        lambda x: 2.0**40 * jnp.sum((x - 1) ** 2),
        jnp.array([3.0, 1.5]),
        lib.bfgs.BFGS(),
        rtol=0.0,
        atol=1e3,
    )
    assert bool(solution.status.ok)
    assert float(solution.stats["stationarity"]) <= 1e3


@check
def multipliers(lib: Any) -> None:
    """Of 2^40 |x|^2 on x_0 + x_1 = 2, at (1, 1): -2^41."""
    solution = lib.minimize.minimize(
        lambda x: 2.0**40 * jnp.sum(x**2),
        jnp.array([3.0, 1.0]),
        lib.sqp.SQP(),
        equality=lambda x: jnp.sum(x) - 2,
    )
    np.testing.assert_allclose(solution.stats["multipliers"], [-(2.0**41)], rtol=1e-7)


@check
def wrong_derivative(lib: Any) -> None:
    """A derivative with one sign wrong leads downhill for a while, and to no minimum."""

    @jax.custom_vjp
    def f(x: Array) -> Array:
        return rosenbrock(x)

    signs = jnp.array([1.0, -1.0])
    f.defvjp(
        lambda x: (rosenbrock(x), jax.grad(rosenbrock)(x)),
        lambda slope, bar: (bar * signs * slope,),
    )
    solution = lib.minimize.minimize(f, jnp.array([-1.2, 1.0]), lib.bfgs.BFGS(), max_steps=300)
    assert solution.status.name == "UNTRUSTED_GRADIENT"


@check
def kink(lib: Any) -> None:
    """|x - 1| + |x - 1|^2 / 2 has a right derivative wherever it has one."""
    solution = lib.minimize.minimize(
        lambda x: jnp.sum(jnp.abs(x - 1) + (x - 1) ** 2 / 2),
        jnp.array([3.0, 0.2]),
        lib.bfgs.BFGS(),
    )
    assert solution.status.name != "UNTRUSTED_GRADIENT"


@check
def unbounded(lib: Any) -> None:
    solution = lib.minimize.minimize(lambda x: -jnp.sum(jnp.exp(x)), jnp.ones(2), lib.bfgs.BFGS())
    assert solution.status.name == "UNBOUNDED"


@check
def bounds_in_pairs(lib: Any) -> None:
    """SciPy's (lowest, highest) of two unknowns can be read as (lower, upper)."""
    with pytest.raises(ValueError, match=r"scipy\.optimize\.Bounds"):
        lib.minimize.minimize(rosenbrock, jnp.zeros(2), bounds=[(0.0, 2.0), (1.0, 3.0)])


@check
def contradiction(lib: Any) -> None:
    """On x + y = 3 there is no point of the disc."""
    for start, most in (((0.5, 0.1), 400), ((3.0, -2.0), 30)):
        solution = lib.minimize.minimize(
            lambda x: x[0] ** 2 + 3 * x[1],
            jnp.array(start),
            lib.sqp.SQP(),
            equality=lambda x: x[0] + x[1] - 3,
            inequality=disc,
        )
        assert solution.status.name == "INFEASIBLE"
        assert int(solution.stats["evaluations"]) <= most


@check
def units_of_x_sqp(lib: Any) -> None:
    """As many evaluations in other units of each unknown."""

    def evaluations(unit: Array) -> int:
        solution = lib.minimize.minimize(
            lambda x: rosenbrock(x / unit),
            jnp.array([-1.2, 1.0]) * unit,
            lib.sqp.SQP(),
            inequality=lambda x: disc(x / unit),
        )
        assert bool(solution.status.ok)
        return int(solution.stats["evaluations"])

    assert evaluations(jnp.array([2.0**10, 2.0**-12])) == evaluations(jnp.ones(2))


@check
def truth(lib: Any) -> None:
    status = lib.status.Status
    assert bool(status.SUCCESS)
    assert not bool(status.STALLED)


@check
def lengths(lib: Any) -> None:
    """Of (3, 4) in units whose squares have no room: 5."""
    for unit in (1e-200, 1.0, 1e200):
        x = unit * jnp.array([3.0, 4.0])
        np.testing.assert_allclose(lib.norm.norm(x), 5 * unit, rtol=1e-15)
        np.testing.assert_allclose(lib.norm.root_of_dot(x, x), 5 * unit, rtol=1e-15)
    small = 1e-150 * jnp.array([3.0, 4.0])
    np.testing.assert_allclose(lib.norm.dot(small, small), 2.5e-299, rtol=1e-15)


@pytest.mark.slow
@pytest.mark.parametrize("name", CHECKS)
def test_the_healthy_library_passes(name: str) -> None:
    with library(None):
        CHECKS[name](Copied())


@pytest.mark.slow
@pytest.mark.parametrize("mutant", OPTIMIZE_MUTANTS, ids=str)
def test_the_mutant_is_killed(mutant: Mutant) -> None:
    with library(mutant), pytest.raises((AssertionError, pytest.fail.Exception)):
        CHECKS[mutant.killed_by](Copied())


def test_every_mutant_finds_its_text() -> None:
    for mutant in OPTIMIZE_MUTANTS:
        assert mutant.source() != (HOME / mutant.file).read_text()
