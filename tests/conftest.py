"""Tests run in float64 and refuse implicit rank promotion; they seed random inputs themselves."""

import os

import jax
import pytest

jax.config.update("jax_enable_x64", True)
jax.config.update("jax_numpy_rank_promotion", "raise")

# Most of the time that XLA takes to compile for the CPU.
FUSION_EMITTERS = "--xla_cpu_use_fusion_emitters=false"


def pytest_configure(config: pytest.Config) -> None:
    """The fast suite compiles with few optimizations, the slow suite with all.

    Compiling takes most of the fast suite's time.
    """
    fast = config.getoption("markexpr") == "not slow"
    jax.config.update("jax_disable_most_optimizations", fast)
    flags = os.environ.get("XLA_FLAGS", "")
    if fast and FUSION_EMITTERS not in flags:
        os.environ["XLA_FLAGS"] = f"{flags} {FUSION_EMITTERS}".strip()
