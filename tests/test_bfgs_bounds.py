"""BFGS within bounds: directions among the free entries, and what it keeps for them.

The cost of directions is that of a few products.
"""

import time

import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from jaxtyping import Array

from adjoint import BFGS
from adjoint.inner_products import Euclidean
from adjoint.optimize.bfgs import FORCING
from adjoint.optimize.problem import Domain
from adjoint.optimize.state import Iterate

N = 12
METHOD = BFGS()


def box(n: int) -> Domain:
    return Domain(jnp.zeros(n), jnp.ones(n), jnp.asarray(0.0), Euclidean(), lambda x: x)


@jax.jit
def towards(H: Array, g: Array, free: Array) -> Array:
    memory = METHOD.forget(g, box(g.size))._replace(H=H)
    return METHOD.direction(memory, Iterate(g, g[0], g), free, box(g.size))


def positive_definite(rng: np.random.Generator, units: np.ndarray) -> np.ndarray:
    factor = rng.normal(size=(N, N)) + 3 * np.eye(N)
    return factor @ factor.T * units[:, None] * units[None, :]


class TestDirection:
    @settings(max_examples=40, deadline=None, derandomize=True)
    @given(st.integers(0, 2**32 - 1), st.integers(0, 6), st.floats(0, 1))
    def test_is_newton_s_among_the_free_entries(
        self, seed: int, decades: int, share: float
    ) -> None:
        """B_ff d_f = -g_f, B = H^-1, by NumPy, in any units, to what is asked of the iteration.

        These are the conjugate gradients.
        """
        rng = np.random.default_rng(seed)
        units = 10.0 ** rng.uniform(-decades, decades, N)
        H, g = positive_definite(rng, units), rng.normal(size=N) / units
        free = rng.random(N) < share
        d = np.asarray(towards(jnp.asarray(H), jnp.asarray(g), jnp.asarray(free)))
        assert np.all(d[~free] == 0)
        assert np.any(free) is np.False_ or d @ g < 0
        H = H / units[:, None] / units[None, :]
        B = np.linalg.inv(H)
        expected = np.zeros(N)
        expected[free] = -np.linalg.solve(B[np.ix_(free, free)], (g * units)[free])
        # H_hh y = b = H_hf g_f is solved to |D^-1/2 r| <= FORCING |D^-1/2 b|, D the diagonal, and
        # d_f = H_fh y - H_ff g_f.
        H_hh = H[np.ix_(~free, ~free)]
        b = H[np.ix_(~free, free)] @ (g * units)[free]
        root = np.sqrt(np.diag(H_hh))
        to_d = H[np.ix_(free, ~free)] @ np.linalg.inv(H_hh) * root
        atol = FORCING * np.linalg.norm(b / root) * (np.linalg.norm(to_d, 2) if to_d.size else 0)
        np.testing.assert_allclose(d / units, expected, rtol=1e-9, atol=atol + 1e-12)

    def test_with_no_entry_held_it_is_minus_h_g(self) -> None:
        rng = np.random.default_rng(3)
        H, g = positive_definite(rng, np.ones(N)), rng.normal(size=N)
        np.testing.assert_allclose(
            towards(jnp.asarray(H), jnp.asarray(g), jnp.ones(N, bool)), -H @ g, rtol=1e-12
        )

    def test_what_is_left_of_a_step_that_is_too_short_of_products_is_downhill(self) -> None:
        """A held block far worse than twenty products can solve."""
        rng, n = np.random.default_rng(4), 200
        Q = np.linalg.qr(rng.normal(size=(n, n)))[0]
        H, g = Q @ np.diag(np.logspace(0, 8, n)) @ Q.T, rng.normal(size=n)
        free = rng.random(n) < 0.3
        assert np.asarray(towards(jnp.asarray(H), jnp.asarray(g), jnp.asarray(free))) @ g < 0


def seconds(n: int, bounded: bool) -> float:
    """CPU seconds of a BFGS step with a fifth of the entries at bounds; one joins or leaves."""
    domain = box(n) if bounded else Domain(None, None, jnp.asarray(0.0), Euclidean(), lambda x: x)
    free = jnp.arange(n) >= n // 5 if bounded else jnp.ones(n, bool)

    @jax.jit
    def run(memory: Array) -> Array:
        def step(k, carry):
            memory, d = carry
            still_free = free.at[n // 2].set(k % 2 == 0) if bounded else free
            g = jnp.cos(jnp.arange(n) + k) + 0 * d
            d = METHOD.direction(memory, Iterate(g, g[0], g), still_free, domain)
            s = jnp.where(still_free, d / jnp.linalg.norm(d), 0)
            return METHOD.learn(memory, s, (1 + jnp.arange(n) / n) * s, domain), d

        return jax.lax.fori_loop(0, 20, step, (memory, jnp.ones(n)))[1]

    memory = METHOD.forget(jnp.ones(n), domain)
    run(memory).block_until_ready()
    best = np.inf
    for _ in range(5):
        began = time.process_time()
        run(memory).block_until_ready()
        best = min(best, time.process_time() - began)
    return best


def test_a_step_costs_no_cubes() -> None:
    # Some products with H in place of one, beside the update, which is three; factors anew took 18
    # times as much.
    assert seconds(400, bounded=True) <= 6 * seconds(400, bounded=False)
