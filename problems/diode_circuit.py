"""A network of 1,000 nodes: resistors and diodes fitted to voltages measured at half of the nodes.

The board is a grid of resistors with a load from every node to ground, diodes from some nodes to
ground, four supplies (a voltage behind a resistance) and current sources. `adjoint.root` finds the
voltages v by damped Newton steps on the network's sparsity (`problems.network`); the diodes'
exponentials are used as they are, without limiting of junction voltages.

The fit: minimize the mean square m(p) of the voltages' misfit in several experiments, which differ
by the current sources, over the logarithms p of all saturation currents and of those conductances
that are in doubt. The gradient takes one more solve for each experiment, however many values there
are. Each logarithm is scaled by the norm of its column of d v / d p at the start, so that a unit of
every variable moves the voltages alike; L-BFGS (optax) then needs a tenth of the iterations.

The measured voltages are computed from true values that the fit does not know, so without noise it
must find these again. A single diode in series with a resistor has a closed form by Lambert's W
function (T. C. Banwell and A. Jayakumar, Exact analytical solution for current flow through diode
with series resistance, Electronics Letters 36 (2000) 291-292).
"""

from dataclasses import dataclass, field, replace

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

import adjoint
from adjoint.run.ending import Ending, Outcome
from adjoint.run.figures import Panel, convergence_png
from adjoint.run.record import Record
from problems.network import Bench, Network, Values
from problems.network_fit import Iteration, fit_iterations, standard_errors
from problems.pictures import Curve, Map, Plot, maps_png, plots_png

SUMMARY = (
    "Element values of a circuit with 1,000 nodes and 200 diodes, fitted to measured voltages."
)
JUDGED = "Judged at nominal values, for 2 experiments with at most 8x10 nodes."

NOMINAL_CONDUCTANCE = 1.0  # mS
NOMINAL_SATURATION = 1e-9  # mA
LOAD = 0.05  # mS, from every node to ground
SUPPLY = (5.0, 1.0)  # V behind mS
DRIVE = 2.0  # mA, the largest current source
# A value is identifiable when voltages that are known to 1 uV determine it to 1 %.
VOLTAGE_ERROR = 1e-6
VALUE_ERROR = 1e-2


@dataclass(frozen=True)
class Settings:
    """What can be set, each with its meaning and its range in the metadata of the field."""

    rows: int = field(default=25, metadata={"help": "rows of nodes", "minimum": 2, "maximum": 300})
    columns: int = field(
        default=40, metadata={"help": "columns of nodes", "minimum": 2, "maximum": 300}
    )
    diodes: int = field(
        default=200, metadata={"help": "diodes to ground, at random nodes", "minimum": 1}
    )
    doubtful: int = field(
        default=200, metadata={"help": "resistors whose conductance is fitted", "minimum": 0}
    )
    experiments: int = field(
        default=4, metadata={"help": "sets of current sources", "minimum": 1, "maximum": 64}
    )
    measured: float = field(
        default=0.5, metadata={"help": "share of nodes measured", "minimum": 0.01, "maximum": 1.0}
    )
    noise: float = field(
        default=0.0,
        metadata={
            "help": "standard deviation of the voltages' noise in V",
            "minimum": 0.0,
            "maximum": 1.0,
        },
    )
    tolerance: float = field(
        default=1e-8,
        metadata={
            "help": "stop at this root mean square misfit in V, without noise",
            "minimum": 1e-12,
        },
    )
    max_iterations: int = field(
        default=600, metadata={"help": "stop after this many iterations", "minimum": 1}
    )
    seed: int = field(default=0, metadata={"help": "of the random circuit and noise", "minimum": 0})

    def __post_init__(self) -> None:
        nodes = self.rows * self.columns
        resistors = 2 * self.rows * self.columns - self.rows - self.columns
        if self.diodes > nodes or self.doubtful > resistors:
            raise ValueError(
                f"{self.rows} x {self.columns} nodes have room for {nodes} diodes and {resistors} "
                "resistors, "
                f"got diodes = {self.diodes} and doubtful = {self.doubtful}"
            )


def bench(settings: Settings) -> Bench:
    """The circuit of these settings, random by its seed, with its measured voltages.

    Raises
    ------
    adjoint.SolveError
        When the voltages of the true circuit are not found.
    """
    random = np.random.default_rng(settings.seed)
    nodes = settings.rows * settings.columns
    number = np.arange(nodes).reshape(settings.rows, settings.columns)
    across, down = (np.stack([a.ravel(), b.ravel()], 1) for a, b in _neighbors(number))
    supplied = number[[0, 0, -1, -1], [0, -1, 0, -1]]
    grounded = np.concatenate([np.arange(nodes), supplied])
    network = Network(
        nodes,
        np.concatenate([across, down, np.stack([grounded, np.full(grounded.size, nodes)], 1)]),
        np.stack(
            [
                np.sort(random.choice(nodes, settings.diodes, replace=False)),
                np.full(settings.diodes, nodes),
            ],
            1,
        ),
    )
    links = len(across) + len(down)
    doubtful = np.sort(random.choice(links, settings.doubtful, replace=False))
    # Resistors and diodes are off their nominal values by factors of up to sqrt(e) and e.
    true_links = np.log(NOMINAL_CONDUCTANCE) + random.uniform(-0.5, 0.5, links)
    others = np.log(np.concatenate([np.full(nodes, LOAD), np.full(supplied.size, SUPPLY[1])]))
    truth = {
        "log_conductance": np.concatenate([true_links, others]),
        "log_saturation": np.log(NOMINAL_SATURATION) + random.uniform(-1.0, 1.0, settings.diodes),
    }
    known = {
        "log_conductance": truth["log_conductance"].copy(),
        "log_saturation": np.full(settings.diodes, np.log(NOMINAL_SATURATION)),
    }
    known["log_conductance"][doubtful] = np.log(NOMINAL_CONDUCTANCE)
    driven = random.random((settings.experiments, nodes)) < 0.3
    sources = driven * random.uniform(-0.5 * DRIVE, DRIVE, driven.shape)
    sources[:, supplied] += SUPPLY[0] * SUPPLY[1]
    measured = np.sort(
        random.choice(nodes, max(1, round(settings.measured * nodes)), replace=False)
    )
    p = {
        "log_conductance": jnp.asarray(truth["log_conductance"][doubtful]),
        "log_saturation": jnp.asarray(truth["log_saturation"]),
    }
    empty = np.zeros((settings.experiments, measured.size))
    circuit = Bench(network, sources, known, doubtful, measured, empty, p)
    v = np.asarray(adjoint.require(jax.jit(circuit.solve)(p, jnp.zeros(sources.shape))))[
        :, measured
    ]
    return replace(circuit, voltages=v + settings.noise * random.standard_normal(v.shape))


def _neighbors(number: Int[np.ndarray, "rows columns"]) -> list[tuple[np.ndarray, np.ndarray]]:
    return [(number[:, :-1], number[:, 1:]), (number[:-1], number[1:])]


def verify(settings: Settings) -> adjoint.Verdict:
    """Check d misfit / d p by independent oracles, at nominal values.

    There are 2 experiments with at most 8x10 nodes.
    """
    circuit = bench(_small(settings))
    start = adjoint.require(jax.jit(circuit.solve)(circuit.guess, jnp.zeros(circuit.sources.shape)))
    return adjoint.verify_gradient(jax.jit(lambda p: circuit.misfit(p, start)), circuit.guess)


def _small(settings: Settings) -> Settings:
    rows = min(settings.rows, 8)
    columns = min(settings.columns, 10)
    share = rows * columns / (settings.rows * settings.columns)
    # Rounded up, so that there is a diode.
    diodes = int(np.ceil(share * settings.diodes))
    doubtful = int(share * settings.doubtful)
    experiments = min(settings.experiments, 2)
    return replace(
        settings,
        rows=rows,
        columns=columns,
        diodes=diodes,
        doubtful=doubtful,
        experiments=experiments,
    )


def run(settings: Settings, record: Record) -> Ending:
    """Fit the element values, and compare them with the true ones.

    Raises
    ------
    adjoint.SolveError
        When the voltages of a circuit are not found.
    KeyboardInterrupt
        After the iteration in which Ctrl-C was pressed.
    OSError
        When a file cannot be written.
    """
    circuit = bench(settings)
    # Noise can be fitted down to its own size, less what the fitted values take up of it.
    freedom = max(1 - sum(v.size for v in circuit.truth.values()) / circuit.voltages.size, 0.0)
    tolerance = max(settings.tolerance, 1.05 * settings.noise * freedom**0.5)
    latest = None
    try:
        for latest in record.follow(fit_iterations(circuit, tolerance, settings.max_iterations)):
            record.iteration(_row(circuit, latest))
    finally:
        if latest is not None:
            _leave(settings, circuit, latest, tolerance, record)
    return _ending(circuit, latest, tolerance)


def _row(circuit: Bench, iteration: Iteration) -> dict[str, object]:
    conductance, saturation = (
        float(np.max(error, initial=0.0)) for error in _errors(circuit, iteration.p).values()
    )
    return {
        "iteration": iteration.iteration,
        "misfit": iteration.misfit,
        "conductance_error": conductance,
        "saturation_error": saturation,
        "newton_steps": iteration.newton_steps,
        "seconds": iteration.seconds,
    }


def _errors(circuit: Bench, p: Values) -> dict[str, Float[np.ndarray, " elements"]]:
    """How far fitted logarithms are from the true ones: relative errors of values, when small."""
    names = ("log_conductance", "log_saturation")
    return {name: np.abs(np.asarray(p[name]) - np.asarray(circuit.truth[name])) for name in names}


def _ending(circuit: Bench, latest: Iteration | None, tolerance: float) -> Ending:
    """Done when the misfit is down and every identifiable value is found.

    It is found to within what the misfit left undecided.
    """
    if latest is None:
        return Ending(Outcome.NOT_CONVERGED, "No step lowers the misfit of the nominal values.")
    errors = np.concatenate(list(_errors(circuit, latest.p).values()))
    uncertain = standard_errors(circuit, latest.p, latest.voltages, 1.0)
    per_volt = np.concatenate([uncertain[name] for name in ("log_conductance", "log_saturation")])
    identifiable = per_volt * VOLTAGE_ERROR <= VALUE_ERROR
    worst = float(np.max(errors[identifiable], initial=0.0))
    sentence = (
        f"The misfit is {latest.misfit:.2e} V after {latest.iteration} iterations, the tolerance "
        f"{tolerance:.2e} V. "
        f"{identifiable.sum()} of {errors.size} values are identifiable, and the worst of them is "
        f"off by {worst:.1e}"
    )
    if latest.misfit > tolerance:
        return Ending(Outcome.NOT_CONVERGED, f"Not converged: {sentence}.")
    # The misfit of n voltages moves a value by at most sqrt(n) misfit times its error per volt; a
    # factor 2 for curvature.
    allowed = 2 * circuit.voltages.size**0.5 * tolerance * per_volt
    if np.any(errors[identifiable] > allowed[identifiable]):
        return Ending(Outcome.NOT_CONVERGED, f"Another circuit fits as well: {sentence}.")
    return Ending(Outcome.DONE, f"Fitted: {sentence}.")


def _leave(
    settings: Settings, circuit: Bench, latest: Iteration, tolerance: float, record: Record
) -> None:
    """The pictures of the latest values."""
    history = record.history
    shape = (settings.rows, settings.columns)
    extent = (-0.5, settings.columns - 0.5, -0.5, settings.rows - 0.5)
    misfit = np.full(latest.voltages[0].size, np.nan)
    misfit[circuit.measured] = 1e9 * (latest.voltages[0, circuit.measured] - circuit.voltages[0])
    maps = (
        Map("voltages, experiment 1", "v in V", latest.voltages[0].reshape(shape).T, extent),
        Map(
            "misfit at the measured nodes",
            "fitted - measured in nV",
            misfit.reshape(shape).T,
            extent,
        ),
    )
    record.picture(
        "voltages.png",
        maps_png(maps, "column", "row"),
        "Voltages and their misfit in experiment 1.",
    )
    plots = [
        _comparison(
            "conductances",
            "mS",
            circuit.guess["log_conductance"],
            latest.p,
            circuit.truth,
            "log_conductance",
        ),
        _comparison(
            "saturation currents",
            "mA",
            circuit.guess["log_saturation"],
            latest.p,
            circuit.truth,
            "log_saturation",
        ),
    ]
    record.picture(
        "values.png", plots_png(plots), "Fitted over true element values; on the line they agree."
    )
    panels = [
        Panel(
            "misfit in V (root mean square)",
            history.column("misfit"),
            "log",
            tolerance,
            "tolerance",
        ),
        Panel("largest error of ln g", history.column("conductance_error"), "log"),
        Panel("largest error of ln I_s", history.column("saturation_error"), "log"),
    ]
    title = f"Fit of {sum(v.size for v in circuit.truth.values())} element values"
    plot = convergence_png(history.column("iteration"), panels, title)
    record.picture(
        "convergence.png",
        plot,
        "Misfit and largest errors of the element values in each iteration.",
    )


def _comparison(title: str, unit: str, guess: Array, p: Values, truth: Values, name: str) -> Plot:
    true = np.exp(np.asarray(truth[name]))
    ends = np.array([true.min(), true.max()]) if true.size else np.ones(2)
    curves = [
        Curve("nominal", true, np.exp(np.asarray(guess)), "faint dots"),
        Curve("fitted", true, np.exp(np.asarray(p[name])), "dots"),
        Curve("equal", ends, ends, "line"),
    ]
    return Plot(title, f"true in {unit}", f"fitted in {unit}", curves, "log")
