"""Seeded cases for the judge of gradients, by hand (NumPy) or by JAX, half of them corrupted.

A case is drawn so that the question has an answer in floating point: the gradient moves f by at
least `VISIBLE` of its last digits when p moves by its magnitude, and a corruption moves it by at
least 1e-4 (float64) or 1e-2 (float32) of that. In float32 differences of f carry about three
digits, so smaller errors are below what any differences can see. A dropped, swapped or sign-flipped
component of a large p is drawn from those that are that visible a part of the gradient; in a p of
up to 30 numbers, where each coordinate is judged by itself, any component is fair that f's last
digits show at all.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np

from adjoint.verify.gradient import verify_gradient

SIZES = (1, 2, 3, 5, 8, 15, 30, 31, 60, 200, 1000)
VISIBLE = {np.float64: 1e7, np.float32: 1e5}
SMALLEST = {np.float64: 1e-4, np.float32: 1e-2}


# Each family: (value, gradient) of q given the data; written once for NumPy and JAX (xp), gradients
# by hand.
def quadratic(_: Any, q: Any, d: Any) -> Any:
    return 0.5 * q @ (d["A"] @ q) + d["c"] @ q


def quadratic_gradient(q: Any, d: Any) -> Any:
    return 0.5 * (d["A"] + d["A"].T) @ q + d["c"]


def exponentials(xp: Any, q: Any, d: Any) -> Any:
    return (d["c"] * xp.exp(0.7 * q) + xp.sin(d["b"] * q)).sum()


def exponentials_gradient(q: Any, d: Any) -> Any:
    return 0.7 * d["c"] * np.exp(0.7 * q) + d["b"] * np.cos(d["b"] * q)


def rational(_: Any, q: Any, d: Any) -> Any:
    return (d["c"] * q / (1 + q * q)).sum() / (1 + (d["b"] * q).sum() ** 2)


def rational_gradient(q: Any, d: Any) -> Any:
    s, t = (d["c"] * q / (1 + q * q)).sum(), (d["b"] * q).sum()
    return (
        d["c"] * (1 - q * q) / (1 + q * q) ** 2 / (1 + t**2) - s * 2 * t * d["b"] / (1 + t**2) ** 2
    )


def log_sum_exp(xp: Any, q: Any, d: Any) -> Any:
    z = d["b"] * q
    top = z.max()
    return top + xp.log(xp.exp(z - top).sum())


def log_sum_exp_gradient(q: Any, d: Any) -> Any:
    z = np.exp(d["b"] * q - (d["b"] * q).max())
    return d["b"] * z / z.sum()


def linear(_: Any, q: Any, d: Any) -> Any:
    return d["c"] @ q


def linear_gradient(q: Any, d: Any) -> Any:
    return d["c"] + 0 * q


def constant(_xp: Any, _q: Any, d: Any) -> Any:
    return 3.25 * d["one"]


def constant_gradient(q: Any, _: Any) -> Any:
    return 0 * q


FAMILIES = (
    (quadratic, quadratic_gradient),
    (exponentials, exponentials_gradient),
    (rational, rational_gradient),
    (log_sum_exp, log_sum_exp_gradient),
    (linear, linear_gradient),
    (constant, constant_gradient),
)


@dataclasses.dataclass
class Case:
    """A function, its point, a gradient (None: JAX's) and whether that is corrupted."""

    f: Callable[[Any], Any]
    p: Any
    gradient: Callable[[Any], Any] | None
    corrupted: bool
    story: str


def draw_case(seed: int, index: int, corrupted: bool, use_jax: bool) -> Case:
    """A case that floating point can decide, by rejection."""
    rng = np.random.default_rng([seed, index])
    while True:
        case = _try_to_draw(rng, corrupted, use_jax)
        if case is not None:
            return case


def _try_to_draw(rng: np.random.Generator, corrupted: bool, use_jax: bool) -> Case | None:
    dtype = np.float64 if rng.random() < 0.7 else np.float32
    value, value_gradient = FAMILIES[rng.integers(len(FAMILIES))]
    n = int(rng.choice(SIZES))
    pieces = np.array_split(np.arange(n), min(n, int(rng.choice([1, 1, 2, 3]))))
    # Leaves in different units, tiny ones among them; f in other units, and with a constant added.
    wide = 12 if dtype == np.float64 else 5
    units = 10.0 ** rng.choice([0, 0, 3, -3, wide, -wide], len(pieces))
    factor = 10.0 ** rng.choice([0, 0, 0, -20 if dtype == np.float64 else -10])
    offset = factor * float(
        rng.choice([0, 0, 1e6, 1e8] if dtype == np.float64 else [0, 0, 10, 100])
    )
    q0 = rng.normal(size=n)
    p = [(unit * q0[piece]).astype(dtype) for unit, piece in zip(units, pieces, strict=True)]
    d = {
        "A": rng.normal(size=(n, n)) / np.sqrt(n),
        "b": rng.normal(size=n),
        "c": rng.normal(size=n),
        "one": 1.0,
    }
    d = {k: np.asarray(v, dtype) for k, v in d.items()}
    inverse_units = [dtype(1 / unit) for unit in units]

    def evaluate(xp: Any, leaves: Any) -> Any:
        q = xp.concatenate([u * leaf for u, leaf in zip(inverse_units, leaves, strict=True)])
        return dtype(factor) * value(xp, q, d) + dtype(offset)

    exact = {k: v.astype(np.float64) for k, v in d.items()}
    q = np.concatenate(
        [leaf.astype(np.float64) / unit for leaf, unit in zip(p, units, strict=True)]
    )
    g = factor * value_gradient(q, exact)
    last_digit = np.finfo(dtype).eps * abs(float(evaluate(np, p)))
    moves = g * np.abs(q)
    shown = [np.linalg.norm(moves[piece]) for piece in pieces]
    if value is not constant and min(shown) < VISIBLE[dtype] * last_digit:
        return None
    story = (
        f"{value.__name__} n={n} {dtype.__name__} units={units} factor={factor:g} "
        f"offset={offset:g} jax={use_jax}"
    )
    if corrupted:
        changed = _corrupt(rng, g, q, pieces, last_digit, dtype, value is constant)
        if changed is None:
            return None
        g, kind = changed
        story += f" {kind}"
    leaves = [(g[piece] / unit).astype(dtype) for piece, unit in zip(pieces, units, strict=True)]
    if not use_jax:
        return Case(lambda x: evaluate(np, x), p, lambda _: leaves, corrupted, story)
    p = [jnp.asarray(leaf) for leaf in p]
    return Case(
        lambda x: evaluate(jnp, x), p, (lambda _: leaves) if corrupted else None, corrupted, story
    )


def _corrupt(rng, g, q, pieces, last_digit, dtype, is_constant):
    """The gradient g with a sign, a scale, one component or noise wrong; None if invisible.

    It is wrong by a relative 1e-4 (1e-2) to 1.
    """
    piece = pieces[rng.integers(len(pieces))]
    size = 10.0 ** rng.uniform(np.log10(SMALLEST[dtype]), 0)
    kind = rng.choice(["sign", "scale", "component", "drop", "swap", "noise"])
    wrong = g.copy()
    i, j = (int(rng.choice(piece)) for _ in range(2))
    if is_constant:
        kind, wrong[piece] = (
            "constant",
            size * rng.normal(size=len(piece)) * last_digit / np.finfo(dtype).eps,
        )
    elif kind == "sign":
        wrong[i] = -g[i]
    elif kind == "scale":
        wrong[piece] = g[piece] * (1 + size)
    elif kind == "component":
        wrong[i] = g[i] * (1 + size)
    elif kind == "drop":
        wrong[i] = 0
    elif kind == "swap":
        wrong[i], wrong[j] = g[j], g[i]
    else:
        wrong[piece] = g[piece] * (1 + size * rng.normal(size=len(piece)))
    error, moves = np.abs((wrong - g) * q), np.abs(g * q)
    if len(q) <= 30:
        visible = np.any(
            (error >= SMALLEST[dtype] * moves) & (error >= 1e3 * last_digit) & (error > 0)
        )
    else:
        visible = np.linalg.norm(error) >= SMALLEST[dtype] * np.linalg.norm(moves[piece])
    return (wrong, f"{kind} {size:.1e} at {i}") if visible else None


def count_errors(seed: int, cases: int) -> tuple[list[str], list[str]]:
    """The stories and reports of corrupted gradients that were trusted, and right ones not."""
    missed, alarms = [], []
    for index in range(cases):
        case = draw_case(seed, index, corrupted=index % 2 == 1, use_jax=index % 40 < 2)
        verdict = verify_gradient(case.f, case.p, gradient=case.gradient)
        if verdict.trusted == case.corrupted:
            (missed if case.corrupted else alarms).append(f"{index}: {case.story}\n{verdict}")
    return missed, alarms
