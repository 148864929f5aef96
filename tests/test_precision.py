"""Double precision cut to single: a warning for each line of the user's, remedies in failures.

The failures are those in float32.
"""

import subprocess
import sys
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

import adjoint

# x64 mode belongs to the process: what happens without it is seen in another one.
SCRIPT = r"""
import warnings
import numpy as np, jax, jax.numpy as jnp, adjoint

A, b, one = np.eye(3) * 2.0, np.ones(3), np.ones(())
pattern = adjoint.SparsePattern(np.arange(3), np.arange(3), (3, 3))
jump = adjoint.Event(lambda t, y, p: 0.5 - t)
caught = []


class Warned(Exception):
    pass


def until_warned(f):
    # f, which ends the computation when the warning is out: compiling solvers takes long.
    def function(*arguments):
        if caught:
            raise Warned
        return f(*arguments)

    return function


decay = until_warned(lambda t, y, p: -p * y)
residual = until_warned(lambda x, p: x - p)
square = until_warned(lambda x, p: jnp.sum((x - p) ** 2))
times = np.linspace(0.0, 1.0, 3)
doors = {
    "linear_solve": lambda: adjoint.linear_solve(A, jnp.ones(3)),
    "factorize": lambda: adjoint.factorize(A),
    "SparsePattern.matrix": lambda: pattern.matrix(b),
    "root": lambda: adjoint.root(residual, b, 1.0),
    "fixed_point": lambda: adjoint.fixed_point(residual, jnp.ones(()), one),
    "argmin": lambda: adjoint.argmin(square, jnp.ones(()), one),
    "minimize": lambda: adjoint.minimize(until_warned(jnp.sum), b),
    "ode_solve": lambda: adjoint.ode_solve(decay, jnp.ones(3), 1.0, 0.0, 1.0, ts=times),
    "hybrid_solve": lambda: adjoint.hybrid_solve(decay, b, 1.0, 0.0, 1.0, jump, max_events=1),
    "steady_state": lambda: adjoint.steady_state(decay, one, 1.0, 30.0),
    "recurrence": lambda: adjoint.recurrence(until_warned(lambda k, x, p: p * x), b, 1.0, 2),
}
for name, door in doors.items():
    with warnings.catch_warnings(record=True) as caught:
        warnings.resetwarnings()
        for _ in range(2):
            try:
                door()
            except Warned:
                pass
    ours = [w for w in caught if issubclass(w.category, adjoint.PrecisionWarning)]
    message = str(ours[0].message) if ours else ""
    print(name, len(ours), {w.filename for w in ours} == {__file__}, name in message)
with warnings.catch_warnings():
    warnings.simplefilter("error")
    adjoint.linear_solve(jnp.asarray(A), jnp.asarray(b))
    adjoint.root(lambda x, p: x - p, np.ones(3, np.float32), 1.0)
beam = np.diag(np.full(200, 2.0)) - np.diag(np.ones(199), 1) - np.diag(np.ones(199), -1)
bent = adjoint.linear_solve(beam @ beam, np.ones(200))
for solution in (bent, adjoint.root(lambda x, p: x**2 - p, jnp.ones(1), -1.0)):
    try:
        adjoint.require(solution)
    except adjoint.SolveError as error:
        print("jax_enable_x64" in str(error), "float32" in str(error), sep=" ")
"""


@pytest.fixture(scope="module")
def said(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    script = Path(tmp_path_factory.mktemp("precision")) / "user.py"
    script.write_text(SCRIPT)
    run = subprocess.run([sys.executable, script], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    return run.stdout.splitlines()


def test_every_front_door_warns_once_for_each_line_of_the_users(said: list[str]) -> None:
    doors = said[:-2]
    assert len(doors) == 11
    for line in doors:
        assert line.split(maxsplit=1)[1] == "1 True True", line


def test_failures_in_single_precision_name_the_remedy(said: list[str]) -> None:
    assert said[-2:] == ["True True", "True True"]


def test_with_double_precision_nobody_is_warned_and_float32_is_told_of_float64(
    recwarn: pytest.WarningsRecorder,
) -> None:
    adjoint.linear_solve(np.eye(2), np.ones(2))
    assert not [w for w in recwarn if issubclass(w.category, adjoint.PrecisionWarning)]
    with pytest.raises(adjoint.SolveError, match=r"float32, about 7 digits.*Pass float64 arrays"):
        adjoint.require(
            adjoint.linear_solve(jnp.zeros((2, 2), jnp.float32), jnp.ones(2, jnp.float32))
        )
    with pytest.raises(adjoint.SolveError) as caught:
        adjoint.require(adjoint.linear_solve(jnp.zeros((2, 2)), jnp.ones(2)))
    assert "float32" not in str(caught.value)
