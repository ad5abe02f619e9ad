"""The meaning of operations of MLIR on NumPy's arrays, for the interpreters of compiled kernels.

It is taken from the documentation of the dialects `arith` and `math`. The first axis of every value
is that of the instances of a program, of length 1 where a value is the same for all.
"""

import operator
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax._src.interpreters import mlir
from jaxlib.mlir import ir

TYPES = {name: np.dtype(f"int{name[1:]}") for name in ("i8", "i16", "i32", "i64")} | {
    "i1": np.dtype(bool),
    "index": np.dtype(np.int64),
    "f16": np.dtype(np.float16),
    "bf16": np.dtype(jnp.bfloat16),
    "f32": np.dtype(np.float32),
    "f64": np.dtype(np.float64),
}


def shape_and_dtype(given) -> tuple[tuple[int, ...], Any]:
    """The shape and the dtype of a type of MLIR; None for pointers."""
    if isinstance(given, ir.RankedTensorType | ir.VectorType):
        return tuple(given.shape), TYPES.get(str(given.element_type))
    return (), TYPES.get(str(given))


def constant(attribute) -> np.ndarray:
    """The value of a constant."""
    shape, dtype = shape_and_dtype(attribute.type)
    if shape:
        splat = ir.DenseElementsAttr(attribute).get_splat_value()
        return np.broadcast_to(constant(splat), (1, *shape))
    if dtype == np.bool_:
        return np.array([bool(ir.BoolAttr(attribute).value)])
    kind = ir.IntegerAttr if np.issubdtype(dtype, np.integer) else ir.FloatAttr
    return np.array([kind(attribute).value]).astype(dtype)


def context(register: Callable[[ir.Context], None]) -> ir.Context:
    """A context that knows a dialect."""
    result = mlir.make_ir_context()
    register(result)
    result.allow_unregistered_dialects = True
    return result


def interpreted_call(program_of: Callable, call: Callable, shapes: Sequence[Any], aliases: Any):
    """`call`, whose program an interpreter computes in a callback.

    Args:
        program_of: Makes of a function and arrays the interpreter of the program that it calls.
        call: A function of arrays, the result of `pallas_call`.
        shapes: The shapes of its results.
        aliases: By position of an argument, the position of the result that takes its place.
    """

    def interpreted(*arrays):
        program = program_of(call, *arrays)

        def compute(*arrays):
            return program(arrays, shapes, aliases)

        return jax.pure_callback(compute, list(shapes), *arrays, vmap_method="sequential")

    return interpreted


def only_custom_call(function: Callable, arrays: Sequence[Any], platform: str, target: str) -> Any:
    """The configuration of the only call of a target in a function, exported for a platform."""
    like = [jax.ShapeDtypeStruct(array.shape, array.dtype) for array in arrays]
    unchecked = [jax.export.DisabledSafetyCheck.custom_call(target)]
    export = jax.export.export(jax.jit(function), platforms=[platform], disabled_checks=unchecked)
    (config,) = _custom_calls(export(*like).mlir_module(), target)
    return config


def _custom_calls(text: str, target: str):
    """The configurations of all calls of a target in a module of StableHLO."""
    with mlir.make_ir_context():
        module = ir.Module.parse(text)
    for operation in _operations(module.operation):
        if operation.name == "stablehlo.custom_call":
            attributes = operation.attributes
            if ir.StringAttr(attributes["call_target_name"]).value == target:
                names = "mhlo.backend_config", "backend_config"
                yield next(attributes[name] for name in names if name in attributes)


def _operations(operation):
    for region in operation.regions:
        for block in region.blocks:
            for inner in block.operations:
                yield inner.operation
                yield from _operations(inner.operation)


def _compare_integers(predicate: int, x, y):
    signed = [operator.eq, operator.ne, operator.lt, operator.le, operator.gt, operator.ge]
    if predicate >= len(signed):
        unsigned = np.dtype(f"u{x.dtype.itemsize}")
        x, y, predicate = x.astype(unsigned), y.astype(unsigned), predicate - 4
    return signed[predicate](x, y)


def _compare_floats(predicate: int, x, y):
    """Of the two forms of each comparison, the ordered one is false where a number is NaN."""
    ordered = [operator.eq, operator.gt, operator.ge, operator.lt, operator.le, operator.ne]
    either_nan = np.isnan(x) | np.isnan(y)
    if 1 <= predicate <= 6:
        return ordered[predicate - 1](x, y) & ~either_nan
    if predicate == 7:
        return ~either_nan
    if 8 <= predicate <= 13:
        return ordered[predicate - 8](x, y) | either_nan
    raise NotImplementedError(predicate)


def _toward_zero(x, y):
    """The quotient and the remainder of integers."""
    quotient = np.sign(x) * np.sign(y) * (np.abs(x) // np.abs(y))
    return quotient.astype(x.dtype), (x - quotient * y).astype(x.dtype)


OPERATIONS: dict[str, Callable] = {
    "arith.addf": np.add, "arith.addi": np.add, "arith.subf": np.subtract,
    "arith.subi": np.subtract, "arith.mulf": np.multiply, "arith.muli": np.multiply,
    "arith.divf": np.divide, "arith.negf": np.negative,
    "arith.divsi": lambda x, y: _toward_zero(x, y)[0],
    "arith.remsi": lambda x, y: _toward_zero(x, y)[1],
    "arith.andi": np.bitwise_and, "arith.ori": np.bitwise_or, "arith.xori": np.bitwise_xor,
    "arith.maximumf": np.maximum, "arith.minimumf": np.minimum,  # NaN if one is
    "arith.maxnumf": np.fmax, "arith.minnumf": np.fmin,  # the other number if one is NaN
    "arith.maxsi": np.maximum, "arith.minsi": np.minimum,
    "arith.select": lambda condition, x, y: np.where(condition, x, y),
    "math.absf": np.abs, "math.sqrt": np.sqrt, "math.rsqrt": lambda x: 1 / np.sqrt(x),
    "math.exp": np.exp, "math.powf": np.power, "math.log": np.log, "math.sin": np.sin,
    "math.cos": np.cos,
}  # fmt: skip
CONVERSIONS = {
    "arith.extf", "arith.truncf", "arith.sitofp", "arith.uitofp", "arith.fptosi", "arith.extsi",
    "arith.extui", "arith.trunci",
}  # fmt: skip


def _converted(name: str, x: np.ndarray, dtype: np.dtype) -> np.ndarray:
    if name in {"arith.uitofp", "arith.extui"} and x.dtype != np.bool_:
        x = x.view(f"u{x.dtype}")
    if name in {"arith.sitofp", "arith.extsi"} and x.dtype == np.bool_:
        x = -x.astype(np.int8)  # a bit is -1
    if name == "arith.trunci" and dtype == np.bool_:
        x = x & 1
    return x.astype(dtype)


def computed(name: str, operation: Any, inputs: Sequence[np.ndarray]) -> np.ndarray:
    """The result of an operation of the dialects `arith` and `math`."""
    attributes = operation.attributes
    if name == "arith.constant":
        return constant(attributes["value"])
    if name == "arith.cmpi":
        return _compare_integers(ir.IntegerAttr(attributes["predicate"]).value, *inputs)
    if name == "arith.cmpf":
        return _compare_floats(ir.IntegerAttr(attributes["predicate"]).value, *inputs)
    if name in CONVERSIONS:
        return _converted(name, inputs[0], shape_and_dtype(operation.results[0].type)[1])
    return OPERATIONS[name](*inputs)
