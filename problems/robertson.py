"""Robertson's reactions over twelve decades of time: stiff, their sensitivities, and as a DAE.

    A -> B with k1,   B + C -> A + C with k2,   2 B -> B + C with k3
    y1' = -k1 y1 + k2 y2 y3,   y2' = k1 y1 - k2 y2 y3 - k3 y2^2,   y3' = k3 y2^2,   y(0) = (1, 0, 0)

H. H. Robertson, The solution of a set of reaction rate equations, in J. Walsh, ed., Numerical
Analysis: An Introduction, 1966. As a DAE the last equation is y1 + y2 + y3 = 1. Published, and
printed with five digits, are the outputs of SUNDIALS' examples cvsRoberts_FSA_dns (species and
forward sensitivities, relative tolerance 1e-4) and cvsRoberts_ASAi_dns (the integral G of y3 and
its gradient by an adjoint, 1e-6), which bound how close we can come to them; and, with 16 digits,
y(1e11) of the Test Set for Initial Value Problem Solvers (F. Mazzia, C. Magherini, release 2.4,
2008, problem ROBER).

Exact: the species add up to 1 and their sensitivities to 0; rates that are all larger by the same
factor are a faster clock, so sum of k_j dy/dk_j = t y'; and late, when y2 = k1 y1 / k2 and y3 = 1,
y1 = k2^2 / (k1^2 k3 t), so that d ln y1 / d ln k is (-2, 2, -1).
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

import adjoint
from adjoint.run.checks import Check, judged
from adjoint.run.ending import Ending
from adjoint.run.record import Record
from problems.pictures import Curve, Plot, plots_png

SUMMARY = (
    "Robertson's stiff kinetics over twelve decades, as ODE and DAE: sensitivities forward and by "
    "adjoints."
)
JUDGED = "Judged on the logarithm of y1 after 4e7 s, by the logarithms of all rates."

# cvsRoberts_FSA_dns -sensi sim t, at t = 0.4, 4, ..., 4e7: y1, y2, and the derivatives of y1 by k1,
# k2, k3. Later ones are off by more than a percent, y1 being below that solver's absolute
# tolerance.
PUBLISHED_TIMES = 0.4 * 10.0 ** np.arange(9)
PUBLISHED = np.array([
    [9.8517e-01, 3.3864e-05, -3.5595e-01, 9.5431e-08, -1.5833e-11],
    [9.0552e-01, 2.2405e-05, -1.8761e00, 2.9614e-06, -4.9334e-10],
    [7.1583e-01, 9.1856e-06, -4.2475e00, 1.3731e-05, -2.2883e-09],
    [4.5052e-01, 3.2229e-06, -5.9584e00, 2.2738e-05, -3.7896e-09],
    [1.8320e-01, 8.9423e-07, -4.7501e00, 1.8809e-05, -3.1348e-09],
    [3.8977e-02, 1.6215e-07, -1.5748e00, 6.2870e-06, -1.0478e-09],
    [4.9394e-03, 1.9854e-08, -2.3640e-01, 9.4530e-07, -1.5753e-10],
    [5.1681e-04, 2.0683e-09, -2.5663e-02, 1.0265e-07, -1.7110e-11],
    [5.2039e-05, 2.0817e-10, -2.5997e-03, 1.0399e-08, -1.7330e-12],
])  # fmt: skip
# cvsRoberts_ASAi_dns: the end of the integral G, and dG/dk1, dG/dk2, dG/dk3.
PUBLISHED_INTEGRALS = (
    (4e7, np.array([7.6842e05, -3.0691, 5.1145e-04])),
    (50.0, np.array([173.41, -5.0591e-04, 8.4323e-08])),
)
PUBLISHED_AT_THE_END = np.array(
    [0.2083340149701255e-07, 0.8333360770334713e-13, 0.9999999791665050]
)
END = 1e11  # s
RATES = np.array([0.04, 1e4, 3e7])
LATE = np.array([-2.0, 2.0, -1.0])
START = (1.0, 0.0, 0.0)
FORWARD = "ForwardSensitivity"
LOOKS: tuple[Literal["line", "dashed", "dotted"], ...] = ("line", "dashed", "dotted")
SPECIES_AS_RATES = np.diag([1.0, 1.0, 0.0])


@dataclass(frozen=True)
class Settings:
    """What can be set, each with its meaning and its range in the metadata of the field."""

    k1: float = field(
        default=0.04, metadata={"help": "rate of A -> B in 1/s", "minimum": 1e-4, "maximum": 10.0}
    )
    k2: float = field(
        default=1e4,
        metadata={"help": "rate of B + C -> A + C in 1/s", "minimum": 1.0, "maximum": 1e6},
    )
    k3: float = field(
        default=3e7,
        metadata={"help": "rate of 2 B -> B + C in 1/s", "minimum": 1e4, "maximum": 1e9},
    )
    rtol: float = field(
        default=1e-8,
        metadata={
            "help": "relative tolerance; the absolute one is 1e-6 of it",
            "minimum": 1e-9,
            "maximum": 1e-4,
        },
    )


def kinetics(t: Array, y: Array, k: Array) -> Float[Array, " 3"]:
    """The three rates."""
    ab = k[0] * y[0]
    ba = k[1] * y[1] * y[2]
    bc = k[2] * y[1] ** 2
    return jnp.stack([ba - ab, ab - ba - bc, bc])


def kinetics_with_balance(t: Array, y: Array, k: Array) -> Float[Array, " 3"]:
    """Two rates, and what is zero when no substance is lost."""
    return kinetics(t, y, k).at[2].set(jnp.sum(y) - 1)


def _third(t: Array, y: Array, k: Array) -> Array:
    return y[2]


def solve(
    log_k: Float[Array, " 3"], end: Any, rtol: float, dae: bool = False, **more: Any
) -> adjoint.Solution[Any]:
    """`ode_solve` from t = 0 to the end, by the logarithms of the rates."""
    more |= {"mass_matrix": SPECIES_AS_RATES} if dae else {}
    f = kinetics_with_balance if dae else kinetics
    solver = diffrax.Kvaerno5()
    return adjoint.ode_solve(
        f,
        jnp.array(START),
        jnp.exp(log_k),
        0.0,
        end,
        solver=solver,
        rtol=rtol,
        atol=1e-6 * rtol,
        **more,
    )


def species(
    log_k: Float[Array, " 3"], ts: Float[Array, " times"], rtol: float, dae: bool = False
) -> Float[Array, "times 3"]:
    """Samples, with forward sensitivities."""
    return solve(log_k, END, rtol, dae, ts=ts, mode="both").value


def integral(
    log_k: Float[Array, " 3"], end: float, rtol: float, sensitivity: Any, dae: bool = False
) -> Float[Array, ""]:
    """G, the integral of y3."""
    return solve(log_k, end, rtol, dae, running_cost=_third, sensitivity=sensitivity).value[1]


def gradients(
    log_k: Float[Array, " 3"], end: float, rtol: float
) -> dict[str, Float[np.ndarray, " 3"]]:
    """k dG/dk by every way there is."""
    ways = {
        FORWARD: (adjoint.ForwardSensitivity(), False),
        "DiscreteAdjoint": (adjoint.DiscreteAdjoint(), False),
        "InterpolatingAdjoint": (adjoint.InterpolatingAdjoint(), False),
        "GaussAdjoint": (adjoint.GaussAdjoint(), False),
        "DiscreteAdjoint of the DAE": (adjoint.DiscreteAdjoint(), True),
    }
    gradient = {
        name: jax.jit(jax.grad(lambda q, way=way: integral(q, end, rtol, *way)))
        for name, way in ways.items()
    }
    return {name: np.asarray(g(log_k)) for name, g in gradient.items()}


def log_k(settings: Settings) -> Float[Array, " 3"]:
    """The logarithms of the rates."""
    return jnp.log(jnp.array([settings.k1, settings.k2, settings.k3]))


def verify(settings: Settings) -> adjoint.Verdict:
    """Check the gradient of ln y1(4e7 s) by the rates' logarithms through the discrete adjoint."""

    def late(q: Array) -> Array:
        return jnp.log(
            solve(
                q, PUBLISHED_TIMES[-1], settings.rtol, sensitivity=adjoint.DiscreteAdjoint()
            ).value[0]
        )

    # Twice the tolerance of the solve over a step of a percent: what differences can tell.
    return adjoint.verify_gradient(
        jax.jit(late), log_k(settings), rtol=max(1e-5, 200 * settings.rtol)
    )


def run(settings: Settings, record: Record) -> Ending:
    """Solve as ODE and as DAE, and compare species and sensitivities with what is published.

    Raises
    ------
    adjoint.SolveError
        When a solve fails.
    OSError
        When a file cannot be written.
    """
    q = log_k(settings)
    rtol = settings.rtol
    ts = np.append(0.4 * 10.0 ** np.arange(-4, 11.25, 0.25), END)
    record.phase("solving as ODE and as DAE")
    ode, dae = (_samples(q, ts, rtol, dae) for dae in (False, True))
    for row in _rows(ts, *ode):
        record.iteration(row)
    record.picture(
        "species.png",
        _picture(settings, ts, *ode),
        "Species, and what y1 depends on; dots are published.",
    )
    record.phase("computing the gradient in all ways")
    ways = [gradients(q, end, rtol) for end, _ in PUBLISHED_INTEGRALS]
    lost = float(np.abs(ode[1].sum(axis=1)).max())
    checks = [
        Check("substance lost", lost, 1e-12, "y1 + y2 + y3 = 1"),
        Check("off the clock", broken_clock(q, ts, *ode), 1e-4, "time in units of 1 / k"),
        Check("DAE off ODE", _difference(ts, ode[1], dae[1]), 1e-4, "the same kinetics"),
        Check("adjoints off forward", max(map(_spread, ways)), 1e-5, "the same derivatives"),
    ]
    if np.allclose(np.exp(q), RATES):
        checks += _against_published(ts, *ode, ways)
    return judged(checks, "All differences are relative ones.")


def _samples(
    q: Float[Array, " 3"], ts: np.ndarray, rtol: float, dae: bool
) -> tuple[np.ndarray, np.ndarray]:
    """y and k dy/dk."""

    def value(q: Array) -> tuple[Array, Any]:
        solution = solve(q, END, rtol, dae, ts=jnp.asarray(ts), mode="both")
        return solution.value, solution

    slopes, solution = jax.jit(jax.jacfwd(value, has_aux=True))(q)
    return np.asarray(adjoint.require(solution)), np.asarray(slopes)


def broken_clock(q: Float[Array, " 3"], ts: np.ndarray, y: np.ndarray, slopes: np.ndarray) -> float:
    """How far the sum of k_j dy3/dk_j is from t y3'.

    Of the three, it alone is no small difference of large numbers.
    """
    expected = ts * np.exp(float(q[2])) * y[:, 1] ** 2
    return _difference(
        ts, slopes[:, 2].sum(axis=1)[:, None, None], expected[:, None, None], slopes[:, 2:]
    )


def _difference(
    ts: np.ndarray, found: np.ndarray, expected: np.ndarray, sizes: np.ndarray | None = None
) -> float:
    """The largest from 0.4 s on, before which y3 is small.

    It is relative to the largest sensitivity of the same species.
    """
    sizes = np.abs(expected if sizes is None else sizes).max(axis=2, keepdims=True)
    return float((np.abs(found - expected) / sizes)[ts > 0.39].max())


def _spread(found: dict[str, np.ndarray]) -> float:
    forward = found[FORWARD]
    return max(float(np.max(np.abs(g / forward - 1))) for g in found.values())


def _against_published(
    ts: np.ndarray, y: np.ndarray, slopes: np.ndarray, ways: list[Any]
) -> list[Check]:
    """Distances, and how far off the published numbers themselves may be."""
    at = [int(np.argmin(np.abs(np.log(ts / t)))) for t in PUBLISHED_TIMES]
    found = np.column_stack([y[at, :2], slopes[at, 0] / RATES])
    integrals = [
        way[FORWARD] / RATES / g - 1 for way, (_, g) in zip(ways, PUBLISHED_INTEGRALS, strict=True)
    ]
    at_the_end = float(np.max(np.abs(y[-1] / PUBLISHED_AT_THE_END - 1)))
    late = float(np.max(np.abs(slopes[-1, 0] / y[-1, 0] - LATE)))
    forward = float(np.max(np.abs(found / PUBLISHED - 1)))
    return [
        Check("y at 1e11 s", at_the_end, 1e-4, "IVP test set"),
        Check("scaled sensitivities at the end", late, 1e-3, "their limits -2, 2, -1"),
        Check("forward sensitivities", forward, 2e-3, "CVODES, whose tolerance is 1e-4"),
        Check("adjoint gradient", float(np.max(np.abs(integrals))), 1e-4, "CVODES, likewise"),
    ]


def _rows(ts: np.ndarray, y: np.ndarray, slopes: np.ndarray) -> Iterator[dict[str, object]]:
    """One row for each time."""
    for t, values, by in zip(ts, y, slopes, strict=True):
        row: dict[str, object] = {
            "t": float(t),
            **{f"y{i + 1}": float(v) for i, v in enumerate(values)},
        }
        yield row | {
            f"k{j + 1}_dy{i + 1}_dk{j + 1}": float(by[i, j]) for i in range(3) for j in range(3)
        }


def _picture(settings: Settings, ts: np.ndarray, y: np.ndarray, slopes: np.ndarray) -> bytes:
    published = np.allclose([settings.k1, settings.k2, settings.k3], RATES)
    decade = np.log10(ts)
    dots = np.log10(PUBLISHED_TIMES)
    curves = [Curve(f"y{i + 1}", ts, y[:, i], look) for i, look in enumerate(LOOKS)]
    absolute = [
        Curve(f"k{j + 1} dy1/dk{j + 1}", decade, slopes[:, 0, j], look)
        for j, look in enumerate(LOOKS)
    ]
    relative = [
        Curve(f"by ln k{j + 1}", decade, slopes[:, 0, j] / y[:, 0], look)
        for j, look in enumerate(LOOKS)
    ]
    if published:
        curves += [
            Curve("CVODES" if i == 0 else "", PUBLISHED_TIMES, PUBLISHED[:, i], "dots")
            for i in range(2)
        ]
        absolute += [
            Curve("CVODES" if j == 0 else "", dots, RATES[j] * PUBLISHED[:, 2 + j], "dots")
            for j in range(3)
        ]
        relative += [
            Curve(
                "CVODES" if j == 0 else "",
                dots,
                RATES[j] * PUBLISHED[:, 2 + j] / PUBLISHED[:, 0],
                "dots",
            )
            for j in range(3)
        ]
    relative += [
        Curve("late limit" if j == 0 else "", decade[[-20, -1]], np.full(2, limit), "faint dots")
        for j, limit in enumerate(LATE)
    ]
    label = "log10 of the time in s"
    plots = [
        Plot("species", "time in s", "concentration", curves, "log"),
        Plot("scaled sensitivities of y1", label, "k dy1/dk", absolute),
        Plot("relative sensitivities of y1", label, "d ln y1 / d ln k", relative),
    ]
    return plots_png(plots)
