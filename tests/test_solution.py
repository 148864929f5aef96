"""Status, Solution, require and poison: a failed solve never looks like a finished one."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import all_nan

import adjoint
from adjoint import Solution, SolveError, Status, linear_solve, require
from adjoint.solution import poison
from adjoint.status import first_failure

SINGULAR = jnp.array([[1.0, 2.0], [2.0, 4.0]])
FINE = jnp.array([[2.0, 1.0], [0.0, 4.0]])
B = jnp.array([3.0, 4.0])


def test_members_have_names_messages_and_distinct_codes() -> None:
    names = [name for name, _ in Status._explanations]
    assert len(set(names)) == len(names)
    for code, name in enumerate(names):
        member = getattr(Status, name)
        assert (int(member), member.name) == (code, name)
        assert len(member.message) > 10
        assert repr(member) == f"Status.{name}"


def test_equality_works_on_the_host_in_jit_and_in_vmap() -> None:
    assert Status(np.int32(0)) == Status.SUCCESS
    assert Status.SUCCESS != Status.SINGULAR
    assert len({Status.SUCCESS, Status.SINGULAR, Status(np.int32(0))}) == 2
    picked = jax.jit(lambda A: jnp.where(linear_solve(A, B).status == Status.SUCCESS, 1, 2))
    assert [int(picked(A)) for A in (FINE, SINGULAR)] == [1, 2]
    status = jax.vmap(lambda A: linear_solve(A, B).status)(jnp.stack([FINE, SINGULAR]))
    np.testing.assert_array_equal(status == Status.SINGULAR, [False, True])
    np.testing.assert_array_equal(status.ok, [True, False])


def test_a_status_is_true_for_a_success_alone() -> None:
    names = [name for name, _ in Status._explanations]
    assert [name for name in names if getattr(Status, name)] == ["SUCCESS", "NOISE_FLOOR"]
    assert not linear_solve(SINGULAR, B).status
    assert linear_solve(FINE, B).status
    with pytest.raises(TypeError, match=r"2 statuses.*jnp\.all\(solution\.status\.ok\)"):
        bool(Status(jnp.array([0, 1])))
    with pytest.raises(TypeError, match=r"traced status.*jnp\.where\(solution\.status\.ok"):
        jax.jit(lambda A: 1 if linear_solve(A, B).status else 2)(FINE)


def test_the_version_is_that_of_the_package() -> None:
    assert [int(part) >= 0 for part in adjoint.__version__.split(".")] == [True] * 3


NO_ROOT = {
    "one equation": lambda x, p: x**2 + p,
    "two": lambda x, p: jnp.stack([x[0] ** 2 + x[1] ** 2 + p[0], x[0] - x[1]]),
}


@pytest.mark.parametrize("name", NO_ROOT)
def test_where_there_is_no_root_the_message_says_so(name: str) -> None:
    """|F| >= 1 everywhere: where it is smallest F_x is singular."""
    n = 1 if name == "one equation" else 2
    solution = adjoint.root(NO_ROOT[name], jnp.full(n, 0.7), jnp.ones(1))
    with pytest.raises(SolveError, match="may have no root"):
        require(solution)


def test_repr_of_a_traced_and_of_a_batched_status() -> None:
    seen = []
    jax.jit(lambda A: seen.append(repr(linear_solve(A, B).status)) or A)(FINE)
    assert "traced" in seen[0]
    assert "[" in repr(Status(jnp.array([0, 1])))


def test_solution_is_a_pytree_that_keeps_its_origin() -> None:
    solution = jax.jit(lambda A: linear_solve(A, B))(FINE)
    assert isinstance(solution, Solution)
    doubled = jax.tree.map(lambda v: v, solution)
    assert doubled.origin == solution.origin
    assert "LU" in solution.origin
    batch = jax.lax.map(lambda A: linear_solve(A, B), jnp.stack([FINE, 2 * FINE]))
    np.testing.assert_allclose(batch.value, [[1.0, 1.0], [0.5, 0.5]], rtol=1e-15)


def test_require_returns_the_value_unchanged() -> None:
    solution = linear_solve(FINE, B)
    assert require(solution) is solution.value


def test_require_names_solver_numbers_and_remedy() -> None:
    with pytest.raises(SolveError) as caught:
        require(linear_solve(SINGULAR, B))
    message = str(caught.value)
    for part in (
        "linear_solve with LU",
        "n = 2",
        "SINGULAR",
        "reciprocal_condition",
        "boundary condition",
    ):
        assert part in message
    assert caught.value.status == Status.SINGULAR
    assert caught.value.stats["reciprocal_condition"] < 1e-16


def test_require_names_the_failed_lane() -> None:
    batch = jax.vmap(lambda A: linear_solve(A, B))(jnp.stack([FINE, FINE, SINGULAR, SINGULAR]))
    with pytest.raises(SolveError, match="lane 2, the first of 2 that failed out of 4"):
        require(batch)
    np.testing.assert_allclose(batch.value[:2], [[1.0, 1.0]] * 2, rtol=1e-15)
    assert all_nan(batch.value[2:])


def test_require_accepts_a_batch_that_succeeded() -> None:
    batch = jax.vmap(lambda b: linear_solve(FINE, b))(jnp.stack([B, 2 * B]))
    np.testing.assert_allclose(require(batch), [[1.0, 1.0], [2.0, 2.0]], rtol=1e-15)


@pytest.mark.parametrize("transform", [jax.jit, jax.vmap])
def test_require_on_a_traced_status_says_what_to_do(transform: object) -> None:
    argument = jnp.stack([FINE, FINE]) if transform is jax.vmap else FINE
    with pytest.raises(TypeError, match=r"traced.*solution\.status"):
        transform(lambda A: require(linear_solve(A, B)))(argument)


def test_poison_reaches_value_and_every_derivative() -> None:
    f = lambda x, ok: jnp.sum(poison({"a": x, "b": x**2}, ok)["b"])
    x = jnp.array([1.0, 2.0])
    assert all_nan(jax.value_and_grad(f)(x, jnp.array(False)))
    assert all_nan(jax.hessian(f)(x, jnp.array(False)))
    assert all_nan(jax.jvp(lambda x: f(x, jnp.array(False)), (x,), (x,)))
    np.testing.assert_array_equal(jax.grad(f)(x, jnp.array(True)), 2 * x)


def test_poison_leaves_integers_and_types_alone() -> None:
    tree = {
        "count": jnp.array(3),
        "half": jnp.ones(2, jnp.float32),
        "complex": jnp.ones(2, jnp.complex64),
    }
    spoiled = poison(tree, jnp.array(False))
    assert spoiled["count"] == 3
    assert spoiled["half"].dtype == jnp.float32
    assert spoiled["complex"].dtype == jnp.complex64
    assert all_nan([spoiled["half"], spoiled["complex"]])


def test_first_failure_keeps_the_order() -> None:
    ok, bad, worse = Status.SUCCESS, Status.SINGULAR, Status.NOT_CONVERGED
    assert first_failure(ok, ok) == Status.SUCCESS
    assert first_failure(ok, bad, worse) == Status.SINGULAR
    assert first_failure(worse, bad, ok) == Status.NOT_CONVERGED
    assert first_failure(bad) == Status.SINGULAR
    applies = jnp.array([True, False, False]), jnp.array([True, True, False])
    codes = first_failure(ok, (bad, applies[0]), (worse, applies[1])).code
    np.testing.assert_array_equal(codes, [bad.code, worse.code, ok.code])


def test_a_zero_cotangent_does_not_hide_a_failure() -> None:
    """The loss masks every entry of the failed solution: its gradient is NaN all the same."""
    loss = lambda A, b: jnp.sum(jnp.where(jnp.zeros(2, bool), linear_solve(A, b).value, 0.0))
    assert all_nan(jax.grad(loss, (0, 1))(SINGULAR, B))
    assert all_nan(adjoint.hvp(lambda b: jnp.sum(linear_solve(SINGULAR, b).value ** 2), B, B))
