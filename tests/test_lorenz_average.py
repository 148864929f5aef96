"""lorenz_average: the published slope, its judges, the plain gradient, and a run."""

import csv
import json

import jax.numpy as jnp
import numpy as np
import pytest

from problems.__main__ import main
from problems.lorenz import ensemble, midpoint_shadow
from problems.lorenz_average import PUBLISHED, SlopeVerdict, plain_gradient

GOOD = SlopeVerdict(1.017, 0.002, 1.003, 0.001, 1.02)


def test_the_midpoint_shadow_gives_the_published_slope():
    shadow = midpoint_shadow(28.0, 30.0)
    assert abs(shadow.slope - PUBLISHED) < 0.02
    # The attractor stays near z = rho - 1, and so does its shadow.
    assert np.max(np.abs(shadow.v)) < 5


def test_the_plain_gradient_explodes():
    start = jnp.asarray(midpoint_shadow(28.0, 1.0).y[0])
    assert abs(plain_gradient(jnp.array(28.0), start, jnp.array(1.0))) < 10
    assert abs(plain_gradient(jnp.array(28.0), start, jnp.array(30.0))) > 1e5


@pytest.mark.parametrize(
    "verdict",
    [
        SlopeVerdict(-1.017, 0.002, 1.003, 0.001, 1.02),
        SlopeVerdict(1.05, 0.002, 1.003, 0.001, 1.02),
        SlopeVerdict(1.017, 0.002, 1.003, 0.001, 1.10),
        SlopeVerdict(1.017, 0.002, 1.003, 0.05, 1.02),
        SlopeVerdict(float("nan"), 0.002, 1.003, 0.001, 1.02),
    ],
)
def test_the_verdict_can_be_no(verdict):
    assert GOOD.trusted
    assert not verdict.trusted
    assert "NOT TRUSTED" in str(verdict)


@pytest.mark.slow
def test_averages_have_the_slope():
    found = ensemble(28.0, 64, 200.0)
    assert abs(found.slope - 1.0) < 4 * found.slope_error + 0.01
    # By SciPy's DOP853 over times of 4,000 at five rho: 23.54.
    assert abs(found.average[4] - 23.54) < 4 * found.error[4] + 0.03


@pytest.mark.slow
def test_a_run_leaves_everything(tmp_path):
    settings = ["--set", "members=48", "--set", "member_duration=300", "--set", "times=5"]
    assert main(["run", "lorenz_average", "--out", str(tmp_path), *settings]) == 0
    pictures = {"attractor.png", "averages.png", "gradients.png"}
    names = {"command.txt", "result.json", "report.html", "history.csv", "run.json"} | pictures
    assert {path.name for path in tmp_path.iterdir()} == names
    result = json.loads((tmp_path / "result.json").read_text())
    assert result["gradient"]["trusted"]
    rows = list(csv.DictReader((tmp_path / "history.csv").open()))
    assert len(rows) == 5
    assert abs(float(rows[-1]["plain"])) > 1e5
    assert abs(float(rows[-1]["shadowing"]) - PUBLISHED) < 0.05
