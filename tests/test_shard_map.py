"""Every solver in `jax.shard_map`, types checked, on two devices, against the loop over them."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from shard_map_run import CASES

# The sums over devices are taken in another order.
ROUNDING = 1e-13
FEW = ["LU", "recurrence"]


def run(names: list[str]) -> dict[str, str]:
    here = Path(__file__).parent
    environment = os.environ | {
        "XLA_FLAGS": "--xla_force_host_platform_device_count=2",
        "JAX_PLATFORMS": "cpu",
    }
    environment["PYTHONPATH"] = str(here.parent)
    command = [sys.executable, str(here / "shard_map_run.py"), *names]
    done = subprocess.run(
        command, env=environment, capture_output=True, text=True, check=False, timeout=3000
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return dict(line.split(": ", 1) for line in done.stdout.splitlines())


def test_gradients_with_respect_to_sharded_and_replicated_arguments() -> None:
    found = run(FEW)
    assert {name: error for name, error in found.items() if not float(error) < ROUNDING} == {}
    assert list(found) == FEW


@pytest.mark.slow
def test_gradients_of_every_solver() -> None:
    names = [name for name in CASES if name not in (*FEW, "argmin")]
    found = run(names)
    assert {
        name: error
        for name, error in found.items()
        if not (error[0].isdigit() and float(error) < ROUNDING)
    } == {}
    assert list(found) == names


@pytest.mark.slow
def test_argmin_is_refused_in_our_words() -> None:
    assert "check_vma=False" in run(["argmin"])["argmin"]
