"""The step on spheres and oblique manifolds for GPUs: one pass that measures, and one that moves.

A GPU computes for free, and pays for every byte and for every kernel that it starts. So the first
pass reads the weight and the gradient once and measures all that is needed later: a few numbers of
every point. It works on `Entries`, from which XLA makes a single kernel that holds each point in
the registers of a thread; the barrier behind it keeps XLA from computing these numbers again. The
step and its length follow from the numbers alone, and the second pass moves the points, entry by
entry, so that the sum with a donated weight is written in its place.

Mixtures and Stiefel manifolds do not gain: what moves an entry there depends on the other entries
of its point, and the kernel that XLA makes of such a second pass took 1.2 to 1.3 times as long as
the passes over arrays (measured on an H100 with JAX 0.11.2).
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
from jax import lax

from fgsgd_jax import linalg
from fgsgd_jax.spec import times


class Moved(NamedTuple):
    """x, R(x, t·v) − x, and the new momentum, as points; the momentum is None for none."""

    x: jax.Array
    moved: jax.Array
    momentum: jax.Array | None


class _Tangent(NamedTuple):
    """x, the tangent vector v, the normal numbers on the way to v, and the new momentum."""

    x: Any
    v: Any
    normals: list
    momentum: Any


def two_passes(step, gradient: jax.Array, trace: jax.Array | None, factor, divisors) -> Moved:
    """The step of a weight whose steps are divided by something.

    Args:
        step: What the passes share, a `_Step`.
        gradient: The Euclidean gradient of the weight.
        trace: The momentum, or None for none.
        factor: What the gradient is multiplied by; None for 1.
        divisors: The given numbers that divide the step of every component.
    """
    kernel = step.kernel
    tangent_of = functools.partial(_tangent, step, gradient, trace, factor)

    def divided(numbers):
        return numbers if divisors is None else jax.tree.map(lambda a: a / divisors, numbers)

    x, v, normals, _ = tangent_of(linalg.Entries.of)
    v, normal = divided((v, normals[-1]))
    squares = kernel.squares(x, v, normal)
    length = kernel.length(v, normal) if step.settings.normalization == "component" else None
    numbers = normals, squares, length, kernel.squared_length(x, v)
    normals, squares, length, squared_length = _arrays(lax.optimization_barrier(numbers))

    t = step.length(squares, lambda: length)
    at_rest = (t * t * squares == 0) | (t == 0)  # False for NaN
    factors = kernel.factor(squared_length, t, at_rest)

    x, v, _, momentum = tangent_of(lambda points: points, normals)
    return Moved(x, kernel.move(x, divided(v), t, factors, exact=True), momentum)


def _tangent(step, gradient, trace, factor, form: Callable, normals=None) -> _Tangent:
    """The tangent vector.

    Args:
        step: What the passes share.
        gradient: The Euclidean gradient of the weight.
        trace: The momentum, or None for none.
        factor: What the gradient is multiplied by; None for 1.
        form: What is made of points: entries, or nothing else.
        normals: The normal numbers, if they are known.
    """
    kernel, points, (_, decay, *_, share) = step.kernel, step.leaf_spec.points, step.numbers
    x = form(points(step.weight))
    x = x if step.s is None else x / step.s
    g = times(form(points(gradient)), factor)
    known, used = iter(normals or ()), []

    def projected(vector):
        used.append(next(known) if normals else kernel.normal(x, vector))
        return kernel.tangent(x, vector, used[-1])

    momentum = None
    if trace is None:
        v = projected(g)
    else:
        v = momentum = projected(times(g, share) + decay * form(points(trace)))
        if step.settings.nesterov:
            v = projected(g + decay * momentum)
    return _Tangent(x, v, used, momentum)


def _arrays(numbers: Any) -> Any:
    """Numbers of every point, or of every column, as arrays."""
    is_entries = lambda node: isinstance(node, linalg.Entries)  # noqa: E731
    return jax.tree.map(
        lambda node: node.array() if is_entries(node) else node, numbers, is_leaf=is_entries
    )
