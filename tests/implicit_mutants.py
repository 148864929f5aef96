"""Deliberate mutants of the rules for implicit functions."""

from mutation import Mutant

_ROOT = "implicit/root.py"
_RESIDUAL = "implicit/residual.py"
_RULE = "tracing/rule.py"
_LINEAR_MAP = "tracing/linear_map.py"
_REGULARITY = "implicit/regularity.py"
_GRADIENT = "implicit/symmetric_gradient.py"
_FIXED = "implicit/fixed_point.py"
_ARGMIN = "implicit/argmin.py"
_EXTERNAL = "implicit/external.py"

IMPLICIT_MUTANTS: tuple[Mutant, ...] = (
    # F_x' lam = x_bar, p_bar = -(adjoint of p -> F(x, p))(lam); x_dot = -F_x^-1 F_p p_dot.
    Mutant(
        "root: sign of p_bar", _ROOT, "adjoint_of_F(-lam)", "adjoint_of_F(lam)", "root_derivatives"
    ),
    Mutant(
        "root: F_x lam = x_bar",
        _ROOT,
        "tangent_solve(TransposedSolver(linear_solver), factor, F_x,",
        "tangent_solve(linear_solver, factor, F_x.A,",
        "root_derivatives",
    ),
    Mutant(
        "root: x_bar 1.001 times too large",
        _ROOT,
        "F_x, x_bar)",
        "F_x, 1.001 * x_bar)",
        "root_derivatives",
    ),
    Mutant(
        "root: sign of x_dot",
        _ROOT,
        "JacobianAction(F, x, p), -moved)",
        "JacobianAction(F, x, p), moved)",
        "root_tangent",
    ),
    Mutant(
        "root: x_dot 1.001 times too large",
        _ROOT,
        "JacobianAction(F, x, p), -moved)",
        "JacobianAction(F, x, p), -1.001 * moved)",
        "root_tangent",
    ),
    Mutant(
        "root: p_dot dropped",
        _ROOT,
        "(F_dot, p_dot))",
        "(F_dot, (p_dot[0], None)))",
        "root_tangent",
    ),
    Mutant(
        "root: tangent with F_x'",
        _ROOT,
        "tangent_solve(linear_solver, factor, JacobianAction(F, x, p),",
        "tangent_solve(TransposedSolver(linear_solver), factor, Transposed(JacobianAction(F, x, "
        "p)),",
        "root_tangent",
    ),
    Mutant(
        "root: x held constant at the second order",
        _ROOT,
        "    x = root_at(linear_solver, factor, F, x, p)\n",
        "",
        "root_derivatives",
    ),
    Mutant(
        "root: stale Jacobian, at x0",
        _REGULARITY,
        "problem.jacobian(x, p)",
        "problem.jacobian(x0, p)",
        "root_derivatives",
    ),
    Mutant(
        "root: derivative at x0 for x*",
        _ROOT,
        "(factor, F, x, p)\n",
        "(factor, F, 0 * x, p)\n",
        "root_derivatives",
    ),
    Mutant("root: not poisoned", _ROOT, "poison(x, status.ok)", "x", "failed_root"),
    Mutant(
        "root: a fold passes",
        _REGULARITY,
        "~(departure <= NONLINEARITY)",
        "(departure < 0)",
        "fold",
    ),
    Mutant(
        "root: what is left over passes",
        _REGULARITY,
        "~(left_over <= left_over_limit(x.dtype))",
        "(left_over < 0)",
        "stopped_short",
    ),
    # Units and infinities.
    Mutant(
        "root: pushed in the units of F",
        _REGULARITY,
        "jnp.maximum(perturbation(x.dtype) * scales.rows,",
        "jnp.maximum(perturbation(x.dtype) * jnp.max(scales.rows),",
        "units",
    ),
    Mutant(
        "root: rows not scaled back",
        "linear/equilibrated.py",
        "return _over(z, factor.rows)",
        "return z",
        "units",
    ),
    Mutant(
        "root: what an iteration leaves of the push is nonlinearity",
        _REGULARITY,
        "change - J.matvec(response)",
        "change - push",
        "fading_field",
    ),
    Mutant(
        "root: steps judged in other sizes than they are solved in",
        "implicit/newton.py",
        "scales = scales._replace(rows=unprepared.rows)",
        "pass",
        "fading_field",
    ),
    Mutant(
        "root: units of their own for unknowns that are alike",
        "linear/equilibrated.py",
        "return jax.tree.map(lambda a, b: jnp.where(alike, a, b), of_all, each)",
        "return each",
        "screened_field",
    ),
    Mutant(
        "root: one unit for all unknowns",
        "linear/equilibrated.py",
        "return jax.tree.map(lambda a, b: jnp.where(alike, a, b), of_all, each)",
        "return of_all",
        "units_of_iterations",
    ),
    Mutant(
        "root: symmetric systems in units of the unknowns alone",
        "linear/equilibrated.py",
        "power_of_two(jnp.sqrt(scales.columns / scales.rows))",
        "power_of_two(scales.columns)",
        "contrast",
    ),
    Mutant(
        "root: an infinite parameter is refused",
        _REGULARITY,
        "~none_is_nan(inputs) |",
        "~all_finite(inputs) |",
        "infinite_parameter",
    ),
    # Columns of a group are told apart by the row alone.
    Mutant(
        "sparse Jacobian: transposed",
        _RESIDUAL,
        "pattern.rows], pattern)",
        "pattern.cols], pattern)",
        "sparse_root",
    ),
    Mutant(
        "F_x x for F_x' x",
        _RESIDUAL,
        "return jax.vjp(lambda at: self.F(at, self.p), self.x)[1](x)[0]",
        "return self.matvec(x)",
        "root_derivatives",
    ),
    # The value with a rule of its own.
    Mutant(
        "known value: held constant in its derivative",
        _RULE,
        "    value = _attach(rule, value, operands, fixed)\n",
        "",
        "known_values",
    ),
    # Both modes from one rule.
    Mutant(
        "rule: x_bar shared by lanes not summed",
        _LINEAR_MAP,
        "jnp.sum(bar, places)",
        "jnp.mean(bar, places)",
        "known_values",
    ),
    # x = step(x, p), lam = step_x' lam + x_bar.
    Mutant(
        "fixed point: x + step",
        _FIXED,
        "jax.tree.map(jnp.subtract,",
        "jax.tree.map(jnp.add,",
        "fixed_points",
    ),
    Mutant(
        "transposed iteration: sign", _FIXED, "r - A(d), step", "r + A(d), step", "fixed_points"
    ),
    # f_x + c_x' m = 0, c = 0 or m = 0.
    Mutant("argmin: multiplier ignored", _ARGMIN, "p) + m @", "p) + 0 * m @", "minimizers"),
    Mutant(
        "argmin: every inequality active",
        _ARGMIN,
        "(at.multipliers + c <= 0)",
        "(at.multipliers + c < -1e9)",
        "minimizers",
    ),
    Mutant(
        "argmin: no inequality active",
        _ARGMIN,
        "(at.multipliers + c <= 0)",
        "(at.multipliers + c < 1e9)",
        "minimizers",
    ),
    Mutant(
        "argmin: weakly active passes",
        _ARGMIN,
        "at_zero & no_force\n",
        "at_zero & no_force & False\n",
        "no_minimizers",
    ),
    Mutant(
        "argmin: a saddle passes", _ARGMIN, "negative != m.size", "negative < 0", "no_minimizers"
    ),
    # g = f_x, whose derivative is symmetric.
    Mutant(
        "gradient: sign of x_bar",
        _GRADIENT,
        "(x,), (g_bar,))",
        "(x,), (-g_bar,))",
        "symmetric_gradients",
    ),
    Mutant(
        "gradient: p_bar dropped",
        _GRADIENT,
        "[found.get(k) for",
        "[0 * found[k] for",
        "symmetric_gradients",
    ),
    Mutant(
        "gradient: 1.001 g_dot",
        _GRADIENT,
        "residuals, dots)",
        "residuals, (dots[0], *(1.001 * d for d in dots[1:])))",
        "symmetric_gradients",
    ),
    # x_bar = J' y_bar, y_dot = J x_dot, and no second derivative.
    Mutant(
        "external: sign of x_bar",
        _EXTERNAL,
        "pull(leaves, y_bar))",
        "pull(leaves, -y_bar))",
        "black_box",
    ),
    Mutant(
        "external: x_bar 1.001 times too large",
        _EXTERNAL,
        "c[u.size :].astype",
        "1.001 * c[u.size :].astype",
        "black_box",
    ),
    Mutant(
        "external: sign of y_dot",
        _EXTERNAL,
        "unravel(b[: u.size]",
        "unravel(-b[: u.size]",
        "black_box",
    ),
    Mutant(
        "external: second derivative zero",
        _EXTERNAL,
        "attach_derivative(_refuse_second_derivative, jnp.zeros((), b.dtype), x, None)",
        "jnp.zeros((), b.dtype)",
        "black_box",
    ),
)
