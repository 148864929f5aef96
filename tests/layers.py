"""The files of the library, each below those that may import it."""

TRACING = """loops structure traced_function quick_compile programs linear_map rule host_call
host_batching""".split()  # noqa: SIM905
LINEAR = """factor_cache sparse_pattern operators conversion outcome dense superlu pardiso sparse
grid_stencil multigrid krylov iterative equilibrated choice solver_parts solve""".split()  # noqa: SIM905
ODE = """jumps vector_field mass_matrix refinement runge_kutta integrator
integrate checkpoints tangent_control error_estimate step_adjoint sensitivity repair
discrete forward quadrature adjoint_steps continuous backsolve certificate choice tangent
arguments solve event_model event_search event_instant event_sequence events
steady_state recurrence block_tridiagonal time_average shadow shadowing""".split()  # noqa: SIM905
OPTIMIZE = """optimality_criteria state problem line_search backtracking descent
steepest_descent bfgs
trust_region newton newton_krylov lagrangian separable
moving_asymptotes diagonal_hessian mma gcmma augmented_lagrangian
quadratic_program sqp_subproblem sqp optax_method oc_method
derivative_check stopping run agreement directions evidence progress objective continuation driver
statement stages choice minimize""".split()  # noqa: SIM905
IMPLICIT = """residual regularity newton host_solver root fixed_point minimizer
symmetric_gradient argmin external_verification external""".split()  # noqa: SIM905
RUN = """run_folder checkpoint activity ending figures film history
interruption progress provenance report result vtk record settings problem
stored_run checks exit_codes command_line""".split()  # noqa: SIM905
# A file imports only from layers above its own in this list, or from files before it in its own
# folder.
LAYERS: tuple[tuple[str, ...], ...] = (
    ("inputs", "status", "solution", "stats"),
    (*(f"tracing.{name}" for name in TRACING),),
    ("norm",),
    ("inner_products",),
    (
        "verify.line",
        "verify.differences",
        "verify.remainder",
        "verify.taylor",
        "verify.pairing",
        "verify.transpose",
        "verify.verdict",
        "verify.judgement",
        "verify.gradient",
    ),
    (*(f"linear.{name}" for name in LINEAR),),
    ("fem.grid", "fem.elements", "fem.assembly", "fem.filters"),
    (*(f"implicit.{name}" for name in IMPLICIT),),
    (*(f"ode.{name}" for name in ODE),),
    ("second_order", *(f"run.{name}" for name in RUN)),
    (*(f"optimize.{name}" for name in OPTIMIZE),),
    ("__main__",),
)
