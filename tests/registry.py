"""Every derivative rule of the library, with its tests and the mutants that they must kill.

`test_architecture.py` holds this list against the source: a rule that is not here, or a name here
that is nowhere, fails.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Rule:
    """`function` of `file` has derivatives of its own (`defvjp` or `defjvp`)."""

    file: str
    function: str
    tests: tuple[str, ...]
    mutants: tuple[str, ...]


RULES: tuple[Rule, ...] = (
    Rule(
        "linear/solve.py",
        "_solve",
        ("test_solve.py", "test_faults.py", "test_mutants.py"),
        (
            "sign of A_bar",
            "A_bar twice",
            "A_bar = -conj(lam) x'",
            "A_bar = -x lam'",
            "sign of b_bar",
            "lam 1.001 times too large",
            "A lam = x_bar",
            "A^H lam = x_bar",
            "gradient not poisoned",
        ),
    ),
    Rule(
        "linear/solve.py",
        "_solve_tangent",
        ("test_solve.py", "test_faults.py", "test_mutants.py"),
        (
            "forward mode: sign of A_dot x",
            "forward mode: b_dot dropped",
            "forward mode: A_dot x dropped",
            "forward mode: 1.001 x_dot",
            "forward mode with A'",
        ),
    ),
    Rule(
        "linear/sparse.py",
        "_LogDeterminantTangent",
        ("test_factorize.py", "test_faults.py", "test_mutants.py"),
        ("logdet: sign", "logdet: A^-1 for A'^-1", "logdet: conjugate"),
    ),
    Rule(
        "implicit/root.py",
        "_root",
        ("test_root.py", "test_fixed_point.py", "test_argmin.py", "test_implicit_mutants.py"),
        (
            "root: sign of p_bar",
            "root: F_x lam = x_bar",
            "root: x_bar 1.001 times too large",
            "root: derivative at x0 for x*",
            "root: not poisoned",
        ),
    ),
    Rule(
        "implicit/root.py",
        "_root_tangent",
        ("test_root.py", "test_implicit_mutants.py"),
        (
            "root: sign of x_dot",
            "root: x_dot 1.001 times too large",
            "root: p_dot dropped",
            "root: tangent with F_x'",
            "root: x held constant at the second order",
            "root: stale Jacobian, at x0",
        ),
    ),
    Rule(
        "implicit/symmetric_gradient.py",
        "_gradient",
        ("test_argmin.py", "test_implicit_mutants.py"),
        ("gradient: sign of x_bar", "gradient: p_bar dropped"),
    ),
    Rule(
        "implicit/symmetric_gradient.py",
        "_gradient_tangent",
        ("test_argmin.py", "test_implicit_mutants.py"),
        ("gradient: 1.001 g_dot",),
    ),
    Rule(
        "implicit/external.py",
        "_Tangent",
        ("test_external.py", "test_external_verify.py", "test_implicit_mutants.py"),
        (
            "external: sign of x_bar",
            "external: x_bar 1.001 times too large",
            "external: sign of y_dot",
        ),
    ),
    Rule(
        "implicit/external.py",
        "_refuse_second_derivative",
        ("test_external_refusals.py", "test_implicit_mutants.py"),
        ("external: second derivative zero",),
    ),
    Rule(
        "ode/solve.py",
        "_solve",
        (
            "test_ode_solve.py",
            "test_ode_steps.py",
            "test_ode_adjoints.py",
            "test_ode_faults.py",
            "test_ode_mutants.py",
        ),
        (
            "discrete: stale slope",
            "discrete: lam 1.001 times too large",
            "discrete: samples at t0 dropped",
            "continuous: F_y lam",
            "continuous: sign of lam'",
            "continuous: jump missing",
            "continuous: no quadrature",
            "backsolve: sign of lam'",
            "solve: not poisoned",
        ),
    ),
    Rule(
        "ode/integrator.py",
        "_AtStart",
        ("test_ode_solve.py", "test_ode_mutants.py"),
        (
            "samples at the start do not move",
            "samples at the start: y0 dropped",
            "samples at the start: no F_y",
        ),
    ),
    Rule(
        "ode/solve.py",
        "_solve_tangent",
        ("test_ode_tangent.py", "test_ode_solve.py", "test_ode_mutants.py"),
        (
            "tangent: p_dot dropped",
            "tangent: samples do not move",
            "tangent: 1.001 times that of the steps",
            "tangent: error of the steps dropped",
            "tangent: sign of the columns",
            "tangent: columns, samples do not move",
            "tangent: 1.001 times the samples",
            "tangent: wrong unit",
            "tangent: controlled samples do not move",
        ),
    ),
    Rule(
        "ode/recurrence.py",
        "_recur_tangent",
        ("test_recurrence.py", "test_ode_mutants.py"),
        ("recurrence: p_dot dropped", "recurrence: stale x_dot"),
    ),
    Rule(
        "ode/runge_kutta.py",
        "_StageDerivative",
        (
            "test_ode_solve.py",
            "test_ode_steps.py",
            "test_ode_adjoints.py",
            "test_mass_matrix.py",
            "test_refinement.py",
            "test_ode_mutants.py",
        ),
        (
            "implicit stage: F_y transposed",
            "implicit stage: sign of F_p",
            "implicit stage: sign of F_y",
            "many states: A not transposed",
            "many states: far factors believed",
        ),
    ),
    Rule(
        "ode/shadowing.py",
        "_undifferentiated",
        ("test_shadowing.py", "test_ode_mutants.py"),
        ("shadowing: derivatives of the result let through",),
    ),
    Rule(
        "ode/recurrence.py",
        "_recur",
        ("test_recurrence.py", "test_checkpoints.py", "test_ode_mutants.py"),
        (
            "recurrence: lam 1.001 times too large",
            "recurrence: p_bar of one step only",
            "recurrence: stored one step late",
            "recurrence: not poisoned",
        ),
    ),
)
