"""The gallery: discovery, and text that becomes settings or a sentence that says what would."""

from pathlib import Path

import pytest

import problems
from adjoint.run.settings import UsageError, read_settings, settings_help
from problems.__main__ import PROGRAM


def find(name):
    return PROGRAM.gallery.find(name).module


@pytest.fixture(autouse=True)
def example(monkeypatch):
    """The gallery with one more problem, which is part of these tests."""
    monkeypatch.setattr(
        problems, "__path__", [*problems.__path__, str(Path(__file__).parent / "gallery_example")]
    )
    return find("parabola")


def test_the_gallery_holds_the_modules_with_settings_and_nothing_else():
    known = PROGRAM.gallery.problems()
    assert {"parabola", "mbb_beam"} <= set(known)
    assert not {"pictures", "__main__", "network"} & set(known)
    assert list(known) == sorted(known)


def test_every_problem_keeps_the_protocol():
    for name, found in PROGRAM.gallery.problems().items():
        problem = found.module
        assert problem.SUMMARY
        assert problem.JUDGED.endswith(".")
        assert "\n" not in problem.SUMMARY, name
        assert callable(problem.run)
        assert callable(problem.verify)
        assert read_settings(problem, []) == problem.Settings()
        for line in settings_help(problem).splitlines():
            assert len(line.split("  ")) > 1, f"{name}: a setting without a meaning"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "parabula",
            r"no problem 'parabula' \(did you mean parabola\?\); the problems are .*mbb_beam, "
            r".*parabola",
        ),
        ("qqqq", r"no problem 'qqqq'; the problems are"),
        ("pictures", "no problem 'pictures'"),
        ("network", "no problem 'network'"),
        ("../x", "no problem"),
        ("", "no problem"),
    ],
)
def test_a_wrong_name_lists_the_right_ones(name, message):
    with pytest.raises(UsageError, match=message):
        find(name)


@pytest.mark.parametrize(
    ("assignments", "expected"),
    [
        ([], {}),
        (["steps=7"], {"steps": 7}),
        (
            ["rate=0.25", "verbose=true", "trouble=ctrl-c inside"],
            {"rate": 0.25, "verbose": True, "trouble": "ctrl-c inside"},
        ),
        (["rate=1"], {"rate": 1.0}),
        (["rate=1e-3"], {"rate": 1e-3}),
        (["verbose=False"], {}),
        (["steps=7", "steps=8"], {"steps": 8}),
        (["steps=1", "rate=0"], {"steps": 1, "rate": 0.0}),
        (["steps=10000", "rate=1.5"], {"steps": 10_000, "rate": 1.5}),
    ],
)
def test_assignments_change_the_defaults(example, assignments, expected):
    settings = read_settings(example, assignments)
    assert settings == example.Settings(**expected)
    assert type(settings.rate) is float


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("steps", "expected name=value, such as --set steps="),
        (
            "step=7",
            r"no setting 'step' \(did you mean steps\?\); the settings are steps, rate, verbose, "
            r"trouble",
        ),
        ("=7", "no setting ''"),
        ("steps=", "steps must be an integer from 1 to 10000"),
        ("steps=many", "steps must be an integer from 1 to 10000"),
        ("steps=2.5", "steps must be an integer from 1 to 10000"),
        ("steps=0", "steps must be an integer from 1 to 10000"),
        ("steps=10001", "steps must be an integer from 1 to 10000"),
        ("rate=fast", "rate must be a number from 0.0 to 2.0"),
        ("rate=nan", "rate must be a number"),
        ("rate=inf", "rate must be a number"),
        ("rate=-0.1", "rate must be a number from 0.0 to 2.0"),
        ("verbose=yes", "verbose must be true or false"),
        (
            "trouble=much",
            "trouble must be none or solve or gradient or ctrl-c or ctrl-c inside or bug",
        ),
    ],
)
def test_a_wrong_assignment_is_answered_with_what_is_right(example, assignment, message):
    with pytest.raises(UsageError, match=message):
        read_settings(example, [assignment])


def test_settings_that_do_not_go_together_say_so(example):
    with pytest.raises(UsageError, match="never converges"):
        read_settings(example, ["steps=6000", "rate=2"])


def test_help_shows_default_range_and_meaning_of_every_setting(example):
    lines = settings_help(example).splitlines()
    assert lines[0].split() == ["setting", "default", "allowed", "meaning"]
    assert [line.split()[0] for line in lines[1:]] == ["steps", "rate", "verbose", "trouble"]
    for part in ("steps", "50", "an integer from 1 to 10000", "most iterations"):
        assert part in lines[1]


def test_the_command_means_the_same_settings_again(example):
    import shlex

    settings = example.Settings(steps=3, rate=1 / 3, verbose=True, trouble="ctrl-c inside")
    words = shlex.split(PROGRAM.command(PROGRAM.gallery.find("parabola"), settings))
    assert words[:5] == ["python", "-m", "problems", "run", "parabola"]
    assert words[5::2] == ["--set"] * 4
    assert read_settings(example, words[6::2]) == settings


@pytest.mark.parametrize("text", ["inf", "nan"])
def test_a_number_without_an_upper_limit_is_still_finite(text):
    with pytest.raises(UsageError, match=r"filter_radius must be a number of at least 0\.1"):
        read_settings(find("mbb_beam"), [f"filter_radius={text}"])
