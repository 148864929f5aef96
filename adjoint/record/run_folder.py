"""The output folder of one run: claimed before the work starts, then written one whole file at a time.

A file under its final name is always complete: the content goes to ``NAME.part`` and is renamed. Whoever looks into the
folder of a running, killed or failed run finds the last good version of each file.
"""

import os
from pathlib import Path


class FolderInUseError(ValueError):
    """The folder holds something already, and a run never overwrites results."""


class RunFolder:
    """An output folder that belongs to one run.

    Made by `claim` or `claim_new`, which both create a first file, so that a folder that cannot be written is found
    before the work and not after it.

    Attributes
    ----------
    path
        The folder.
    """

    def __init__(self, path: Path):
        self.path = path

    @classmethod
    def claim(cls, path: Path, first_name: str, first_content: str) -> "RunFolder":
        """Create the folder `path`, or take it over when it is empty, and write its first file.

        Parameters
        ----------
        path
            The folder; its parents are created as well.
        first_name, first_content
            The first file. It is created exclusively: of two runs that claim one folder, one is refused.

        Raises
        ------
        FolderInUseError
            When the folder holds anything.
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
        present = sorted(p.name for p in path.iterdir())
        if present:
            raise FolderInUseError(f"the output folder {path} already holds {_some(present)}")
        try:
            (path / first_name).open("x").close()
        except FileExistsError:
            raise FolderInUseError(f"the output folder {path} was taken by another run just now") from None
        folder = cls(path)
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

    def write(self, name: str, content: str | bytes) -> Path:
        """Write one file, whole or not at all; an older version stays until the new one is complete.

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
            When it cannot be written (a full disk, say); its ``filename`` is the file that was meant.
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


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
