"""Kernels for TPUs: an entry of all points of a block fills whole vector registers.

The last two axes of the lanes, input and output channels of a convolution, stay the last two axes
of the arrays, so that nothing is copied to another layout.
"""

import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from fgsgd_jax.kernels._scalars import Scalars

# The points of a block. Registers of bytes, such as the drawn manifolds, have 32 rows.
BLOCK = (32, 128)


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
        For each result an array `(entries, lanes but the last, last lanes)`.
    """
    # Imported here, as it takes a second that few programs need.
    from jax.experimental import pallas
    from jax.experimental.pallas import tpu

    *leading, last = (1, *points[0].shape[2:])
    lanes = math.prod(leading), last
    block = min(lanes[0], BLOCK[0]), min(lanes[1], BLOCK[1])
    arrays = [array.reshape(-1, *lanes) for array in points]
    arrays += [_as_matrix(number, (*leading, last)) for number in numbers]

    def kernel(*refs):
        read, written = refs[: len(arrays)], refs[len(arrays) :]
        inputs = [[ref[i] for i in range(ref.shape[0])] for ref in read[: len(points)]]
        inputs += [[jnp.broadcast_to(_widened(ref[...]), block)] for ref in read[len(points) :]]
        for ref, result in zip(written, scalars(block, *inputs), strict=True):
            for i, entry in enumerate(result):
                ref[i] = entry

    def spec(array):
        *entries, rows, columns = array.shape
        sizes = (rows, block[0]), (columns, block[1])
        per_block = [size > 1 for size, _ in sizes]

        def place(i, j):
            return (*(0 for _ in entries), i * per_block[0], j * per_block[1])

        return pallas.BlockSpec((*entries, *(min(pair) for pair in sizes)), place)

    shapes = [
        jax.ShapeDtypeStruct((math.prod(result.shape), *lanes), result.dtype)
        for result in scalars.outputs
    ]
    moved = sum(map(_bytes, (*arrays, *shapes)))
    return pallas.pallas_call(
        kernel,
        shapes,
        grid=tuple(map(pallas.cdiv, lanes, block)),
        in_specs=[spec(array) for array in arrays],
        out_specs=[spec(array) for array in shapes],
        compiler_params=tpu.CompilerParams(dimension_semantics=("parallel", "parallel")),
        cost_estimate=pallas.CostEstimate(flops=0, bytes_accessed=moved, transcendentals=0),
        **options,
    )(*arrays)


def _bytes(array: Any) -> int:
    """The bytes of an array on a TPU, where its last two axes fill whole tiles of 4 KiB."""
    *entries, rows, columns = array.shape
    size = array.dtype.itemsize
    tiles = math.ceil(rows * size / 32) * math.ceil(columns / 128)
    return math.prod(entries) * tiles * 4096


def _as_matrix(number: jax.Array, lanes: tuple[int, ...]) -> jax.Array:
    """Numbers that broadcast against lanes, as a matrix of all lanes but the last, and the last."""
    sizes = (1,) * (len(lanes) - number.ndim) + number.shape
    if sizes[:-1] not in (lanes[:-1], (1,) * (len(lanes) - 1)):
        sizes = (*lanes[:-1], sizes[-1])
        number = jnp.broadcast_to(number, sizes)
    return number.reshape(-1, sizes[-1])


def _widened(numbers: jax.Array) -> jax.Array:
    """Whole numbers as int32."""
    return numbers.astype(jnp.int32) if jnp.issubdtype(numbers.dtype, jnp.integer) else numbers
