"""Computes Mosaic programs, which JAX makes of kernels for TPUs, with NumPy.

The program is the one in an exported module. Every instance gets its blocks of all arrays, as the
program's own functions place them; what is outside of an array is undefined, and NaN here.
"""

import base64
import itertools
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax.experimental.pallas as pallas
import numpy as np
from jax._src.lib import tpu as dialect  # pyright: ignore[reportPrivateImportUsage]
from jaxlib.mlir import ir

from tests.kernels.mlir_programs import (
    computed,
    context,
    interpreted_call,
    only_custom_call,
    shape_and_dtype,
)

NAME = "tpu_custom_call"
PREFIX = "stable_mosaic."
PALLAS_CALL = pallas.pallas_call


def emulated_call(kernel: Callable, shapes: Sequence[Any], **options: Any) -> Callable:
    """`pallas_call`, for which the Mosaic program of the kernel is interpreted."""
    call = PALLAS_CALL(kernel, shapes, **options)
    return interpreted_call(program_of, call, shapes, options["input_output_aliases"])


def program_of(function: Callable, *arrays: Any) -> "Program":
    """The only Mosaic program that a function of arrays calls."""
    config = only_custom_call(function, arrays, "tpu", NAME)
    body = json.loads(ir.StringAttr(config).value)["custom_call_config"]["body"]
    return Program(base64.b64decode(body))


class Program:
    """A Mosaic program.

    Args:
        body: Its module, as MLIR bytecode.
    """

    def __init__(self, body: bytes):
        with context(dialect.register_dialect):
            self.module = ir.Module.parse(body)
        self.function, *self.places = self.module.body.operations
        bounds = self.function.attributes["iteration_bounds"]
        self.grid = tuple(ir.DenseI64ArrayAttr(bounds))

    def __call__(
        self, arrays: Sequence[np.ndarray], shapes: Sequence[Any], aliases: Mapping[int, int]
    ) -> list[np.ndarray]:
        """The results.

        Args:
            arrays: The arguments.
            shapes: The shapes of the results.
            aliases: By position of an argument, the position of the result that takes its place.
        """
        inputs = [np.array(array) for array in arrays]
        outputs = [np.zeros(shape.shape, shape.dtype) for shape in shapes]
        written = [np.zeros(shape.shape, int) for shape in shapes]
        for argument, result in aliases.items():
            outputs[result] = inputs[argument]
        for instance in itertools.product(*map(range, self.grid)):
            self._run(instance, [*inputs, *outputs], written)
        assert all((count == 1).all() for count in written), "not every entry is written once"
        return outputs

    def _run(self, instance: tuple[int, ...], arrays: list, written: list) -> None:
        (block,) = self.function.regions[0].blocks
        numbers, references = block.arguments[: len(instance)], block.arguments[len(instance) :]
        values = dict(zip(numbers, _scalars(instance), strict=True))
        windows = []
        for reference, place, array in zip(references, self.places, arrays, strict=True):
            sizes = ir.MemRefType(reference.type).shape
            corner = [int(i[0]) for i in _evaluate(place.regions[0].blocks[0], _scalars(instance))]
            inside = tuple(
                slice(i * size, min((i + 1) * size, length))
                for i, size, length in zip(corner, sizes, array.shape, strict=True)
            )
            window = np.full(sizes, np.nan if array.dtype.kind not in "iub" else 77, array.dtype)
            filled = tuple(slice(0, part.stop - part.start) for part in inside)
            window[filled] = array[inside]
            values[reference] = window
            windows.append((array, inside, window, filled))
        _evaluate(block, [], values)
        for (array, inside, window, filled), count in zip(
            windows[-len(written) :], written, strict=True
        ):
            array[inside] = window[filled]
            count[inside] += 1


def _scalars(instance: Sequence[int]) -> list[np.ndarray]:
    return [np.array([i], np.int32) for i in instance]


def _evaluate(block, arguments: Sequence[Any], values: dict | None = None) -> list[Any]:
    """What a block returns."""
    values = dict(values or {})
    values.update(zip(block.arguments, arguments, strict=False))
    for operation in block.operations:
        name = operation.operation.name.removeprefix(PREFIX)
        inputs = [values[operand] for operand in operation.operands]
        if name == "func.return":
            return inputs
        if name == "tpu.vector_store":
            _store(*inputs)
            continue
        (result,) = operation.results
        shape, dtype = shape_and_dtype(result.type)
        with np.errstate(all="ignore"):
            if name == "vector.load":
                value = _window(shape, *inputs)[None]
            elif name == "vector.shape_cast":
                value = inputs[0].reshape(1, *shape)
            elif name == "vector.broadcast":
                value = np.broadcast_to(inputs[0][0], shape)[None]
            elif name == "tpu.weird":  # infinite or NaN
                value = ~np.isfinite(inputs[0])
            else:
                value = computed(name, operation, inputs)
        assert (value.shape[1:], value.dtype) == (shape, dtype), name
        values[result] = value
    raise AssertionError("A block has to return.")


def _window(shape: tuple[int, ...], reference: np.ndarray, *corner: np.ndarray) -> np.ndarray:
    ends = [(int(start[0]), int(start[0]) + n) for start, n in zip(corner, shape, strict=True)]
    within = zip(ends, reference.shape, strict=True)
    assert all(0 <= start and stop <= length for (start, stop), length in within), "out of bounds"
    return reference[tuple(slice(*pair) for pair in ends)]


def _store(value: np.ndarray, reference: np.ndarray, *corner: np.ndarray) -> None:
    _window(value.shape[1:], reference, *corner)[...] = value[0]
