"""A function of one small point, computed for a block of points in scalar operations.

Inside a kernel of Pallas arrays are blocks whose sizes are powers of two, and a point of 3×3
entries fits none. So the function is traced for a single point, and its operations are repeated for
every entry, on an array of the shape of the block that holds this entry of all points.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fgsgd_jax import _jaxpr

# Operations entry by entry that Pallas compiles for GPUs and TPUs.
ENTRYWISE = {
    "abs", "add", "and", "clamp", "convert_element_type", "cos", "div", "eq", "exp", "ge",
    "gt", "integer_pow", "is_finite", "le", "log", "lt", "max", "min", "mul", "ne", "neg", "not",
    "or", "pow", "rsqrt", "select_n", "sin", "sqrt", "square", "sub",
}  # fmt: skip

# What GPUs compute by one instruction, which returns the other number where one is NaN.
PLATFORM_MAX, PLATFORM_MIN = jnp.maximum, jnp.minimum


def _max(x: jax.Array, y: jax.Array) -> jax.Array:
    return _nan_of_either(PLATFORM_MAX(x, y), x, y)


def _min(x: jax.Array, y: jax.Array) -> jax.Array:
    return _nan_of_either(PLATFORM_MIN(x, y), x, y)


def _nan_of_either(result: jax.Array, x: jax.Array, y: jax.Array) -> jax.Array:
    both_numbers = (x == x) & (y == y)
    return jnp.where(both_numbers, result, x + y)


# Operations that treat NaN differently on some platforms: on TPUs NaN ≠ NaN is false.
REPLACED: dict[str, Callable] = {
    "max": _max, "min": _min,
    "clamp": lambda low, x, high: _min(_max(x, low), high),
    "ne": lambda x, y: ~(x == y),
}  # fmt: skip
REDUCTIONS = {
    "reduce_sum": jnp.add, "reduce_max": _max, "reduce_min": _min,
    "reduce_or": jnp.logical_or, "reduce_and": jnp.logical_and,
}  # fmt: skip


def _broadcast_in_dim(x, *, shape, broadcast_dimensions, **_):
    axes = dict(zip(broadcast_dimensions, x.shape, strict=True))
    return np.broadcast_to(x.reshape([axes.get(axis, 1) for axis in range(len(shape))]), shape)


def _slice(x, *, start_indices, limit_indices, strides):
    return x[tuple(map(slice, start_indices, limit_indices, strides or [None] * x.ndim))]


# What only moves entries, as functions on NumPy's arrays of objects.
MOVES: dict[str, Callable] = {
    "broadcast_in_dim": _broadcast_in_dim,
    "copy": lambda x: x,
    "concatenate": lambda *parts, dimension: np.concatenate(parts, dimension),
    "reshape": lambda x, *, new_sizes, **_: x.reshape(new_sizes),
    "rev": lambda x, *, dimensions: np.flip(x, dimensions),
    "slice": _slice,
    "squeeze": lambda x, *, dimensions: x.squeeze(dimensions),
    "stack": lambda *parts, axis: np.stack(parts, axis),
    "stop_gradient": lambda x, **_: x,
    "transpose": lambda x, *, permutation: x.transpose(permutation),
}


UNSTACK = "unstack"  # moves entries into several arrays; an operation since JAX 0.12


class NotScalar(Exception):
    """A function uses an operation that is not made of scalar ones here."""


class Scalars:
    """A function of small arrays, in scalar operations.

    Args:
        function: Takes and returns arrays, or trees of them.
        shapes: The shapes of its arguments.

    Attributes:
        outputs: The shapes of its results, and `tree` the tree that they are the leaves of.

    Raises:
        NotScalar: If it uses another operation, such as a loop or a matrix product.
    """

    def __init__(self, function: Callable, *shapes: Any):
        self.closed, result = jax.make_jaxpr(function, return_shape=True)(*shapes)
        self.outputs, self.tree = jax.tree.flatten(result)
        _require_scalar(self.closed.jaxpr)

    def __call__(
        self, block: tuple[int, ...], *arguments: Sequence[jax.Array]
    ) -> list[list[jax.Array]]:
        """The results: for each array among them, its entries in order, `block` each.

        Args:
            block: The shape in which points are arranged.
            *arguments: For each array among the arguments, its entries in order.
        """
        inputs = [
            _array(entries, variable.aval.shape)
            for variable, entries in zip(self.closed.jaxpr.invars, arguments, strict=True)
        ]
        consts = [np.asarray(const).astype(object) for const in self.closed.consts]
        evaluate = functools.partial(_evaluate, block)
        outputs = _jaxpr.evaluate(self.closed.jaxpr, consts, inputs, evaluate)
        made = zip(self.outputs, outputs, strict=True)
        return [[_block(entry, like.dtype, block) for entry in np.ravel(out)] for like, out in made]


def _array(entries: Sequence[Any], shape: tuple[int, ...]) -> np.ndarray:
    array = np.empty(len(entries), object)
    for i, entry in enumerate(entries):  # NumPy would convert a whole list
        array[i] = entry
    return array.reshape(shape)


def _block(entry: Any, dtype, block: tuple[int, ...]) -> jax.Array:
    """An entry of all points, which may be a number so far."""
    return jnp.broadcast_to(jnp.asarray(entry, dtype), block)


def _inner(eqn) -> tuple[Any, Sequence[Any]] | None:
    """The jaxpr that an equation calls and its constants; of several platforms the default."""
    if eqn.primitive.name == "cond" and None in (eqn.params.get("branches_platforms") or ()):
        branch = eqn.params["branches"][eqn.params["branches_platforms"].index(None)]
        return branch.jaxpr, branch.consts
    return _jaxpr.called_jaxpr(eqn)


def _require_scalar(jaxpr) -> None:
    for eqn in jaxpr.eqns:
        inner = _inner(eqn)
        if inner is not None:
            _require_scalar(inner[0])
        elif eqn.primitive.name not in {*ENTRYWISE, *REDUCTIONS, *MOVES, "platform_index", UNSTACK}:
            raise NotScalar(eqn.primitive.name)


def _evaluate(block: tuple[int, ...], eqn, inputs: Sequence[Any]) -> list[Any]:
    name, inner = eqn.primitive.name, _inner(eqn)
    if name == "platform_index":  # of no use where the default is taken
        return [None]
    if inner is not None:
        jaxpr, consts = inner
        consts = [np.asarray(const).astype(object) for const in consts]
        inputs = inputs[1:] if name == "cond" else inputs
        return _jaxpr.evaluate(jaxpr, consts, inputs, functools.partial(_evaluate, block))
    arrays = [x if isinstance(x, np.ndarray) else np.asarray(x, object) for x in inputs]
    if name == UNSTACK:
        moved = np.moveaxis(arrays[0], eqn.params["axis"], 0)
        return [moved[i, ...] for i in range(len(moved))]  # arrays, also of no axes
    if name in MOVES:
        return [MOVES[name](*arrays, **eqn.params)]
    if name in REDUCTIONS:
        return [_reduced(REDUCTIONS[name], arrays[0], eqn.params["axes"])]

    def of_entries(*entries):
        typed = zip(entries, eqn.invars, strict=True)
        blocks = [_block(entry, variable.aval.dtype, block) for entry, variable in typed]
        if name in REPLACED:
            return REPLACED[name](*blocks)
        return eqn.primitive.bind(*blocks, **eqn.params)

    (out,) = eqn.outvars
    computed = [of_entries(*entries) for entries in np.broadcast(*arrays)]
    return [_array(computed, out.aval.shape)]


def _reduced(operation: Callable, x: np.ndarray, axes: Sequence[int]) -> np.ndarray:
    kept = [axis for axis in range(x.ndim) if axis not in axes]
    rows = x.transpose(*kept, *axes).reshape(*(x.shape[axis] for axis in kept), -1)
    sums = [functools.reduce(operation, rows[index]) for index in np.ndindex(rows.shape[:-1])]
    return _array(sums, rows.shape[:-1])
