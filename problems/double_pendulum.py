"""The double pendulum: what its motion depends on, until when, and how it meets given points.

    y' = f(y, p),   y = (angles, velocities),   p = (lengths, masses, gravity)

with the f of `problems.pendulum`.

All sensitivities of y(t), to the start and to p, come from `adjoint.ode_solve` twice: forward, by
the variational equations, and backward, by the discrete adjoint
(`problems.pendulum_sensitivities`). Exact laws of the motion check them, and a published gradient:
the notebook double-pendulum-sensitivity of MIT 18.063 (Matrix Calculus,
github.com/mitmath/matrixcalc) gives that of |y(2 s)|^2 by y(0) for rods of 1 m, equal masses and g
= 9.80665 m/s^2, released at rest from both angles 2.

The motion is chaotic: S = dy(t)/dy(0) grows exponentially, while near rest it only swings. A solve
with tolerance e has lost its gradient where |S| e reaches 1, and `ode_solve(certificate=True)` says
so before: fewer than one digit is `UNTRUSTED`, and NaN.

The design: hanging at rest, with which velocities and with rods of which lengths does the tip meet
given points, at any times? (`problems.pendulum_design`: least squares by L-BFGS-B, whose gradient
takes one adjoint solve.)
"""

from dataclasses import dataclass, field
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

import adjoint
from adjoint.run.checks import Check, judged
from adjoint.run.ending import Ending
from adjoint.run.record import Record
from problems.pendulum import Everything, Pendulum, State, broken_laws, joints, motion, normal_modes
from problems.pendulum_design import (
    Design,
    Job,
    cost,
    first_design,
    improve,
    misses,
    read_points,
    swing,
    times_of,
)
from problems.pendulum_pictures import (
    FRAME_LENGTH,
    STEPS_PER_FRAME,
    Lines,
    Swing,
    film_gif,
    growth_png,
    lines_png,
    path_png,
)
from problems.pendulum_sensitivities import (
    CAUSES,
    MOST_STEPS,
    SAMPLES,
    TIGHT,
    Growth,
    certified,
    growth,
    mode_error,
    numbers,
    sensitivities,
    sensitivities_by_adjoint,
    sensitivity_table,
)

SUMMARY = (
    "Double pendulum: sensitivities forward and backward, chaos that refuses a gradient, a swing "
    "through given points."
)
JUDGED = "Judged at the first design, by its velocities, lengths and times."

# Forward, with a relative tolerance of 1e-10; it differs from the adjoint there by 9e-7.
PUBLISHED_GRADIENT = np.array(
    [17.425310160434826, -37.7130498818074, -3.517137064485507, -27.856006327870688]
)
DISTURBANCE = 1e-3  # rad, of the second pendulum in the film
CALM = 0.1  # rad, of the upper rod in the slow normal mode: the motion without chaos
STOPS = 40  # times at which the growth is looked at
GROWTH_CAPTION = (
    "How sensitivities grow, and how many digits of them the certificate promises and a tighter "
    "solve confirms."
)


def _setting(default: Any, help: str, **limits: Any) -> Any:
    return field(default=default, metadata={"help": help, **limits})


@dataclass(frozen=True)
class Settings:
    """What can be set, each with its meaning and its range in the metadata of the field."""

    angle_1: float = _setting(
        2.0, "of the upper rod from the vertical at first, in rad", minimum=-4.0, maximum=4.0
    )
    angle_2: float = _setting(
        2.0, "of the lower rod from the vertical at first, in rad", minimum=-4.0, maximum=4.0
    )
    velocity_1: float = _setting(
        0.0, "of the upper rod at first, in rad/s", minimum=-20.0, maximum=20.0
    )
    velocity_2: float = _setting(
        0.0, "of the lower rod at first, in rad/s", minimum=-20.0, maximum=20.0
    )
    length_1: float = _setting(1.0, "of the upper rod in m", minimum=0.01, maximum=100.0)
    length_2: float = _setting(1.0, "of the lower rod in m", minimum=0.01, maximum=100.0)
    mass_1: float = _setting(1.0, "at the joint in kg", minimum=0.001, maximum=1000.0)
    mass_2: float = _setting(1.0, "at the tip in kg", minimum=0.001, maximum=1000.0)
    gravity: float = _setting(9.80665, "in m/s^2", minimum=0.01, maximum=1000.0)
    time: float = _setting(
        2.0, "of the sensitivities to everything, in s", minimum=0.01, maximum=5.0
    )
    longest: float = _setting(
        20.0, "end of the growth of the sensitivities, in s", minimum=1.0, maximum=30.0
    )
    tolerance: float = _setting(
        1e-8, "of the solves whose gradients are certified", minimum=1e-12, maximum=1e-4
    )
    points: str = _setting(
        "1.2,-1.2 1,0.2 -0.5,0.6", "x,y in m that the tip is to meet, in this order"
    )
    max_iterations: int = _setting(500, "of the design", minimum=1, maximum=100_000)

    def __post_init__(self) -> None:
        read_points(self.points)


def everything(settings: Settings) -> Everything:
    """What the motion of these settings depends on."""

    def pair(name: str) -> Float[Array, " 2"]:
        return jnp.array([getattr(settings, f"{name}_{k}") for k in (1, 2)])

    start = State(pair("angle"), pair("velocity"))
    return Everything(start, Pendulum(pair("length"), pair("mass"), jnp.array(settings.gravity)))


class Agreement(NamedTuple):
    """What closed forms and published numbers say of the sensitivities; relative errors."""

    forward_and_adjoint: float
    laws: dict[str, float]
    published: float
    modes: float


def check(settings: Settings) -> tuple[Agreement, str]:
    """Sensitivities at ``settings.time`` against adjoint and laws; all of them as a CSV table."""
    of = everything(settings)
    times = jnp.linspace(0.0, settings.time, SAMPLES + 1)
    solution, d = sensitivities(of, times, TIGHT)
    now = jax.tree.map(lambda leaf: leaf[-1], adjoint.require(solution))
    forward = jax.tree.map(lambda leaf: leaf[-1], d)
    backward = sensitivities_by_adjoint(of, times[-1], TIGHT)
    laws = jax.jit(broken_laws)(settings.time, now, forward, of)
    both = [
        np.concatenate([np.reshape(leaf, (4, -1)) for leaf in jax.tree.leaves(d)], axis=1)
        for d in (forward, backward)
    ]
    apart = float(np.abs(both[0] - both[1]).max() / np.abs(both[0]).max())
    found = Agreement(
        apart,
        {name: float(v) for name, v in laws.items()},
        _from_published(),
        mode_error(of.pendulum),
    )
    return found, sensitivity_table(*both)


def _from_published() -> float:
    of = everything(Settings())
    times = jnp.linspace(0.0, 2.0, SAMPLES + 1)
    solution, d = sensitivities(of, times, TIGHT)
    gradient = 2 * numbers(solution.value)[-1] @ np.concatenate(d.start, axis=2)[-1]
    return float(np.linalg.norm(gradient - PUBLISHED_GRADIENT) / np.linalg.norm(PUBLISHED_GRADIENT))


def job(settings: Settings) -> Job:
    """The points, and the pendulum to begin with."""
    return Job(read_points(settings.points), everything(settings).pendulum)


def verify(settings: Settings) -> adjoint.Verdict:
    """Check the gradient of the design's cost by independent oracles, at the first design."""
    task = job(settings)
    return adjoint.verify_gradient(jax.jit(lambda x: cost(task, x)), first_design(task), rtol=1e-7)


def run(settings: Settings, record: Record) -> Ending:
    """Take sensitivities, follow their growth until refused, and make the tip meet the points.

    Raises
    ------
    adjoint.SolveError
        When a motion is not found.
    KeyboardInterrupt
        After the time of the growth in which Ctrl-C was pressed.
    OSError
        When a file cannot be written.
    """
    record.phase("computing the sensitivities")
    found, table = check(settings)
    record.file(
        "sensitivities.csv",
        table,
        "derivatives of angles and velocities by everything, forward and backward",
    )
    of = everything(settings)
    record.phase("drawing the pictures and the film")
    record.picture(
        "sensitivities.png",
        _sensitivities_png(settings, of),
        "What the angles depend on, forward mode.",
    )
    record.picture(
        "swing.gif",
        _film(settings, of),
        "The pendulum, and one released a thousandth of a radian lower.",
    )
    record.phase("designing the swing")
    path = improve(job(settings), settings.max_iterations)
    _leave_design(settings, path, record)
    calm = of._replace(start=State(CALM * normal_modes(of.pendulum)[1][:, 0], jnp.zeros(2)))
    times = np.linspace(settings.longest / STOPS, settings.longest, STOPS)
    grown: list[tuple[Growth, Growth]] = []
    try:
        for pair in record.follow(
            zip(*(growth(o, times, settings.tolerance) for o in (of, calm)), strict=True)
        ):
            grown.append(pair)
            record.iteration(_row(times[len(grown) - 1], pair))
    finally:
        if grown:
            picture = growth_png(settings.tolerance, times[: len(grown)], grown)
            record.picture("growth.png", picture, GROWTH_CAPTION)
    return _ending(settings, found, path, times, [wild for wild, _ in grown])


def _row(t: float, pair: tuple[Growth, Growth]) -> dict[str, object]:
    row: dict[str, object] = {"time": float(t)}
    for name, g in zip(("", "_near_rest"), pair, strict=True):
        row |= {
            f"norm{name}": g.norm,
            f"digits{name}": g.promised_digits,
            f"real_digits{name}": g.real_digits,
        }
        row |= {f"trusted{name}": int(g.trusted)}
    return row


def _ending(
    settings: Settings,
    found: Agreement,
    path: list[tuple[Design, float]],
    times: np.ndarray,
    wild: list[Growth],
) -> Ending:
    """Done when every number and point is met and no gradient without a right digit was trusted."""
    x = path[-1][0]
    task = job(settings)
    miss = float(np.linalg.norm(misses(task, x), axis=1).max())
    kicked = Everything(
        State(jnp.zeros(2), x.velocities), task.pendulum._replace(lengths=jnp.exp(x.log_lengths))
    )
    digits = float(
        certified(kicked, float(times_of(x)[-1]), settings.tolerance).stats["gradient_digits"]
    )
    refused = [t for t, g in zip(times, wild, strict=True) if not g.trusted]
    over = max((g.promised_digits - g.real_digits for g in wild if g.trusted), default=0.0)
    rate = np.polyfit(times, np.log([g.norm for g in wild]), 1)[0]
    worst = max(found.laws, key=found.laws.__getitem__)
    sentence = (
        f"Sensitivities grow as exp({rate:.2f} t / s); with tolerance {settings.tolerance:g} the "
        "certificate gives "
        f"{wild[0].promised_digits:.1f} digits at {times[0]:g} s and "
        f"{wild[-1].promised_digits:.1f} at {times[-1]:g} s, "
        + (f"UNTRUSTED first at {refused[0]:g} s; " if refused else "always trusted; ")
        + f"at most {over:.1f} more than a tight solve confirms. "
        + f"The design took {len(path) - 1} iterations; gradients there have {digits:.1f} digits."
    )
    without_a_digit = float(sum(g.real_digits <= 0 for g in wild if g.trusted))
    checks = [
        Check(
            "forward off adjoint sensitivities",
            found.forward_and_adjoint,
            1e-9,
            "the same derivatives",
        ),
        Check(f"laws broken by ({worst})", found.laws[worst], 1e-9, "symmetries of the pendulum"),
        Check("small oscillations off", found.modes, 1e-7, "normal modes"),
        Check("gradient off the published one", found.published, 2e-6, "its printed digits"),
        Check("trusted gradients without a digit", without_a_digit, 0.0, "a tight solve"),
        Check("tip off the points in m", miss, 1e-6, "the points asked for"),
    ]
    return judged(checks, sentence)


def _sensitivities_png(settings: Settings, of: Everything) -> bytes:
    times = jnp.linspace(0.0, settings.time, SAMPLES + 1)
    _, d = sensitivities(of, times, TIGHT)
    flat = np.concatenate(
        [np.reshape(leaf, (SAMPLES + 1, 4, -1)) for leaf in jax.tree.leaves(d)], axis=2
    )
    plots = []
    for i, rod in enumerate(("upper", "lower")):
        curves = {f"by {by}": flat[:, i, j] for j, by in enumerate(CAUSES)}
        plots.append(
            Lines(
                f"angle of the {rod} rod, a{i + 1}",
                "derivative in rad per unit",
                np.asarray(times),
                curves,
            )
        )
    return lines_png(plots)


def _film(settings: Settings, of: Everything) -> bytes:
    frames = int(1000 * min(settings.longest, 10.0) / FRAME_LENGTH)
    times = jnp.arange(STEPS_PER_FRAME * (frames - 1) + 1) * (FRAME_LENGTH / 1000 / STEPS_PER_FRAME)

    @jax.jit
    def solve(of: Everything) -> adjoint.Solution[State]:
        y, p = of
        return adjoint.ode_solve(
            motion, y, p, 0.0, times[-1], ts=times, rtol=1e-10, atol=1e-10, max_steps=MOST_STEPS
        )

    lower = of._replace(start=of.start._replace(angles=of.start.angles - DISTURBANCE))
    starts = {"as asked": of, f"angles {DISTURBANCE:g} rad less": lower}
    swings = [
        Swing(name, np.asarray(joints(adjoint.require(solve(o)).angles, of.pendulum.lengths)))
        for name, o in starts.items()
    ]
    return film_gif(swings, 1.08 * float(jnp.sum(of.pendulum.lengths)))


def _leave_design(settings: Settings, path: list[tuple[Design, float]], record: Record) -> None:
    names = ["iteration", "cost"] + [
        f"{name}_{k + 1}" for name, v in path[0][0]._asdict().items() for k in range(v.size)
    ]
    rows = [[k, c, *np.concatenate(x).tolist()] for k, (x, c) in enumerate(path)]
    text = "".join(",".join(map(str, row)) + "\n" for row in [names, *rows])
    record.file("design.csv", text, "unknowns and cost (in m^2) of every iteration of the design")
    ends = [path[0][0], path[-1][0]]
    task = job(settings)
    paths = [np.asarray(swing(task, x, jnp.linspace(0.0, times_of(x)[-1], 400))) for x in ends]
    lengths = np.exp(ends[1].log_lengths)
    velocities = np.asarray(ends[1].velocities)
    caption = (
        f"Hanging at rest, then kicked: rods of {lengths[0]:.4f} and {lengths[1]:.4f} m and "
        "velocities of "
        f"{velocities[0]:.4f} and {velocities[1]:.4f} rad/s make the tip meet the points in this "
        "order."
    )
    record.picture("design.png", path_png(task.points, *paths), caption)
