"""Newton's method: poor starts, singular Jacobians there, sparse and matrix-free systems.

All are against closed forms.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import adjoint
from adjoint.implicit.residual import jacobian, trace_residual


@pytest.mark.parametrize("start", [0.1, -3.0, 1e3, -1e4])
def test_damping_makes_poor_starts_converge(start):
    # The undamped method diverges on arctan beyond 1.39.
    x = adjoint.require(
        adjoint.root(lambda x, p: jnp.arctan(x) - p, jnp.array([start]), jnp.array([0.5]))
    )
    np.testing.assert_allclose(x, [np.tan(0.5)], rtol=1e-10)


def test_a_singular_jacobian_at_the_start_does_no_harm():
    x = adjoint.require(adjoint.root(lambda x, p: x**2 - p, jnp.array([0.0]), jnp.array([4.0])))
    np.testing.assert_allclose(np.abs(x), [2.0], rtol=1e-12)
    # Rank 1 at the start, and the residual in its range only in part.
    F = lambda x, p: jnp.array([x[0] ** 2 + x[1] - p[0], x[0] + x[1] ** 2 - p[0]])
    solution = adjoint.root(F, jnp.array([0.5, 0.5]), jnp.array([2.0]))
    np.testing.assert_allclose(F(adjoint.require(solution), jnp.array([2.0])), 0, atol=1e-12)


def test_convergence_is_quadratic():
    solution = adjoint.root(lambda x, p: x**3 + x - p, jnp.array([2.5]), jnp.array([10.0]))
    assert int(solution.stats["iterations"]) <= 6
    assert float(solution.stats["correction"]) < 1e-15


def bratu(n):
    """-u'' = p exp(u) on (0, 1), u = 0 at the ends, by differences on n inner points.

    The differences are of second order.
    """
    h = 1 / (n + 1)

    def F(u, p):
        padded = jnp.pad(u, 1)
        return (2 * u - padded[:-2] - padded[2:]) / h**2 - p * jnp.exp(u)

    i = np.arange(n)
    rows = np.concatenate([i, i[1:], i[:-1]])
    cols = np.concatenate([i, i[:-1], i[1:]])
    return F, adjoint.SparsePattern(rows, cols, (n, n))


@pytest.mark.parametrize("form", ["dense", "sparse", "matrix-free"])
def test_bratu_has_the_closed_form_solution_and_sensitivity(form):
    # u(1/2) = 2 ln cosh(t) with lambda = 8 t^2 / cosh^2 t; at t = 0.5: lambda = 2 / cosh^2(0.5),
    # and d u(1/2) / d lambda = 2 tanh t / (16 t (1 - t tanh t) / cosh^2 t) (Ascher, Mattheij and
    # Russell, Numerical Solution of Boundary Value Problems, 1995, section 3.1). GMRES without
    # preconditioner needs about as many vectors as there are points.
    n, t = (63 if form == "matrix-free" else 255), 0.5
    F, pattern = bratu(n)
    method = {
        "dense": {},
        "sparse": {"jacobian_pattern": pattern},
        "matrix-free": {
            "solver": adjoint.NewtonKrylov(restart=64),
            "linear_solver": adjoint.GMRES(restart=64),
        },
    }[form]
    p = jnp.asarray(8 * t**2 / np.cosh(t) ** 2)

    def peak(p):
        return adjoint.root(F, jnp.zeros(n), p, **method).value[n // 2]

    value, derivative = jax.jit(jax.value_and_grad(peak))(p)
    slope = 2 * np.tanh(t) / (16 * t * (1 - t * np.tanh(t)) / np.cosh(t) ** 2)
    # The differences are second order: a relative error of about h^2.
    np.testing.assert_allclose(
        [value, derivative], [2 * np.log(np.cosh(t)), slope], rtol=2 / (n + 1) ** 2
    )


def membrane(m):
    """-lap u = p exp(u) on the unit square, u = 0 around it, by five-point differences.

    u fades by a factor of m^2 / 4 or so from the middle to the corners.
    """

    def F(u, p):
        grid = jnp.pad(u.reshape(m, m), 1)
        around = grid[:-2, 1:-1] + grid[2:, 1:-1] + grid[1:-1, :-2] + grid[1:-1, 2:]
        return (m + 1) ** 2 * (4 * u - around.ravel()) - p * jnp.exp(u)

    return F


@pytest.mark.parametrize(
    "method",
    [adjoint.Newton(), adjoint.Newton(rtol=1e-6), adjoint.NewtonKrylov()],
    ids=["Newton", "Newton 1e-6", "NewtonKrylov"],
)
@pytest.mark.parametrize("m", [7, 33, pytest.param(64, marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    "linear_solver", [adjoint.CG(1e-8), adjoint.MINRES(1e-8), adjoint.GMRES(1e-8)], ids=repr
)
def test_iterations_find_what_elimination_finds(linear_solver, m, method):
    """A field that fades at its border has no bad units, and no fold, for any linear solver."""
    F = membrane(m)
    p = 1 + 0.5 * jnp.asarray(np.random.default_rng(3).uniform(-1, 1, m * m))
    found = adjoint.root(F, jnp.zeros(m * m), p, method, linear_solver=linear_solver)
    exact = adjoint.root(F, jnp.zeros(m * m), p)
    np.testing.assert_allclose(adjoint.require(found), exact.value, rtol=1e-6, atol=1e-9)
    # Inexact steps are more, but not by many: each one is solved to a tenth at least.
    assert int(found.stats["iterations"]) <= int(exact.stats["iterations"]) + 3
    assert float(found.stats["nonlinearity"]) < 1e-2


@pytest.mark.parametrize(
    "linear_solver", [adjoint.CG(), pytest.param(adjoint.GMRES(), marks=pytest.mark.slow)], ids=repr
)
@pytest.mark.parametrize("method", [adjoint.Newton(), adjoint.NewtonKrylov()], ids=lambda m: m.rtol)
def test_iterations_find_a_field_that_fades_by_many_decades(linear_solver, method):
    """A source screened within a thirtieth of the domain: an iteration knows no digits far off."""
    m = 20
    source = jnp.zeros(m * m).at[m * m // 2 + m // 2].set(1e4)
    F = lambda u, p: membrane(m)(u, jnp.zeros(())) + (30 * p) ** 2 * u + u**3 - source
    value = lambda p, **how: adjoint.root(F, jnp.zeros(m * m), p, **how).value
    p = jnp.ones(())
    exact = value(p)
    assert float(jnp.max(exact) / jnp.min(jnp.abs(exact))) > 1e8
    found = adjoint.root(F, jnp.zeros(m * m), p, method, linear_solver=linear_solver)
    np.testing.assert_allclose(adjoint.require(found), exact, atol=1e-10 * float(jnp.max(exact)))
    assert int(found.stats["iterations"]) <= 8
    slope = jax.grad(lambda p: jnp.sum(value(p, solver=method, linear_solver=linear_solver)))(p)
    np.testing.assert_allclose(slope, jax.grad(lambda p: jnp.sum(value(p)))(p), rtol=1e-8)


@pytest.mark.parametrize(
    "linear_solver",
    [adjoint.CG(), pytest.param(adjoint.MINRES(), marks=pytest.mark.slow)],
    ids=repr,
)
@pytest.mark.parametrize("method", [adjoint.Newton(), adjoint.NewtonKrylov()], ids=lambda m: m.rtol)
def test_iterations_find_a_field_in_a_medium_of_high_contrast(linear_solver, method):
    """An inclusion conducts a million times better: rows differ by 1e6, and unknowns do not."""
    m = 12
    conductivity = np.ones((m + 2, m + 2))
    conductivity[4:7, 4:7] = 1e6
    conductivity[9:11, 2:5] = 1e-4
    mean = lambda a, b: jnp.asarray(2 / (1 / a + 1 / b))
    across = mean(conductivity[1:, 1:-1], conductivity[:-1, 1:-1])
    along = mean(conductivity[1:-1, 1:], conductivity[1:-1, :-1])

    def F(u, p):
        padded = jnp.pad(u.reshape(m, m), 1)
        flux = across * jnp.diff(padded, axis=0)[:, 1:-1], along * jnp.diff(padded, axis=1)[1:-1]
        divergence = jnp.diff(flux[0], axis=0) + jnp.diff(flux[1], axis=1)
        return p * u + u**3 - 1 - (m + 1) ** 2 * divergence.ravel()

    p = jnp.ones(())
    found = adjoint.root(F, jnp.zeros(m * m), p, method, linear_solver=linear_solver)
    exact = adjoint.require(adjoint.root(F, jnp.zeros(m * m), p))
    # A solver of rtol 1e-10 at a condition of 1e4 after the scaling.
    np.testing.assert_allclose(adjoint.require(found), exact, rtol=1e-8)
    assert int(found.stats["iterations"]) <= 10


def test_the_colored_jacobian_equals_the_full_one():
    F, pattern = bratu(20)
    u = jnp.linspace(0.0, 1.0, 20)
    residual, flat, _, _ = trace_residual("test", F, u, jnp.asarray(1.5))
    sparse = jacobian(residual, flat, jnp.asarray(1.5), adjoint.SparseDirect(), pattern)
    np.testing.assert_allclose(
        sparse.todense(), jax.jacfwd(F)(u, jnp.asarray(1.5)), rtol=1e-14, atol=1e-12
    )


def test_parameters_out_of_range_are_refused():
    with pytest.raises(ValueError, match="rtol"):
        adjoint.Newton(rtol=0.0)
    with pytest.raises(ValueError, match="max_steps"):
        adjoint.Newton(max_steps=0)


def test_too_few_steps_are_not_convergence():
    solution = adjoint.root(
        lambda x, p: x**3 + x - p,
        jnp.array([100.0]),
        jnp.array([10.0]),
        adjoint.Newton(max_steps=2),
    )
    assert solution.status.name == "NOT_CONVERGED"
    assert int(solution.stats["iterations"]) == 2


# u - (u_xx + u_yy) / 10 + u^3 = p on 1000 x 1000 points of distance 1, u = 0 around them; u is
# chosen, p follows from it.
MILLION_UNKNOWNS = """
import json, sys
from pathlib import Path
import jax, jax.numpy as jnp, numpy as np
import adjoint

jax.config.update("jax_enable_x64", True)
m = 1000

def diffused(u):
    v = jnp.pad(u, 1)
    return u + 0.1 * (4 * u - v[:-2, 1:-1] - v[2:, 1:-1] - v[1:-1, :-2] - v[1:-1, 2:])

def loss(p):
    solver, linear_solver = adjoint.NewtonKrylov(restart=30), adjoint.GMRES(restart=30)
    residual = lambda u, p: diffused(u) + u**3 - p
    solution = adjoint.root(residual, jnp.zeros((m, m)), p, solver, linear_solver=linear_solver)
    return jnp.sum(solution.value**2) / 2, solution.value

def status(name):
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line.split()[1] for line in lines if line.startswith(name + ":")))

x = np.linspace(0, 1, m)
expected = 1 + 0.5 * np.sin(70 * x)[:, None] * np.cos(50 * x)
p = jax.block_until_ready(jax.jit(lambda u: diffused(u) + u**3)(expected))
f = {"value": loss, "gradient": jax.value_and_grad(loss, has_aux=True)}[sys.argv[1]]
compiled = jax.jit(f).lower(p).compile()
Path("/proc/self/clear_refs").write_text("5")
before = status("VmRSS")
result = jax.block_until_ready(compiled(p))
vectors = (status("VmHWM") - before) / p.nbytes

if sys.argv[1] == "value":
    error = np.abs(result[1] - expected).max()
else:
    lam = result[1]
    error = np.abs(diffused(lam) + 3 * expected**2 * lam - expected).max()
print(json.dumps({"vectors": vectors, "error": float(error)}))
"""


@pytest.mark.slow
@pytest.mark.skipif(
    not Path("/proc/self/clear_refs").exists(),
    reason="needs the peak of resident memory, as Linux tells it",
)
@pytest.mark.parametrize("what", ["value", "gradient"])
def test_a_million_unknowns_take_a_few_vectors_of_memory(what):
    """The value against the chosen u; of the loss |u|^2 / 2 the gradient lam with F_u' lam = u.

    F_u is symmetric. The limit is 70 vectors: the 31 of a GMRES cycle of length 30 and 28 others,
    32 for the gradient; some are the sizes of rows and rounding errors of F. A second basis would
    exceed it.
    """
    path = os.pathsep.join(
        filter(None, [str(Path(__file__).parent.parent), os.environ.get("PYTHONPATH")])
    )
    done = subprocess.run(
        [sys.executable, "-c", MILLION_UNKNOWNS, what],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    measured = json.loads(done.stdout)
    assert measured["error"] < 1e-8
    # A solution and its cotangent are vectors themselves: a figure below that is no measurement.
    assert 2 < measured["vectors"] < 70
