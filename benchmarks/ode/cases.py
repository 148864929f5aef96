"""The initial value problems, all with one scalar: g = 1/2 mean(((y(ts) - data) / scale)^2).

Differentiated are factors of the initial state and of the parameters, all about 1, so that their
derivatives are of similar size, however different the values: rate constants of Robertson's problem
span nine decades.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

RTOL = 1e-6
# The absolute tolerance is this share of the relative one, everywhere and for everybody.
ATOL_SHARE = 1e-3
# Both this library and diffrax have it as their default.
MAX_STEPS = 4096
# Factors are drawn from 1 - SPREAD to 1 + SPREAD.
SPREAD = 0.01

Field = Callable[[Any, Any, Any], Any]


@dataclass(frozen=True)
class Case:
    """One initial value problem.

    Attributes
    ----------
    problem
        Its name in `PROBLEMS`.
    f
        f(t, y, p), the rate of y; p as `arranged` gives it.
    y0, p
        The nominal initial state at t = 0, and the nominal parameters.
    by_start
        Whether the initial state is differentiated too; the parameters always are.
    ts
        When to compare with the data; the last one is the end.
    data, scale
        Of each state at these times, and of each state.
    is_stiff
        Whether it is for implicit solvers.
    rtol, max_steps
        As all are given them.
    drawn_alike
        How many neighboring factors are drawn as one.
    """

    problem: str
    f: Field
    y0: Float[np.ndarray, " n"]
    p: Float[np.ndarray, " n_p"]
    by_start: bool
    ts: Float[np.ndarray, " samples"]
    data: Float[np.ndarray, "samples n"]
    scale: Float[np.ndarray, " n"]
    is_stiff: bool = False
    rtol: float = RTOL
    max_steps: int = MAX_STEPS
    drawn_alike: int = 1

    @property
    def n(self) -> int:
        """Number of states."""
        return self.y0.size

    @property
    def parameters(self) -> int:
        """How many numbers are differentiated."""
        return self.p.size + self.by_start * self.n

    @property
    def atol(self) -> float:
        """The absolute tolerance."""
        return ATOL_SHARE * self.rtol

    def with_rtol(self, rtol: float) -> "Case":
        """The same problem at another tolerance."""
        return replace(self, rtol=rtol)

    def draw(self, generator: np.random.Generator) -> Float[Array, " parameters"]:
        """Factors that have not been used before."""
        drawn = generator.uniform(1 - SPREAD, 1 + SPREAD, self.parameters // self.drawn_alike)
        return jnp.asarray(np.repeat(drawn, self.drawn_alike))

    def split(self, factors: Any) -> tuple[Any, Any]:
        """The initial state and the parameters as f takes them, of an array of NumPy or of JAX."""
        if not self.by_start:
            return jnp.asarray(self.y0), self.arranged(self.p * factors)
        return self.y0 * factors[: self.n], self.arranged(self.p * factors[self.n :])

    def arranged(self, p: Any) -> Any:
        """Parameters as f takes them: a network's by layer, as is usual, others as they are."""
        return self.f.layers(p) if isinstance(self.f, Network) else p

    def parts(self, gradient: np.ndarray) -> list[np.ndarray]:
        """The gradient by the initial state, where it is differentiated, and by the parameters."""
        return [gradient[: self.n], gradient[self.n :]] if self.by_start else [gradient]

    def misfit(self, ys: Any) -> Any:
        """g, of states at the times ts."""
        return 0.5 * (((ys - self.data) / self.scale[None, :]) ** 2).mean()


def lotka_volterra(samples: int = 100) -> Case:
    """Prey and predator over some three periods, with data at 100 times.

    They are those of the nominal motion with 5 % of noise.
    """
    from scipy.integrate import solve_ivp

    y0 = np.array([1.0, 1.0])
    p = np.array([1.5, 1.0, 3.0, 1.0])
    ts = np.linspace(0.1, 10, samples)

    def rate(t: float, y: np.ndarray) -> np.ndarray:
        return np.array([p[0] * y[0] - p[1] * y[0] * y[1], p[3] * y[0] * y[1] - p[2] * y[1]])

    motion = solve_ivp(rate, (0, ts[-1]), y0, "DOP853", ts, rtol=1e-9, atol=1e-9).y.T
    data = motion * (1 + 0.05 * np.random.default_rng(0).standard_normal(motion.shape))
    return Case("Lotka-Volterra", _prey_and_predator, y0, p, True, ts, data, np.ones(2))


def _prey_and_predator(t: Any, y: Array, p: Array) -> Array:
    meet = y[0] * y[1]
    return jnp.stack([p[0] * y[0] - p[1] * meet, p[3] * meet - p[2] * y[1]])


def double_pendulum(end: float = 4.0) -> Case:
    """Two rods that start level; angles and rates at the end, while gradients have a meaning."""
    y0 = np.array([np.pi / 2, np.pi / 2, 0.1, -0.1])
    p = np.array([1.0, 1.0, 1.0, 1.0, 9.81])
    return Case(
        "double pendulum", _pendulum, y0, p, True, np.array([end]), np.zeros((1, 4)), np.ones(4)
    )


def _pendulum(t: Any, y: Array, p: Array) -> Array:
    # E. W. Weisstein, Double Pendulum, ScienceWorld; p = (m_1, m_2, l_1, l_2, g).
    a_1, a_2, w_1, w_2 = y
    m_1, m_2, l_1, l_2, g = p
    sine = jnp.sin(a_1 - a_2)
    cosine = jnp.cos(a_1 - a_2)
    m = m_1 + m_2
    force_1 = -m_2 * l_2 * w_2**2 * sine - m * g * jnp.sin(a_1)
    force_2 = l_1 * w_1**2 * sine - g * jnp.sin(a_2)
    denominator = m_1 + m_2 * sine**2
    rate_1 = (force_1 - m_2 * cosine * force_2) / (l_1 * denominator)
    rate_2 = (m * force_2 - cosine * force_1) / (l_2 * denominator)
    return jnp.stack([w_1, w_2, rate_1, rate_2])


@dataclass(frozen=True)
class Network:
    """y' = W_3 tanh(W_2 tanh(W_1 y + b_1) + b_2) + b_3 of each of a batch.

    W_1, b_1, W_2, ... lie in p row by row.
    """

    features: int
    width: int
    batch: int

    @property
    def shapes(self) -> list[tuple[int, int]]:
        """Of the three matrices."""
        sizes = [self.features, self.width, self.width, self.features]
        return [(sizes[i + 1], sizes[i]) for i in range(3)]

    def layers(self, p: Any) -> list[tuple[Any, Any]]:
        """Matrices and vectors, cut out of p."""
        found = []
        first = 0
        for rows, columns in self.shapes:
            middle = first + rows * columns
            found.append((p[first:middle].reshape(rows, columns), p[middle : middle + rows]))
            first = middle + rows
        return found

    def __call__(self, t: Any, y: Array, layers: list[tuple[Array, Array]]) -> Array:
        (W_1, b_1), (W_2, b_2), (W_3, b_3) = layers
        h = jnp.tanh(y.reshape(self.batch, self.features) @ W_1.T + b_1[None, :])
        h = jnp.tanh(h @ W_2.T + b_2[None, :])
        return (h @ W_3.T + b_3[None, :]).ravel()


def neural(
    name: str, end: float, samples: int, features: int = 10, width: int = 64, batch: int = 16
) -> Case:
    """A neural ODE that turns, neither resting nor running away: small y have y' = K y, K' = -K."""
    generator = np.random.default_rng(0)
    network = Network(features, width, batch)
    W_1 = np.linalg.qr(generator.standard_normal((width, features)))[0]
    W_2 = np.linalg.qr(generator.standard_normal((width, width)))[0]
    K = generator.standard_normal((features, features))
    W_3 = (K - K.T) @ W_1.T @ W_2.T
    p = np.concatenate(
        [np.append(W, 0.01 * generator.standard_normal(len(W))) for W in (W_1, W_2, W_3)]
    )
    y0 = generator.standard_normal(batch * features)
    ts = np.linspace(end / samples, end, samples)
    return Case(name, network, y0, p, False, ts, np.zeros((samples, y0.size)), np.ones(y0.size))


def robertson(end: float = 1e5, samples: int = 20) -> Case:
    """Three species and rate constants of 0.04, 3e7 and 1e4 (H.

    H. Robertson, 1966); the second species is scaled by its peak.
    """
    ts = np.geomspace(1e-4, end, samples)
    scale = np.array([1.0, 3.65e-5, 1.0])
    y0 = np.array([1.0, 0.0, 0.0])
    p = np.array([0.04, 3e7, 1e4])
    return Case(
        "Robertson", _robertson, y0, p, True, ts, np.zeros((samples, 3)), scale, is_stiff=True
    )


def _robertson(t: Any, y: Array, p: Array) -> Array:
    slow = p[0] * y[0]
    fast = p[1] * y[1] ** 2
    back = p[2] * y[1] * y[2]
    return jnp.stack([back - slow, slow - back - fast, fast])


@dataclass(frozen=True)
class Brusselator:
    """u' = a lap(u) + b + u^2 v - (c + 1) u, v' = a lap(v) + c u - u^2 v on N x N periodic nodes.

    p holds the fields c, b, a. As in the documentation of SciML's stiff benchmarks, where c = 3.4,
    b = 1, a = 10 and h = 1 / (N - 1).
    """

    N: int

    def __call__(self, t: Any, y: Array, p: Array) -> Array:
        u, v = y.reshape(2, self.N, self.N)
        c, b, a = p.reshape(3, self.N, self.N)
        reaction = u**2 * v
        u_rate = a * self.laplacian(u) + b + reaction - (c + 1) * u
        v_rate = a * self.laplacian(v) + c * u - reaction
        return jnp.concatenate([u_rate.ravel(), v_rate.ravel()])

    def laplacian(self, z: Array) -> Array:
        """Five-point differences."""
        neighbors = jnp.roll(z, 1, 0) + jnp.roll(z, -1, 0) + jnp.roll(z, 1, 1) + jnp.roll(z, -1, 1)
        return (self.N - 1) ** 2 * (neighbors - 4 * z)


def brusselator(name: str, is_stiff: bool, N: int = 16, end: float = 1.0) -> Case:
    """2 N^2 states and 3 N^2 parameters, to be solved by an explicit or by an implicit method."""
    x, y = np.meshgrid(*2 * [np.linspace(0, 1, N)], indexing="ij")
    y0 = np.concatenate([(22 * (y * (1 - y)) ** 1.5).ravel(), (27 * (x * (1 - x)) ** 1.5).ravel()])
    p = np.repeat([3.4, 1.0, 10.0], N * N)
    data = np.zeros((1, y0.size))
    scale = np.ones(y0.size)
    # The stability of explicit steps asks for 5,500 of them in a unit of time. Fields of parameters
    # are constant, as those that are usually started from: then the fastest modes are but rounding
    # errors, the controller of the steps does not see them grow, and in the gradient of the steps
    # they are amplified by orders of magnitude.
    return Case(
        name,
        Brusselator(N),
        y0,
        p,
        True,
        np.array([end]),
        data,
        scale,
        is_stiff,
        max_steps=2 * MAX_STEPS,
        drawn_alike=N * N,
    )


PROBLEMS: dict[str, Callable[[], Case]] = {
    "Lotka-Volterra": lotka_volterra,
    "double pendulum": double_pendulum,
    "neural ODE": partial(neural, "neural ODE", 1.5, 30),
    "long neural ODE": partial(neural, "long neural ODE", 60.0, 30),
    "Robertson": robertson,
    "Brusselator, explicit": partial(brusselator, "Brusselator, explicit", False),
    "Brusselator, implicit": partial(brusselator, "Brusselator, implicit", True),
}
