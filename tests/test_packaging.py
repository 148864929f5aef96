"""What an installation brings: `adjoint`, and no other name that a user's own files may have."""

import tomllib
from fnmatch import fnmatch
from pathlib import Path

import pytest

from benchmarks.__main__ import main

ROOT = Path(__file__).parent.parent


def test_the_wheel_takes_no_name_but_its_own():
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    included = settings["packages"]["find"]["include"]
    folders = [path.name for path in ROOT.iterdir() if path.is_dir()]
    assert {"adjoint", "problems", "benchmarks", "tests"} <= set(folders)
    shipped = [name for name in folders if any(fnmatch(name, each) for each in included)]
    assert [name for name in shipped if not name.endswith(".egg-info")] == ["adjoint"]
    assert set(settings["package-data"]) == {"adjoint"}


def test_results_lie_below_the_current_folder_and_not_beside_the_code(
    tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    before = sorted((ROOT / "benchmarks").rglob("*.md"))
    assert main(["report", "linear"]) == 2
    expected = Path("benchmarks") / "results" / "linear.json"
    assert f"there are no results in {expected}" in capsys.readouterr().err
    assert sorted((ROOT / "benchmarks").rglob("*.md")) == before


@pytest.mark.parametrize("verb", ["run", "report"])
def test_where_the_results_are_is_in_the_help(verb, capsys):
    with pytest.raises(SystemExit):
        main([verb, "--help"])
    assert "below the current folder" in " ".join(capsys.readouterr().out.split())
