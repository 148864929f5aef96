"""Every derivative rule of the library, with the tests that exercise it and the mutants of it that they must kill.

`test_architecture.py` holds this list against the source: a rule that is not here, or a name here that is nowhere, fails.
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
        "tangent_solve",
        ("test_solve.py", "test_faults.py", "test_mutants.py"),
        (
            "b_dot dropped",
            "A_dot x dropped",
            "sign of A_dot x",
            "tangent with A'",
            "A constant in the tangent",
            "transposed tangent with A",
            "A' v is A v",
            "(A')' v is A' v",
            "(A')' solved with A'",
        ),
    ),
    Rule(
        "linear/solve.py",
        "_log_determinant",
        ("test_solve.py", "test_faults.py", "test_mutants.py"),
        ("logdet: sign", "logdet: A^-1 for A'^-1", "logdet: conjugate"),
    ),
    Rule(
        "implicit/root.py",
        "_root",
        ("test_root.py", "test_root_mutants.py"),
        ("root: sign of p_bar", "root: F_x lam = x_bar", "root: not poisoned"),
    ),
    Rule(
        "implicit/root.py",
        "_tangent_root",
        ("test_root.py", "test_root_mutants.py"),
        ("root: sign of x_dot", "root: p_dot dropped"),
    ),
)
