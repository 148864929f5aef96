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
        "linear/sparse.py",
        "_log_determinant",
        ("test_factorize.py", "test_faults.py", "test_mutants.py"),
        ("logdet: sign", "logdet: A^-1 for A'^-1", "logdet: conjugate"),
    ),
)
