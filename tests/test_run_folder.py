"""The output folder: claimed once, written whole files at a time, a sentence on failure."""

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from adjoint.run.run_folder import FolderInUseError, RunFolder


def names(path):
    return sorted(p.name for p in path.iterdir())


def test_claim_creates_the_parents_and_the_first_file(tmp_path):
    folder = RunFolder.claim(tmp_path / "a" / "b", "command.txt", "repeat ä\n")
    assert folder.path == tmp_path / "a" / "b"
    assert (folder.path / "command.txt").read_text(encoding="utf-8") == "repeat ä\n"
    assert names(folder.path) == ["command.txt"]


def test_an_empty_folder_is_taken_over(tmp_path):
    RunFolder.claim(tmp_path, "command.txt", "")
    assert names(tmp_path) == ["command.txt"]


def test_a_folder_with_anything_in_it_is_refused_and_left_alone(tmp_path):
    (tmp_path / "thesis.pdf").write_text("years")
    with pytest.raises(FolderInUseError, match=r"already holds thesis\.pdf"):
        RunFolder.claim(tmp_path, "command.txt", "")
    assert names(tmp_path) == ["thesis.pdf"]


def test_many_files_are_named_in_part(tmp_path):
    for k in range(5):
        (tmp_path / f"{k}.txt").touch()
    with pytest.raises(FolderInUseError, match=r"0\.txt, 1\.txt, 2\.txt and 2 more"):
        RunFolder.claim(tmp_path, "command.txt", "")


def test_of_two_runs_that_claim_an_empty_folder_together_one_is_refused(tmp_path, monkeypatch):
    class Empty:
        """The folder as the second run saw it, just before the first one claimed it."""

        def __iter__(self):
            return iter(())

    RunFolder.claim(tmp_path, "command.txt", "first")
    monkeypatch.setattr(type(tmp_path), "iterdir", lambda _: Empty())
    with pytest.raises(FolderInUseError, match="another run"):
        RunFolder.claim(tmp_path, "command.txt", "second")
    assert (tmp_path / "command.txt").read_text() == "first"


def test_claim_new_counts_on_when_the_name_is_taken(tmp_path):
    paths = [
        RunFolder.claim_new(tmp_path / "runs", "beam", "command.txt", "").path for _ in range(3)
    ]
    assert [p.name for p in paths] == ["beam", "beam-2", "beam-3"]


@pytest.mark.parametrize("below", ["file/out", "file"])
def test_a_folder_under_or_at_a_regular_file_is_an_os_error(tmp_path, below):
    (tmp_path / "file").write_text("content")
    with pytest.raises(OSError, match=r"Not a directory|File exists"):
        RunFolder.claim(tmp_path / below, "command.txt", "")
    assert (tmp_path / "file").read_text() == "content"


@pytest.mark.skipif(
    not os.path.isdir("/proc/self"), reason="needs a file system that refuses everybody"
)
def test_an_unwritable_folder_is_an_os_error():
    with pytest.raises(OSError, match="/proc/"):
        RunFolder.claim(Path("/proc/run"), "command.txt", "")


def test_a_new_version_replaces_the_old_one(tmp_path):
    folder = RunFolder.claim(tmp_path, "command.txt", "")
    folder.write("density.png", b"\x00old")
    assert folder.write("density.png", b"\x00new").read_bytes() == b"\x00new"
    assert names(tmp_path) == ["command.txt", "density.png"]


def test_a_write_that_fails_keeps_the_old_version_and_names_the_file(tmp_path):
    resource = pytest.importorskip("resource")
    folder = RunFolder.claim(tmp_path, "command.txt", "")
    folder.write("film.gif", b"last good one")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    # The disk is "full" after 1000 bytes: Python ignores SIGXFSZ, so that write fails with EFBIG.
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    try:
        with pytest.raises(OSError, match="too large") as caught:
            folder.write("film.gif", b"x" * 100_000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert caught.value.filename == str(tmp_path / "film.gif")
    assert (tmp_path / "film.gif").read_bytes() == b"last good one"
    assert names(tmp_path) == ["command.txt", "film.gif"]


def test_a_folder_belongs_to_one_process_until_it_is_closed(tmp_path):
    pytest.importorskip("fcntl")
    with RunFolder.claim(tmp_path, "command.txt", ""):
        for claim in (
            lambda: RunFolder.take_over(tmp_path),
            lambda: RunFolder.claim(tmp_path, "command.txt", ""),
        ):
            with pytest.raises(FolderInUseError, match="another process works in the folder"):
                claim()
    with RunFolder.take_over(tmp_path) as folder:
        assert folder.path == tmp_path


def test_a_lock_ends_with_its_process(tmp_path):
    pytest.importorskip("fcntl")
    code = (
        "import sys; from pathlib import Path; from adjoint.run.run_folder import RunFolder; "
        "import os, signal\n"
    )
    code += (
        "folder = RunFolder.claim(Path(sys.argv[1]), 'command.txt', ''); os.kill(os.getpid(), "
        "signal.SIGKILL)"
    )
    killed = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], check=False, cwd=Path(__file__).parents[1]
    )
    assert killed.returncode == -signal.SIGKILL
    RunFolder.take_over(tmp_path).close()


def test_a_file_system_without_locks_is_no_obstacle(tmp_path, monkeypatch):
    fcntl = pytest.importorskip("fcntl")

    def unsupported(*_):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", unsupported)
    with RunFolder.claim(tmp_path, "command.txt", ""):
        RunFolder.take_over(tmp_path).close()


def test_taking_over_removes_what_was_being_written(tmp_path):
    RunFolder.claim(tmp_path, "command.txt", "").close()
    (tmp_path / "film.gif.part").write_bytes(b"GI")
    RunFolder.take_over(tmp_path).close()
    assert names(tmp_path) == ["command.txt"]


def test_there_is_nothing_to_take_over_where_there_is_no_folder(tmp_path):
    with pytest.raises(FileNotFoundError):
        RunFolder.take_over(tmp_path / "missing")
