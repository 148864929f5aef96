"""The library's house rules: layers, no cycles, small rooms, documented names, registered rules.

They are read from its sources.
"""

import ast

import pytest
from house_rules import (
    PLACE,
    configuration_complaints,
    cycles,
    documentation_complaints,
    layer_complaints,
    length_complaints,
    public_use_complaints,
    registration_complaints,
    rules_in,
    sources,
    unfinished_complaints,
)
from implicit_mutants import IMPLICIT_MUTANTS
from linear_mutants import LINEAR_MUTANTS
from ode_mutants import ODE_MUTANTS
from registry import RULES

import adjoint

LIBRARY = sources("adjoint")


class TestTheLibrary:
    def test_imports_point_down(self) -> None:
        assert layer_complaints({k: v for k, v in LIBRARY.items() if k != "adjoint"}, PLACE) == []

    def test_there_is_no_import_cycle(self) -> None:
        assert cycles(sources("adjoint", "problems", "benchmarks")) == []

    def test_the_root_holds_names_and_no_code(self) -> None:
        body = ast.parse(LIBRARY["adjoint"]).body
        assert all(isinstance(node, ast.Expr | ast.ImportFrom | ast.Assign) for node in body)
        assert [ast.unparse(node.targets[0]) for node in body if isinstance(node, ast.Assign)] == [
            "__version__",
            "__all__",
        ]

    def test_the_gallery_uses_public_names(self) -> None:
        assert public_use_complaints(sources("problems"), set(adjoint.__all__)) == []

    def test_files_and_functions_are_small(self) -> None:
        assert length_complaints(sources("adjoint", "problems", "benchmarks")) == []

    def test_test_files_are_small(self) -> None:
        assert [
            c for c in length_complaints(sources("tests")) if " lines, more than 400" in c
        ] == []

    @pytest.mark.parametrize("name", adjoint.__all__)
    def test_public_names_are_documented(self, name: str) -> None:
        assert documentation_complaints(name, getattr(adjoint, name)) == []

    def test_jax_is_left_alone(self) -> None:
        # The command is a program of its own, and chooses its precision as a user's script does.
        library = {name: text for name, text in LIBRARY.items() if name != "adjoint.__main__"}
        assert configuration_complaints(library) == []

    def test_nothing_is_left_for_later(self) -> None:
        assert unfinished_complaints(sources("adjoint", "problems", "benchmarks", "tests")) == []

    def test_every_rule_is_registered(self) -> None:
        assert len(rules_in(LIBRARY)) >= 2
        assert (
            registration_complaints(
                LIBRARY, RULES, (*LINEAR_MUTANTS, *IMPLICIT_MUTANTS, *ODE_MUTANTS)
            )
            == []
        )
