"""Tests run in float64 and refuse implicit rank promotion; random inputs are seeded by the tests themselves."""

import jax

jax.config.update("jax_enable_x64", True)
jax.config.update("jax_numpy_rank_promotion", "raise")
