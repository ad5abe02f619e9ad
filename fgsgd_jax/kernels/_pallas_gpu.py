"""Kernels for GPUs, compiled through Triton: a thread computes whole points in its registers."""

import functools
import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fgsgd_jax.kernels._scalars import Scalars

# The points of a block; a thread computes one of them.
BLOCK = 128


def launch(
    scalars: Scalars, points: Sequence[jax.Array], numbers: Sequence[jax.Array], **options: Any
) -> Sequence[jax.Array]:
    """Computes a function for all points.

    Args:
        scalars: The function.
        points: Arrays `(rows, columns, *lanes)`.
        numbers: Arrays that broadcast against `(*lanes)`.
        **options: Arguments of `pallas_call`.

    Returns:
        For each result an array `(entries, lanes)`.
    """
    # Imported here, as it takes a second that few programs need.
    from jax.experimental import pallas
    from jax.experimental.pallas import triton

    lanes = points[0].shape[2:]
    results, count = scalars.outputs, math.prod(lanes)
    arrays = [array.reshape(-1, count) for array in points]
    arrays += [number.reshape(-1) for number in numbers]

    def kernel(*refs):
        read, written = refs[: len(arrays)], refs[len(arrays) :]
        lane = pallas.program_id(0) * BLOCK + jnp.arange(BLOCK)
        load = functools.partial(triton.load, mask=lane < count)
        inputs = [[load(row) for row in _rows(ref)] for ref in read[: len(points)]]
        for ref, number in zip(read[len(points) :], numbers, strict=True):
            inputs.append([load(ref.at[_places(lane, number.shape, lanes)])])
        for ref, result in zip(written, scalars((BLOCK,), *inputs), strict=True):
            for row, entry in zip(_rows(ref), result, strict=True):
                triton.store(row, entry, mask=lane < count)

    def spec(shape):
        if len(shape) == 1:
            return pallas.BlockSpec(shape, lambda i: (0,))
        return pallas.BlockSpec((shape[0], BLOCK), lambda i: (0, i))

    shapes = [jax.ShapeDtypeStruct((math.prod(r.shape), count), r.dtype) for r in results]
    return pallas.pallas_call(
        kernel,
        shapes,
        grid=(pallas.cdiv(count, BLOCK),),
        in_specs=[spec(array.shape) for array in arrays],
        out_specs=[spec(array.shape) for array in shapes],
        compiler_params=triton.CompilerParams(num_warps=BLOCK // 32),
        **options,
    )(*arrays)


def _rows(ref: Any) -> list[Any]:
    # Plain numbers as indices cannot be interpreted.
    return [ref.at[np.int_(i)] for i in range(ref.shape[0])]


def _places(lane: jax.Array, shape: tuple[int, ...], lanes: tuple[int, ...]) -> jax.Array:
    """Where the numbers of lanes are in an array that broadcasts against all lanes, flattened."""
    if shape == lanes:
        return lane
    place, stride, period = jnp.zeros_like(lane), 1, 1
    for size, length in zip(reversed(shape), reversed(lanes)):  # noqa: B905 (trailing axes)
        if size > 1:
            place = place + lane // period % length * stride
        stride, period = stride * size, period * length
    return place
