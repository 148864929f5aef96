"""Extrapolated central differences, complex step: error bounds hold, small where they can be.

The true derivatives are closed forms.
"""

import math

import numpy as np
import pytest

from adjoint.verify.differences import _truncation, central_differences, complex_step, noise_level
from adjoint.verify.line import Direction, Line, Objective


def line_of(f, p, v=None):
    p = np.asarray(p)
    objective = Objective("test", f, p, compile_it=False)
    return Line(
        objective, Direction("p", 0, True, {0: np.asarray(p if v is None else v, np.float64)})
    )


def estimate_of(line, rtol=1e-5):
    return central_differences(line, noise_level(line), rtol)


# name: function of one number, point, unit of the step, derivative along the unit, relative error
# that must be reached
CLOSED_FORMS = {
    "exp": (np.exp, 1.0, 1.0, math.e, 1e-11),
    "exp, large constant": (lambda x: 1e8 + np.exp(x), 1.0, 1.0, math.e, 1e-5),
    "linear": (lambda x: 3.0 * x, 1.0, 1.0, 3.0, 1e-12),
    "linear below the last digit of a constant": (lambda x: 1e8 + 1e-9 * x, 1.0, 1.0, 1e-9, 1e-5),
    "tiny parameter": (lambda x: np.sin(x / 1e-12), 1e-12, 1e-12, math.cos(1.0), 1e-11),
    "huge parameter": (lambda x: np.sin(x / 1e12), 1e12, 1e12, math.cos(1.0), 1e-11),
    "tiny value": (lambda x: 1e-20 * np.exp(x), 1.0, 1.0, 1e-20 * math.e, 1e-11),
    "steep power": (lambda x: x**40, 2.0, 2.0, 40 * 2.0**40, 1e-7),
    "fast oscillation": (lambda x: np.sin(1e6 * x), 1.0, 1.0, 1e6 * math.cos(1e6), 1e-5),
    "edge of the domain": (lambda x: np.log(x), 1e-3, 1.0, 1e3, 1e-5),
    "large intermediate results": (lambda x: (1e8 + x * x) - 1e8, 1.1, 1.1, 2.42, 1e-5),
    "zero, unit scale": (lambda x: np.exp(x), 0.0, 1.0, 1.0, 1e-11),
    "zero, tiny scale": (lambda x: 1 + np.sin(x / 1e-12), 0.0, 1.0, 1e12, 1e-4),
    "zero, huge scale": (lambda x: 1 + np.sin(x / 1e12), 0.0, 1.0, 1e-12, 1e-4),
    "zero, saturated far below the step": (lambda x: np.tanh(x / 1e-12), 0.0, 1.0, 1e12, 1e-4),
    "saturated": (lambda x: np.tanh(1e6 * x), 1e-7, 1.0, 1e6 * (1 - math.tanh(0.1) ** 2), 1e-5),
}


@pytest.mark.parametrize("name", CLOSED_FORMS)
def test_the_bound_holds_and_is_small(name):
    f, p, unit, derivative, reached = CLOSED_FORMS[name]
    estimate = estimate_of(line_of(f, p, unit))
    assert abs(estimate.value - derivative) <= estimate.error
    assert estimate.error <= reached * abs(derivative)


@pytest.mark.parametrize("constant", [0.0, 1e2])
def test_float32_reaches_what_its_noise_allows(constant):
    line = line_of(lambda x: np.float32(constant) + np.exp(x), np.float32(1.0))
    estimate = estimate_of(line, 1e-3)
    assert abs(estimate.value - math.e) <= estimate.error <= 3e-3 * math.e


def test_a_bounded_function_seen_from_afar_is_not_taken_for_flat():
    # The slope, 1e-6, hides below the last digit of 1e8 at every step up to 1, and D(h) = sin(h) /
    # h vanishes beyond.
    estimate = estimate_of(line_of(lambda x: 1e8 + 1e-6 * np.sin(x), 0.3))
    assert estimate.error > 1e-7
    assert abs(estimate.value - 0.3e-6 * math.cos(0.3)) <= estimate.error


def test_bounds_hold_on_many_random_functions():
    """Sums of exponentials, sines, rationals plus constants up to 1e8: no error tops its bound."""
    rng = np.random.default_rng(0)
    for _ in range(300):
        a, b, c, x = rng.normal(size=(4, 6))
        constant = rng.choice([0.0, 1e3, 1e8])

        def f(t, a=a, b=b, c=c, constant=constant):
            return constant + np.sum(a * np.sin(b * t) + c * np.exp(0.5 * t) + a * b / (1 + t * t))

        derivative = np.sum(
            x
            * (a * b * np.cos(b * x) + 0.5 * c * np.exp(0.5 * x) - 2 * a * b * x / (1 + x * x) ** 2)
        )
        estimate = estimate_of(line_of(f, x))
        # The bound speaks of the function; the closed form itself is rounded, too.
        assert abs(estimate.value - derivative) <= estimate.error + 1e-14 * np.sum(
            np.abs(x * a * b) + np.abs(c)
        )


def test_a_correction_that_vanishes_by_accident_is_not_believed():
    # Corrections 1e-3 and 1e-5 announce 1e-7, so that is the error left even where the third
    # happens to be nothing.
    assert np.isclose(_truncation([1e-3, 1e-5, 0.0]), 1e-7)
    assert np.isclose(_truncation([1e-3, 0.0]), 1e-4)
    assert _truncation([1e-3, 1e-5, 1e-6]) == 1e-6
    assert _truncation([1e-5, 1e-3, 0.0]) == 1e-3


def test_noise_is_measured():
    def rough(
        x,
    ):  # uniform noise of width 1e-6, standard deviation 1e-6 / sqrt(12), fixed by the digits of x
        return np.exp(x) + 1e-6 * (
            np.random.default_rng(np.float64(x).view(np.uint64)).random() - 0.5
        )

    levels = [noise_level(line_of(rough, x)) for x in np.linspace(1, 2, 20)]
    assert 0.5 * 1e-6 / math.sqrt(12) < np.median(levels) < 2 * 1e-6 / math.sqrt(12)
    # A rounding of 1e8 is uniform with the width of its last digit, 1.5e-8.
    assert 1.5e-8 / math.sqrt(12) < noise_level(line_of(lambda x: 1e8 + np.exp(x), 1.0)) < 3e-8
    assert noise_level(line_of(lambda x: np.exp(x), 1.0)) < 1e-15


def test_rough_function_has_an_honest_bound():
    def rough(x):
        return np.exp(x) + 1e-6 * (
            np.random.default_rng(np.float64(x).view(np.uint64)).random() - 0.5
        )

    for x in np.linspace(1, 2, 20):
        estimate = estimate_of(line_of(rough, x))
        assert abs(estimate.value - x * math.exp(x)) <= estimate.error


def test_constant_function_is_constant():
    estimate = estimate_of(line_of(lambda x: 1e8 + 0 * x, 1.0))
    assert estimate.constant
    assert estimate.value == 0
    assert not estimate_of(line_of(lambda x: 1e8 + 1e-9 * x, 1.0)).constant


def test_stationary_point_has_zero_slope_within_its_bound():
    estimate = estimate_of(
        line_of(lambda x: np.sum(100 * (x[1:] - x[:-1] ** 2) ** 2 + (1 - x[:-1]) ** 2), np.ones(6))
    )
    assert abs(estimate.value) <= estimate.error < 1e-10
    assert estimate.slope > 1
    assert not estimate.constant


def test_outside_its_domain_a_function_may_raise():
    def f(x):
        if x > 1.01:
            raise ValueError("yield stress exceeded")
        return math.exp(x)

    line = line_of(f, 1.0)
    estimate = estimate_of(line)
    assert abs(estimate.value - math.e) <= estimate.error < 3e-5
    assert line.objective.complaint == "ValueError: yield stress exceeded"


def test_nowhere_finite_around_p():
    estimate = estimate_of(line_of(lambda x: 1.0 if x == 1.0 else math.nan, 1.0))
    assert math.isnan(estimate.value)
    assert estimate.error == math.inf


def test_complex_step_has_no_cancellation():
    value, error = complex_step(line_of(lambda x: 1e8 + 1e-9 * np.exp(x), 1.0))
    assert abs(value - 1e-9 * math.e) <= 1e-15 * value
    assert abs(value - 1e-9 * math.e) <= error < 1e-12 * value


def test_complex_step_knows_the_rounding_inside_f():
    # 1e8 x - 1e8 x cancels in the imaginary part as well; what is left carries an error of about
    # 1e-8.
    value, error = complex_step(line_of(lambda x: (1e8 * x + np.sin(x)) - 1e8 * x, 1.1))
    assert abs(value - 1.1 * math.cos(1.1)) <= error


@pytest.mark.parametrize(
    ("f", "refusal"),
    [
        (lambda x: math.exp(x), "TypeError"),
        (lambda x: float(np.exp(x)), "ComplexWarning"),
        (lambda x: np.exp(x).real, "real number"),
        (lambda x: np.asarray(x, np.float64) ** 2, "ComplexWarning"),
    ],
)
def test_complex_step_says_why_it_is_not_available(f, refusal):
    sentence = complex_step(line_of(f, np.array(1.0)))
    assert isinstance(sentence, str)
    assert refusal in sentence
