"""The step of a weight for GPUs: two passes over small points, held entry by entry in registers.

A GPU computes a number again for free, and pays for every byte and every kernel that it starts. So
the first pass measures the tangent vectors, up to their group norms, and the second pass computes
everything again and moves the points. The barrier between them is where XLA divides the work: from
expressions on `Entries` it makes one kernel before it, one for the sums over groups, and one after.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from fgsgd_jax import linalg
from fgsgd_jax.kernels._kernel import masked
from fgsgd_jax.kernels._mixture import MixtureKernel
from fgsgd_jax.kernels._sphere import RescalingKernel
from fgsgd_jax.spec import times


class Moved(NamedTuple):
    """x, R(x, t·v) − x, and the new momentum, as points; the momentum is None for none."""

    x: Any
    moved: Any
    momentum: Any


class _Tangent(NamedTuple):
    x: Any
    vector: Any
    normals: list
    momentum: Any


def two_passes(step, gradient: jax.Array, trace: jax.Array | None, factor, divisors) -> Moved:
    """The passes of `fused_step`.

    Args:
        step: What the passes share, a `_Step`.
        gradient: The Euclidean gradient of the weight.
        trace: The momentum, or None for none.
        factor: What the gradient is multiplied by; None for 1.
        divisors: The given numbers that divide the step of every component.
    """
    kernel, leaf_spec, numbers = step.kernel, step.leaf_spec, step.numbers
    summed = trace is not None and isinstance(kernel, MixtureKernel)
    if summed:  # Every manifold uses the sum: XLA would store its entries one by one.
        g = times(times(leaf_spec.points(gradient), factor), numbers.share)
        trace = lax.optimization_barrier(g + numbers.decay * leaf_spec.points(trace))
    tangent_of = functools.partial(
        _tangent, step, factor, summed, None if divisors is None else 1 / divisors
    )
    arrays = step.weight, gradient, trace
    tangent = tangent_of(arrays, linalg.Entries.of)
    squares = kernel.squares(tangent.x, tangent.vector, tangent.normals[-1])
    usable, measured = kernel.usable(tangent.x), None
    if step.settings.normalization == "group":
        measured = kernel.measured(tangent.x, tangent.vector)
        kept = squares, tangent.normals, usable, measured
        if isinstance(kernel, RescalingKernel):
            squares, normals, _, measured = lax.optimization_barrier(kept)
            tangent = tangent_of(arrays, lambda array: array, _array(normals))
        else:
            kept, arrays = lax.optimization_barrier((kept, arrays))
            squares, normals, usable, measured = kept
            tangent = tangent_of(arrays, linalg.Entries.of, normals)
    x, v, normals, momentum = tangent
    t = step.length(squares, lambda: kernel.length(v, normals[-1]))
    at_rest = (t * t * squares == 0) | (t == 0)  # False for NaN
    if measured is None:
        aimed = kernel.aim(x, v, t, normals[-1], squares, at_rest, exact=True)
    elif isinstance(kernel, MixtureKernel):
        aimed = kernel.aim(x, v, t, normals[-1], squares, at_rest, exact=True, measured=measured)
    else:
        aimed = _array(kernel.aim_from(measured, t, squares, at_rest))
    aimed = masked(usable, aimed)
    return Moved(x, kernel.move(x, v, t, aimed, exact=True), momentum)


def _tangent(step, factor, summed, scale, arrays, form, normals=None) -> _Tangent:
    """The tangent vector, with the normal numbers on the way to it.

    Args:
        step: What the passes share.
        factor: What the gradient is multiplied by.
        summed: Whether the gradient has been added to the momentum, and both are points.
        scale: What the tangent vector is multiplied by, `(*lanes)`; None for 1.
        arrays: The weight, the gradient and the momentum.
        form: What makes points of an array: the array itself, or its entries.
        normals: The normal numbers, if they are known.
    """
    kernel, leaf_spec = step.kernel, step.leaf_spec
    weight, gradient, trace = arrays
    x, g = form(leaf_spec.points(weight)), form(leaf_spec.points(gradient))
    x = x if step.s is None else x / step.s
    g = times(g, factor)
    with_momentum = g
    if summed:
        with_momentum = form(trace)
    elif trace is not None:
        m = form(leaf_spec.points(trace))
        with_momentum = times(g, step.numbers.share) + step.numbers.decay * m
    known, used = iter(normals or ()), []

    def projected(vector):
        used.append(next(known) if normals else kernel.normal(x, vector))
        return kernel.tangent(x, vector, used[-1])

    v, momentum = projected(with_momentum), None
    if trace is not None:
        momentum = kernel.vector(v)
        v = kernel.parts(momentum)
        if step.settings.nesterov:
            v = projected(g + step.numbers.decay * momentum)
    if scale is not None:
        v, used[-1] = jax.tree.map(lambda number: number * scale, (v, used[-1]))
    return _Tangent(x, v, used, momentum)


def _array(numbers: Any) -> Any:
    """Numbers of every point, or of every column, as arrays."""
    is_entries = lambda node: isinstance(node, linalg.Entries)  # noqa: E731
    return jax.tree.map(
        lambda node: node.array() if is_entries(node) else node, numbers, is_leaf=is_entries
    )
