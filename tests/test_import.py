"""What `import adjoint` does, and above all what it does not."""

import json
import os
import subprocess
import sys
from pathlib import Path

SCRIPT = """
import json, sys
import jax
before = dict(jax.config.values)
modules = set(sys.modules)
import adjoint
changed = [k for k, v in jax.config.values.items() if before.get(k, v) != v]
from jax._src import xla_bridge
print(json.dumps([changed, sorted(set(sys.modules) - modules), bool(xla_bridge._backends)]))
"""
HEAVY = (
    "matplotlib",
    "lineax",
    "diffrax",
    "equinox",
    "optax",
    "rich",
    "scipy.sparse.linalg",
    "pypardiso",
    "pymetis",
)


def test_import_is_light_and_touches_no_configuration() -> None:
    environment = {
        **os.environ,
        "PYTHONPATH": str(Path(__file__).parent.parent),
        "JAX_PLATFORMS": "cpu",
    }
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        capture_output=True,
        text=True,
        timeout=60,
        env=environment,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    changed, modules, backend_started = json.loads(done.stdout)
    assert changed == []
    assert not backend_started
    assert [m for m in modules if m in HEAVY] == []
