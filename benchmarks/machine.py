"""What a measurement was made on and with: without it, a time says nothing."""

import os
import subprocess
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from adjoint.run.provenance import provenance

THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "XLA_FLAGS")


def made_with(peers: Sequence[str]) -> dict[str, str]:
    """Versions, machine, threads, date and commit, as text by name; no host, user or path is in it.

    Parameters
    ----------
    peers
        Names of the packages compared with; a missing one is listed as such.
    """
    return {
        **provenance(),
        **{peer: installed_version(peer) or "not installed" for peer in peers},
        "memory": _memory(),
        "threads": _threads(),
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "commit": _commit(),
    }


def installed_version(package: str) -> str | None:
    """The version of an installed package, or None; nothing is imported."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def memory_bytes() -> int | None:
    """Bytes of main memory, where the system tells."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return None


def _memory() -> str:
    size = memory_bytes()
    return f"{size / 2**30:.1f} GiB" if size is not None else "unknown"


def _threads() -> str:
    given = [f"{name}={os.environ[name]}" for name in THREAD_VARIABLES if name in os.environ]
    return ", ".join(given) or "as each library chooses (no thread variable is set)"


def _commit() -> str:
    folder = Path(__file__).parent

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(folder), *arguments]
        return subprocess.run(
            command, capture_output=True, text=True, check=True, timeout=10
        ).stdout.strip()

    try:
        # Results lie in this folder, so a new one must not make the next one look changed.
        changed = git("status", "--porcelain", "--", ":/", ":(exclude,top)benchmarks/results")
        return git("rev-parse", "HEAD") + (" with uncommitted changes" if changed else "")
    except (OSError, subprocess.SubprocessError):
        return "unknown: not run from a git checkout"
