"""The step on spheres and oblique manifolds for GPUs: one pass that measures, and one that moves.

A GPU computes for free, and pays for every byte and for every kernel that it starts. So the first
pass reads the weight and the gradient once and measures all that is needed later: a few numbers of
every point. It works on `Entries`, from which XLA makes a single kernel that holds each point in
the registers of a thread; the barrier behind it keeps XLA from computing these numbers again. The
step and its length follow from the numbers alone, and the second pass moves the points, entry by
entry, so that the sum with a donated weight is written in its place.

Mixtures and Stiefel manifolds do not gain: what moves an entry there depends on the other entries
of its point, and the kernel that XLA makes of such a second pass took 1.2 to 1.3 times as long as
the passes over arrays (measured on an H100 with JAX 0.11.2). `_blocks.py` has kernels for them.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
from jax import lax

from fgsgd_jax import linalg
from fgsgd_jax.kernels._shared import Result, Step


def two_passes(step: Step, after: jax.Array | None) -> Result:
    """The step, of a kernel that rescales, divided by something."""
    kernel: Any = step.kernel

    def divided(numbers):
        if step.divisors is None:
            return numbers
        return jax.tree.map(lambda number: number / step.divisors, numbers)

    v, normals, _ = _tangent(step, linalg.Entries.of)
    x, v, normal = step.x(linalg.Entries.of), divided(v), divided(normals[-1])
    squares = kernel.squares(x, v, normal)
    length = kernel.length(v, normal) if step.settings.normalization == "component" else None
    numbers = normals, squares, length, kernel.squared_length(x, v)
    normals, squares, length, squared_length = _arrays(lax.optimization_barrier(numbers))

    t = step.length(squares, lambda: length)
    factors = kernel.factor(squared_length, t, step.at_rest(t, squares))

    v, _, momentum = _tangent(step, lambda points: points, normals)
    moved = kernel.move(step.x(), divided(v), t, factors, exact=True)
    return step.result(moved, momentum, after)


class _Tangent(NamedTuple):
    """The tangent vector v, the normal numbers on the way to it, and the new momentum."""

    v: Any
    normals: list
    momentum: Any


def _tangent(step: Step, form: Callable, normals: list | None = None) -> _Tangent:
    """The tangent vector.

    Args:
        step: The step.
        form: What is made of points: entries, or nothing else.
        normals: The normal numbers, if they are known.
    """
    x, known, used = step.x(form), iter(normals or ()), []

    def projected(vector):
        used.append(next(known) if normals else step.kernel.normal(x, vector))
        return step.kernel.tangent(x, vector, used[-1])

    v = projected(step.g_with_momentum(form))
    momentum = None if step.trace is None else v
    if momentum is not None and step.settings.nesterov:
        v = projected(step.g(form) + step.numbers.decay * momentum)
    return _Tangent(v, used, momentum)


def _arrays(numbers: Any) -> Any:
    """Numbers of every point, or of every column, as arrays."""
    is_entries = lambda node: isinstance(node, linalg.Entries)  # noqa: E731
    return jax.tree.map(
        lambda node: node.array() if is_entries(node) else node, numbers, is_leaf=is_entries
    )
