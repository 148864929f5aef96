"""torchdiffeq: the neural ODEs and Lotka-Volterra in PyTorch, differentiated through the steps.

That is its default. Its programs run outside JAX, and are called through `jax.pure_callback`, which
takes some 0.08 ms; nothing is compiled.
"""

from typing import Any

import jax
import numpy as np
from jaxtyping import Array

from benchmarks.answers import GRADIENT, VALUE
from benchmarks.contest import Function
from benchmarks.ode.cases import Case, Network

PROBLEMS = ("Lotka-Volterra", "neural ODE", "long neural ODE")


def functions(case: Case) -> dict[str, tuple[Function, ...]]:
    """What is timed."""
    import torch  # pyright: ignore[reportMissingImports]

    def value(factors: Array, _: Any, __: Any) -> Array:
        def call(x: Any) -> np.ndarray:
            with torch.no_grad():
                return _misfit(case, torch.tensor(np.asarray(x))).numpy()

        return jax.pure_callback(call, jax.ShapeDtypeStruct((), float), factors)

    def value_and_gradient(factors: Array, _: Any, __: Any) -> tuple[Array, Array]:
        def call(x: Any) -> tuple[np.ndarray, np.ndarray]:
            leaf: Any = torch.tensor(np.asarray(x), requires_grad=True)
            g = _misfit(case, leaf)
            g.backward()
            return g.detach().numpy(), leaf.grad.numpy()

        shapes = (jax.ShapeDtypeStruct((), float), jax.ShapeDtypeStruct(factors.shape, float))
        return jax.pure_callback(call, shapes, factors)

    return {VALUE: (value,), GRADIENT: (value_and_gradient,)}


def _misfit(case: Case, factors: Any) -> Any:
    import torch  # pyright: ignore[reportMissingImports]
    from torchdiffeq import odeint  # pyright: ignore[reportMissingImports]

    n = case.n if case.by_start else 0
    y0 = torch.tensor(case.y0)
    y0 = y0 * factors[:n] if case.by_start else y0
    p = case.arranged(torch.tensor(case.p) * factors[n:])
    times = torch.tensor(np.append(0.0, case.ts))
    options = {"max_num_steps": case.max_steps}
    ys: Any = odeint(
        lambda _, y: rate(case, y, p),
        y0,
        times,
        rtol=case.rtol,
        atol=case.atol,
        method="dopri5",
        options=options,
    )
    return 0.5 * (((ys[1:] - torch.tensor(case.data)) / torch.tensor(case.scale)) ** 2).mean()


def rate(case: Case, y: Any, p: Any) -> Any:
    """f(y, p) in PyTorch, with p as arranged."""
    import torch  # pyright: ignore[reportMissingImports]

    if isinstance(case.f, Network):
        (W_1, b_1), (W_2, b_2), (W_3, b_3) = p
        h = torch.tanh(y.reshape(case.f.batch, case.f.features) @ W_1.T + b_1)
        return (torch.tanh(h @ W_2.T + b_2) @ W_3.T + b_3).reshape(-1)
    meet = y[0] * y[1]
    return torch.stack([p[0] * y[0] - p[1] * meet, p[3] * meet - p[2] * y[1]])
