"""A function of one component, computed for all of them by a single GPU kernel of Pallas."""

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fgsgd_jax.kernels._scalars import Scalars

# The components of a block; a thread computes one of them.
BLOCK = 128

# Whether JAX interprets the kernels, as tests of them on a CPU need.
INTERPRET = False


class OneKernel:
    """A function of arrays `(rows, columns)` and of numbers, for every component at once.

    Args:
        function: Called as `function(points, numbers)`; returns a tuple of arrays or None.
        points: A tuple of arrays `(rows, columns, *lanes)` or None.
        numbers: A tree of arrays that broadcast against `(*lanes)`.

    Raises:
        NotScalar: If the function is not made of scalar operations.
    """

    def __init__(self, function: Callable, points: tuple, numbers: Any):
        self.name, self.points = function.__name__.strip("_"), jax.tree.leaves(points)
        self.numbers = [jnp.asarray(number) for number in jax.tree.leaves(numbers)]
        self.lanes = self.points[0].shape[2:]
        of_one = [
            jax.tree.map(lambda a, n=n: jax.ShapeDtypeStruct(a.shape[:n], a.dtype), arrays)
            for n, arrays in ((2, points), (0, jax.tree.map(jnp.asarray, numbers)))
        ]
        self.scalars = Scalars(function, *of_one)

    def __call__(self, *, in_place: bool = False) -> Any:
        """The results, `(*shape, *lanes)` for every array `shape` that the function returns.

        Args:
            in_place: Whether the last result overwrites the last of the points.
        """
        # Imported here, as it takes a second that few programs need.
        from jax.experimental import pallas
        from jax.experimental.pallas import triton

        results, count = self.scalars.outputs, math.prod(self.lanes)
        arrays = [array.reshape(-1, count) for array in self.points]
        arrays += [number.reshape(-1) for number in self.numbers]

        def kernel(*refs):
            read, written = refs[: len(arrays)], refs[len(arrays) :]
            lane = pallas.program_id(0) * BLOCK + jnp.arange(BLOCK)
            load = functools.partial(triton.load, mask=lane < count)
            inputs = [[load(row) for row in _rows(ref)] for ref in read[: len(self.points)]]
            for ref, number in zip(read[len(self.points) :], self.numbers, strict=True):
                inputs.append([load(ref.at[_places(lane, number.shape, self.lanes)])])
            for ref, result in zip(written, self.scalars(BLOCK, *inputs), strict=True):
                for row, entry in zip(_rows(ref), result, strict=True):
                    triton.store(row, entry, mask=lane < count)

        def spec(shape):
            if len(shape) == 1:
                return pallas.BlockSpec(shape, lambda i: (0,))
            return pallas.BlockSpec((shape[0], BLOCK), lambda i: (0, i))

        shapes = [jax.ShapeDtypeStruct((math.prod(r.shape), count), r.dtype) for r in results]
        computed = pallas.pallas_call(
            kernel,
            shapes,
            grid=(pallas.cdiv(count, BLOCK),),
            in_specs=[spec(array.shape) for array in arrays],
            out_specs=[spec(array.shape) for array in shapes],
            input_output_aliases={len(self.points) - 1: len(shapes) - 1} if in_place else {},
            compiler_params=triton.CompilerParams(num_warps=BLOCK // 32),
            interpret=INTERPRET,
            name=self.name,
        )(*arrays)
        shaped = zip(computed, results, strict=True)
        return self.scalars.tree.unflatten([a.reshape(r.shape + self.lanes) for a, r in shaped])


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
