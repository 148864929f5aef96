"""Small programs are compiled without the CPU's fusion emitters of XLA, in about half of the time.

What they compute is a matter of microseconds either way (`benchmarks.optimize`, the first call of a
process): scalars, short vectors and small matrices. Products of large ones take several times as
long without them.
"""

from functools import cache

import jax
from jax.extend.core import Jaxpr, jaxprs_in_params
from jaxtyping import PyTree

from adjoint.tracing.traced_function import TracedFunction

# Numbers of the largest array: a matrix of 32 x 32. With 100 x 100, products are seven times as
# quick with the emitters.
SMALL = 1024


@cache
def quick_to_compile() -> dict[str, bool] | None:
    """The options of the compiler for small programs, where this version of XLA has the choice."""
    options = {"xla_cpu_use_fusion_emitters": False}
    if jax.default_backend() != "cpu":
        return None
    try:
        jax.jit(lambda x: x, compiler_options=options).lower(0.0).compile()
    except jax.errors.JaxRuntimeError:
        return None
    return options


def is_small(operands: PyTree) -> bool:
    """Whether no array among them, or in what their functions compute, is larger than `SMALL`.

    Nor the square of what is asked for: solvers make matrices of the unknowns.
    """
    parts = jax.tree.leaves(operands, is_leaf=lambda node: isinstance(node, TracedFunction))
    for part in parts:
        if isinstance(part, TracedFunction):
            asked = sum(v.aval.size for v in part.program.jaxpr.outvars)
            sizes = [largest_array(part.program.jaxpr), asked**2]
        else:
            sizes = [jax.numpy.size(part)]
        if max(sizes) > SMALL:
            return False
    return True


def largest_array(jaxpr: Jaxpr) -> int:
    """How many numbers the largest array holds that a program makes, or is given."""
    largest = 0
    for v in (*jaxpr.constvars, *jaxpr.invars):
        largest = max(largest, _size(v))
    for eqn in jaxpr.eqns:
        largest = max(largest, *(_size(v) for v in eqn.outvars), 0)
        for inner in jaxprs_in_params(eqn.params):
            largest = max(largest, largest_array(inner))
    return largest


def _size(v: object) -> int:
    return int(getattr(getattr(v, "aval", None), "size", 0))
