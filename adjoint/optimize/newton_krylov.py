"""Newton's method for many unknowns: a trust region from products f''(x) v alone.

Its step is found by conjugate gradients.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int32

from adjoint.optimize.problem import Domain, Measure, unconstrained_measure
from adjoint.optimize.state import Evaluation, Iterate, Query, State, begin, choose
from adjoint.optimize.trust_region import (
    Region,
    judge,
    radius_collapsed,
    unknown,
    whole_region,
    widened,
)
from adjoint.tracing import loops

# Without rounding n products solve a system of n equations; these are added for rounding.
PRODUCTS_BEYOND = 10
# Of the radius: a step within the bounds that is so long needs no further products.
NEARLY = 0.9


class Inner(NamedTuple):
    """Where the conjugate gradients stand, for H s = -g in the free entries.

    Attributes
    ----------
    s, H_s
        The step so far, and H times it.
    r, r_z
        g + H s in the free entries, and r . M^-1 r.
    free
        The entries that the step may still change.
    products
        Made so far.
    base, H_base
        A step within the bounds from which they have begun, or, when settling, which is as far as s
        can be followed from there; and H times it.
    settling
        Whether the product that is asked for is that with s itself, cut down to the bounds.
    """

    s: Float[Array, " n"]
    H_s: Float[Array, " n"]
    base: Float[Array, " n"]
    H_base: Float[Array, " n"]
    r: Float[Array, " n"]
    r_z: Float[Array, ""]
    free: Bool[Array, " n"]
    products: Int32[Array, ""]
    settling: Bool[Array, ""]


class TrustRegionCGMemory(NamedTuple):
    """How far the method may go, and where the conjugate gradients stand."""

    region: Region
    inner: Inner


@dataclass(frozen=True)
class TrustRegionCG:
    """x <- x + s: s minimizes f'(x) s + s' f''(x) s / 2 in |s| <= radius on Krylov spaces.

    The spaces are those of conjugate gradients. They end at the relative residual `forcing`, at the
    radius or where f'' curves down (Steihaug and Toint). They are preconditioned by M^-1 of the
    inner product, so their number does not grow with the mesh where f'' is M and something compact.
    A step that is not accepted is shortened, without further products. Bounds: entries that the
    step would carry beyond one are held there, and the conjugate gradients go on with the others.
    Where f' is small they are run once more, and the point is a minimum only when they have nothing
    to gain. A point where f' = 0 and f'' is indefinite is not left.

    Parameters
    ----------
    forcing
        Relative residual, in the dual norm, to which each Newton system is solved.
    preconditioner
        v -> P v for flat vectors v, symmetric positive definite and close to f''^-1, in place of
        M^-1.

    Notes
    -----
    **Cost** per step: one to a few values with derivatives, and products, each about two
    derivatives; memory of a few vectors. Source: T. Steihaug, SIAM J. Numer. Anal. 20 (1983); J.
    Nocedal, Y. Yuan, in Advances in Nonlinear Programming, Kluwer (1998).
    """

    forcing: float = 1e-4
    preconditioner: Callable[[Array], Array] | None = None

    queries = (Query.VALUE, Query.PRODUCT)
    patience = 1
    rates_have_units = False
    handles = ("bounds",)

    def init(self, x: Float[Array, " n"], domain: Domain, constraints: int = 0) -> State:
        """The state that asks about x first."""
        x = domain.project(x)
        zero = jnp.zeros((), x.dtype)
        no = jnp.zeros((), bool)
        nothing = jnp.zeros_like(x)
        integer = jnp.zeros((), jnp.int32)
        everything = jnp.ones(x.shape, bool)
        inner = Inner(nothing, nothing, nothing, nothing, nothing, zero, everything, integer, no)
        memory = TrustRegionCGMemory(whole_region(x, domain), inner)
        return begin(x, memory)._replace(vector=nothing, prediction=unknown(x.dtype))

    def step(self, state: State, evaluation: Evaluation, domain: Domain) -> State:
        """The state after the evaluation that it asked for; pure."""
        return loops.cond(
            state.query == Query.VALUE,
            lambda s: self._judge(s, evaluation, domain),
            lambda s: self._go_on(s, jnp.asarray(evaluation.product), domain),
            state,
        )

    def restart(self, state: State, domain: Domain) -> State:
        """The failed state with its first radius, once a step: now the noise of f is known."""
        memory = state.memory
        fresh = state._replace(
            failed=jnp.zeros((), bool), memory=memory._replace(region=widened(memory.region))
        )
        return choose(memory.region.restarted, state, self._begin(fresh, domain))

    def measure(self, state: State, domain: Domain) -> Measure:
        """Dual norm of the projected derivative; there are no constraints."""
        return unconstrained_measure(state.at, domain)

    def _judge(self, state: State, evaluation: Evaluation, domain: Domain) -> State:
        """The state that has moved and begins to solve, or that tries a shorter step."""
        s = state.point - state.at.x
        memory = state.memory
        verdict = judge(state, evaluation, memory.region, domain)
        moved = state._replace(
            at=Iterate(state.point, evaluation.value, evaluation.derivative),
            iterations=state.iterations + jnp.where(state.started, 1, 0),
            started=jnp.ones((), bool),
            contradicted_by=verdict.contradicted_by,
            memory=memory._replace(region=verdict.region),
        )
        length = domain.norm(s)
        inner = memory.inner
        share = verdict.region.radius / jnp.where(length > 0, length, 1)
        shorter = inner._replace(s=share * inner.s, H_s=share * inner.H_s)
        stayed = _try(state._replace(memory=TrustRegionCGMemory(verdict.region, shorter)), domain)
        stayed = stayed._replace(
            failed=stayed.failed | radius_collapsed(verdict.region),
            contradicted_by=verdict.contradicted_by,
        )
        return choose(verdict.accepted, self._begin(moved, domain), stayed)

    def _begin(self, state: State, domain: Domain) -> State:
        """The state that asks for the first product at its iterate."""
        nothing = jnp.zeros_like(state.at.x)
        free = domain.free(state.at.x, state.at.derivative)
        begun = self._restart(state, nothing, nothing, free, jnp.zeros((), jnp.int32), domain)
        none = jnp.where(begun.memory.inner.r_z == 0, 0, jnp.inf).astype(state.at.x.dtype)
        return _predicting(begun, none)

    def _restart(
        self, state: State, s: Array, H_s: Array, free: Array, products: Array, domain: Domain
    ) -> State:
        r = (state.at.derivative + H_s) * free
        z = self._precondition(r, free, domain)
        r_z = r @ z
        inner = Inner(s, H_s, s, H_s, r, r_z, free, products, jnp.zeros((), bool))
        return state._replace(
            query=jnp.full((), Query.PRODUCT, jnp.int32),
            point=state.at.x,
            vector=-z,
            failed=~(r_z > 0),
            direction=jnp.where(jnp.any(z != 0), -z, -domain.gradient(state.at.derivative)),
            memory=state.memory._replace(inner=inner),
        )

    def _precondition(
        self, r: Float[Array, " n"], free: Bool[Array, " n"], domain: Domain
    ) -> Float[Array, " n"]:
        return (
            domain.gradient(r) if self.preconditioner is None else self.preconditioner(r)
        ) * free

    def _go_on(self, state: State, product: Float[Array, " n"], domain: Domain) -> State:
        if domain.bounded:
            state = loops.cond(
                state.memory.inner.settling,
                lambda s: self._settle(s, product, domain),
                lambda s: self._iterate(s, product, domain),
                state,
            )
        else:
            state = self._iterate(state, product, domain)
        assert state.prediction is not None
        ended = state.query == Query.VALUE
        found = jnp.where(ended, state.memory.region.predicted, state.prediction.decrease)
        return _predicting(state, found)

    def _iterate(self, state: State, H_d: Float[Array, " n"], domain: Domain) -> State:
        """One step of conjugate gradients; at their end, the state that tries what they found."""
        assert state.vector is not None
        memory = state.memory
        inner = memory.inner
        d = state.vector
        radius = memory.region.radius
        curvature = d @ H_d
        alpha = inner.r_z / jnp.where(curvature > 0, curvature, 1)
        outside = ~(curvature > 0) | ~(domain.norm(inner.s + alpha * d) < radius)
        alpha = jnp.where(outside, _to_sphere(inner.s, d, radius, domain), alpha)
        s = inner.s + alpha * d
        H_s = inner.H_s + alpha * H_d
        r = inner.r + alpha * H_d * inner.free
        z = self._precondition(r, inner.free, domain)
        r_z = r @ z
        g = state.at.derivative * inner.free
        goal = self.forcing**2 * (g @ self._precondition(g, inner.free, domain))
        products = inner.products + 1
        ended = outside | ~(r_z > goal) | (products >= s.size + PRODUCTS_BEYOND)
        following = inner._replace(s=s, H_s=H_s, r=r, r_z=r_z, products=products)
        beta = r_z / jnp.where(inner.r_z > 0, inner.r_z, 1)
        going = state._replace(vector=-z + beta * d, memory=memory._replace(inner=following))
        return choose(ended, _finish(state, following, domain), going)

    def _settle(self, state: State, H_s: Float[Array, " n"], domain: Domain) -> State:
        """After a step was cut down to the bounds: go on from it, or from the first bound met.

        The better of both is taken.
        """
        memory = state.memory
        inner = memory.inner
        region = memory.region
        g = state.at.derivative

        def model(s: Array, H_s: Array) -> Array:
            return g @ s + s @ H_s / 2

        projected = model(inner.s, H_s) < model(inner.base, inner.H_base)
        s = jnp.where(projected, inner.s, inner.base)
        H_s = jnp.where(projected, H_s, inner.H_base)
        # An entry that is held stays where the step has it; those that the shorter step leaves
        # within the bounds are free again.
        there = state.at.x + s
        rounding = 4 * jnp.finfo(s.dtype).eps * region.size
        below = there - rounding
        above = there + rounding
        met = ((domain.project(below) != below) | (domain.project(above) != above)) & ~inner.free
        free = jnp.where(projected, inner.free, domain.free(state.at.x, g) & ~met)
        full = (domain.norm(s) >= NEARLY * region.radius) | (
            inner.products >= s.size + PRODUCTS_BEYOND
        )
        again = self._restart(state, s, H_s, free, inner.products, domain)
        whole = memory._replace(inner=inner._replace(s=s, H_s=H_s))
        tried = _try(state._replace(memory=whole), domain)
        return choose(again.failed | full, tried, again)


def _predicting(state: State, decrease: Float[Array, ""]) -> State:
    """The state with what the model promises for all that conjugate gradients have found.

    It is infinite while they have not ended.
    """
    assert state.prediction is not None
    return state._replace(prediction=state.prediction._replace(decrease=decrease))


def _to_sphere(s: Array, d: Array, radius: Array, domain: Domain) -> Array:
    """The t > 0 with |s + t d| = radius."""
    d_dual = domain.derivative(d)
    a = d @ d_dual
    b = s @ d_dual
    c = jnp.maximum(radius**2 - s @ domain.derivative(s), 0)
    root = jnp.sqrt(b**2 + a * c)
    # Of the two forms of the root, the one without cancellation.
    return jnp.where(b > 0, c / jnp.where(b > 0, root + b, 1), (root - b) / jnp.where(a > 0, a, 1))


def _finish(state: State, inner: Inner, domain: Domain) -> State:
    """The state that tries the step, or where bounds cut it asks for the product with the rest."""
    memory = state.memory
    whole = _try(state._replace(memory=memory._replace(inner=inner)), domain)
    if not domain.bounded:
        return whole
    s = domain.project(state.at.x + inner.s) - state.at.x
    beyond = inner.free & (jnp.abs(s - inner.s) > 4 * jnp.finfo(s.dtype).eps * memory.region.size)
    ahead = inner.s - inner.base
    share = jnp.clip(domain.longest(state.at.x + inner.base, ahead), 0, 1)
    cut = inner._replace(
        s=s,
        base=domain.project(state.at.x + inner.base + share * ahead) - state.at.x,
        H_base=inner.H_base + share * (inner.H_s - inner.H_base),
        free=inner.free & ~beyond,
        products=inner.products + 1,
        settling=jnp.ones((), bool),
    )
    asking = state._replace(vector=s, memory=memory._replace(inner=cut))
    return choose(jnp.any(beyond), asking, whole)


def _try(state: State, domain: Domain) -> State:
    """The state that asks for the value at the step; failed where the model promises nothing."""
    memory = state.memory
    s = memory.inner.s
    H_s = memory.inner.H_s
    g = state.at.derivative
    predicted = -(g @ s + s @ H_s / 2)
    return state._replace(
        query=jnp.zeros((), jnp.int32),
        point=domain.project(state.at.x + s),
        direction=jnp.where(predicted > 0, s, state.direction),
        failed=~(predicted > 0),
        memory=memory._replace(region=memory.region._replace(predicted=predicted)),
    )
