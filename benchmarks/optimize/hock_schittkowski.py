"""Twenty-five problems of Hock and Schittkowski: 13 with equations, 12 with inequalities only.

Source: W. Hock, K. Schittkowski, Test Examples for Nonlinear Programming Codes, Lecture Notes in
Economics and Mathematical Systems 187, Springer (1981), by its numbers: functions, starts, optima
and their digits, stated as f, g = 0 and h <= 0. HS13, at whose optimum no multipliers balance f',
is left out: no method that measures by them could tell that it is there.
"""

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from benchmarks.optimize.constrained_cases import ConstrainedCase, Function

SQRT2, SQRT3, SQRT7 = np.sqrt([2, 3, 7])


def _hs(
    number: int,
    f: Function,
    start: Sequence[float],
    value: float,
    optimum: Sequence[float],
    equality: Function | None = None,
    inequality: Function | None = None,
    lower: Any = -np.inf,
    upper: Any = np.inf,
    digits: float = 5e-10,
) -> ConstrainedCase:
    def stacked(function: Function | None) -> Function | None:
        return None if function is None else lambda x: jnp.stack(function(x))

    shape = len(start)
    bounds = [np.broadcast_to(np.asarray(side, float), shape) for side in (lower, upper)]
    constraints = stacked(equality), stacked(inequality)
    return ConstrainedCase(
        f"HS{number}",
        f,
        np.array(start, float),
        value,
        digits,
        np.array(optimum, float),
        *constraints,
        *bounds,
    )


def _hs76(x: Any) -> Any:
    a, b, c, d = x
    return a**2 + b**2 / 2 + c**2 + d**2 / 2 - a * c + c * d - a - 3 * b + c - d


def _hs77(x: Any) -> Any:
    a, b, c, d, e = x
    return (a - 1) ** 2 + (a - b) ** 2 + (c - 1) ** 2 + (d - 1) ** 4 + (e - 1) ** 6


def _hs78_equations(x: Any) -> list[Any]:
    a, b, c, d, e = x
    return [jnp.sum(x**2) - 10, b * c - 5 * d * e, a**3 + b**3 + 1]


def _hs79(x: Any) -> Any:
    a, b, c, d, e = x
    return (a - 1) ** 2 + (a - b) ** 2 + (b - c) ** 2 + (c - d) ** 4 + (d - e) ** 4


def _hs100(x: Any) -> Any:
    a, b, c, d, e, f, g = x
    squares = (a - 10) ** 2 + 5 * (b - 12) ** 2 + 3 * (d - 11) ** 2 + 7 * f**2
    return squares + c**4 + 10 * e**6 + g**4 - 4 * f * g - 10 * f - 8 * g


def _hs100_limits(x: Any) -> list[Any]:
    a, b, c, d, e, f, g = x
    return [
        2 * a**2 + 3 * b**4 + c + 4 * d**2 + 5 * e - 127,
        7 * a + 3 * b + 10 * c**2 + d - e - 282,
        23 * a + b**2 + 6 * f**2 - 8 * g - 196,
        4 * a**2 + b**2 - 3 * a * b + 2 * c**2 + 5 * f - 11 * g,
    ]


def _hs113(x: Any) -> Any:
    a, b, c, d, e, f, g, h, i, j = x
    first = a**2 + b**2 + a * b - 14 * a - 16 * b + (c - 10) ** 2 + 4 * (d - 5) ** 2 + (e - 3) ** 2
    return (
        first
        + 2 * (f - 1) ** 2
        + 5 * g**2
        + 7 * (h - 11) ** 2
        + 2 * (i - 10) ** 2
        + (j - 7) ** 2
        + 45
    )


def _hs113_limits(x: Any) -> list[Any]:
    a, b, c, d, e, f, g, h, i, j = x
    return [
        4 * a + 5 * b - 3 * g + 9 * h - 105,
        10 * a - 8 * b - 17 * g + 2 * h,
        -8 * a + 2 * b + 5 * i - 2 * j - 12,
        3 * (a - 2) ** 2 + 4 * (b - 3) ** 2 + 2 * c**2 - 7 * d - 120,
        5 * a**2 + 8 * b + (c - 6) ** 2 - 2 * d - 40,
        (a - 8) ** 2 / 2 + 2 * (b - 4) ** 2 + 3 * e**2 - f - 30,
        a**2 + 2 * (b - 2) ** 2 - 2 * a * b + 14 * e - 6 * f,
        -3 * a + 6 * b + 12 * (i - 8) ** 2 - 7 * j,
    ]


def _rosen_suzuki(x: Any) -> Any:
    a, b, c, d = x
    return a**2 + b**2 + 2 * c**2 + d**2 - 5 * a - 5 * b - 21 * c + 7 * d


def _rosen_suzuki_limits(x: Any) -> list[Any]:
    a, b, c, d = x
    return [
        a**2 + b**2 + c**2 + d**2 + a - b + c - d - 8,
        a**2 + 2 * b**2 + c**2 + 2 * d**2 - a - d - 10,
        2 * a**2 + b**2 + c**2 + 2 * a - b - d - 5,
    ]


def _exponentials(x: Any) -> list[Any]:
    """Of HS34 and HS66."""
    return [jnp.exp(x[0]) - x[1], jnp.exp(x[1]) - x[2]]


EQUATIONS = (
    _hs(6, lambda x: (1 - x[0]) ** 2, [-1.2, 1], 0.0, [1, 1], lambda x: [10 * (x[1] - x[0] ** 2)]),
    _hs(
        7,
        lambda x: jnp.log(1 + x[0] ** 2) - x[1],
        [2, 2],
        -SQRT3,
        [0, SQRT3],
        lambda x: [(1 + x[0] ** 2) ** 2 + x[1] ** 2 - 4],
    ),
    _hs(
        14,
        lambda x: (x[0] - 2) ** 2 + (x[1] - 1) ** 2,
        [2, 2],
        9 - 2.875 * SQRT7,
        [(SQRT7 - 1) / 2, (SQRT7 + 1) / 4],
        lambda x: [x[0] - 2 * x[1] + 1],
        lambda x: [x[0] ** 2 / 4 + x[1] ** 2 - 1],
    ),
    # Its second derivatives vanish at the optimum in a direction along which the equation lets x
    # move.
    _hs(
        26,
        lambda x: (x[0] - x[1]) ** 2 + (x[1] - x[2]) ** 4,
        [-2.6, 2, 2],
        0.0,
        [1, 1, 1],
        lambda x: [(1 + x[1] ** 2) * x[0] + x[2] ** 4 - 3],
    ),
    _hs(
        39,
        lambda x: -x[0],
        [2] * 4,
        -1.0,
        [1, 1, 0, 0],
        lambda x: [x[1] - x[0] ** 3 - x[2] ** 2, x[0] ** 2 - x[1] - x[3] ** 2],
    ),
    _hs(
        40,
        lambda x: -jnp.prod(x),
        [0.8] * 4,
        -0.25,
        [2 ** (-1 / 3), 2**-0.5, 2 ** (-11 / 12), 2**-0.25],
        lambda x: [x[0] ** 3 + x[1] ** 2 - 1, x[0] ** 2 * x[3] - x[2], x[3] ** 2 - x[1]],
    ),
    _hs(
        53,
        lambda x: (x[0] - x[1]) ** 2 + (x[1] + x[2] - 2) ** 2 + (x[3] - 1) ** 2 + (x[4] - 1) ** 2,
        [2] * 5,
        176 / 43,
        [-33 / 43, 11 / 43, 27 / 43, -5 / 43, 11 / 43],
        lambda x: [x[0] + 3 * x[1], x[2] + x[3] - 2 * x[4], x[1] - x[4]],
        lower=-10,
        upper=10,
    ),
    _hs(
        63,
        lambda x: 1000 - x[0] ** 2 - 2 * x[1] ** 2 - x[2] ** 2 - x[0] * x[1] - x[0] * x[2],
        [2] * 3,
        961.7151721,
        [3.512118414, 0.2169881741, 3.552174034],
        lambda x: [8 * x[0] + 14 * x[1] + 7 * x[2] - 56, jnp.sum(x**2) - 25],
        lower=0,
        digits=5e-8,
    ),
    _hs(
        71,
        lambda x: x[0] * x[3] * (x[0] + x[1] + x[2]) + x[2],
        [1, 5, 5, 1],
        17.0140173,
        [1, 4.7429994, 3.8211503, 1.3794082],
        lambda x: [jnp.sum(x**2) - 40],
        lambda x: [25 - jnp.prod(x)],
        1,
        5,
        5e-8,
    ),
    _hs(
        77,
        _hs77,
        [2] * 5,
        0.24150513,
        [1.166172, 1.182111, 1.380257, 1.506036, 0.6109203],
        lambda x: [
            x[0] ** 2 * x[3] + jnp.sin(x[3] - x[4]) - 2 * SQRT2,
            x[1] + x[2] ** 4 * x[3] ** 2 - 8 - SQRT2,
        ],
        digits=5e-9,
    ),
    _hs(
        78,
        jnp.prod,
        [-2, 1.5, 2, -1, -1],
        -2.91970041,
        [-1.717142, 1.595708, 1.827248, -0.7636429, -0.7636435],
        _hs78_equations,
        digits=5e-9,
    ),
    _hs(
        79,
        _hs79,
        [2] * 5,
        0.0787768209,
        [1.191127, 1.362603, 1.472818, 1.635017, 1.679081],
        lambda x: [
            x[0] + x[1] ** 2 + x[2] ** 3 - 2 - 3 * SQRT2,
            x[1] - x[2] ** 2 + x[3] + 2 - 2 * SQRT2,
            x[0] * x[4] - 2,
        ],
        digits=5e-11,
    ),
    _hs(
        80,
        lambda x: jnp.exp(jnp.prod(x)),
        [-2, 2, 2, -1, -1],
        0.0539498478,
        [-1.717143, 1.595709, 1.827247, -0.7636413, -0.7636450],
        _hs78_equations,
        lower=[-2.3, -2.3, -3.2, -3.2, -3.2],
        upper=[2.3, 2.3, 3.2, 3.2, 3.2],
        digits=5e-11,
    ),
)

INEQUALITIES = (
    _hs(
        24,
        lambda x: ((x[0] - 3) ** 2 - 9) * x[1] ** 3 / (27 * SQRT3),
        [1, 0.5],
        -1.0,
        [3, SQRT3],
        None,
        lambda x: [x[1] - x[0] / SQRT3, -x[0] - SQRT3 * x[1], x[0] + SQRT3 * x[1] - 6],
        lower=0,
    ),
    _hs(
        30,
        lambda x: jnp.sum(x**2),
        [1] * 3,
        1.0,
        [1, 0, 0],
        None,
        lambda x: [1 - x[0] ** 2 - x[1] ** 2],
        [1, -10, -10],
        10,
    ),
    _hs(
        31,
        lambda x: 9 * x[0] ** 2 + x[1] ** 2 + 9 * x[2] ** 2,
        [1] * 3,
        6.0,
        [1 / SQRT3, SQRT3, 0],
        None,
        lambda x: [1 - x[0] * x[1]],
        [-10, 1, -10],
        [10, 10, 1],
    ),
    _hs(
        34,
        lambda x: -x[0],
        [0, 1.05, 2.9],
        -np.log(np.log(10)),
        [np.log(np.log(10)), np.log(10), 10],
        None,
        _exponentials,
        0,
        [100, 100, 10],
    ),
    _hs(
        35,
        lambda x: (
            9
            - 8 * x[0]
            - 6 * x[1]
            - 4 * x[2]
            + 2 * x[0] ** 2
            + 2 * x[1] ** 2
            + x[2] ** 2
            + 2 * x[0] * (x[1] + x[2])
        ),
        [0.5] * 3,
        1 / 9,
        [4 / 3, 7 / 9, 4 / 9],
        None,
        lambda x: [x[0] + x[1] + 2 * x[2] - 3],
        lower=0,
    ),
    _hs(43, _rosen_suzuki, [0] * 4, -44.0, [0, 1, 2, -1], None, _rosen_suzuki_limits),
    _hs(
        64,
        lambda x: 5 * x[0] + 5e4 / x[0] + 20 * x[1] + 7.2e4 / x[1] + 10 * x[2] + 1.44e5 / x[2],
        [1] * 3,
        6299.842428,
        [108.7347175, 85.12613942, 204.3247078],
        None,
        lambda x: [4 / x[0] + 32 / x[1] + 120 / x[2] - 1],
        lower=1e-5,
        digits=5e-7,
    ),
    _hs(
        65,
        lambda x: (x[0] - x[1]) ** 2 + (x[0] + x[1] - 10) ** 2 / 9 + (x[2] - 5) ** 2,
        [-5, 5, 0],
        0.9535288567,
        [3.650461821, 3.65046168, 4.6204170507],
        None,
        lambda x: [jnp.sum(x**2) - 48],
        [-4.5, -4.5, -5],
        [4.5, 4.5, 5],
    ),
    _hs(
        66,
        lambda x: 0.2 * x[2] - 0.8 * x[0],
        [0, 1.05, 2.9],
        0.5181632741,
        [0.1841264879, 1.202167873, 3.327322322],
        None,
        _exponentials,
        0,
        [100, 100, 10],
    ),
    _hs(
        76,
        _hs76,
        [0.5] * 4,
        -4.681818181,
        [3 / 11, 23 / 11, 0, 6 / 11],
        None,
        lambda x: [
            x[0] + 2 * x[1] + x[2] + x[3] - 5,
            3 * x[0] + x[1] + 2 * x[2] - x[3] - 4,
            1.5 - x[1] - 4 * x[2],
        ],
        lower=0,
    ),
    _hs(
        100,
        _hs100,
        [1, 2, 0, 4, 0, 1, 1],
        680.6300573,
        [2.330499, 1.951372, -0.4775414, 4.365726, -0.6244870, 1.038131, 1.594227],
        None,
        _hs100_limits,
        digits=5e-8,
    ),
    _hs(
        113,
        _hs113,
        [2, 3, 5, 5, 1, 2, 7, 3, 6, 10],
        24.3062091,
        [
            2.171996,
            2.363683,
            8.773926,
            5.095984,
            0.9906548,
            1.430574,
            1.321644,
            9.828726,
            8.280092,
            8.375927,
        ],
        None,
        _hs113_limits,
        digits=5e-8,
    ),
)
