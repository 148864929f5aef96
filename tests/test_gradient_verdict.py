"""What verify_gradient concludes from what the oracles say along each direction."""

import dataclasses

import numpy as np
import pytest

from adjoint.verify.differences import Estimate
from adjoint.verify.gradient import _settle
from adjoint.verify.judgement import _judge
from adjoint.verify.line import Leaf
from adjoint.verify.verdict import AGREES, BELOW_NOISE, UNRESOLVED, WRONG, ZERO, Check

# What the oracles say along one direction, changed from a case where they all agree on 1, and the
# rule's verdict on it.
RULE = {
    "all agree": ({}, {}, None, AGREES),
    "the differences alone disagree": ({"difference": 1.001}, {}, None, WRONG),
    "within the error of the differences": (
        {"difference": 1.001, "error": 2e-3},
        {},
        None,
        UNRESOLVED,
    ),
    "the Taylor remainder alone disagrees": ({"remainder": 1e-3}, {}, None, WRONG),
    "within the uncertainty of the remainder": (
        {"remainder": 1e-3, "remainder_error": 2e-3},
        {},
        None,
        AGREES,
    ),
    "forward mode alone disagrees": ({"forward": 1.001}, {}, None, WRONG),
    "forward mode is not a number": ({"forward": np.nan}, {}, None, WRONG),
    "noisy differences": ({"error": 1e-3}, {}, None, UNRESOLVED),
    "noisy differences, complex step agrees": ({"error": 1e-3}, {}, (1.0, 1e-12), AGREES),
    "noisy differences, complex step disagrees": ({"error": 1e-3}, {}, (1.0005, 1e-12), WRONG),
    "noisy differences, noisy complex step": ({"error": 1e-3}, {}, (1.0005, 1e-3), UNRESOLVED),
    "f finite nowhere": ({"difference": np.nan, "error": np.inf}, {}, None, UNRESOLVED),
    "stationary": (
        {"gradient": 1e-14, "difference": -1e-13, "scale": 1e-13, "error": 1e-12},
        {},
        None,
        ZERO,
    ),
    "stationary, f hardly moves": (
        {"gradient": 1e-14, "difference": -1e-13, "scale": 1e-13, "error": 1e-12},
        {"slope": 1e-9},
        None,
        UNRESOLVED,
    ),
    "constant": (
        {"gradient": 1e-16, "difference": 0.0, "scale": 1e-16, "error": 1e-18},
        {"constant": True},
        None,
        ZERO,
    ),
    "constant, gradient above the noise": (
        {"gradient": 1e-9, "difference": 0.0, "scale": 1e-9, "error": 1e-18},
        {"constant": True},
        None,
        WRONG,
    ),
}


def check_that(**said):
    agreeing = {
        **{
            "gradient": 1.0,
            "difference": 1.0,
            "error": 1e-9,
            "remainder": 0.0,
            "remainder_error": 1e-9,
            "rate": 3.0,
        },
        **{
            "complex_step": None,
            "forward": None,
            "scale": 1.0,
            "verdict": AGREES,
            "relative_error": 0.0,
        },
    }
    return Check(**{"name": "p", "leaf": 0, "is_coordinate": True, **agreeing, **said})


@pytest.mark.parametrize("name", RULE)
def test_the_rule_for_one_direction(name):
    said, moves, complex_step, verdict = RULE[name]
    check = check_that(**said)
    estimate = {"slope": 1.0, "constant": False, **moves}
    along = Estimate(check.difference, check.error, 1e-16, 0.1, 0.01, **estimate)
    assert _judge(check, along, 1e-5, complex_step).verdict == verdict


@pytest.mark.parametrize(
    ("others", "unresolved", "verdict"),
    [
        ([check_that()], check_that(error=2e-5, scale=1e-3), BELOW_NOISE),
        (
            [check_that()],
            check_that(error=1e-3, scale=1e-3),
            UNRESOLVED,
        ),  # too noisy next to the leaf's largest
        (
            [check_that(leaf=1)],
            check_that(error=2e-5, scale=1e-3),
            UNRESOLVED,
        ),  # another leaf does not help
        ([check_that(verdict=ZERO)], check_that(error=2e-5, scale=1e-3), UNRESOLVED),
        (
            [check_that(is_coordinate=False)],
            check_that(error=1e-3, is_coordinate=False),
            BELOW_NOISE,
        ),
        ([], check_that(error=1e-3, is_coordinate=False), UNRESOLVED),
        (
            [check_that(), check_that(leaf=1)],
            check_that(error=1e-3, leaf=None, is_coordinate=False),
            BELOW_NOISE,
        ),
        (
            [check_that()],
            check_that(error=1e-3, leaf=None, is_coordinate=False),
            UNRESOLVED,
        ),  # leaf 1 is not covered
    ],
)
def test_what_an_unresolved_direction_leaves_unverified(others, unresolved, verdict):
    leaves = [Leaf(name, np.ones(2), np.ones(2), np.dtype(float)) for name in ("p[0]", "p[1]")]
    at_trial = dataclasses.replace(unresolved, verdict=UNRESOLVED)
    leaf_1 = [] if unresolved.leaf is None else [check_that(leaf=1)]
    assert _settle(leaves, [*others, *leaf_1, at_trial], 1e-5)[-1].verdict == verdict
