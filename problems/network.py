"""Electrical networks of resistors, diodes and current sources by Kirchhoff's current law.

It holds at every node; units are mA, V and mS.

    F(v, p) = sum over resistors g (v_a - v_b)
            + sum over diodes I_s (exp((v_a - v_b) / V_T) - 1) - sources = 0

(W. Shockley, The theory of p-n junctions, Bell Syst. Tech. J. 28 (1949) 435-489.) A voltage source
E behind a resistance is a current source E g beside a resistor g to ground (Norton).

A bench is a network some of whose element values are in doubt, with voltages measured in several
experiments.
"""

from dataclasses import dataclass
from functools import cached_property

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

import adjoint

THERMAL_VOLTAGE = 0.02585  # V, k T / q at 300 K

# The logarithms of the element values: "log_conductance" of the resistors in mS, "log_saturation"
# of the diodes in mA.
Values = dict[str, Float[Array, " elements"]]


@dataclass(frozen=True, eq=False)
class Network:
    """Which nodes the elements connect; the node number ``nodes`` is ground, at 0 V.

    Attributes
    ----------
    resistors, diodes
        A row of two nodes for each; a diode conducts from its first node to its second.
    """

    nodes: int
    resistors: Int[np.ndarray, "resistors 2"]
    diodes: Int[np.ndarray, "diodes 2"]

    @cached_property
    def pattern(self) -> adjoint.SparsePattern:
        """Where the Jacobian of the currents may be nonzero: elements couple their two nodes."""
        a, b = np.concatenate([self.resistors, self.diodes]).T
        rows = np.concatenate([a, a, b, b])
        cols = np.concatenate([a, b, a, b])
        inner = (rows < self.nodes) & (cols < self.nodes)
        return adjoint.SparsePattern(rows[inner], cols[inner], (self.nodes, self.nodes))

    def currents(
        self, v: Float[Array, " nodes"], values_and_sources: tuple[Values, Float[Array, " nodes"]]
    ) -> Float[Array, " nodes"]:
        """F: the current in mA that leaves nodes by elements, less what the sources bring."""
        values, sources = values_and_sources
        v = jnp.append(v, 0.0)
        (a, b), (c, d) = self.resistors.T, self.diodes.T
        resistor = jnp.exp(values["log_conductance"]) * (v[a] - v[b])
        log_saturation = values["log_saturation"]
        # One exponent, since I_s is tiny where exp(v / V_T) is huge.
        diode = jnp.exp(log_saturation + (v[c] - v[d]) / THERMAL_VOLTAGE) - jnp.exp(log_saturation)
        leaving = (
            jnp.zeros_like(v)
            .at[a]
            .add(resistor)
            .at[b]
            .add(-resistor)
            .at[c]
            .add(diode)
            .at[d]
            .add(-diode)
        )
        return leaving[:-1] - sources

    def voltages(
        self, values: Values, sources: Float[Array, " nodes"], start: Float[Array, " nodes"]
    ) -> adjoint.Solution[Float[Array, " nodes"]]:
        """v with F(v, p) = 0."""
        return adjoint.root(self.currents, start, (values, sources), jacobian_pattern=self.pattern)


@dataclass(frozen=True, eq=False)
class Bench:
    """A circuit on the bench, with what is known of it.

    Attributes
    ----------
    sources
        Currents into the nodes in mA, one row for each experiment.
    known
        All element values as the fit knows them: nominal where they are in doubt.
    doubtful
        Which resistors are.
    measured
        The measured nodes.
    voltages
        At those, in V, one row for each experiment.
    truth
        The logarithms that the fit should find.
    """

    network: Network
    sources: Float[np.ndarray, "experiments nodes"]
    known: dict[str, Float[np.ndarray, " elements"]]
    doubtful: Int[np.ndarray, " doubtful"]
    measured: Int[np.ndarray, " measured"]
    voltages: Float[np.ndarray, "experiments measured"]
    truth: Values

    @property
    def guess(self) -> Values:
        """Nominal values, from which the fit starts."""
        return {
            "log_conductance": jnp.asarray(self.known["log_conductance"][self.doubtful]),
            "log_saturation": jnp.asarray(self.known["log_saturation"]),
        }

    def values(self, p: Values) -> Values:
        """All element values, with p where they are in doubt."""
        conductance = (
            jnp.asarray(self.known["log_conductance"]).at[self.doubtful].set(p["log_conductance"])
        )
        return {"log_conductance": conductance, "log_saturation": p["log_saturation"]}

    def solve(
        self, p: Values, start: Float[Array, "experiments nodes"]
    ) -> adjoint.Solution[Float[Array, "experiments nodes"]]:
        """All voltages in all experiments, from ``start`` on."""
        values = self.values(p)
        solve = jax.vmap(lambda sources, start: self.network.voltages(values, sources, start))
        return solve(jnp.asarray(self.sources), start)

    def misfit(self, p: Values, start: Float[Array, "experiments nodes"]) -> Float[Array, ""]:
        """m(p): mean square of the misfit of the measured voltages, in V^2."""
        return jnp.mean((self.solve(p, start).value[:, self.measured] - self.voltages) ** 2)

    def sensitivity(
        self, p: Values, start: Float[Array, "experiments nodes"]
    ) -> dict[str, Float[Array, "experiments measured elements"]]:
        """d v / d p of the measured voltages.

        It takes one factorization for each experiment and one solve for each voltage.
        """

        def measure(p: Values, sources: Array, start: Array) -> Array:
            return self.network.voltages(self.values(p), sources, start).value[self.measured]

        return jax.vmap(jax.jacrev(measure), in_axes=(None, 0, 0))(
            p, jnp.asarray(self.sources), start
        )
