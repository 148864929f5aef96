"""root: derivatives against closed forms in every mode, what is not a root, and what is refused.

The two-equation example with its gradient and Hessian in closed form: S. G. Johnson, Notes on
Adjoint Methods for 18.335; at p = (1, 2, 1) the root is (1, 1), and g = |x| has the gradient and
Hessian below, by implicit differentiation by hand.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import adjoint
from adjoint.verify.gradient import verify_gradient

P = jnp.array([1.0, 2.0, 1.0])
START = jnp.array([1.2, 1.3])
GRADIENT = np.array([-2.0, -3.0, 3.0]) / np.sqrt(2)
HESSIAN = np.sqrt(2) * np.array([[5.0, 6.0, -4.5], [6.0, 10.25, -7.25], [-4.5, -7.25, 4.25]])
FULL_PATTERN = adjoint.SparsePattern(np.array([0, 0, 1, 1]), np.array([0, 1, 0, 1]), (2, 2))
METHODS = {
    "LU": {},
    "GMRES": {"linear_solver": adjoint.GMRES(rtol=1e-13)},
    "sparse": {"jacobian_pattern": FULL_PATTERN},
    "NewtonKrylov": {"solver": adjoint.NewtonKrylov(), "linear_solver": adjoint.GMRES(rtol=1e-13)},
}


def residual(x, p):
    return jnp.array([p[0] * x[0] ** 2 - x[1], x[0] * x[1] - p[1] * x[1] + p[2]])


def norm_of_root(p, **method):
    return jnp.linalg.norm(adjoint.root(residual, START, p, **method).value)


ITERATIVE = [pytest.param(name, marks=pytest.mark.slow) for name in ("GMRES", "NewtonKrylov")]


@pytest.mark.parametrize("name", ["LU", "sparse", *ITERATIVE])
def test_derivatives_equal_the_closed_forms(name):
    def g(p):
        return norm_of_root(p, **METHODS[name])

    direction = jnp.array([1.0, -1.0, 2.0])
    np.testing.assert_allclose(g(P), np.sqrt(2), rtol=1e-12)
    np.testing.assert_allclose(jax.jit(jax.grad(g))(P), GRADIENT, rtol=1e-9)
    np.testing.assert_allclose(jax.jit(jax.hessian(g))(P), HESSIAN, rtol=1e-8)
    reverse_over_reverse = jax.jit(jax.grad(lambda p: jax.grad(g)(p) @ direction))(P)
    np.testing.assert_allclose(reverse_over_reverse, HESSIAN @ direction, rtol=1e-8)


@pytest.mark.parametrize(
    "name",
    [
        "LU",
        pytest.param("sparse", marks=pytest.mark.slow),
        pytest.param("GMRES", marks=pytest.mark.slow),
    ],
)
@pytest.mark.slow
def test_second_derivatives_inside_scan_and_vmap(name):
    def g(p):
        def step(total, scale):
            # Scaling all of p by s turns the root (1, 1) elsewhere; s = 1 twice, so that the closed
            # form serves.
            return total + norm_of_root(scale * p, **METHODS[name]), None

        return jax.lax.scan(step, 0.0, jnp.ones(2))[0]

    def h(p):
        return jnp.sum(
            jax.vmap(lambda scale: norm_of_root(scale * p, **METHODS[name]))(jnp.ones(2))
        )

    for f in (g, h):
        np.testing.assert_allclose(jax.jit(jax.grad(f))(P), 2 * GRADIENT, rtol=1e-8)
        np.testing.assert_allclose(jax.jit(jax.hessian(f))(P), 2 * HESSIAN, rtol=1e-7)
        direction = jnp.array([1.0, -1.0, 2.0])
        again = jax.jit(jax.grad(lambda p: jax.grad(f)(p) @ direction))(P)  # noqa: B023
        np.testing.assert_allclose(again, 2 * HESSIAN @ direction, rtol=1e-7)


@pytest.mark.slow
def test_forward_mode():
    direction = jnp.array([1.0, -1.0, 2.0])
    np.testing.assert_allclose(
        jax.jvp(norm_of_root, (P,), (direction,))[1], GRADIENT @ direction, rtol=1e-10
    )
    np.testing.assert_allclose(jax.jit(jax.jacfwd(norm_of_root))(P), GRADIENT, rtol=1e-10)
    np.testing.assert_allclose(jax.jit(jax.jacfwd(jax.jacfwd(norm_of_root)))(P), HESSIAN, rtol=1e-9)


def nonnormal(n, seed=0):
    rng = np.random.default_rng(seed)
    return (
        np.eye(n) * 3
        + np.triu(rng.normal(size=(n, n)), 1) / np.sqrt(n)
        + 0.3 * rng.normal(size=(n, n)) / np.sqrt(n)
    )


@pytest.mark.parametrize("n", [1, 2, 7, 50])
def test_a_linear_residual_is_a_linear_solve(n):
    A, w = jnp.asarray(nonnormal(n)), jnp.asarray(np.random.default_rng(1).normal(size=n))
    b = jnp.asarray(np.random.default_rng(2).normal(size=n))

    def g(p):
        return w @ adjoint.root(lambda x, p: p[0] @ x - p[1], jnp.zeros(n), p).value

    A_bar, b_bar = jax.jit(jax.grad(g))((A, b))
    x, lam = np.linalg.solve(A, b), np.linalg.solve(np.asarray(A).T, w)
    np.testing.assert_allclose(b_bar, lam, rtol=1e-10, atol=1e-13)
    np.testing.assert_allclose(A_bar, -np.outer(lam, x), rtol=1e-10, atol=1e-13)


@pytest.mark.slow
def test_the_gradient_of_a_nonlinear_system_is_verified():
    A = jnp.asarray(nonnormal(7))

    def g(p):
        x = adjoint.root(
            lambda x, p: A @ x + 0.1 * p["scale"] * jnp.roll(x, 1) ** 3 - p["load"], jnp.zeros(7), p
        ).value
        return jnp.sum(jnp.sin(x))

    p = {"scale": jnp.asarray(1.3), "load": jnp.linspace(-1.0, 2.0, 7)}
    verdict = verify_gradient(g, p)
    assert verdict.trusted, str(verdict)


@pytest.mark.slow
def test_unknowns_and_parameters_may_be_pytrees():
    def F(x, p):
        return {"u": x["u"] ** 2 - p["a"], "v": x["v"] * x["u"][:1] - p["b"]}

    x0 = {"u": jnp.ones(2), "v": jnp.ones((1,))}
    p = {"a": jnp.array([4.0, 9.0]), "b": jnp.array([6.0])}
    x = adjoint.require(adjoint.root(F, x0, p))
    np.testing.assert_allclose(x["u"], [2, 3], rtol=1e-12)
    np.testing.assert_allclose(x["v"], [3], rtol=1e-12)
    p_bar = jax.grad(lambda p: adjoint.root(F, x0, p).value["v"][0])(p)
    # v = b / sqrt(a_0)
    np.testing.assert_allclose(p_bar["a"], [-6 / (2 * 8), 0], atol=1e-10)
    np.testing.assert_allclose(p_bar["b"], [0.5], rtol=1e-10)


def test_the_derivative_takes_one_transpose_solve_and_no_further_factorization():
    with adjoint.count_solves() as value_only:
        jax.block_until_ready(jax.jit(norm_of_root)(P))
    with adjoint.count_solves() as with_gradient:
        jax.block_until_ready(jax.jit(jax.value_and_grad(norm_of_root))(P))
    assert with_gradient.factorizations == value_only.factorizations
    assert with_gradient.solves == value_only.solves
    assert (value_only.transpose_solves, with_gradient.transpose_solves) == (0, 1)


@pytest.mark.slow
def test_the_root_and_its_derivative_do_not_depend_on_the_start_or_on_the_scale_of_F():
    def derivative(start, scale):
        F = lambda x, p: scale * (x**3 + x - p)
        return jax.grad(lambda p: adjoint.root(F, jnp.array([start]), p).value[0])(
            jnp.array([10.0])
        )

    for start, scale in [(0.0, 1.0), (-50.0, 1e-12), (300.0, 1e12)]:
        np.testing.assert_allclose(derivative(start, scale), [1 / 13], rtol=1e-9)


@pytest.mark.slow
def test_nested_roots_obey_the_chain_rule():
    def inner(p):
        return adjoint.root(lambda y, p: y**3 + y - p, jnp.array([1.0]), p).value

    def outer(p):
        return adjoint.root(lambda x, p: x + jnp.exp(x) - inner(p), jnp.array([0.0]), p).value[0]

    p = jnp.array([10.0])
    # y(10) = 2, dy/dp = 1/13; x + e^x = 2, dx/dy = 1/(1 + e^x).
    x = float(outer(p))
    assert x + np.exp(x) == pytest.approx(2.0, rel=1e-12)
    np.testing.assert_allclose(jax.grad(outer)(p), [1 / 13 / (1 + np.exp(x))], rtol=1e-10)


@pytest.mark.slow
def test_a_root_of_a_root_is_the_identity():
    # x = tan p; then p' with arctan x = p' is p again, so its derivative is 1.
    def there_and_back(p):
        x = adjoint.root(lambda x, p: jnp.arctan(x) - p, jnp.array([0.0]), p).value
        return adjoint.root(lambda q, x: jnp.tan(q) - x, jnp.array([0.4]), x).value[0]

    value, gradient = jax.value_and_grad(there_and_back)(jnp.array([0.7]))
    np.testing.assert_allclose([value, gradient[0]], [0.7, 1.0], rtol=1e-9)


@pytest.mark.parametrize(
    ("F", "start", "p", "status"),
    [
        (lambda x, p: x**2 - p, 1.0, 0.0, {"DEGENERATE", "SINGULAR"}),
        (lambda x, p: x**3 - p, 1.0, 0.0, {"DEGENERATE", "SINGULAR"}),
        (lambda x, p: x**2 - p, 1.0, -1.0, {"NOT_CONVERGED", "SINGULAR"}),
        (lambda x, p: x**3 - p, 1.0, np.nan, {"NONFINITE_INPUT"}),
        (lambda x, p: 0.0 * x + p, 1.0, 1.0, {"SINGULAR", "NOT_CONVERGED"}),
    ],
    ids=["fold", "triple root", "no root", "NaN", "no x in F"],
)
@pytest.mark.parametrize("transform", [lambda f: f, jax.jit], ids=["eager", "jit"])
def test_what_is_not_a_regular_root_is_nan_in_value_and_gradient(F, start, p, status, transform):
    def solve(p):
        return adjoint.root(F, jnp.array([start]), p)

    p = jnp.array([p])
    solution = transform(solve)(p)
    assert solution.status.name in status
    assert np.isnan(solution.value).all()
    assert np.isnan(transform(jax.grad(lambda p: solve(p).value[0]))(p)).all()
    with pytest.raises(adjoint.SolveError, match="root with Newton"):
        adjoint.require(solution)


def test_a_root_close_to_a_fold_but_regular_is_right():
    # x = sqrt(p), dx/dp = 1 / (2 sqrt(p))
    gradient = jax.grad(
        lambda p: adjoint.root(lambda x, p: x**2 - p, jnp.array([1.0]), p).value[0]
    )(jnp.array([1e-8]))
    np.testing.assert_allclose(gradient, [5000.0], rtol=1e-7)


@pytest.mark.slow
def test_only_the_bad_lane_of_a_batch_fails():
    solve = jax.vmap(lambda p: adjoint.root(lambda x, p: x**2 - p, jnp.array([1.0]), p))
    solution = jax.jit(solve)(jnp.array([[4.0], [-1.0], [9.0]]))
    np.testing.assert_array_equal(np.isnan(solution.value[:, 0]), [False, True, False])
    np.testing.assert_allclose(solution.value[[0, 2], 0], [2.0, 3.0], rtol=1e-12)
    gradient = jax.vmap(
        jax.grad(lambda p: adjoint.root(lambda x, p: x**2 - p, jnp.array([1.0]), p).value[0])
    )
    bars = gradient(jnp.array([[4.0], [-1.0], [9.0]]))
    np.testing.assert_allclose(bars[[0, 2], 0], [0.25, 1 / 6], rtol=1e-10)
    assert np.isnan(bars[1, 0])


def test_what_the_residual_closes_over_is_differentiated():
    def closes_over(p):
        return adjoint.root(
            lambda x, q: x**3 + p * x - q, jnp.array([1.0]), jnp.array([10.0])
        ).value[0]

    np.testing.assert_allclose(closes_over(1.0), 2.0, rtol=1e-12)
    # dx/dp = -x / (3 x^2 + p).
    np.testing.assert_allclose(jax.grad(closes_over)(1.0), -2 / 13, rtol=1e-10)
    np.testing.assert_allclose(jax.grad(jax.jit(closes_over))(1.0), -2 / 13, rtol=1e-10)


@pytest.mark.parametrize(
    ("F", "x0", "p", "error", "match"),
    [
        (lambda x, p: x[:1] - p, jnp.ones(2), jnp.ones(1), ValueError, "1 entries for 2 unknowns"),
        (
            lambda x, p: x - p * 1j,
            jnp.ones(2),
            jnp.ones(2),
            TypeError,
            "complex128 for unknowns in float64",
        ),
        (lambda x, _: x, jnp.ones(2), {}, TypeError, "at least one array"),
        (lambda x, p: x - p, jnp.arange(2), jnp.ones(2), TypeError, "floating-point"),
        (
            lambda x, p: x - p,
            jnp.ones(2, jnp.float32),
            jnp.ones(2),
            TypeError,
            "float64 for unknowns in float32",
        ),
    ],
)
def test_what_is_no_root_problem_is_refused(F, x0, p, error, match):
    with pytest.raises(error, match=match):
        adjoint.root(F, x0, p)


def test_solvers_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="SparseDirect"):
        adjoint.root(residual, START, P, linear_solver=adjoint.SparseDirect())
    with pytest.raises(TypeError, match="linear_solver"):
        adjoint.root(residual, START, P, linear_solver="LU")
    with pytest.raises(ValueError, match="jacobian_pattern of size 2 for 3 unknowns"):
        adjoint.root(lambda x, p: x - p, jnp.ones(3), jnp.ones(3), jacobian_pattern=FULL_PATTERN)
    with pytest.raises(ValueError, match="mode"):
        adjoint.root(residual, START, P, mode="forward")
