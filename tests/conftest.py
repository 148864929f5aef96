"""Tests run in float64 and refuse implicit rank promotion; random inputs are seeded by the tests themselves."""

import jax
import pytest

jax.config.update("jax_enable_x64", True)
jax.config.update("jax_numpy_rank_promotion", "raise")


def pytest_configure(config: pytest.Config) -> None:
    """Compiling takes most of the fast suite's time, so it compiles with few optimizations; the slow suite with all."""
    jax.config.update("jax_disable_most_optimizations", config.getoption("markexpr") == "not slow")
