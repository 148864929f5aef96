"""The Brusselator on a square: gradients by coefficients and initial state, in two ways.

    u' = alpha lap(u) + B + u^2 v - (A + 1) u
    v' = alpha lap(v) + A u - u^2 v               on N x N points, periodic

with the 5-point Laplacian of spacing 1 / (N - 1), u = 22 (y (1 - y))^(3/2) and v = 27 (x (1 -
x))^(3/2) at first, A = 3.4, B = 1, alpha = 10, each of the three a field: the benchmark of
SciMLBenchmarks.jl (AutomaticDifferentiation/BrussScaling) and of Y. Ma, V. Dixit, M. Innes, X. Guo,
C. Rackauckas, A comparison of automatic differentiation and continuous sensitivity analysis for
derivatives of differential equation solutions, IEEE HPEC 2021, before its source sets in at t =
1.1. The functional is J = mean of (u^2 + v^2) / 2 at the end.

Diffusion is stiff, and an explicit solver takes it in steps at its stability limit. There the
gradient of what the solver computes is not that of what it stands for: its accepted steps amplify
the fastest mode, a checkerboard, which the error control keeps small in the solution but not in the
derivative, where steps are constants. The exact gradient of these steps by the initial state is no
gradient of the solution, without a sign of it in the solution. `ode_solve` sees the limit and takes
a continuous adjoint by itself; `DiscreteAdjoint` finds it by its own estimate and takes other
steps. Both agree with a solve to a tighter tolerance.

Exact: the equations do not depend on time, so that dJ/dy(0) f(y(0)) = dJ/dT = dJ/dy(T) f(y(T)).
"""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

import adjoint
from adjoint.run.checks import Check, judged
from adjoint.run.ending import Ending
from adjoint.run.record import Record
from problems.pictures import Map, maps_png

SUMMARY = (
    "Brusselator: gradients by 5 N^2 numbers, also at the stability limit of an explicit solver."
)

Field = Float[Array, "points points"]
# of the grid on which sensitivities are compared and certified, for which all steps are stored
MOST_POINTS = 16
MOST_VERIFIED = 6  # of the grid on which differences are taken
JUDGED = (
    f"Judged on at most {MOST_VERIFIED} x {MOST_VERIFIED} points, in random directions of each "
    "field."
)
TIGHT = 1e-8
STABLE = 3.3  # Tsit5 is stable on the negative real axis up to here


@dataclass(frozen=True)
class Settings:
    """What can be set, each with its meaning and its range in the metadata of the field."""

    points: int = field(
        default=16, metadata={"help": "N, points on an edge", "minimum": 4, "maximum": 64}
    )
    time: float = field(
        default=1.0,
        metadata={"help": "T, the end; with 64 points take 0.05", "minimum": 0.001, "maximum": 1.0},
    )
    A: float = field(
        default=3.4, metadata={"help": "of the reaction", "minimum": 0.1, "maximum": 10.0}
    )
    B: float = field(
        default=1.0, metadata={"help": "of the reaction", "minimum": 0.1, "maximum": 10.0}
    )
    alpha: float = field(
        default=10.0, metadata={"help": "diffusion", "minimum": 0.01, "maximum": 10.0}
    )
    rtol: float = field(
        default=1e-6,
        metadata={"help": "relative tolerance of the solve", "minimum": 1e-10, "maximum": 1e-3},
    )


class Reagents(NamedTuple):
    """What reacts and diffuses."""

    u: Field
    v: Field


class Coefficients(NamedTuple):
    """One number of each for every point."""

    A: Field
    B: Field
    alpha: Field


def start(settings: Settings) -> Reagents:
    """u and v at t = 0."""
    x = jnp.linspace(0.0, 1.0, settings.points)
    hump = (x * (1 - x)) ** 1.5
    x_and_y = (settings.points, settings.points)
    return Reagents(
        jnp.broadcast_to(22 * hump[None, :], x_and_y), jnp.broadcast_to(27 * hump[:, None], x_and_y)
    )


def coefficients(settings: Settings) -> Coefficients:
    """Everywhere the same."""
    return Coefficients(
        *(jnp.full((settings.points,) * 2, c) for c in (settings.A, settings.B, settings.alpha))
    )


def _laplacian(z: Field) -> Field:
    neighbors = sum(jnp.roll(z, by, axis) for by in (1, -1) for axis in (0, 1))
    return (neighbors - 4 * z) * (z.shape[0] - 1) ** 2


def reaction_diffusion(t: Array, y: Reagents, p: Coefficients) -> Reagents:
    """The rates of u and v."""
    u, v = y
    cubic = u * u * v
    return Reagents(
        p.alpha * _laplacian(u) + p.B + cubic - (p.A + 1) * u,
        p.alpha * _laplacian(v) + p.A * u - cubic,
    )


def solve(settings: Settings, y0: Reagents, p: Coefficients, **more: Any) -> adjoint.Solution[Any]:
    """`ode_solve` with its default solver, which is explicit."""
    fastest = 8 * settings.alpha * (settings.points - 1) ** 2
    most = 1000 + int(2 * settings.time * fastest / STABLE)
    more = {"rtol": settings.rtol, "atol": 1e-3 * settings.rtol, "max_steps": most} | more
    return adjoint.ode_solve(reaction_diffusion, y0, p, 0.0, settings.time, **more)


def functional(y: Reagents) -> Float[Array, ""]:
    """Mean of (u^2 + v^2) / 2."""
    return jnp.mean(y.u**2 + y.v**2) / 2


class Found(NamedTuple):
    """J, its gradients by initial state and coefficients, the state at the end, the solution."""

    value: Float[Array, ""]
    by_start: Reagents
    by_coefficients: Coefficients
    solution: adjoint.Solution[Reagents]


def gradient(settings: Settings, **more: Any) -> Found:
    """J and its gradient, 5 N^2 numbers, by one solve and one adjoint."""

    def cost(y0: Reagents, p: Coefficients) -> tuple[Array, Any]:
        solution = solve(settings, y0, p, **more)
        return functional(solution.value), solution

    both = jax.jit(jax.value_and_grad(cost, argnums=(0, 1), has_aux=True))
    (value, solution), (by_start, by_coefficients) = both(start(settings), coefficients(settings))
    return Found(value, by_start, by_coefficients, solution)


def broken_autonomy(settings: Settings, found: Found) -> float:
    """How far dJ/dy(0) f(y(0)) is from dJ/dy(T) f(y(T)), by the sum of its absolute terms."""
    p = coefficients(settings)
    t = jnp.zeros(())
    end = found.solution.value
    pairs = ((found.by_start, start(settings)), (jax.grad(functional)(end), end))
    terms = [jnp.stack(slope) * jnp.stack(reaction_diffusion(t, y, p)) for slope, y in pairs]
    return float(jnp.abs(jnp.sum(terms[0]) - jnp.sum(terms[1])) / jnp.sum(jnp.abs(terms[0])))


def errors(found: Found, expected: Found) -> dict[str, float]:
    """Of each field of the gradient, relative to its norm."""
    fields = found.by_start._asdict() | found.by_coefficients._asdict()
    right = expected.by_start._asdict() | expected.by_coefficients._asdict()
    return {
        name: float(jnp.linalg.norm(g - right[name]) / jnp.linalg.norm(right[name]))
        for name, g in fields.items()
    }


def verify(settings: Settings) -> adjoint.Verdict:
    """Check the gradient by initial state and coefficients against differences, on a small grid.

    The differences are in random directions.
    """
    small = replace(settings, points=min(settings.points, MOST_VERIFIED))
    y0_and_p = start(small), coefficients(small)
    return adjoint.verify_gradient(
        jax.jit(lambda x: functional(solve(small, *x).value)), y0_and_p, directions=2
    )


def run(settings: Settings, record: Record) -> Ending:
    """Take it of the whole, and compare sensitivities and their certificates.

    Raises
    ------
    adjoint.SolveError
        When a solve fails.
    OSError
        When a file cannot be written.
    """
    record.phase("computing the gradient of the whole")
    whole = gradient(settings)
    adjoint.require(whole.solution)
    record.phase("computing the gradient in three ways")
    small = replace(settings, points=min(settings.points, MOST_POINTS))
    default = whole if small == settings else gradient(small)
    discrete = gradient(small, sensitivity=adjoint.DiscreteAdjoint())
    tight = gradient(small, sensitivity=adjoint.DiscreteAdjoint(), rtol=TIGHT, atol=1e-3 * TIGHT)
    right = errors(default, tight)
    repaired = errors(discrete, tight)
    for row in _rows(tight, right, repaired):
        record.iteration(row)
    record.phase("drawing the pictures")
    _draw(settings, record, whole, small, default, discrete)
    record.phase("computing the certificate")
    status, digits = certificate(small)
    autonomy = broken_autonomy(settings, whole)
    stats = whole.solution.stats
    at_limit = bool(default.solution.stats["at_stability_limit"])
    remarks = (
        f"J = {float(whole.value):.9f} after {int(stats['steps'])} steps. On {small.points} x "
        f"{small.points} "
        f"points, against a solve to {TIGHT}, the gradient by DiscreteAdjoint is off by "
        f"{repaired['u']:.1e} (u at the start), {repaired['v']:.1e} (v), {repaired['A']:.1e} (A); "
        "at the stability "
        f"limit: {'yes' if at_limit else 'no'}; the certificate: {status}, {digits:.1f} digits."
    )
    vouched = 0.0 if status == adjoint.Status.UNTRUSTED else max(repaired.values())
    checks = [
        Check("default gradient off, relative", max(right.values()), 1e-4, f"a solve to {TIGHT}"),
        Check("dJ/dT from both ends apart", autonomy, 1e-4, "the equation is autonomous"),
        Check(
            "DiscreteAdjoint's gradient off",
            max(repaired.values()),
            1e-3,
            "repaired steps, rtol 1e-6",
        ),
        Check("error that the certificate vouches for", vouched, 0.1, "one digit"),
    ]
    return judged(checks, remarks)


def certificate(settings: Settings) -> tuple[adjoint.Status, float]:
    """What `ode_solve` says of gradients through it, and their digits."""
    y0 = start(settings)
    p = coefficients(settings)
    solution = jax.jit(lambda y0, p: solve(settings, y0, p, certificate=True))(y0, p)
    return solution.status, float(solution.stats["gradient_digits"])


def _rows(
    tight: Found, right: dict[str, float], repaired: dict[str, float]
) -> Iterator[dict[str, object]]:
    """One row for each field of the gradient: u(0), v(0), A, B, alpha."""
    fields = tight.by_start._asdict() | tight.by_coefficients._asdict()
    for number, (name, g) in enumerate(fields.items(), start=1):
        norm = float(jnp.linalg.norm(g))
        yield {
            "field": number,
            "gradient": norm,
            "default_off": right[name],
            "discrete_off": repaired[name],
        }


def _draw(
    settings: Settings,
    record: Record,
    whole: Found,
    small: Settings,
    default: Found,
    discrete: Found,
) -> None:
    # A seventh is left of the slowest mode then; later all points are alike.
    early = min(0.05 / settings.alpha, settings.time)
    y0 = start(settings)
    soon = adjoint.require(solve(replace(settings, time=early), y0, coefficients(settings)))
    times = (("at first", y0), (f"after {early:.3g}", soon))
    fields = [
        _map(f"{name} {when}", name, z) for when, y in times for name, z in y._asdict().items()
    ]
    record.picture(
        "fields.png",
        maps_png(fields, "x", "y"),
        "The reagents, before diffusion has made them uniform.",
    )
    by = [
        _map(f"dJ/d{name}", "per point", g) for name, g in whole.by_coefficients._asdict().items()
    ]
    record.picture(
        "coefficients.png", maps_png(by, "x", "y"), "The gradient by the fields of coefficients."
    )
    kinds = (("as chosen by default", default), ("of the discrete solve", discrete))
    by = [
        _map(f"dJ/d{name}(0) {what}", "per point", g)
        for what, f in kinds
        for name, g in f.by_start._asdict().items()
    ]
    caption = (
        "The gradient by the initial state, by two sensitivities; a checkerboard is the fastest "
        "mode, which is no part of it."
    )
    record.picture("initial_state.png", maps_png(by, "x", "y"), caption)


def _map(title: str, label: str, values: Any) -> Map:
    return Map(title, label, np.asarray(values), (0.0, 1.0, 0.0, 1.0))
