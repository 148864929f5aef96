"""verify_gradient: three oracles that do not know how the gradient was made, and one verdict."""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import jax
import numpy as np
from jaxtyping import Array, Float, PyTree

from adjoint.inputs import refuse, takes_jax_functions
from adjoint.verify.differences import (
    DEVIATIONS,
    Estimate,
    central_differences,
    complex_step,
    noise_level,
)
from adjoint.verify.judgement import check_direction
from adjoint.verify.line import (
    Direction,
    Leaf,
    Line,
    Objective,
    coordinate_directions,
    default_tolerance,
    random_directions,
    read_gradient,
)
from adjoint.verify.verdict import (
    AGREES,
    BELOW_NOISE,
    RESOLVED,
    UNRESOLVED,
    WRONG,
    ZERO,
    Check,
    Verdict,
    describe_oracles,
    ratio,
    seen_error,
)

WHERE = "adjoint.verify_gradient"
# Each costs a few evaluations of f; more parameters are seen along random directions.
MOST_COORDINATES = 30


@takes_jax_functions("verify_gradient")
def verify_gradient(
    f: Callable[[PyTree], Float[Array, ""]],
    p: PyTree,
    *,
    gradient: Callable[[PyTree], PyTree] | None = None,
    directions: int = 4,
    rtol: float | None = None,
    seed: int = 0,
) -> Verdict:
    """<gradient(p), v> = d/dt f(p + t v) at t = 0, judged by three oracles.

    They look along random directions and coordinates.

    Parameters
    ----------
    f
        Function of a pytree that returns one real number.
    p
        Point: a pytree of real floating-point arrays, JAX's or NumPy's. Steps are relative to the
        magnitudes in it.
    gradient
        The gradient to judge, p -> pytree like p. By default the reverse-mode gradient of f by JAX;
        with a gradient of one's own, f need not be traceable by JAX.
    directions
        Number of random directions, in all leaves together and, where coordinates are not tried, in
        each leaf by itself.
    rtol
        Relative error that is let pass. By default 1e-5 in float64 and 1e-3 in float32, by the
        coarser of p and f(p).
    seed
        Of the random directions.

    Returns
    -------
    verdict
        A `Verdict`: ``.trusted``, ``.relative_error``, and a readable table as ``str(verdict)``.

    Raises
    ------
    ValueError, TypeError
        Before any stepping: when p holds no real floating-point numbers, f(p) is no real scalar, or
        the gradient does not look like p. Errors of f at p pass through; a point near p where f
        raises counts as outside its domain.

    Notes
    -----
    **Oracles.** (1) Dot-product test: forward mode against reverse mode, where f has a forward
    mode. (2) Extrapolated central differences with an error estimate, and the complex step where f
    accepts complex numbers and the differences agree with it. (3) Two-sided Taylor remainder with a
    noise floor.

    **Directions.** Up to 30 parameters: each coordinate by itself, so that a wrong small component
    next to large ones is found. Beyond: random directions within each leaf, so that each leaf is
    judged by its own scale; an error in a single component is then seen when it is more than about
    `resolution` of the norm of the leaf's gradient (each component weighed by its parameter's
    magnitude), and the report says so.

    **Verdict along a direction**, with a the gradient's derivative, d the differences', e their
    error, s the scale of a:

    - *wrong* when abs(a - d) > rtol s + e, or when the Taylor remainder or forward mode says the
      same;
    - *agrees* when not wrong and e <= 3 rtol s; or when e is larger and the complex step agrees;
    - *zero* when a and d are zero to within e and either f visibly moves along the line with a
      slope of at least e / (3 rtol) (a stationary point), or f does not move by more than its noise
      at any step, even when p moves by all its magnitude and beyond (f does not depend on it, or
      not visibly);
    - *below noise* for a coordinate with e > 3 rtol s, but e below 3 rtol times its leaf's largest
      derivative: it is verified to e and no better. The report counts them;
    - *not resolvable* otherwise.

    Trusted means: nothing wrong, nothing not resolvable, and each leaf has a direction that agrees
    or is zero throughout.

    **Cost**: one gradient and about 23 evaluations of f per direction, more where f is noisy or p
    zero.

    Examples
    --------
    >>> import jax.numpy as jnp, adjoint
    >>> p = {"a": jnp.array([1.0, 2.0]), "b": jnp.array(0.5)}
    >>> f = lambda p: jnp.sum(p["a"] ** 2) * jnp.exp(p["b"])
    >>> adjoint.verify_gradient(f, p).trusted
    True
    >>> wrong = lambda p: {"a": 2.0 * p["a"] * jnp.exp(p["b"]), "b": 1.01 * f(p)}
    >>> verdict = adjoint.verify_gradient(f, p, gradient=wrong)
    >>> verdict.trusted, verdict.worst.name
    (False, "p['b']")
    """
    if directions < 1:
        refuse(
            WHERE, f"directions={directions}", "at least 1", "Leave it out for the default of 4."
        )
    own_numpy = gradient is not None and not any(
        isinstance(x, jax.Array) for x in jax.tree.leaves(p)
    )
    objective = Objective(WHERE, f, p, compile_it=not own_numpy)
    judged = gradient or (jax.jit(jax.grad(f)) if objective.compiled else jax.grad(f))
    gradients = read_gradient(WHERE, judged(p), objective.leaves, p)
    coarsest = max([objective.epsilon, *(leaf.epsilon for leaf in objective.leaves)])
    rtol = default_tolerance(coarsest) if rtol is None else rtol
    refusal = _not_finite(objective, gradients)
    if refusal:
        return Verdict(False, math.nan, refusal, rtol, math.inf, objective.value)
    lines = [
        Line(objective, direction) for direction in _directions(objective.leaves, directions, seed)
    ]
    forwards, forward_note = (
        _forward_derivatives(f, p, objective, lines) if gradient is None else (None, _OWN_GRADIENT)
    )
    estimates = _estimates(lines, rtol)
    complexes, complex_note = _complex_steps(lines, estimates, rtol)
    checks = [
        check_direction(
            line,
            estimate,
            gradients,
            rtol,
            complexes[i] if complexes else None,
            forwards[i] if forwards else None,
        )
        for i, (line, estimate) in enumerate(zip(lines, estimates, strict=True))
    ]
    return _verdict(objective, checks, rtol, forward_note, complex_note)


_OWN_GRADIENT = "not applicable: the judged gradient is not reverse mode's"


def _not_finite(objective: Objective, gradients: list[np.ndarray]) -> str | None:
    """What is NaN or Inf, in a sentence; None when nothing is."""
    if not math.isfinite(objective.value):
        return f"f(p) is {objective.value}, not a finite number"
    for kind, arrays in (
        ("the gradient of", gradients),
        ("the parameter", [leaf.numbers for leaf in objective.leaves]),
    ):
        for leaf, array in zip(objective.leaves, arrays, strict=True):
            count = int(np.sum(~np.isfinite(array)))
            if count:
                return f"{kind} {leaf.name} is NaN or Inf in {count} of {array.size} entries"
    return None


def _directions(leaves: list[Leaf], count: int, seed: int) -> list[Direction]:
    filled = [i for i, leaf in enumerate(leaves) if leaf.numbers.size]
    found = random_directions(leaves, filled, count, seed)
    if sum(leaf.numbers.size for leaf in leaves) <= MOST_COORDINATES:
        return [*found, *coordinate_directions(leaves)]
    if len(filled) > 1:
        for i in filled:
            found += random_directions(
                leaves, [i], count if leaves[i].numbers.size > 1 else 1, seed
            )
    return found


def _estimates(lines: list[Line], rtol: float) -> list[Estimate]:
    noises = [noise_level(line) for line in lines]
    # One noise estimate rests on few samples and may by accident be far too small; the typical one
    # is not.
    typical = float(np.median(noises))
    return [
        central_differences(line, max(noise, typical), rtol)
        for line, noise in zip(lines, noises, strict=True)
    ]


def _forward_derivatives(
    f: Callable[[PyTree], Any], p: PyTree, objective: Objective, lines: list[Line]
) -> tuple[list[float] | None, str]:
    def pushforward(q: PyTree, v: PyTree) -> PyTree:
        return jax.jvp(f, (q,), (v,))[1]

    push = jax.jit(pushforward) if objective.compiled else pushforward
    structure = jax.tree.structure(p)
    try:
        tangents = [
            jax.tree.unflatten(structure, line.direction.tangent(objective.leaves))
            for line in lines
        ]
        return [float(push(p, v)) for v in tangents], ""
    except Exception as error:
        # f(p) and its reverse mode work: what fails here is that f, or a rule inside it, has no
        # forward mode.
        return None, f"not available: {_first_line(error)}"


def _complex_steps(
    lines: list[Line], estimates: list[Estimate], rtol: float
) -> tuple[list[tuple[float, float]] | None, str]:
    """The complex step along every line, or none when one line refutes it.

    f is then not analytic as written.
    """
    found = []
    for line, estimate in zip(lines, estimates, strict=True):
        step = complex_step(line)
        if isinstance(step, str):
            return None, f"not available: {step}"
        value, error = step
        allowed = (
            rtol * max(abs(value), abs(estimate.value))
            + estimate.error
            + error
            + DEVIATIONS * estimate.noise
        )
        if math.isfinite(estimate.value) and abs(value - estimate.value) > allowed:
            what = "f may hold an absolute value, a real part or an iteration"
            return (
                None,
                f"not applicable: the differences refute it along {line.direction.name}; {what}",
            )
        found.append(step)
    return found, ""


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:70] if lines else ''}"


def _verdict(
    objective: Objective, checks: list[Check], rtol: float, forward_note: str, complex_note: str
) -> Verdict:
    checks = _settle(objective.leaves, checks, rtol)
    wrong = [c for c in checks if c.verdict == WRONG]
    unresolved = [c for c in checks if c.verdict == UNRESOLVED]
    agreeing = [c for c in checks if c.verdict == AGREES]
    if wrong:
        worst = max(wrong, key=lambda c: c.relative_error)
        reason = f"wrong by {worst.relative_error:.1e} along {worst.name}: {worst.reason}"
    elif unresolved:
        worst = max(unresolved, key=lambda c: ratio(c.error, c.scale))
        reason = f"not resolvable along {worst.name}: {_why_unresolved(objective, worst)}"
    elif agreeing:
        reason = f"{len(agreeing)} of {len(checks)} directions agree, none disagrees"
    else:
        reason = "the gradient and the differences are both zero to within the noise of f"
    counted = wrong or unresolved or checks
    return Verdict(
        trusted=not wrong and not unresolved,
        relative_error=float(max(c.relative_error for c in counted)),
        reason=reason,
        rtol=rtol,
        resolution=max((seen_error(c, rtol) for c in agreeing), default=math.inf),
        value=objective.value,
        checks=tuple(checks),
        oracles=describe_oracles(checks, rtol, forward_note, complex_note),
        notes=_notes(objective, checks, rtol),
    )


def _settle(leaves: list[Leaf], checks: list[Check], rtol: float) -> list[Check]:
    """Tell harmless unresolved directions from those that leave a leaf unverified."""
    settled = []
    covered = {
        i
        for i, leaf in enumerate(leaves)
        if leaf.numbers.size == 0 or _is_covered([c for c in checks if c.leaf == i])
    }
    for c in checks:
        family = [o for o in checks if o.leaf == c.leaf and o.verdict == AGREES]
        largest = max((o.scale for o in family), default=0.0)
        if c.verdict == UNRESOLVED and c.is_coordinate:
            harmless = c.error <= RESOLVED * rtol * largest
        else:
            harmless = c.leaf in covered or (c.leaf is None and len(covered) == len(leaves))
        if c.verdict == UNRESOLVED and harmless:
            error = (
                ratio(abs(c.gradient - c.difference), max(largest, c.scale))
                if c.is_coordinate
                else 0.0
            )
            c = replace(c, verdict=BELOW_NOISE, relative_error=error)
        settled.append(c)
    return settled


def _is_covered(own: list[Check]) -> bool:
    return any(c.verdict == AGREES for c in own) or (
        bool(own) and all(c.verdict == ZERO for c in own)
    )


def _why_unresolved(objective: Objective, check: Check) -> str:
    if not math.isfinite(check.difference):
        complaint = f" ({objective.complaint})" if objective.complaint else ""
        return f"f is finite at no pair of points around p{complaint}"
    return (
        f"the noise of f leaves the differences at {check.difference:.3g} +- {check.error:.1g}, "
        f"next to a gradient of {check.gradient:.3g}"
    )


def _notes(objective: Objective, checks: list[Check], rtol: float) -> tuple[str, ...]:
    """What the verdict does not cover, in sentences."""
    notes = []
    below = [c.error for c in checks if c.verdict == BELOW_NOISE and c.is_coordinate]
    if below:
        notes.append(
            f"{len(below)} coordinates lie below the noise of f and are verified only to "
            f"+-{max(below):.1e}."
        )
    zero = [c.error for c in checks if c.verdict == ZERO]
    if zero:
        notes.append(
            f"{len(zero)} directions are zero as far as f shows, that is to within "
            f"+-{max(zero):.1e}."
        )
    size = sum(leaf.numbers.size for leaf in objective.leaves)
    seen = max((seen_error(c, rtol) for c in checks if c.verdict == AGREES), default=None)
    if size > MOST_COORDINATES and seen is not None:
        notes.append(
            f"{size} parameters were judged along random directions: an error in a single "
            "component is seen when it is "
            f"above about {seen:.0e} of the norm of its leaf's gradient, each component weighed by "
            "its parameter's magnitude."
        )
    if objective.complaint:
        notes.append(f"f could not be evaluated at some steps: {objective.complaint}")
    return tuple(notes)
