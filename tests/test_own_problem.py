"""Anyone's own file as a problem: what it may be, what is said else, its flags, its checks."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from adjoint.run.checks import Check, checks_table, judged
from adjoint.run.command_line import Program
from adjoint.run.ending import Outcome
from adjoint.run.problem import SMALLEST, Gallery, gallery_here

ADJOINT = Program("adjoint", Gallery(None))

OWN = """
from dataclasses import dataclass, field
from adjoint.run.checks import Check
SUMMARY = "Half of a number."
@dataclass(frozen=True)
class Settings:
    size: int = field(default=4, metadata={"help": "a number", "minimum": 1})
    loud: bool = False
    error_in_half: float = 0.0
def run(settings, record):
    half = settings.size / 2 + settings.error_in_half
    for k in record.follow(range(2)):
        record.iteration({"iteration": k, "half": half})
    return [Check("half", half, bound=1e-12, reference=settings.size / 2, source="division")]
"""


@pytest.fixture
def own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "half.py"
    path.write_text(OWN)
    return path


def test_it_gets_what_the_gallery_has(own, capsys):
    assert ADJOINT.main(["run", "half.py", "--size", "6", "--out", "done"]) == 0
    said = capsys.readouterr().out
    assert "half: Half of a number." in said
    assert "The check holds." in said
    assert "its gradient is not checked" in said
    result = json.loads(Path("done/result.json").read_text())
    assert result["settings"] == {"size": 6, "loud": False, "error_in_half": 0.0}
    assert {path.name for path in Path("done").iterdir()} >= {
        "report.html",
        "history.csv",
        "command.txt",
        "run.json",
    }
    # The command that repeats it does, and a run that is done has nothing to go on with.
    words = Path("done/command.txt").read_text().split()
    assert ADJOINT.main([*words[1:], "--out", "again"]) == 0
    assert Path("again/history.csv").read_bytes() == Path("done/history.csv").read_bytes()
    assert ADJOINT.main(["resume", "done"]) == 0
    assert "nothing to go on with" in capsys.readouterr().out


def test_a_check_that_fails_is_3_and_is_named(own, capsys):
    assert ADJOINT.main(["run", "half.py", "--error-in-half", "1e-3"]) == 3
    said = capsys.readouterr().out
    assert "1 of 1 checks fail: half." in said
    assert "FAILS" in said


@pytest.mark.parametrize(
    ("arguments", "settings"),
    [
        (["case.toml"], {"size": 8, "loud": True}),
        (["case.toml", "--size", "2"], {"size": 2, "loud": True}),
        (["case.toml", "--set", "size=10", "--set", "loud=false"], {"size": 10, "loud": False}),
        (["case.toml", "--set", "size=10", "--size", "12"], {"size": 12, "loud": True}),
        (["half.py", "--loud"], {"size": 4, "loud": True}),
    ],
)
def test_settings_come_from_a_toml_file_then_assignments_then_flags(own, arguments, settings):
    Path("case.toml").write_text('problem = "half.py"\n[settings]\nsize = 8\nloud = true\n')
    assert ADJOINT.main(["run", *arguments, "--out", "done"]) == 0
    assert json.loads(Path("done/result.json").read_text())["settings"] == settings | {
        "error_in_half": 0.0
    }


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("x = 1", "it has no dataclass Settings and no function run(settings, record)"),
        (OWN.partition("def run")[0], "it has no function run(settings, record)"),
        (OWN.replace("class Settings", "class Sizes"), "it has no dataclass Settings"),
        (
            "class Settings:\n    pass\ndef run(settings, record): ...",
            "it has no dataclass Settings",
        ),
    ],
)
def test_a_file_that_is_no_problem_is_told_what_is_missing_with_the_smallest_that_works(
    own, capsys, text, sentence
):
    own.write_text(text)
    assert ADJOINT.main(["run", "half.py"]) == 2
    error = capsys.readouterr().err
    assert f"{own} is no problem: {sentence}. " in error
    assert SMALLEST in error
    assert not Path("runs").exists()


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("absent.py", None, "there is no file absent.py"),
        ("absent.toml", None, "there is no file absent.toml"),
        ("half", None, "there is no problem 'half' and no gallery here; run a file of your own"),
        (
            "case.toml",
            "size = 3",
            "case.toml has size, expected problem = ... and a table [settings] only",
        ),
        ("case.toml", "[settings]\nsize = 3", "case.toml names no problem"),
        ("case.toml", "size =", "case.toml is no TOML"),
        (
            "case.toml",
            'problem = "half.py"\n[settings]\nsise = 3',
            "no setting 'sise' (did you mean size?)",
        ),
    ],
)
def test_what_cannot_be_run_is_a_sentence(own, capsys, name, content, sentence):
    if content is not None:
        Path(name).write_text(content)
    assert ADJOINT.main(["run", name]) == 2
    assert sentence in capsys.readouterr().err


def test_outside_of_a_clone_the_list_says_where_the_gallery_is(own, capsys):
    assert ADJOINT.main(["list"]) == 0
    assert "a clone of this library" in capsys.readouterr().out
    assert gallery_here().package is None


def test_in_a_clone_the_command_knows_the_gallery(monkeypatch):
    monkeypatch.chdir(Path(__file__).parent.parent)
    assert "mbb_beam" in gallery_here().names()


def test_verify_needs_a_verify(own, capsys):
    assert ADJOINT.main(["verify", "half.py"]) == 2
    assert "has no verify(settings)" in capsys.readouterr().err


def test_new_writes_a_problem_that_works(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert ADJOINT.main(["new", "spring.py"]) == 0
    assert Path("spring.py").read_text() == SMALLEST
    assert ADJOINT.main(["new", "spring.py"]) == 2
    assert ADJOINT.main(["new", "spring"]) == 2
    assert ADJOINT.main(["run", "spring.py", "--force", "3", "--out", "done"]) == 0
    assert "extension in m" in capsys.readouterr().out
    assert json.loads(Path("done/result.json").read_text())["gradient"]["trusted"] is True


@pytest.mark.slow
def test_it_is_a_program(own):
    command = [sys.executable, "-m", "adjoint", "run", "half.py", "--size", "-1"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr == "error: size=-1: size must be an integer of at least 1\n"


def test_a_check_is_the_distance_from_its_reference():
    assert Check("x", 1.1, bound=0.2, reference=1.0, source="").holds
    assert not Check("x", 1.3, bound=0.2, reference=1.0, source="").holds
    assert not Check("x", float("nan"), bound=1e9, source="").holds
    assert not Check("x", -0.3, bound=0.2, source="").holds


def test_the_table_lines_up():
    rows = [
        Check("a", 1.0, 0.1, "theory"),
        Check("a longer name in m", 2.5e-7, 1e-6, "a table", reference=2e-7),
    ]
    lines = checks_table(rows).splitlines()
    assert len({line.index("theory" if "theory" in line else "a table") for line in lines[1:]}) == 1
    assert "FAILS" in lines[1]
    assert "holds" in lines[2]


def test_no_checks_are_no_success():
    with pytest.raises(ValueError, match="expected at least one"):
        judged([])
    assert judged([Check("x", 0.0, 1.0, "")]).outcome == Outcome.DONE
