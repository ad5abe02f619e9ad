"""The step for GPUs in two Pallas kernels, each of which computes whole points in registers.

The first kernel reads the weight and the gradient, and the momentum, in whose place it writes the
new one, and measures the tangent vector of every component; from that XLA computes the length of
the step. The second reads them again and writes the update. However much the entries of a point
depend on each other, nothing else of the size of a weight is read or written.

Both kernels run the textbook functions in `Kernel`, translated by `_scalars.py`; Pallas compiles
them through Triton.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fgsgd_jax import _xla_cpu
from fgsgd_jax.kernels._choice import kernel_for
from fgsgd_jax.kernels._passes import passes
from fgsgd_jax.kernels._scalars import NotScalar, Scalars
from fgsgd_jax.kernels._shared import Result, Step
from fgsgd_jax.spec import Component

# The points of a block, a thread for each.
BLOCK = 128

# Whether JAX interprets the kernels, which tests of them on a CPU need.
INTERPRET = False


class _Points(NamedTuple):
    """Arrays `(rows, columns, *lanes)`."""

    weight: jax.Array
    gradient: jax.Array | None
    trace: jax.Array | None


class _Numbers(NamedTuple):
    """Numbers of every component, `(*lanes)`, or of all."""

    manifold_ids: jax.Array | None
    divisors: jax.Array | None
    scales: tuple[jax.Array | None, jax.Array | None]
    decay: jax.Array
    share: jax.Array | None
    t: jax.Array | None = None


def fits_blocks(step: Step) -> bool:
    """Whether the kernels can compute a step, and without a transposition before them."""
    cut = step.leaf_spec.component
    in_order = cut.axes == (*range(len(cut.axes)),)
    if not (in_order and step.weight.size and _xla_cpu.on_single_device()):
        return False
    points, numbers = _points(step), _numbers(step)
    try:
        _translated(step, _measured, points, numbers)
        _translated(step, _moved, points, numbers._replace(t=numbers.decay))
    except NotScalar:
        return False
    return True


def blocks(step: Step, after: jax.Array | None) -> Result:
    """The step, whose derivative is that of the passes over arrays."""

    @jax.custom_jvp
    def computed(*arrays):
        return _in_two_kernels(_with_arrays(step, arrays))

    @computed.defjvp
    def _(primals, tangents):
        def plain(*arrays):
            return passes(_with_arrays(step, arrays), None)[:2]

        return jax.jvp(plain, primals, tangents)

    update, trace = computed(
        step.weight, step.gradient, step.trace, step.groups, step.scales, step.numbers,
        step.divisors, _ids(step),
    )  # fmt: skip
    return Result(update, trace, after)


def _with_arrays(step: Step, arrays: tuple) -> Step:
    weight, gradient, trace, groups, scales, numbers, divisors, ids = arrays
    return dataclasses.replace(
        step, kernel=kernel_for(step.leaf_spec, ids, bounded=True), weight=weight, exact=None,
        gradient=gradient, trace=trace, groups=groups, scales=scales, numbers=numbers,
        divisors=divisors,
    )  # fmt: skip


def _in_two_kernels(step: Step) -> tuple[jax.Array, jax.Array | None]:
    """The update and the new momentum."""
    points, numbers, leaf_spec = _points(step), _numbers(step), step.leaf_spec
    squares, length, momentum = _run(step, _measured, points, numbers, in_place=points.trace is not None)
    points = points._replace(trace=momentum)
    if momentum is not None and not step.settings.nesterov:
        points = points._replace(gradient=None)
    t = step.length(squares, lambda: length)
    (update,) = _run(step, _moved, points, numbers._replace(t=t))
    if momentum is not None:
        momentum = leaf_spec.to_weight(momentum, momentum.dtype)
    return leaf_spec.to_weight(update, update.dtype), momentum


def _points(step: Step) -> _Points:
    arrays = step.weight, step.gradient, step.trace
    return _Points(*jax.tree.map(step.leaf_spec.component.to_points, arrays))


def _numbers(step: Step) -> _Numbers:
    ids, numbers = _ids(step), step.numbers
    return _Numbers(ids, step.divisors, step.scales, numbers.decay, numbers.share)


def _ids(step: Step) -> jax.Array | None:
    return getattr(step.kernel, "manifold_ids", None)


# --- what a kernel computes for one component ------------------------------------------------------


def _measured(step: Step, t: None) -> tuple:
    """⟨v, v⟩ and, if it is needed, ‖v‖ of the tangent vector v, and the new momentum."""
    momentum, kernel = None, step.kernel
    v, normal = _projected(step, step.g_with_momentum())
    if step.trace is not None:
        momentum = kernel.vector(v)
        if step.settings.nesterov:
            v, normal = _projected(step, step.g() + step.numbers.decay * momentum)
        momentum = momentum.astype(step.trace.dtype)
    v, normal = _divided(step, (v, normal))
    length = kernel.length(v, normal) if step.settings.normalization == "component" else None
    return kernel.squares(step.x(), v, normal), length, momentum


def _moved(step: Step, t: jax.Array) -> tuple:
    """The update, where the trace is the new momentum."""
    vector, kernel = step.trace, step.kernel
    if vector is None:
        vector = step.g()
    else:
        vector = step.leaf_spec.points(vector)
        if step.settings.nesterov:
            vector = step.g() + step.numbers.decay * vector
    v, normal = _divided(step, _projected(step, vector))
    squares = kernel.squares(step.x(), v, normal)
    at_rest = (t * t * squares == 0) | (t == 0)  # False for NaN
    aimed = kernel.aim(step.x(), v, t, normal, squares, at_rest, exact=True)
    moved = kernel.move(step.x(), v, t, aimed, exact=True)
    return (step.result(moved, None, None).update,)


def _projected(step: Step, vector: jax.Array) -> tuple:
    normal = step.kernel.normal(step.x(), vector)
    return step.kernel.tangent(step.x(), vector, normal), normal


def _divided(step: Step, numbers: tuple) -> tuple:
    if step.divisors is None:
        return numbers
    return jax.tree.map(lambda number: number / step.divisors, numbers)


# --- how it runs -----------------------------------------------------------------------------------


def _translated(step: Step, function: Callable, points: _Points, numbers: _Numbers) -> Scalars:
    """A function of a step, for one component of it."""
    size = step.leaf_spec.points_shape[:2]
    one = dataclasses.replace(step.leaf_spec, shape=size, component=Component((0,), (1,)))

    def of_one(points: _Points, numbers: _Numbers):
        own = dataclasses.replace(
            step, leaf_spec=one, kernel=kernel_for(one, numbers.manifold_ids, bounded=True),
            weight=points.weight, gradient=points.gradient, trace=points.trace, groups=None,
            scales=numbers.scales, divisors=numbers.divisors, exact=None,
            numbers=step.numbers._replace(decay=numbers.decay, share=numbers.share),
        )  # fmt: skip
        return function(own, numbers.t)

    def like(shape):
        return lambda array: jax.ShapeDtypeStruct(shape, jnp.asarray(array).dtype)

    return Scalars(of_one, jax.tree.map(like(size), points), jax.tree.map(like(()), numbers))


def _run(
    step: Step, function: Callable, points: _Points, numbers: _Numbers, *, in_place: bool = False
) -> Any:
    """The results of a function of every component.

    Args:
        step: The step.
        function: The function.
        points: Its arguments of the shape of points.
        numbers: Its other arguments.
        in_place: Whether the last result overwrites the last of the points.
    """
    # Imported here, as it takes a second that few programs need.
    from jax.experimental import pallas
    from jax.experimental.pallas import triton

    lanes = step.leaf_spec.points_shape[2:]
    count, translated = math.prod(lanes), _translated(step, function, points, numbers)
    arrays = [array.reshape(-1, count) for array in jax.tree.leaves(points)]
    arrays += [_row(array, lanes) for array in jax.tree.leaves(numbers)]
    results = translated.outputs

    def kernel(*refs):
        lane = pallas.program_id(0) * BLOCK + jnp.arange(BLOCK)
        present = lane < count
        read, written = refs[: len(arrays)], refs[len(arrays) :]

        def rows_of(ref):  # an index that is a number of Python's cannot be interpreted
            return [ref.at[np.int_(i)] for i in range(ref.shape[0])]

        def entries(ref):
            return [triton.load(row, mask=present) for row in rows_of(ref)]

        loaded = [entries(ref) if ref.shape[1] > 1 else [ref[0]] for ref in read]
        for ref, result in zip(written, translated(BLOCK, *loaded), strict=True):
            for row, entry in zip(rows_of(ref), result, strict=True):
                triton.store(row, entry, mask=present)

    def block_of(rows, columns):
        if columns == 1 < count:  # a number of all components
            return pallas.BlockSpec((1, 1), lambda i: (0, 0))
        return pallas.BlockSpec((rows, BLOCK), lambda i: (0, i))

    shapes = [(math.prod(result.shape), count) for result in results]
    computed = pallas.pallas_call(
        kernel,
        [jax.ShapeDtypeStruct(s, r.dtype) for s, r in zip(shapes, results, strict=True)],
        grid=(pallas.cdiv(count, BLOCK),),
        in_specs=[block_of(*array.shape) for array in arrays],
        out_specs=[block_of(*shape) for shape in shapes],
        input_output_aliases={len(jax.tree.leaves(points)) - 1: len(results) - 1} if in_place else {},
        compiler_params=triton.CompilerParams(num_warps=BLOCK // 32),
        interpret=INTERPRET,
        name=function.__name__.strip("_"),
    )(*arrays)
    shaped = zip(computed, results, strict=True)
    return translated.tree.unflatten([array.reshape(r.shape + lanes) for array, r in shaped])


def _row(number: Any, lanes: tuple[int, ...]) -> jax.Array:
    number = jnp.asarray(number)
    return (number if number.size == 1 else jnp.broadcast_to(number, lanes)).reshape(1, -1)
