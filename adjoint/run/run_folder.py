"""The output folder of a run: claimed before the work, then written one whole file at a time.

A file under its final name is always complete: the content goes to ``NAME.part`` and is renamed.
Whoever looks into the folder of a running, killed or failed run finds the last good version of each
file.
"""

import os
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Self

try:
    import fcntl
except (
    ImportError
):  # where there is no such lock, two processes in one folder are the user's to avoid
    fcntl = None


class FolderInUseError(ValueError):
    """The folder holds something already, never overwritten, or another process works in it."""


class RunFolder:
    """An output folder that belongs to one run.

    Made by `claim` or `claim_new`, which both create a first file, so that a folder that cannot be
    written is found before the work and not after it; or by `take_over`. These also lock it: until
    `close`, the end of a ``with`` block or the end of the process, however that ends, no other
    process gets it.

    Attributes
    ----------
    path
        The folder.
    """

    def __init__(self, path: Path):
        self.path = path
        self._unlock: Callable[[], object] = _nothing

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let others have the folder."""
        self._unlock()

    @classmethod
    def claim(cls, path: Path, first_name: str, first_content: str) -> "RunFolder":
        """Create the folder `path`, or take it over when it is empty, and write its first file.

        Parameters
        ----------
        path
            The folder; its parents are created as well.
        first_name, first_content
            The first file. It is created exclusively: of two runs that claim one folder, one is
            refused.

        Raises
        ------
        FolderInUseError
            When the folder holds anything, or another process works in it.
        OSError
            When it cannot be created or written.

        Examples
        --------
        >>> import pathlib, tempfile
        >>> parent = pathlib.Path(tempfile.mkdtemp())
        >>> folder = RunFolder.claim(parent / "beam", "command.txt", "python -m problems run beam")
        >>> folder.write("history.csv", "iteration,compliance").name
        'history.csv'
        >>> sorted(p.name for p in folder.path.iterdir())
        ['command.txt', 'history.csv']
        """
        path.mkdir(parents=True, exist_ok=True)
        folder = cls(path)
        folder._lock()
        present = sorted(p.name for p in path.iterdir())
        if present:
            raise FolderInUseError(f"the output folder {path} already holds {_some(present)}")
        try:
            (path / first_name).open("x").close()
        except FileExistsError:
            raise FolderInUseError(
                f"the output folder {path} was taken by another run just now"
            ) from None
        folder.write(first_name, first_content)
        return folder

    @classmethod
    def claim_new(cls, parent: Path, stem: str, first_name: str, first_content: str) -> "RunFolder":
        """Claim ``parent/stem``, or ``parent/stem-2``, ``-3``, ... when that name is taken.

        Parameters
        ----------
        parent, stem
            Where the new folder goes and what it is called.
        first_name, first_content
            The first file, as in `claim`.

        Raises
        ------
        OSError
            When it cannot be created or written.
        """
        parent.mkdir(parents=True, exist_ok=True)
        number = 1
        while True:
            path = parent / (stem if number == 1 else f"{stem}-{number}")
            try:
                path.mkdir()
            except FileExistsError:
                number += 1
            else:
                return cls.claim(path, first_name, first_content)

    @classmethod
    def take_over(cls, path: Path) -> "RunFolder":
        """The folder of a run that was stopped; what it was writing just then is removed.

        Parameters
        ----------
        path
            The folder.

        Raises
        ------
        FolderInUseError
            When another process works in it.
        OSError
            When there is no such folder, or it cannot be written.

        Examples
        --------
        >>> import pathlib, tempfile
        >>> path = pathlib.Path(tempfile.mkdtemp())
        >>> RunFolder.claim(path, "command.txt", "python -m problems run beam").close()
        >>> with RunFolder.take_over(path) as folder:
        ...     folder.write("history.csv", "iteration,compliance").name
        'history.csv'
        """
        folder = cls(path)
        folder._lock()
        for part in path.glob("*.part"):
            part.unlink()
        return folder

    def _lock(self) -> None:
        if fcntl is None:
            return
        number = os.open(self.path, os.O_RDONLY)
        self._unlock = weakref.finalize(self, os.close, number)
        try:
            fcntl.flock(number, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self.close()
            raise FolderInUseError(
                f"another process works in the folder {self.path} just now"
            ) from None
        except OSError:  # a file system without locks
            self.close()

    def write(self, name: str, content: str | bytes) -> Path:
        """Write one file, whole or not at all; an older one stays until the new one is complete.

        Parameters
        ----------
        name
            The file's name in the folder.
        content
            Text, written as UTF-8, or bytes.

        Returns
        -------
        path
            The file.

        Raises
        ------
        OSError
            When it cannot be written (a full disk, say); its ``filename`` is the file that was
            meant.
        """
        path = self.path / name
        part = self.path / f"{name}.part"
        try:
            with part.open("wb") as file:
                file.write(content.encode() if isinstance(content, str) else content)
                file.flush()
                os.fsync(file.fileno())
            os.replace(part, path)
        except OSError as error:
            part.unlink(missing_ok=True)
            # A failed write, unlike a failed open, does not say which file it was.
            raise OSError(error.errno, error.strerror, str(path)) from error
        return path


def _nothing() -> None:
    """Unlocks a folder that is not locked."""


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
