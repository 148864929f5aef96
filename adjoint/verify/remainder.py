"""The Taylor remainder along a line: its two parts, its order and its leading coefficient."""

import itertools
import math
from dataclasses import dataclass

import numpy as np

from adjoint.verify.differences import DEVIATIONS
from adjoint.verify.line import Line


@dataclass(frozen=True)
class Fit:
    """The coefficient of h^k in a remainder of known parity, with its uncertainty."""

    coefficient: float
    uncertainty: float


def leading_coefficient(
    steps: np.ndarray, parts: np.ndarray, noises: np.ndarray, order: int
) -> Fit | None:
    """a in part(h) = a h^order + b h^(order+2) + c h^(order+4) + noise, by weighted least squares.

    Parameters
    ----------
    steps
        h, falling, (m,).
    parts
        The part of the remainder with the parity of `order`, (m,).
    noises
        Standard deviations of the parts, (m,).
    order
        k, at least 1.

    Returns
    -------
    fit
        Of all the fits that leave out some of the largest steps, the one that is surest of a; None
        with fewer than four steps. The uncertainty is `DEVIATIONS` standard deviations, enlarged by
        the misfit.
    """
    fits = []
    for first in range(len(steps) - 3):
        h = steps[first:] / steps[first]
        design = np.stack([h**order, h ** (order + 2), h ** (order + 4)], axis=1)[
            :, : min(3, len(h) - 3)
        ]
        weights = (
            np.minimum.reduce(noises[first:]) / noises[first:]
            if np.all(noises[first:] > 0)
            else np.ones_like(h)
        )
        solution, *_ = np.linalg.lstsq(
            design * weights[:, None], parts[first:] * weights, rcond=None
        )
        residual = (design @ solution - parts[first:]) * weights
        deviation = max(
            float(np.min(noises[first:])),
            math.sqrt(residual @ residual / (len(h) - design.shape[1])),
        )
        spread = float(np.linalg.norm(np.linalg.pinv(design * weights[:, None])[0]))
        scale = steps[first] ** order
        fits.append(Fit(float(solution[0]) / scale, DEVIATIONS * deviation * spread / scale))
    if not fits:
        return None
    # A fit may look good by accident; one that holds does not move when its largest step is left
    # out.
    moves = [abs(fit.coefficient - finer.coefficient) for fit, finer in itertools.pairwise(fits)]
    steady = [
        Fit(fit.coefficient, fit.uncertainty + move)
        for fit, move in zip(fits, [*moves, 0.0], strict=True)
    ]
    return min(steady, key=lambda fit: fit.uncertainty)


def observed_rate(steps: np.ndarray, sizes: np.ndarray, floors: np.ndarray) -> float:
    """The order of `sizes` in `steps`, at the smallest steps where they are above the noise.

    It is NaN where they never are.
    """
    above = np.flatnonzero((sizes > DEVIATIONS * floors) & (sizes > 0))
    pairs = [(i, i + 1) for i in above if i + 1 in above][-3:]
    rates = [math.log(sizes[i] / sizes[j]) / math.log(steps[i] / steps[j]) for i, j in pairs]
    return float(np.median(rates)) if rates else math.nan


def odd_and_even_parts(line: Line, steps: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(phi(h) - phi(-h)) / 2 and (phi(h) + phi(-h)) / 2 - phi(0)."""
    plus = np.array([line(h) for h in steps])
    minus = np.array([line(-h) for h in steps])
    # Differences first: a sum of two values with a large constant would round it once more.
    return (plus - minus) / 2, ((plus - line.value) + (minus - line.value)) / 2
