"""double_pendulum: a published gradient, laws, modes, the refusal of chaos, the design, a run."""

import csv
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from scipy.integrate import solve_ivp

import adjoint
from problems.__main__ import main
from problems.double_pendulum import Settings, everything, job, verify
from problems.pendulum import (
    Everything,
    Pendulum,
    State,
    broken_laws,
    energy,
    joints,
    motion,
    normal_modes,
)
from problems.pendulum_design import (
    Design,
    cost,
    first_design,
    improve,
    misses,
    read_points,
    times_of,
)
from problems.pendulum_sensitivities import (
    SAMPLES,
    TIGHT,
    certified,
    mode_error,
    numbers,
    sensitivities,
    sensitivities_by_adjoint,
)

MIT = everything(Settings())
# Nothing equal, nothing at rest.
UNEQUAL = Everything(
    State(jnp.array([2.0, 1.3]), jnp.array([0.5, -0.3])),
    Pendulum(jnp.array([0.7, 1.2]), jnp.array([0.6, 1.7]), jnp.array(9.81)),
)
TIMES = jnp.linspace(0.0, 2.0, SAMPLES + 1)
LAWS = jax.jit(broken_laws)


def at_the_end(of: Everything) -> tuple[State, Everything]:
    solution, d = sensitivities(of, TIMES, TIGHT)
    return jax.tree.map(lambda leaf: leaf[-1], (adjoint.require(solution), d))


def by_newton(_: float, y: np.ndarray, of: Everything) -> np.ndarray:
    """The same motion from Lagrange's equations M(a) w' = forces, 2 x 2, by NumPy."""
    (l_1, l_2), (m_1, m_2), g = (np.asarray(leaf) for leaf in of.pendulum)
    d = y[0] - y[1]
    M = [
        [(m_1 + m_2) * l_1**2, m_2 * l_1 * l_2 * np.cos(d)],
        [m_2 * l_1 * l_2 * np.cos(d), m_2 * l_2**2],
    ]
    turning = m_2 * l_1 * l_2 * np.sin(d) * np.array([-(y[3] ** 2), y[2] ** 2])
    return np.append(
        y[2:],
        np.linalg.solve(M, turning - g * np.array([(m_1 + m_2) * l_1, m_2 * l_2]) * np.sin(y[:2])),
    )


@pytest.mark.parametrize("of", [MIT, UNEQUAL], ids=["published", "unequal"])
def test_the_motion_agrees_with_another_solver_and_its_sensitivities_with_the_laws(
    of: Everything,
) -> None:
    now, d = at_the_end(of)
    start = np.asarray(numbers(of.start))
    other = solve_ivp(by_newton, (0.0, 2.0), start, "DOP853", args=(of,), rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(numbers(now), other.y[:, -1], rtol=1e-9)
    assert float(energy(now, of.pendulum)) == pytest.approx(
        float(energy(of.start, of.pendulum)), abs=1e-10
    )
    laws = LAWS(2.0, now, d, of)
    assert set(laws) == {"mass", "length", "time", "shift", "energy", "volume"}
    for name, broken in laws.items():
        assert broken < 1e-11, name


def test_the_published_gradient() -> None:
    """MIT 18.063, double-pendulum-sensitivity.ipynb, in forward mode to about 6 digits.

    That is what its tolerance of 1e-10 leaves it.
    """
    now, d = at_the_end(MIT)
    gradient = 2 * numbers(now) @ jnp.concatenate(d.start, axis=1)
    published = [17.425310160434826, -37.7130498818074, -3.517137064485507, -27.856006327870688]
    np.testing.assert_allclose(gradient, published, rtol=1e-6)


@pytest.mark.parametrize(
    ("leaf", "laws"),
    [
        ("masses", {"mass"}),
        ("lengths", {"length"}),
        ("gravity", {"length", "time"}),
        ("angles", {"shift", "volume"}),
    ],
)
def test_laws_notice_wrong_sensitivities(leaf: str, laws: set[str]) -> None:
    now, d = at_the_end(UNEQUAL)
    part = "start" if leaf == "angles" else "pendulum"
    room = getattr(d, part)
    wrong = getattr(room, leaf) * (jnp.array([[1.0, 1.001]]) if leaf != "gravity" else 1.001)
    broken = LAWS(2.0, now, d._replace(**{part: room._replace(**{leaf: wrong})}), UNEQUAL)
    assert {name for name, v in broken.items() if v > 1e-5} >= laws | {"energy"}


@pytest.mark.slow
def test_the_adjoint_agrees_with_forward_mode() -> None:
    _, forward = at_the_end(UNEQUAL)
    backward = sensitivities_by_adjoint(UNEQUAL, TIMES[-1], TIGHT)
    for one, other in zip(jax.tree.leaves(forward), jax.tree.leaves(backward), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-9, atol=1e-10)


def test_small_oscillations() -> None:
    omegas, modes = normal_modes(MIT.pendulum)
    g = float(MIT.pendulum.gravity)
    np.testing.assert_allclose(
        omegas**2, g * np.array([2 - np.sqrt(2), 2 + np.sqrt(2)]), rtol=1e-13
    )
    np.testing.assert_allclose(modes, [[1, 1], [np.sqrt(2), -np.sqrt(2)]], rtol=1e-13)
    for of in (MIT, UNEQUAL):
        assert mode_error(of.pendulum) < 3e-8


def test_the_joints_are_where_the_angles_say() -> None:
    masses = joints(jnp.array([np.pi / 2, np.pi]), jnp.array([2.0, 3.0]))
    np.testing.assert_allclose(masses, [[2, 0], [2, 3]], atol=1e-15)
    y, p = State(jnp.array([np.pi, np.pi]), jnp.zeros(2)), UNEQUAL.pendulum
    # Upright at rest: the force is zero and the energy that of the heights.
    np.testing.assert_allclose(motion(jnp.zeros(()), y, p).velocities, 0.0, atol=1e-14)
    np.testing.assert_allclose(energy(y, p), 9.81 * (0.6 * 0.7 + 1.7 * 1.9), rtol=1e-14)


@pytest.mark.parametrize("text", ["", "1", "1,2,3", "1,2 3", "a,b", "nan,1", "1,1 2,2 3,3 4,4 5,5"])
def test_what_are_no_points_is_refused(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", "double_pendulum", "--set", f"points={text}"]) == 2
    assert "expected one to four points x,y in m" in capsys.readouterr().err


def test_points_are_read() -> None:
    np.testing.assert_array_equal(read_points(" 1,-0.5  2e-1,3 "), [[1.0, -0.5], [0.2, 3.0]])


@pytest.mark.slow
def test_where_chaos_has_eaten_the_digits_the_gradient_is_refused() -> None:
    assert certified(MIT, 2.0, 1e-8).status.name == "SUCCESS"
    lost = certified(MIT, 20.0, 1e-8)
    assert lost.status.name == "UNTRUSTED"
    assert np.isnan(lost.value.angles).all()
    assert lost.stats["growth"] > 1e9
    # Near rest nothing grows.
    calm = MIT._replace(start=State(jnp.array([0.1, 0.1 * np.sqrt(2)]), jnp.zeros(2)))
    solution = certified(calm, 20.0, 1e-8)
    assert solution.status.name == "SUCCESS"
    assert solution.stats["gradient_digits"] > 3


@pytest.mark.slow
def test_the_tip_meets_the_points_in_their_order() -> None:
    task = job(Settings())
    path = improve(task, 500)
    x = path[-1][0]
    assert np.abs(misses(task, x)).max() < 1e-9
    assert path[0][1] > 1
    # Another solver, from the design's velocities, lengths and times.
    of = Everything(
        State(jnp.zeros(2), x.velocities), task.pendulum._replace(lengths=jnp.exp(x.log_lengths))
    )
    ts = np.asarray(times_of(x))
    start = np.asarray(numbers(of.start))
    other = solve_ivp(
        by_newton, (0.0, ts[-1]), start, "DOP853", t_eval=ts, args=(of,), rtol=1e-11, atol=1e-11
    )
    tips = joints(jnp.asarray(other.y[:2].T), of.pendulum.lengths)[:, 1]
    # The design's own steps are of 1e-2 s, by a method of order 5.
    np.testing.assert_allclose(tips, task.points, atol=1e-5)
    assert (np.diff(ts) > 0).all()


@pytest.mark.slow
def test_the_gradient_of_the_design_is_trusted() -> None:
    verdict = verify(Settings())
    assert verdict.trusted
    assert verdict.relative_error < 1e-9
    task = job(Settings())
    shifted = lambda x: jax.grad(lambda x: cost(task, x))(Design(x[0], x[1], x[2] + 1e-5))
    assert not adjoint.verify_gradient(
        lambda x: cost(task, x), first_design(task), gradient=shifted, rtol=1e-7
    ).trusted


@pytest.mark.slow
def test_a_run_meets_everything_and_leaves_its_pictures(tmp_path: Path) -> None:
    assert main(["run", "double_pendulum", "--out", str(tmp_path)]) == 0
    pictures = {"sensitivities.png", "growth.png", "design.png", "swing.gif"}
    names = {
        "command.txt",
        "result.json",
        "report.html",
        "history.csv",
        "sensitivities.csv",
        "design.csv",
        "run.json",
    } | pictures
    assert {path.name for path in tmp_path.iterdir()} == names
    result = json.loads((tmp_path / "result.json").read_text())
    assert result["gradient"]["relative_error"] < 1e-9
    assert "UNTRUSTED first at" in result["ending"]
    rows = list(csv.DictReader((tmp_path / "history.csv").open()))
    assert [rows[0]["trusted"], rows[-1]["trusted"], rows[-1]["trusted_near_rest"]] == [
        "1",
        "0",
        "1",
    ]
    # What is trusted has a right digit at least as long as sensitivities are below 1e7.
    for row in rows:
        if row["trusted"] == "1" and float(row["norm"]) < 1e7:
            assert float(row["real_digits"]) > 1
    derivatives = list(csv.DictReader((tmp_path / "sensitivities.csv").open()))
    assert len(derivatives) == 4 * 9
    with Image.open(tmp_path / "swing.gif") as film:
        assert film.n_frames == 250


@pytest.mark.slow
def test_a_design_that_is_not_finished_ends_with_3(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    short = ["--set", "max_iterations=2", "--set", "longest=2"]
    assert main(["run", "double_pendulum", *short, "--out", str(tmp_path)]) == 3
    said = capsys.readouterr().out
    assert "The design took 2 iterations" in said
    assert "tip off the points in m" in said.split("checks fail: ")[1]
