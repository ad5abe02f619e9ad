"""The step by two kernels of Pallas, each of which computes whole points in registers.

The first kernel reads the weight and the gradient, and the momentum, in whose place it writes the
new one, and measures the tangent vector of every component; XLA adds the squares of each group. The
second reads the weight again, and the gradient or the new momentum, and writes the update. However
much the entries of a point depend on each other, nothing else of the size of a weight is read or
written. A step that no group shares needs one kernel only.

The kernels run the functions of `Kernel`, translated by `_scalars.py`, for GPUs and for TPUs.

XLA cannot fuse an operation into them: adding the update to the weight reads both again and takes a
kernel of its own, unless the second kernel writes the new weight (`Settings.writes_weight`). Where
it does not, a step on spheres moves fewer bytes by the passes of `_gpu.py`, the second of which has
that addition.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax

from fgsgd_jax import _xla_cpu, linalg
from fgsgd_jax.kernels._choice import kernel_for
from fgsgd_jax.kernels._pallas import OneKernel
from fgsgd_jax.kernels._passes import passes
from fgsgd_jax.kernels._scalars import NotScalar
from fgsgd_jax.kernels._shared import Numbers, Result, Step
from fgsgd_jax.kernels._sphere import SphereKernel
from fgsgd_jax.spec import Component, group_sums, per_component


class _Points(NamedTuple):
    """Arrays `(rows, columns, *lanes)`."""

    weight: jax.Array
    gradient: jax.Array | None
    trace: jax.Array | None


class _PerComponent(NamedTuple):
    """Numbers of every component, which broadcast against `(*lanes)`.

    `sums` are the sums of ⟨v, v⟩ over groups, once they are known.
    """

    manifold_ids: jax.Array | None
    divisors: jax.Array | None
    scales: tuple[jax.Array | None, jax.Array | None]
    numbers: Numbers
    sums: jax.Array | None = None


def fits_blocks(step: Step) -> bool:
    """Whether kernels can compute a step that is divided, without a transposition before them."""
    adds_in_passes = isinstance(step.kernel, SphereKernel) and not step.settings.writes_weight
    return not adds_in_passes and _fits(step, _at_once)


def fits_norms(step: Step) -> bool:
    """Whether a kernel can compute the norms of `norms_by_blocks`."""
    return _fits(step, _norms)


def _fits(step: Step, function: Callable) -> bool:
    cut = step.leaf_spec.component
    in_order = cut.axes == (*range(len(cut.axes)),)
    if not in_order or not _xla_cpu.on_single_device():
        return False
    try:
        _kernel(step, function, _points(step), _per_component(step))
    except NotScalar:
        return False
    return True


def blocks(step: Step, after: jax.Array | None, platform: str) -> Result:
    """The step on a platform, whose derivative is that of the passes over arrays."""
    update, trace = _with_derivative_of(
        lambda step: passes(step, None)[:2], lambda step: _updated(step, platform), step
    )
    return Result(update, trace, after)


def norms_by_blocks(step: Step, platform: str) -> jax.Array:
    """The norms of the Riemannian gradients of all components, `(*lanes)`, on a platform."""

    def plain(step: Step) -> jax.Array:
        return _norms(step, None)[0]

    def by_kernel(step: Step) -> jax.Array:
        return _kernel(step, _norms, _points(step), _per_component(step))(platform, {})[0]

    return _with_derivative_of(plain, by_kernel, step)


def _with_derivative_of(plain: Callable, function: Callable, step: Step) -> Any:
    """A function of a step, with the derivative of another one."""

    @jax.custom_jvp
    def computed(*arrays):
        return function(_with_arrays(step, arrays))

    @computed.defjvp
    def _(primals, tangents):
        return jax.jvp(lambda *arrays: plain(_with_arrays(step, arrays)), primals, tangents)

    return computed(
        step.weight, step.gradient, step.trace, step.groups, step.scales, step.numbers,
        step.divisors, _ids(step),
    )  # fmt: skip


def _with_arrays(step: Step, arrays: tuple) -> Step:
    weight, gradient, trace, groups, scales, numbers, divisors, ids = arrays
    return dataclasses.replace(
        step, kernel=kernel_for(step.leaf_spec, ids, bounded=True), weight=weight, exact=None,
        gradient=gradient, trace=trace, groups=groups, scales=scales, numbers=numbers,
        divisors=divisors,
    )  # fmt: skip


def _updated(step: Step, platform: str) -> tuple[jax.Array, jax.Array | None]:
    """The update, or the new weight, and the new momentum."""
    points, numbers = _points(step), _per_component(step)
    with_momentum = step.trace is not None
    weight, trace = {0: 0} if step.settings.writes_weight else {}, {2: 1} if with_momentum else {}
    if step.settings.normalization != "group":
        update, momentum = _kernel(step, _at_once, points, numbers)(platform, weight | trace)
    else:
        squares, momentum = _kernel(step, _measured, points, numbers)(platform, trace)
        sums = per_component(group_sums(step.leaf_spec, squares, step.groups), step.groups)
        gradient = None if with_momentum and not step.settings.nesterov else points.gradient
        points = _Points(points.weight, gradient, momentum)
        (update,) = _kernel(step, _moved, points, numbers._replace(sums=sums))(platform, weight)
    to_weight = step.leaf_spec.component.from_points
    return jax.tree.map(lambda array: to_weight(array, step.leaf_spec.shape), (update, momentum))


def _points(step: Step) -> _Points:
    arrays = step.weight, step.gradient, step.trace
    return _Points(*jax.tree.map(step.leaf_spec.component.to_points, arrays))


def _per_component(step: Step) -> _PerComponent:
    return _PerComponent(_ids(step), step.divisors, step.scales, step.numbers)


def _ids(step: Step) -> jax.Array | None:
    return getattr(step.kernel, "manifold_ids", None)


def _kernel(step: Step, function: Callable, points: _Points, numbers: _PerComponent) -> OneKernel:
    """A function of a step and of sums, for every component."""
    size = step.leaf_spec.points_shape[:2]
    one = dataclasses.replace(step.leaf_spec, shape=size, component=Component((0,), (1,)))

    @functools.wraps(function)
    def of_one(points: _Points, numbers: _PerComponent):
        arrays: Any = points  # without a gradient where it is not read
        own = Step(
            one, kernel_for(one, numbers.manifold_ids, bounded=True), arrays.weight,
            arrays.gradient, arrays.trace, None, numbers.scales, numbers.numbers, None,
            numbers.divisors, step.settings,
        )  # fmt: skip
        return function(own, numbers.sums)

    return OneKernel(of_one, points, numbers)


# What a kernel computes for one component.


def _at_once(step: Step, sums: None) -> tuple:
    """The update and the new momentum of a component that shares its step with no other."""
    v, normal, momentum = _tangent(step)
    g = step.kernel.length(v, normal) if step.settings.normalization == "component" else None
    return _update(step, v, normal, g), momentum


def _norms(step: Step, sums: None) -> tuple:
    """The norm of the Riemannian gradient."""
    v, normal, _ = _tangent(step)
    return (step.kernel.length(v, normal),)


def _measured(step: Step, sums: None) -> tuple:
    """⟨v, v⟩ of the tangent vector v, and the new momentum."""
    v, normal, momentum = _tangent(step)
    return step.kernel.squares(step.x(), v, normal), momentum


def _moved(step: Step, sums: jax.Array) -> tuple:
    """The update, where the trace is the new momentum."""
    if step.trace is None:
        v, normal, _ = _tangent(step)
    elif step.settings.nesterov:
        v, normal = _divided(step, _ahead(step, step.leaf_spec.points(step.trace)))
    else:
        v, normal = _divided(step, _projected(step, step.leaf_spec.points(step.trace)))
    return (_update(step, v, normal, linalg.safe_sqrt(sums)),)


def _tangent(step: Step) -> tuple:
    """The tangent vector, its normal numbers, and the new momentum."""
    projected, momentum = _projected(step, step.g_with_momentum()), None
    if step.trace is not None:
        momentum = step.kernel.vector(projected[0])
        if step.settings.nesterov:
            projected = _ahead(step, momentum)
        momentum = momentum.astype(step.trace.dtype)
    return *_divided(step, projected), momentum


def _ahead(step: Step, momentum: jax.Array) -> tuple:
    return _projected(step, step.g() + step.numbers.decay * momentum)


def _projected(step: Step, vector: jax.Array) -> tuple:
    normal = step.kernel.normal(step.x(), vector)
    return step.kernel.tangent(step.x(), vector, normal), normal


def _divided(step: Step, numbers: tuple) -> tuple:
    if step.divisors is None:
        return numbers
    return jax.tree.map(lambda number: number / step.divisors, numbers)


def _update(step: Step, v: Any, normal: Any, g: jax.Array | None) -> jax.Array:
    kernel, x, t = step.kernel, step.x(), step.by_radius(step.by_normalizer(g))
    squares = kernel.squares(x, v, normal)
    aimed = kernel.aim(x, v, t, normal, squares, step.at_rest(t, squares), exact=True)
    return step.result(kernel.move(x, v, t, aimed, exact=True), None, None).update
