"""What a result was made with: versions, system and machine."""

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

PACKAGES = ("adjoint", "jax", "jaxlib", "numpy", "scipy")


def provenance() -> dict[str, str]:
    """The versions of packages that decide about digits, the machine that decides about time.

    Returns
    -------
    provenance
        Text by name. No host, user or path is in it, so that a report can be passed on.

    Examples
    --------
    >>> list(provenance())[:4]
    ['adjoint', 'jax', 'jaxlib', 'numpy']
    """
    import jax

    devices = jax.devices()
    precision = "float64" if jax.config.read("jax_enable_x64") else "float32"
    return {
        **{package: _version(package) for package in PACKAGES},
        "python": platform.python_version(),
        "system": platform.platform(),
        "processor": f"{_processor()}, {_cores()} cores usable",
        "jax device": f"{len(devices)} x {devices[0].device_kind}, {precision}",
    }


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "source tree, not installed"


def _processor() -> str:
    # platform.processor() is empty or just "x86_64" on Linux, where the model has its own file.
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    models = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(models, platform.processor() or platform.machine())


def _cores() -> int:
    # The affinity knows about taskset and containers; the plain count does not.
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
