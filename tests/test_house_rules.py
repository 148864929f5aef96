"""Each checker of the house rules finds what it is for, in sources of a few lines."""

from typing import ClassVar

import pytest
from house_rules import (
    configuration_complaints,
    cycles,
    documentation_complaints,
    function_lengths,
    layer_complaints,
    length_complaints,
    public_use_complaints,
    registration_complaints,
    unfinished_complaints,
)
from mutation import Mutant
from registry import Rule


class TestTheCheckers:
    """Each finds what it is for, in sources of a few lines."""

    PLACE: ClassVar = {
        "adjoint.low": (0, 0),
        "adjoint.a.one": (1, 0),
        "adjoint.a.two": (1, 1),
        "adjoint.b.one": (1, 2),
    }

    @pytest.mark.parametrize(
        ("name", "source", "expected"),
        [
            ("adjoint.low", "from adjoint.a.one import f", "adjoint.low imports adjoint.a.one"),
            (
                "adjoint.a.one",
                "def f():\n    import adjoint.a.two",
                "adjoint.a.one imports adjoint.a.two",
            ),
            ("adjoint.b.one", "from adjoint.a import one", "adjoint.b.one imports adjoint.a.one"),
            ("adjoint.a.two", "import adjoint", "adjoint.a.two imports adjoint"),
            ("adjoint.a.two", "from adjoint import solve", "adjoint.a.two imports adjoint.solve"),
            ("adjoint.a.two", "from . import one", "adjoint.a.two imports .: write the full name"),
            (
                "adjoint.a.two",
                "if True:\n    import problems.fem",
                "adjoint.a.two imports problems.fem, which is above",
            ),
            ("adjoint.c", "x = 1", "adjoint.c has no place in LAYERS"),
        ],
    )
    def test_layers(self, name: str, source: str, expected: str) -> None:
        healthy = {
            "adjoint.low": "import jax",
            "adjoint.a": '"""Only a docstring."""',
            "adjoint.a.one": "from adjoint.low import f",
            "adjoint.a.two": "from adjoint.a.one import f\nfrom adjoint import low",
            "adjoint.b.one": "import adjoint.low",
        }
        assert layer_complaints(healthy, self.PLACE) == []
        (complaint,) = layer_complaints(healthy | {name: source}, self.PLACE)
        assert complaint.startswith(expected)
        (complaint,) = layer_complaints(
            {k: v for k, v in healthy.items() if k != "adjoint.b.one"}, self.PLACE
        )
        assert complaint == "adjoint.b.one has a place in LAYERS and no file"

    def test_cycles(self) -> None:
        chain = {"p.a": "from p import b", "p.b": "import p.c", "p.c": "x = 1"}
        assert cycles(chain) == []
        assert cycles(chain | {"p.c": "def f():\n    from p.a import x"}) == [
            ["p.a", "p.b", "p.c", "p.a"]
        ]

    @pytest.mark.parametrize(
        "source",
        [
            "from adjoint.linear.solve import f",
            "import adjoint.linear",
            "import adjoint\nadjoint.linear.f",
            "import benchmarks",
        ],
    )
    def test_public_use(self, source: str) -> None:
        healthy = {
            "problems.fem": "x = 1",
            "problems.beam": "import adjoint\nfrom problems.fem import x\nadjoint.root(x)",
        }
        assert (
            public_use_complaints(healthy | {"problems.cli": "from adjoint import root"}, {"root"})
            == []
        )
        assert len(public_use_complaints(healthy | {"problems.cli": source}, {"root"})) == 1

    def test_lengths(self) -> None:
        def function(lines: int) -> str:
            return 'def f():\n    """Text.\n\n    More.\n    """\n    # why\n\n' + "    x = 1\n" * (
                lines - 1
            )

        assert function_lengths({"m": function(7)}) == {"m:1 f": 7}
        nine_short = "def g():\n    return 1\n" * 9
        assert length_complaints({"m": nine_short + function(80)}) == []
        assert [c[:4] for c in length_complaints({"m": nine_short + function(81)})] == ["m:19"]
        assert [c[:7] for c in length_complaints({"m": nine_short + function(40) * 2})] == [
            "2 of 11"
        ]
        assert length_complaints({"m": "x = 1\n" * 400}) == []
        assert len(length_complaints({"m": "x = 1\n" * 401})) == 1

    @pytest.mark.parametrize(
        "source", ["jax.config.update('x', 1)", "from jax import config", "u = j.config.update"]
    )
    def test_configuration(self, source: str) -> None:
        assert (
            configuration_complaints(
                {"m": '"""jax.config.update is not for us."""\nd.update(config)'}
            )
            == []
        )
        assert len(configuration_complaints({"m": source})) == 1

    def test_unfinished(self) -> None:
        assert unfinished_complaints({"m": "todos = mastodon"}) == []
        assert len(unfinished_complaints({"m": "# TO" + "DO: later"})) == 1

    def test_documentation(self) -> None:
        def documented(x: int) -> int:
            """Double.

            >>> documented(1)
            2
            """
            return 2 * x

        class Bare:
            """No example."""

            def method(self, x):
                return x

        assert documentation_complaints("documented", documented) == []
        assert len(documentation_complaints("Bare", Bare)) == 3
        assert documentation_complaints("f", lambda: 0) == ["f has no docstring"]

    def test_registration(self) -> None:
        library = {
            "adjoint.linear.solve": "f.defvjp(f_fwd, f_bwd)\nattach_derivative(g(1), y, x, None)"
        }
        rules = tuple(Rule("linear/solve.py", name, ("test_mutants.py",), ("m",)) for name in "fg")
        mutants = (Mutant("m", "linear/solve.py", "a", "b", "c"),)
        complaints = registration_complaints
        assert complaints(library, rules, mutants) == []
        assert [len(complaints(found, rules[:1], mutants)) for found in (library, {})] == [1, 1]
        absent = (rules[0], Rule("linear/solve.py", "g", ("test_absent.py",), ("m",)))
        assert registration_complaints(library, absent, mutants) == [
            "g: no test file test_absent.py"
        ]
