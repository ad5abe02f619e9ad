"""Computes Triton programs with NumPy, operation by operation.

JAX's interpreter of Pallas computes what a kernel says; a GPU computes the Triton program that JAX
makes of it. These differ, for example in what the maximum of NaN and a number is. So this
interpreter starts from the program that is in an exported module, and takes the meaning of each
operation from the documentation of the dialect `tt`. Besides, it refuses what a GPU would do
silently: reads and writes outside of an array, two writes to one place, and reads of places that
another instance of the program writes.

All instances of a program are computed at once, along the first axis.
"""

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax.experimental.pallas as pallas
import numpy as np
from jaxlib.mlir import ir
from jaxlib.triton import dialect

from tests.kernels.mlir_programs import (
    computed,
    context,
    interpreted_call,
    only_custom_call,
    shape_and_dtype,
)

NAME = "__gpu$xla.gpu.triton"
PALLAS_CALL = pallas.pallas_call


def emulated_call(fused: bool, kernel: Callable, shapes: Sequence[Any], **options: Any) -> Callable:
    """`pallas_call`, for which the Triton program of the kernel is interpreted.

    Args:
        fused: Whether sums of products are rounded once, as compilers for GPUs may do.
        kernel: The kernel.
        shapes: The shapes of its results.
        **options: Further arguments of `pallas_call`.
    """
    make = functools.partial(program_of, fused=fused)
    call = PALLAS_CALL(kernel, shapes, **options)
    return interpreted_call(make, call, shapes, options["input_output_aliases"])


def program_of(function: Callable, *arrays: Any, fused: bool = False) -> "Program":
    """The only Triton program that a function of arrays calls."""
    return Program(ir.DictAttr(only_custom_call(function, arrays, "cuda", NAME)), fused)


class Program:
    """A Triton program.

    Args:
        config: The configuration of the call, with the program and its grid.
        fused: Whether sums of products are rounded once.
    """

    def __init__(self, config: ir.DictAttr, fused: bool):
        self.fused = fused
        self.grid = [ir.IntegerAttr(config[f"grid_{axis}"]).value for axis in "xyz"]
        with context(dialect.register_dialect):
            self.module = ir.Module.parse(ir.StringAttr(config["ir"]).value_bytes)
        (self.function,) = self.module.body.operations

    def __call__(
        self,
        arrays: Sequence[np.ndarray],
        shapes: Sequence[Any],
        aliases: Mapping[int, int],
    ) -> list[np.ndarray]:
        """The results.

        Args:
            arrays: The arguments.
            shapes: The shapes of the results.
            aliases: By position of an argument, the position of the result that takes its place.
        """
        inputs = [_Buffer(array) for array in arrays]
        outputs = [_Buffer(np.zeros(shape.shape, shape.dtype)) for shape in shapes]
        for argument, result in aliases.items():
            outputs[result] = inputs[argument]
        (block,) = self.function.regions[0].blocks
        values = {}
        for argument, buffer in zip(block.arguments, inputs + outputs, strict=True):
            values[argument] = _Pointer(buffer, np.zeros((1,), np.int64))
        for operation in block.operations:
            _evaluate(operation, values, self.grid, self.fused)
        for buffer, shape in zip(outputs, shapes, strict=True):
            buffer.require_written_once()
            assert buffer.array.size == np.prod(shape.shape)
        return [
            buffer.array.reshape(shape.shape) for buffer, shape in zip(outputs, shapes, strict=True)
        ]


# --- memory -----------------------------------------------------------------------------------


class _Buffer:
    """An array in memory, and which instance read and wrote each of its entries."""

    def __init__(self, array: np.ndarray):
        self.array = np.array(array).reshape(-1)
        self.readers = [set() for _ in range(self.array.size)]
        self.writers: list[list[int]] = [[] for _ in range(self.array.size)]

    def require_written_once(self):
        for readers, writers in zip(self.readers, self.writers, strict=True):
            assert len(writers) == 1, "an entry of a result is written never, or more than once"
            assert readers <= set(writers), "an instance reads what another one writes"


class _Pointer(NamedTuple):
    buffer: _Buffer
    offsets: np.ndarray

    def moved(self, by: np.ndarray) -> "_Pointer":
        return self._replace(offsets=self.offsets + by)

    def shaped(self, change: Callable[[np.ndarray], np.ndarray]) -> "_Pointer":
        return self._replace(offsets=change(self.offsets))


def _places(pointer: _Pointer, mask, instances: int):
    """Instance and offset of every entry, and which of them are used."""
    offsets = pointer.offsets
    shape = (instances, *offsets.shape[1:])
    used = np.broadcast_to(True if mask is None else mask, shape)
    offsets = np.broadcast_to(offsets, shape)
    assert ((offsets >= 0) & (offsets < pointer.buffer.array.size))[used].all(), "out of bounds"
    instance = np.broadcast_to(np.arange(instances).reshape(-1, *(1,) * (len(shape) - 1)), shape)
    return instance, offsets, used


def _load(instances: int, pointer: _Pointer, mask=None, other=None) -> np.ndarray:
    instance, offsets, used = _places(pointer, mask, instances)
    for reader, offset in zip(instance[used], offsets[used], strict=True):
        assert not pointer.buffer.writers[offset], "a place is read after it was written"
        pointer.buffer.readers[offset].add(reader)
    # What is read where the mask is false has no defined value; NaN shows where it is used.
    array = pointer.buffer.array
    undefined = np.nan if array.dtype.kind not in "iub" else 77
    fill = np.asarray(undefined, array.dtype) if other is None else other
    return np.where(used, array[np.where(used, offsets, 0)], fill)


def _store(instances: int, pointer: _Pointer, value: np.ndarray, mask=None) -> None:
    instance, offsets, used = _places(pointer, mask, instances)
    pointer.buffer.array[offsets[used]] = np.broadcast_to(value, used.shape)[used]
    for writer, offset in zip(instance[used], offsets[used], strict=True):
        pointer.buffer.writers[offset].append(writer)


# --- operations -------------------------------------------------------------------------------

# Functions of NVIDIA's library that JAX calls, without the prefix "__nv_" and the "f" of float32.
LIBRARY: dict[str, Callable] = {
    "cos": np.cos, "exp": np.exp, "fabs": np.abs, "log": np.log, "pow": np.power,
    "rsqrt": lambda x: 1 / np.sqrt(x), "sin": np.sin, "sqrt": np.sqrt, "isfinited": np.isfinite,
    "finite": np.isfinite,
}  # fmt: skip


def _evaluate(operation, values: dict, grid: list[int], fused: bool) -> None:
    name = operation.operation.name
    inputs, instances = [values[operand] for operand in operation.operands], math.prod(grid)
    if name == "tt.return":
        return
    if name == "tt.store":
        _store(instances, *inputs)
        return
    (result,) = operation.results
    with np.errstate(all="ignore"):
        if fused and name in {"arith.addf", "arith.subf"}:
            value = _sum_of_products(name, operation, inputs, values)
        elif name.startswith("tt."):
            value = _of_triton(name, operation, inputs, grid)
        else:
            value = computed(name, operation, inputs)
    values[result] = value
    if not isinstance(value, _Pointer):
        assert (value.shape[1:], value.dtype) == shape_and_dtype(result.type), name


def _of_triton(name, operation, inputs, grid):
    attributes = operation.attributes
    shape, dtype = shape_and_dtype(operation.results[0].type)
    if name == "tt.get_program_id":
        axis = ir.IntegerAttr(attributes["axis"]).value
        return np.unravel_index(np.arange(math.prod(grid)), grid)[axis].astype(np.int32)
    if name == "tt.make_range":
        ends = (ir.IntegerAttr(attributes[end]).value for end in ("start", "end"))
        return np.arange(*ends, dtype=np.int32)[None]
    if name == "tt.addptr":
        return inputs[0].moved(inputs[1])
    if name == "tt.load":
        return _load(math.prod(grid), *inputs)
    if name == "tt.fp_to_fp":
        return inputs[0].astype(dtype)
    if name == "tt.extern_elementwise":
        symbol = ir.StringAttr(attributes["symbol"]).value.removeprefix("__nv_")
        short = symbol if symbol in LIBRARY else symbol.removesuffix("f")
        return LIBRARY[short](*inputs).astype(dtype)
    change = functools.partial(_reshaped, name, shape, attributes)
    return inputs[0].shaped(change) if isinstance(inputs[0], _Pointer) else change(inputs[0])


def _reshaped(name: str, shape: tuple[int, ...], attributes, x: np.ndarray) -> np.ndarray:
    if name == "tt.splat":
        return np.broadcast_to(x.reshape(-1, *(1,) * len(shape)), (len(x), *shape))
    if name == "tt.broadcast":
        return np.broadcast_to(x, (len(x), *shape))
    if name == "tt.expand_dims":
        return np.expand_dims(x, ir.IntegerAttr(attributes["axis"]).value + 1)
    assert name == "tt.reshape", name
    return x.reshape(len(x), *shape)


def _sum_of_products(name, operation, inputs, values):
    """x·y + z, rounded once where a summand is a product."""
    sign = 1 if name == "arith.addf" else -1
    (first, second), (x, y) = operation.operands, inputs
    for operand, other, signs in ((first, y, (1, sign)), (second, x, (sign, 1))):
        owner = operand.owner
        if isinstance(owner, ir.Operation | ir.OpView) and owner.name == "arith.mulf":
            a, b = (values[factor] for factor in owner.operands)
            return _rounded_once(signs[0] * a, b, signs[1] * other)
    return computed(name, operation, inputs)


def _rounded_once(x, y, z):
    wide = np.longdouble if x.dtype == np.float64 else np.float64
    return (x.astype(wide) * y.astype(wide) + z.astype(wide)).astype(x.dtype)
