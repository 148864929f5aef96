"""Deliberate mutants of the rules for differential equations and recurrences.

`continuous_mutants.py` has those of the continuous adjoints.
"""

from continuous_mutants import CONTINUOUS_MUTANTS
from mutation import Mutant

_FIELD = "ode/vector_field.py"
_STEP = "ode/runge_kutta.py"
_CHECKPOINTS = "ode/checkpoints.py"
_RECURRENCE = "ode/recurrence.py"
_DISCRETE = "ode/step_adjoint.py"
_REPAIR = "ode/repair.py"
_CONTROL = "ode/tangent_control.py"
_FORWARD = "ode/forward.py"
_SOLVE = "ode/solve.py"
_TANGENT = "ode/tangent.py"

ODE_MUTANTS: tuple[Mutant, ...] = (
    # s = (t - t0) / (t1 - t0), dy/ds = (t1 - t0) f.
    Mutant(
        "field: time's share in t1 dropped",
        _FIELD,
        "t = t0 + s * (t1 - t0)\n        y_of_t",
        "t = t0 + s * jax.lax.stop_gradient(t1 - t0)\n        y_of_t",
        "discrete",
    ),
    Mutant(
        "field: the length of the interval held constant",
        _FIELD,
        "return rate * jnp.concatenate(slopes)",
        "return jax.lax.stop_gradient(rate) * jnp.concatenate(slopes)",
        "discrete",
    ),
    # x[k+1] = advance(k, x[k]), lam[k] = pull(k, x[k], lam[k+1]).
    Mutant(
        "two levels: one step too far",
        _CHECKPOINTS,
        "advance(first + i, state)",
        "advance(first + i + 1, state)",
        "chains",
    ),
    Mutant(
        "two levels: a segment too short",
        _CHECKPOINTS,
        "(count - first, schedule.spacing)",
        "(count - first - 1, schedule.spacing)",
        "chains",
    ),
    Mutant(
        "binomial: the state after the checkpoint",
        _CHECKPOINTS,
        "at[top], k + 1)",
        "at[top] + 1, k + 1)",
        "chains",
    ),
    Mutant(
        "recurrence: stored one step late",
        _RECURRENCE,
        "k % spacing == 0",
        "k % spacing == 1",
        "recurrences",
    ),
    Mutant(
        "recurrence: lam 1.001 times too large",
        _RECURRENCE,
        "adjoint(lam.x)",
        "adjoint(1.001 * lam.x)",
        "recurrences",
    ),
    Mutant(
        "recurrence: p_bar of one step only",
        _RECURRENCE,
        "[total + new for",
        "[0 * total + new for",
        "recurrences",
    ),
    Mutant(
        "recurrence: not poisoned",
        _RECURRENCE,
        "z = poison(z, code == 0)",
        "z = poison(z, code == code)",
        "failures",
    ),
    # lam[k] = (dPhi_k/dx)' lam[k+1] + what the samples inside step k add.
    Mutant(
        "discrete: stale slope",
        _DISCRETE,
        "State(self.inside.y1, lam.state.slope)",
        "State(self.inside.y1, 0 * lam.state.slope)",
        "discrete",
    ),
    Mutant(
        "discrete: first slope dropped",
        _DISCRETE,
        "from_slope = Gradient(y0_bar,",
        "from_slope = Gradient(0 * y0_bar,",
        "discrete",
    ),
    Mutant(
        "discrete: lam 1.001 times too large",
        _DISCRETE,
        "State(self.inside.y1, lam.state.slope)",
        "State(1.001 * self.inside.y1, lam.state.slope)",
        "discrete",
    ),
    Mutant(
        "discrete: samples dropped at the stages",
        _DISCRETE,
        "lam.state.slope), self.inside.stages",
        "lam.state.slope), 0 * self.inside.stages",
        "discrete",
    ),
    Mutant(
        "discrete: samples of implicit steps dropped at the start",
        _DISCRETE,
        "add(inside.state, state_bar)",
        "add(state_bar)",
        "implicit_samples",
    ),
    Mutant(
        "discrete: samples of implicit steps dropped at the parameters",
        _DISCRETE,
        "add(inside.varying, varying_bar)",
        "add(lam.varying, varying_bar)",
        "implicit_samples",
    ),
    Mutant(
        "discrete: samples at t0 dropped",
        _DISCRETE,
        "is_first = s <= 0",
        "is_first = s < 0",
        "discrete",
    ),
    Mutant("discrete: sign of s_bar", _DISCRETE, ".set(at_bar)", ".set(-at_bar)", "discrete"),
    Mutant(
        "discrete: stages of the transposed step",
        _STEP,
        "Y = y + weighted(weights, k)",
        "Y = y + weighted(0.5 * weights, k)",
        "discrete",
    ),
    Mutant(
        "discrete: samples of a stiff solver do not move",
        "ode/integrator.py",
        "step_with_moving_ends((s[0], at), state",
        "step_with_moving_ends((s[0], jax.lax.stop_gradient(at)), state",
        "implicit_samples",
    ),
    # dy = dy0 + s (F_y dy0 + F_p dp) + F ds at the start.
    Mutant(
        "samples at the start do not move",
        "ode/integrator.py",
        "+ s_dot * slope",
        "+ 0 * s_dot * slope",
        "discrete",
    ),
    Mutant(
        "samples at the start: y0 dropped",
        "ode/integrator.py",
        "return y0_dot + s",
        "return 0 * y0_dot + s",
        "discrete",
    ),
    Mutant(
        "samples at the start: no F_y",
        "ode/integrator.py",
        "s * slope_dot",
        "0 * slope_dot",
        "second_at_start",
    ),
    # eps[k] = Phi_k' eps[k+1] + e_k' lam[k+1], and what is done where it is large.
    Mutant(
        "estimate: errors of steps dropped",
        _REPAIR,
        "none, step.inside.y1 + step.inside.datum)",
        "none, 0 * step.inside.y1)",
        "at_rest",
    ),
    Mutant(
        "estimate: what is left where terms cancel has digits",
        "ode/error_estimate.py",
        "FLOOR * _norm(other * unit)",
        "0 * _norm(other * unit)",
        "stationary",
    ),
    Mutant(
        "estimate: what counts for little has no digits",
        _REPAIR,
        "jnp.broadcast_to(weights, bar.shape) * bar",
        "jnp.broadcast_to(weights, bar.shape) * jnp.max(jnp.abs(bar))",
        "small_share",
    ),
    Mutant(
        "estimate: a coarse grid believed",
        _REPAIR,
        "is_open & finite",
        "(now.tries == 0) & finite",
        "at_rest",
    ),
    Mutant(
        "tangents: not in the error test",
        _CONTROL,
        "jnp.maximum(of_y, jnp.max(",
        "jnp.maximum(of_y, 0 * jnp.max(",
        "forward_at_rest",
    ),
    Mutant(
        "tangents: signs alone",
        _CONTROL,
        "jax.random.rademacher(of_sign, shape, dtype) * sizes",
        "jax.random.rademacher(of_sign, shape, dtype) + 0 * sizes",
        "kinks",
    ),
    Mutant(
        "tangents: none by p",
        _CONTROL,
        "by_p = jnp.array([0.0, 1.0])",
        "by_p = jnp.array([0.0, 0.0])",
        "kinks",
    ),
    Mutant(
        "tangents: what begins to grow has no size",
        _CONTROL,
        "FLOOR * jnp.abs(v_slope)",
        "0 * jnp.abs(v_slope)",
        "late_kink",
    ),
    # t(s) is linear between jumps.
    Mutant(
        "jumps: their times do not move",
        "ode/jumps.py",
        "return cls(times, jnp.clip",
        "return cls(jax.lax.stop_gradient(times), jnp.clip",
        "switch",
    ),
    Mutant(
        "jumps: f sees the other side",
        "ode/jumps.py",
        "(knots.shares < s) | (knots",
        "(knots.shares <= s) | (knots",
        "switch",
    ),
    # dS/ds = F_y S + F_p.
    Mutant(
        "variational equation: no F_p",
        _CONTROL,
        "Directions(p, varying_dot)",
        "Directions(p, jax.tree.map(jnp.zeros_like, varying_dot))",
        "forward",
    ),
    Mutant(
        "variational equation: wrong unit",
        _FORWARD,
        "/ unit[:, None]",
        "/ unit[:, None] ** 2",
        "forward",
    ),
    Mutant(
        "tangents of steps: p_dot dropped",
        _FORWARD,
        "(y0_dot, varying_dot, jnp.full_like",
        "(y0_dot, jax.tree.map(jnp.zeros_like, varying_dot), jnp.full_like",
        "tangents",
    ),
    # Forward mode: the steps once more, the columns, or the variational equation in one direction.
    Mutant(
        "tangent: p_dot dropped",
        _TANGENT,
        "linear(now.v, dots.varying)",
        "linear(now.v, none)",
        "discrete_tangent",
    ),
    Mutant(
        "tangent: samples do not move",
        _TANGENT,
        "v_stages, dots.s[j], dots.varying)",
        "v_stages, 0 * dots.s[j], dots.varying)",
        "discrete_tangent",
    ),
    Mutant(
        "tangent: 1.001 times that of the steps",
        _TANGENT,
        "return (end.v.y, end.samples), end.error",
        "return (1.001 * end.v.y, 1.001 * end.samples), end.error",
        "discrete_tangent",
    ),
    Mutant(
        "tangent: error of the steps dropped",
        _TANGENT,
        "eps = State(eps.y + e, eps.slope)",
        "eps = State(eps.y, eps.slope)",
        "tangent_at_rest",
    ),
    Mutant(
        "tangent: sign of the columns", _TANGENT, "[0] @ S[:-1]", "[0] @ -S[:-1]", "column_tangent"
    ),
    Mutant(
        "tangent: columns, samples do not move",
        _TANGENT,
        "row[y0.size :].reshape(s.size, y0.size) + dots.s[:, None] * rates",
        "row[y0.size :].reshape(s.size, y0.size) + 0 * rates",
        "column_tangent",
    ),
    Mutant(
        "tangent: 1.001 times the samples",
        _TANGENT,
        "return poison((y1_dot, samples_dot), finite)",
        "return poison((y1_dot, 1.001 * samples_dot), finite)",
        "variational_tangent",
    ),
    Mutant(
        "tangent: wrong unit",
        _TANGENT,
        "size * samples.v",
        "size**2 * samples.v",
        "variational_tangent",
    ),
    Mutant(
        "tangent: controlled samples do not move",
        _TANGENT,
        "+ dots.s[:, None] * rates\n    return poison",
        "+ 0 * rates\n    return poison",
        "variational_tangent",
    ),
    Mutant(
        "recurrence: p_dot dropped",
        _RECURRENCE,
        "(carry[1], varying_dot)",
        "(carry[1], jax.tree.map(jnp.zeros_like, varying_dot))",
        "recurrence_tangent",
    ),
    Mutant(
        "recurrence: stale x_dot",
        _RECURRENCE,
        "(carry[1], varying_dot)",
        "(x_dot, varying_dot)",
        "recurrence_tangent",
    ),
    # (M - h a F_y) dY = dc + h a F_p dp.
    Mutant(
        "implicit stage: F_y transposed",
        _STEP,
        "Y) - ha * F_y",
        "Y) - ha * F_y.T",
        "implicit",
    ),
    Mutant(
        "implicit stage: sign of F_p",
        _STEP,
        "c_dot + ha * F_p_dot",
        "c_dot - ha * F_p_dot",
        "implicit",
    ),
    Mutant(
        "implicit stage: sign of F_y",
        _STEP,
        "Y) - ha * F_y",
        "Y) + ha * F_y",
        "implicit",
    ),
    Mutant(
        "many states: A not transposed",
        "ode/refinement.py",
        "_solve_transposed(A, *factors, b)",
        "_solve_transposed(A.T, *factors, b)",
        "many_states",
    ),
    Mutant(
        "many states: far factors believed",
        "ode/refinement.py",
        "cond(is_solution,",
        "cond(x[0] == x[0],",
        "far_factors",
    ),
    Mutant("implicit stage: ends too early", _STEP, "KAPPA = 1e-3", "KAPPA = 1e3", "stages"),
    *CONTINUOUS_MUTANTS,
    Mutant(
        "solve: not poisoned",
        _SOLVE,
        "poison((y1, samples), status.ok)",
        "poison((y1, samples), status.code == status.code)",
        "failures",
    ),
    Mutant(
        "shadowing: derivatives of the result let through",
        "ode/shadowing.py",
        "_undifferentiated.defvjp(_refuse_derivative,",
        "_undifferentiated.defvjp(lambda x: (x, None),",
        "shadow",
    ),
)
