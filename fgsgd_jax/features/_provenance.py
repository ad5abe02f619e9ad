"""Values that know where they come from: which axes of which kernel, or from the batch."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

# After one of these a kernel of the same shape still is that kernel, entry by entry.
ELEMENTWISE = {
    "abs", "add", "add_any", "atan2", "ceil", "clamp", "convert_element_type", "copy", "copy_p",
    "cos", "div", "erf", "exp", "exp2", "expm1", "floor", "integer_pow", "log", "log1p", "logistic",
    "max", "min", "mul", "neg", "optimization_barrier", "pow", "reduce_precision", "rem", "round",
    "rsqrt", "select_n", "sharding_constraint", "sign", "sin", "sqrt", "square", "stop_gradient",
    "sub", "tanh",
}  # fmt: skip

POOLED = -1  # an axis of measurements that runs over uses of one kernel, not over its channels


class Origin(NamedTuple):
    """Which kernel a value is, up to elementwise changes.

    Attributes:
        path: The path of the kernel.
        shape: The shape of the kernel.
        axes: For every axis of the value, the axes of the kernel that it runs over.
        levels: For every scan around, the axis of the kernel that it runs over, or `POOLED`.
    """

    path: str
    shape: tuple[int, ...]
    axes: tuple[tuple[int, ...], ...]
    levels: tuple[int, ...] = ()

    def axes_in_all(self) -> int:
        """How many axes of the kernel the value runs over."""
        return sum(map(len, self.axes))

    def reshaped(self, new: tuple[int, ...]) -> "Origin | None":
        """The origin after a reshape that joins or parts whole axes of the kernel, else None."""
        left = [axis for axes in self.axes for axis in axes]
        joined: list[tuple[int, ...]] = []
        for size in new:
            axes: tuple[int, ...] = ()
            while left and math.prod(self.shape[axis] for axis in axes) < size:
                axes = (*axes, left.pop(0))
            if math.prod(self.shape[axis] for axis in axes) != size:
                return None
            joined.append(axes)
        return self._replace(axes=tuple(joined))

    def expanded(self, dimensions: Sequence[int], new: tuple[int, ...]) -> "Origin | None":
        """The origin after a broadcast that only inserts axes of length 1, else None."""
        lengths = [math.prod(self.shape[axis] for axis in axes) for axes in self.axes]
        kept = dict(zip(dimensions, zip(self.axes, lengths, strict=True), strict=True))
        parts = [kept.get(position, ((), 1)) for position in range(len(new))]
        if any(length != size for (_, length), size in zip(parts, new, strict=True)):
            return None
        return self._replace(axes=tuple(axes for axes, _ in parts))

    def pooled(self) -> "Origin":
        """The origin inside a scan that uses the whole value in every step."""
        return self._replace(levels=(*self.levels, POOLED))

    def sliced(self) -> "Origin | None":
        """The origin inside a scan that uses one entry of the first axis in every step."""
        first, *others = self.axes
        if len(first) != 1:
            return None
        return self._replace(axes=tuple(others), levels=self.levels + first)


class Value(NamedTuple):
    """An array and its past: whether the batch is in it, else which parameters are, and how.

    `unpadded` is the same features before constants were padded to them, `hidden_by` the operation
    after which a kernel could no longer be told.
    """

    array: Any
    from_batch: bool = False
    params: frozenset[str] = frozenset()
    origin: Origin | None = None
    hidden_by: str = ""
    unpadded: Any = None


def whole(path: str, shape: tuple[int, ...]) -> Origin:
    return Origin(path, shape, tuple((axis,) for axis in range(len(shape))))


def origin_after(eqn, inputs: list[Value], shape: tuple[int, ...]) -> Origin | None:
    """Which kernel the result of an equation without features still is."""
    name, params = eqn.primitive.name, eqn.params
    if name in ELEMENTWISE:
        same = [value.origin for value in inputs if value.array.shape == shape]
        origins = {origin for origin in same if origin is not None}
        # By chance a factor for every channel has the kernel's shape; the kernel has more axes.
        most = max((origin.axes_in_all() for origin in origins), default=0)
        fullest = [origin for origin in origins if origin.axes_in_all() == most]
        return fullest[0] if len(fullest) == 1 else None
    origin = inputs[0].origin if inputs else None
    if origin is None:
        return None
    if name == "transpose":
        return origin._replace(axes=tuple(origin.axes[axis] for axis in params["permutation"]))
    if name == "rev":
        return origin
    if name == "reshape" and params["dimensions"] is None:
        return origin.reshaped(shape)
    if name == "squeeze":
        return origin.reshaped(shape)
    if name in ("broadcast_in_dim", "expand_dims"):
        return origin.expanded(params["broadcast_dimensions"], shape)
    return None
