"""One value and gradient in a process of its own: its peak memory, and whether it ends at all."""

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parent.parent


class Trial(NamedTuple):
    """How a trial went.

    Attributes
    ----------
    peak_bytes
        Resident memory at its peak, beyond what the process held before the call, with everything
        compiled; it holds the assembly, the factors and the cotangents. None where the system does
        not tell (it does on Linux).
    failure
        Why there is no result, or None.
    """

    peak_bytes: int | None
    failure: str | None


def try_out(benchmark: str, problem: str, n: int, solver: str, seconds: float) -> Trial:
    """Run one solver's value and gradient in a new process, and end it after so many seconds."""
    command = [
        sys.executable,
        "-W",
        "ignore",
        "-m",
        "benchmarks.trial",
        benchmark,
        problem,
        str(n),
        solver,
    ]
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    environment = {**os.environ, "PYTHONPATH": path}
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=seconds, env=environment
        )
    except subprocess.TimeoutExpired:
        return Trial(None, f"no result within {seconds:.0f} s")
    if done.returncode != 0:
        # A negative code is the signal that ended the process: 9 is what the system sends when
        # memory runs out.
        lines = [line for line in done.stderr.splitlines() if line.strip()] or ["no message"]
        return Trial(None, f"its process ended with code {done.returncode}: {lines[-1][:200]}")
    return Trial(json.loads(done.stdout.splitlines()[-1])["peak_bytes"], None)


def _measure(benchmark: str, problem: str, n: int, solver_name: str) -> int | None:
    import jax
    import numpy as np

    jax.config.update("jax_enable_x64", True)
    from benchmarks.answers import GRADIENT

    field = importlib.import_module(f"benchmarks.{benchmark}.contest").field()
    case = field.problems[problem](n)
    (solver,) = (solver for solver in field.entrants[problem] if solver.name == solver_name)
    constants = solver.constants(case)
    generator = np.random.default_rng(1)
    p = case.draw(generator)
    compiled = jax.jit(field.functions(solver, case)[GRADIENT][0]).lower(p, p, constants).compile()
    before = _restart_peak()
    jax.block_until_ready(compiled(p, p, constants))
    return _status("VmHWM") - before if before is not None else None


def _restart_peak() -> int | None:
    """Make the highest resident size start anew from the present one, and return that."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
        return _status("VmRSS")
    except OSError:
        return None


def _status(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    (kibibytes,) = (line.split()[1] for line in lines if line.startswith(f"{name}:"))
    return 1024 * int(kibibytes)


if __name__ == "__main__":
    print(
        json.dumps(
            {"peak_bytes": _measure(sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4])}
        )
    )
