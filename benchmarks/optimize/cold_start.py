"""How long the first `minimize` of a fresh process takes, and how long the whole process.

It is timed from the call to the answer.
"""

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent.parent
# Sizes, and methods of ours; None is the default.
SIZES = (2, 10)
METHODS = (None, "BFGS")


def cold_starts(repetitions: int) -> list[dict[str, Any]]:
    """Seconds of the call and the process, interpreter and imports in, by size and method."""
    return [_measured(n, method, repetitions) for n in SIZES for method in METHODS]


def _measured(n: int, method: str | None, repetitions: int) -> dict[str, Any]:
    calls = []
    processes = []
    for _ in range(repetitions):
        start = time.perf_counter()
        command = [sys.executable, "-m", "benchmarks.optimize.cold_start", str(n), method or ""]
        done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT)
        processes.append(time.perf_counter() - start)
        calls.append(json.loads(done.stdout.splitlines()[-1]))
    return {"n": n, "method": method or "default", "call": calls, "process": processes}


def _call(n: int, method: str) -> float:
    import jax
    import numpy as np

    import adjoint
    from benchmarks.optimize.cases import rosenbrock

    jax.config.update("jax_enable_x64", True)
    start = np.tile([-1.2, 1.0], n // 2)
    chosen = getattr(adjoint, method)() if method else None
    began = time.perf_counter()
    solution = adjoint.minimize(rosenbrock, start, chosen)
    jax.block_until_ready(solution.value)
    seconds = time.perf_counter() - began
    adjoint.require(solution)
    return seconds


if __name__ == "__main__":
    print(json.dumps(_call(int(sys.argv[1]), sys.argv[2])))
