"""The plane double pendulum: two point masses on two massless rods, without friction.

With angles a = (a_1, a_2) from the vertical, w = a', d = a_1 - a_2, lengths l in m, masses m in kg
and gravity g in m/s^2:

    (m_1 + m_2) l_1 w_1' + m_2 l_2 w_2' cos d = -m_2 l_2 w_2^2 sin d - (m_1 + m_2) g sin a_1
              l_1 w_1' cos d + l_2 w_2'       =      l_1 w_1^2 sin d -              g sin a_2

(E. W. Weisstein, Double Pendulum, ScienceWorld; R. B. Levien, S. M. Tan, Am. J. Phys. 61 (1993)
1038-1044.) The laws below are exact, and so are their derivatives: closed forms for the
sensitivities of (a, w)(t) to (a, w)(0), l, m and g.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


class State(NamedTuple):
    """Angles from the vertical in rad, and their rates in rad/s."""

    angles: Float[Array, " 2"]
    velocities: Float[Array, " 2"]


class Pendulum(NamedTuple):
    """Lengths in m, masses in kg, gravity in m/s^2."""

    lengths: Float[Array, " 2"]
    masses: Float[Array, " 2"]
    gravity: Float[Array, ""]


class Everything(NamedTuple):
    """All that a motion depends on."""

    start: State
    pendulum: Pendulum


def motion(_: Float[Array, ""], y: State, p: Pendulum) -> State:
    """y' = f(y, p): the two equations above, solved for w'."""
    (a_1, a_2), (w_1, w_2) = y
    (l_1, l_2), (m_1, m_2), g = p
    sine = jnp.sin(a_1 - a_2)
    cosine = jnp.cos(a_1 - a_2)
    m = m_1 + m_2
    force_1 = -m_2 * l_2 * w_2**2 * sine - m * g * jnp.sin(a_1)
    force_2 = l_1 * w_1**2 * sine - g * jnp.sin(a_2)
    denominator = m_1 + m_2 * sine**2
    rate_1 = (force_1 - m_2 * cosine * force_2) / (l_1 * denominator)
    rate_2 = (m * force_2 - cosine * force_1) / (l_2 * denominator)
    return State(y.velocities, jnp.stack([rate_1, rate_2]))


def masses_by_angle(angles: Float[Array, " 2"], p: Pendulum) -> Float[Array, "2 2"]:
    """M with the kinetic energy w' M w / 2, in kg m^2."""
    (l_1, l_2), (m_1, m_2), _ = p
    coupling = m_2 * l_1 * l_2 * jnp.cos(angles[0] - angles[1])
    return jnp.array([[(m_1 + m_2) * l_1**2, coupling], [coupling, m_2 * l_2**2]])


def energy(y: State, p: Pendulum) -> Float[Array, ""]:
    """w' M w / 2 - g ((m_1 + m_2) l_1 cos a_1 + m_2 l_2 cos a_2) in J: 0 where rods are level."""
    (l_1, l_2), (m_1, m_2), g = p
    depth = (m_1 + m_2) * l_1 * jnp.cos(y.angles[0]) + m_2 * l_2 * jnp.cos(y.angles[1])
    return y.velocities @ masses_by_angle(y.angles, p) @ y.velocities / 2 - g * depth


def joints(angles: Float[Array, "... 2"], lengths: Float[Array, " 2"]) -> Float[Array, "... 2 2"]:
    """Where both masses are, in m: (x, y) of the upper one and of the lower one, the tip.

    y points up, the pivot is (0, 0).
    """
    rods = jnp.einsum(
        "...jk,j->...jk", jnp.stack([jnp.sin(angles), -jnp.cos(angles)], axis=-1), lengths
    )
    return jnp.cumsum(rods, axis=-2)


def normal_modes(p: Pendulum) -> tuple[Float[Array, " 2"], Float[Array, "2 2"]]:
    """omega in rad/s, ascending, and, as columns, angles of small oscillations a(0) cos(omega t).

    K a = omega^2 M(0) a with K = g diag((m_1 + m_2) l_1, m_2 l_2); for equal masses and lengths
    omega^2 = (2 -+ sqrt 2) g / l with a_2 = +-sqrt 2 a_1 (L. D. Landau, E. M. Lifshitz, Mechanics,
    3rd ed., section 23, problem 2).
    """
    (l_1, l_2), (m_1, m_2), g = p
    root = jnp.sqrt(g * jnp.array([(m_1 + m_2) * l_1, m_2 * l_2]))
    # With b = K^(1/2) a, b = omega^2 K^(-1/2) M K^(-1/2) b is symmetric.
    inverse_squares, b = jnp.linalg.eigh(masses_by_angle(jnp.zeros(2), p) / jnp.outer(root, root))
    angles = b[:, ::-1] / root[:, None]
    return 1 / jnp.sqrt(inverse_squares[::-1]), angles / angles[:1]


def broken_laws(t: float, now: State, d: Everything, of: Everything) -> dict[str, Float[Array, ""]]:
    """How far sensitivities are from what exact laws of motion ask, relative to the largest term.

    Parameters
    ----------
    t
        In s.
    now
        The state then, y(t).
    d
        Derivatives of (a_1, a_2, w_1, w_2)(t): each leaf of shape (4,) + the shape of that of `of`.
    of
        What they are derivatives by.

    Returns
    -------
    broken
        By law, with derivatives of y(t) as subscripts and S that by y(0):

        - mass: only their ratio counts, so m_1 y_m1 + m_2 y_m2 = 0;
        - length: only their ratios to g count, so l_1 y_l1 + l_2 y_l2 + g y_g = 0;
        - time: t -> c t, w(0) -> w(0) / c, g -> g / c^2 leaves a(t) and c w(t), so t y' - w(0)
          y_w(0) - 2 g y_g + (0, w) = 0;
        - shift: a later start makes a shorter motion, so S f(y(0)) = f(y(t));
        - energy: E(y(t)) = E(y(0)), differentiated by everything;
        - volume: det S = det M(a(0)) / det M(a(t)), Liouville's theorem in angles and velocities.
    """
    (start, p), (by_start, by_p) = of, d
    f_now, f_start = (jnp.concatenate(motion(jnp.zeros(()), y, p)) for y in (now, start))
    by_gravity = by_p.gravity * p.gravity
    S = jnp.concatenate(by_start, axis=1)
    later = jnp.concatenate([jnp.zeros(2), now.velocities])

    def share(*terms: Array) -> Array:
        return jnp.max(jnp.abs(sum(terms))) / jnp.max(jnp.abs(jnp.stack(terms)))

    by_now, by_p_now = jax.grad(energy, argnums=(0, 1))(now, p)
    changes = jax.tree.map(lambda leaf: jnp.concatenate(by_now) @ leaf.reshape(4, -1), d)
    expected = jax.grad(lambda of: energy(*of))(of)
    direct = Everything(jax.tree.map(jnp.zeros_like, start), by_p_now)
    flat = [
        jnp.concatenate([jnp.ravel(leaf) for leaf in jax.tree.leaves(tree)])
        for tree in (changes, direct, expected)
    ]
    sizes = [jnp.linalg.det(masses_by_angle(y.angles, p)) for y in (start, now)]
    return {
        "mass": share(*(by_p.masses.T * p.masses[:, None])),
        "length": share(*(by_p.lengths.T * p.lengths[:, None]), by_gravity),
        "time": share(
            t * f_now, *(-by_start.velocities.T * start.velocities[:, None]), -2 * by_gravity, later
        ),
        "shift": share(*(S.T * f_start[:, None]), -f_now),
        "energy": share(flat[0], flat[1], -flat[2]),
        "volume": jnp.abs(jnp.linalg.det(S) * sizes[1] / sizes[0] - 1),
    }
