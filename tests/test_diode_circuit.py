"""The diode circuit: Lambert's W, Kirchhoff's law by hand, differences, and values found again.

Sensitivities are checked by differences. Closed form: T. C. Banwell and A. Jayakumar, Exact
analytical solution for current flow through diode with series resistance, Electronics Letters 36
(2000) 291-292.
"""

import csv
import json
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import optimize
from scipy.special import lambertw

import adjoint
from problems.__main__ import main
from problems.diode_circuit import Settings, bench
from problems.network import THERMAL_VOLTAGE, Network
from problems.network_fit import fit_iterations, standard_errors

SMALL = Settings(rows=4, columns=5, diodes=5, doubtful=6, measured=0.6)
SMALL_ARGUMENTS = [
    word
    for name in ("rows=4", "columns=5", "diodes=5", "doubtful=6", "measured=0.6")
    for word in ("--set", name)
]


@pytest.fixture(scope="module")
def circuit():
    return bench(SMALL)


@pytest.fixture(scope="module")
def fitted(circuit):
    return list(fit_iterations(circuit, SMALL.tolerance, SMALL.max_iterations))


@pytest.mark.parametrize("supply", [-5.0, 0.1, 0.6, 5.0, 15.0])
@pytest.mark.parametrize("resistance", [0.1, 10.0])
def test_a_diode_in_series_with_a_resistor_is_lamberts_w(supply, resistance):
    # The supply E behind R is the current E / R beside R; units V, mA, kOhm.
    saturation = 1e-9
    one = Network(1, np.array([[0, 1]]), np.array([[0, 1]]))
    solve = jax.jit(jax.value_and_grad(_voltage_of(one, supply)))
    p = {
        "log_conductance": jnp.log(1 / jnp.array([resistance])),
        "log_saturation": jnp.log(jnp.array([saturation])),
    }
    v, derivative = solve(p)
    log_x = (
        np.log(saturation * resistance / THERMAL_VOLTAGE)
        + (supply + saturation * resistance) / THERMAL_VOLTAGE
    )
    # W(exp(y)) for large y, where exp overflows, by w + ln w = y.
    w = (
        lambertw(np.exp(log_x)).real
        if log_x < 500
        else optimize.brentq(lambda w: w + np.log(w) - log_x, 1, log_x)
    )
    current = THERMAL_VOLTAGE / resistance * w - saturation
    np.testing.assert_allclose(v, supply - current * resistance, rtol=1e-11)
    # d W / d ln x = W / (1 + W).
    slope = (
        THERMAL_VOLTAGE * w / (1 + w) * (1 + saturation * resistance / THERMAL_VOLTAGE)
        - saturation * resistance
    )
    np.testing.assert_allclose(derivative["log_saturation"], [-slope], rtol=1e-8, atol=1e-16)


def _voltage_of(network, supply):
    def voltage(p):
        sources = supply * jnp.exp(p["log_conductance"])
        return network.voltages(p, sources, jnp.zeros(1)).value[0]

    return voltage


def test_the_currents_are_kirchhoffs_law():
    # Three nodes in a triangle with ground (3), and a diode that is not grounded.
    network = Network(3, np.array([[0, 1], [1, 2], [2, 3]]), np.array([[0, 2], [3, 1]]))
    g, saturation, v = np.array([1.0, 2.0, 3.0]), np.array([1e-6, 2e-6]), np.array([0.3, -0.1, 0.2])
    p = {"log_conductance": jnp.log(g), "log_saturation": jnp.log(saturation)}
    d1 = 1e-6 * (np.exp((0.3 - 0.2) / THERMAL_VOLTAGE) - 1)
    d2 = 2e-6 * (np.exp((0.0 + 0.1) / THERMAL_VOLTAGE) - 1)
    expected = [
        1.0 * 0.4 + d1 - 5.0,
        -1.0 * 0.4 - 2.0 * 0.3 - d2 - 6.0,
        2.0 * 0.3 - d1 + 3.0 * 0.2 - 7.0,
    ]
    found = network.currents(jnp.asarray(v), (p, jnp.array([5.0, 6.0, 7.0])))
    np.testing.assert_allclose(found, expected, rtol=1e-13)
    full = jax.jacfwd(network.currents)(jnp.asarray(v), (p, jnp.zeros(3)))
    pattern = np.zeros((3, 3), bool)
    pattern[network.pattern.rows, network.pattern.cols] = True
    np.testing.assert_array_equal(np.asarray(full) != 0, pattern)


def test_the_voltages_agree_with_another_solver(circuit):
    v = np.asarray(
        adjoint.require(jax.jit(circuit.solve)(circuit.truth, jnp.zeros(circuit.sources.shape)))
    )
    np.testing.assert_array_equal(v[:, circuit.measured], circuit.voltages)
    values = circuit.values(circuit.truth)
    currents = jax.jit(circuit.network.currents)
    slope = jax.jit(jax.jacfwd(circuit.network.currents))
    # The currents are a monotone function of the voltages, so there is one solution; MINPACK needs
    # a start close to it.
    for sources, found in zip(circuit.sources, v, strict=True):
        start = found + np.random.default_rng(0).uniform(-0.02, 0.02, 20)
        other = optimize.root(currents, start, args=((values, sources),), jac=slope, tol=1e-13)
        assert other.success
        np.testing.assert_allclose(found, other.x, rtol=1e-9)


@pytest.mark.slow
def test_the_sensitivity_and_the_standard_errors_are_those_of_differences(circuit):
    start = adjoint.require(jax.jit(circuit.solve)(circuit.guess, jnp.zeros(circuit.sources.shape)))
    found = jax.jit(circuit.sensitivity)(circuit.guess, start)
    solve, h = jax.jit(circuit.solve), 1e-5
    columns = []
    for name in ("log_conductance", "log_saturation"):
        for k in range(circuit.guess[name].size):
            moved = [
                circuit.guess | {name: circuit.guess[name].at[k].add(step)} for step in (h, -h)
            ]
            high, low = (np.asarray(solve(p, start).value)[:, circuit.measured] for p in moved)
            columns.append((high - low) / (2 * h))
            np.testing.assert_allclose(found[name][:, :, k], columns[-1], rtol=1e-5, atol=1e-9)
    J = np.stack([column.ravel() for column in columns], 1)
    expected = 1e-6 * np.sqrt(np.diag(np.linalg.inv(J.T @ J)))
    errors = standard_errors(circuit, circuit.guess, np.asarray(start), 1e-6)
    np.testing.assert_allclose(
        np.concatenate([errors[name] for name in sorted(errors)]), expected, rtol=1e-3
    )


@pytest.mark.slow
def test_a_gradient_takes_one_transpose_solve_for_each_experiment(circuit):
    gradient = jax.jit(jax.value_and_grad(circuit.misfit))
    with adjoint.count_solves() as count:
        jax.block_until_ready(gradient(circuit.guess, jnp.asarray(circuit.sources * 0)))
    assert count.transpose_solves == SMALL.experiments


def test_the_fit_finds_the_true_values(circuit, fitted):
    last = fitted[-1]
    assert last.misfit <= SMALL.tolerance < fitted[-2].misfit
    for name, truth in circuit.truth.items():
        assert np.max(np.abs(np.asarray(circuit.guess[name] - truth))) > 0.3
        np.testing.assert_allclose(last.p[name], truth, rtol=0, atol=1e-4)
    assert fitted[0].misfit > fitted[5].misfit > last.misfit
    assert [step.iteration for step in fitted] == list(range(1, len(fitted) + 1))


def test_a_circuit_without_a_solution_is_an_error_and_not_a_number(circuit):
    with pytest.raises(adjoint.SolveError):
        next(fit_iterations(replace(circuit, sources=circuit.sources * np.nan), 1e-8, 1))


def test_more_elements_than_there_is_room_for_are_refused(capsys):
    assert (
        main(
            [
                "verify",
                "diode_circuit",
                "--set",
                "rows=2",
                "--set",
                "columns=2",
                "--set",
                "doubtful=0",
            ]
        )
        == 2
    )
    assert (
        "2 x 2 nodes have room for 4 diodes and 4 resistors, got diodes = 200"
        in capsys.readouterr().err
    )


@pytest.mark.slow
def test_a_run_leaves_everything(tmp_path):
    assert main(["run", "diode_circuit", *SMALL_ARGUMENTS, "--out", str(tmp_path)]) == 0
    pictures = {"voltages.png", "values.png", "convergence.png"}
    names = {"command.txt", "result.json", "report.html", "history.csv", "run.json"} | pictures
    assert {path.name for path in tmp_path.iterdir()} == names
    result = json.loads((tmp_path / "result.json").read_text())
    assert result["gradient"]["trusted"]
    assert result["gradient"]["relative_error"] < 1e-6
    assert "10 of 11 values are identifiable" in result["ending"]
    rows = list(csv.DictReader((tmp_path / "history.csv").open()))
    assert float(rows[-1]["misfit"]) <= SMALL.tolerance
    assert float(rows[-1]["saturation_error"]) < 1e-4


@pytest.mark.slow
def test_too_few_iterations_are_not_convergence(tmp_path):
    arguments = [*SMALL_ARGUMENTS, "--set", "max_iterations=2", "--out", str(tmp_path)]
    assert main(["run", "diode_circuit", *arguments]) == 3
    assert "Not converged" in (tmp_path / "report.html").read_text()


@pytest.mark.slow
@pytest.mark.parametrize("noise", [0.0, 1e-5])
def test_the_circuit_of_a_thousand_nodes(noise, tmp_path):
    assert main(["run", "diode_circuit", "--set", f"noise={noise}", "--out", str(tmp_path)]) == 0
    rows = list(csv.DictReader((tmp_path / "history.csv").open()))
    if noise == 0:
        assert float(rows[-1]["conductance_error"]) < 1e-4
        assert float(rows[-1]["saturation_error"]) < 1e-4
    else:
        assert float(rows[-1]["misfit"]) == pytest.approx(noise, rel=0.15)
