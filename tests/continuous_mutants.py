"""Deliberate mutants of the continuous adjoints of differential equations and certificates."""

from mutation import Mutant

_CONTINUOUS = "ode/continuous.py"
_STEPS = "ode/adjoint_steps.py"
_QUADRATURE = "ode/quadrature.py"
_BACKSOLVE = "ode/backsolve.py"
_CERTIFICATE = "ode/certificate.py"

CONTINUOUS_MUTANTS: tuple[Mutant, ...] = (
    # lam' = -F_y' lam, lam(s_j - 0) = lam(s_j + 0) + y_j_bar, p_bar = integral of F_p' lam ds.
    Mutant(
        "continuous: F_y lam",
        _CONTINUOUS,
        "return -u_bar, varying_bar",
        "return -jax.jvp(lambda y: self.forward.field(s, y, along.p), (u,), (lam,))[1], "
        "varying_bar",
        "continuous",
    ),
    Mutant(
        "continuous: sign of lam'",
        _CONTINUOUS,
        "return -u_bar, varying_bar",
        "return u_bar, varying_bar",
        "continuous",
    ),
    Mutant(
        "continuous: jump missing",
        _CONTINUOUS,
        "lam + lam_bar, varying_bar",
        "lam + 0 * lam_bar, varying_bar",
        "continuous",
    ),
    Mutant(
        "continuous: jump at t0 missing",
        _CONTINUOUS,
        "scale * lam + first.y0",
        "scale * lam + 0 * first.y0",
        "continuous",
    ),
    Mutant(
        "continuous: no quadrature",
        _STEPS,
        "[old + new for",
        "[old + 0 * new for",
        "continuous",
    ),
    Mutant(
        "continuous: one tolerance for all components",
        _STEPS,
        "tolerances.atol * scales",
        "tolerances.atol * jnp.max(scales)",
        "small_share_of_lam",
    ),
    Mutant(
        "continuous: a tolerance in one unit for all p",
        _STEPS,
        "tolerances.atol * rate",
        "tolerances.atol",
        "controls",
    ),
    Mutant(
        "Gauss: sign of the quadrature",
        _QUADRATURE,
        "at, -h * jnp.asarray(weights[None]",
        "at, h * jnp.asarray(weights[None]",
        "continuous",
    ),
    Mutant(
        "interpolating: lam held constant over a step",
        _QUADRATURE,
        "lam + weighted(a_i, k), u_i",
        "lam + weighted(a_i, 0 * k), u_i",
        "interpolating",
    ),
    Mutant(
        "interpolating: lam held constant over an implicit step",
        _QUADRATURE,
        "weighted(a, step.stages)",
        "weighted(a, 0 * step.stages)",
        "interpolating_implicit",
    ),
    Mutant(
        "interpolating: sign of the quadrature",
        _QUADRATURE,
        "b = -h * jnp.asarray(_weights",
        "b = h * jnp.asarray(_weights",
        "interpolating",
    ),
    Mutant("backsolve: sign of lam'", _BACKSOLVE, "[F, -u_bar]", "[F, u_bar]", "backsolve"),
    Mutant(
        "backsolve: reconstruction not checked",
        _BACKSOLVE,
        "stop_gradient(came_back), scale, jnp.nan)",
        "stop_gradient(came_back), scale, scale)",
        "decay",
    ),
    Mutant(
        "certificate: growth ignored",
        _CERTIFICATE,
        "disagreement + fine.growth *",
        "disagreement + 0 * fine.growth *",
        "unstable",
    ),
    Mutant(
        "continuous: a sample at the end of a step does not move",
        _CONTINUOUS,
        "bar + ds * u_bar",
        "bar + 0 * ds * u_bar",
        "continuous_hessian",
    ),
)
