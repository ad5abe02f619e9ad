"""Where a value comes from: which axes of which parameter it runs over, or the batch."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

# The result of one of these at a kernel is still that kernel, with other numbers in its entries.
ELEMENTWISE = {
    "abs", "add", "add_any", "atan2", "ceil", "clamp", "convert_element_type", "copy", "copy_p",
    "cos", "div", "erf", "exp", "exp2", "expm1", "floor", "integer_pow", "log", "log1p", "logistic",
    "max", "min", "mul", "neg", "optimization_barrier", "pow", "reduce_precision", "rem", "round",
    "rsqrt", "select_n", "sharding_constraint", "sign", "sin", "sqrt", "square", "stop_gradient",
    "sub", "tanh",
}  # fmt: skip

POOLED = -1  # an axis that counts the uses of one kernel, in place of an axis of the kernel


class Provenance(NamedTuple):
    """The kernel that a value is, up to elementwise operations, and how their axes correspond.

    Attributes:
        path: The path of the kernel.
        shape: The shape of the kernel.
        axes: For each axis of the value, the axes of the kernel that it runs over.
        scan_axes: For each enclosing scan, from the outside in, the axis of the kernel that it
            iterates over; `POOLED` if it uses the same kernel in every step.
    """

    path: str
    shape: tuple[int, ...]
    axes: tuple[tuple[int, ...], ...]
    scan_axes: tuple[int, ...] = ()

    def kernel_axis_count(self) -> int:
        """The number of axes of the kernel that the value runs over."""
        return sum(map(len, self.axes))

    def reshaped(self, shape: tuple[int, ...]) -> "Provenance | None":
        """The provenance after a reshape that merges or splits whole axes; otherwise None."""
        remaining = [axis for axes in self.axes for axis in axes]
        merged: list[tuple[int, ...]] = []
        for size in shape:
            axes: tuple[int, ...] = ()
            while remaining and self._size(axes) < size:
                axes = (*axes, remaining.pop(0))
            if self._size(axes) != size:
                return None
            merged.append(axes)
        return self._replace(axes=tuple(merged))

    def expanded(self, dimensions: Sequence[int], shape: tuple[int, ...]) -> "Provenance | None":
        """The provenance after a broadcast that only inserts axes of length 1; otherwise None."""
        kept = dict(zip(dimensions, self.axes, strict=True))
        axes = tuple(kept.get(position, ()) for position in range(len(shape)))
        if any(self._size(of_one) != size for of_one, size in zip(axes, shape, strict=True)):
            return None
        return self._replace(axes=axes)

    def _size(self, axes: tuple[int, ...]) -> int:
        return math.prod(self.shape[axis] for axis in axes)

    def pooled(self) -> "Provenance":
        """The provenance inside a scan whose every step uses the whole value."""
        return self._replace(scan_axes=(*self.scan_axes, POOLED))

    def sliced(self) -> "Provenance | None":
        """The provenance inside a scan whose steps use one entry of the first axis each."""
        first, *others = self.axes
        if len(first) != 1:
            return None
        return self._replace(axes=tuple(others), scan_axes=self.scan_axes + first)


class Value(NamedTuple):
    """An array together with what it was computed from.

    Attributes:
        array: The array.
        from_batch: Whether it depends on the batch, which makes it a feature.
        params: The paths of the parameters that it depends on, if it is not a feature.
        provenance: The kernel that it is, if it is one up to elementwise operations.
        blocked_by: The operation after which its provenance was unknown; empty if there is none.
        unpadded: The same features before padding with a constant, if they were padded.
    """

    array: Any
    from_batch: bool = False
    params: frozenset[str] = frozenset()
    provenance: Provenance | None = None
    blocked_by: str = ""
    unpadded: Any = None

    def pooled(self) -> "Value":
        """The value inside a scan whose every step uses all of it."""
        provenance = self.provenance and self.provenance.pooled()
        return self._replace(provenance=provenance, unpadded=None)

    def sliced(self, array: Any) -> "Value":
        """The value inside a scan whose steps use one entry of its first axis, here `array`."""
        provenance = self.provenance and self.provenance.sliced()
        blocked_by = self.blocked_by or ("" if provenance else "scan")
        return self._replace(
            array=array, provenance=provenance, blocked_by=blocked_by, unpadded=None
        )


def parameter(path: str, array: Any) -> Value:
    """The value of a parameter of the network."""
    axes = tuple((axis,) for axis in range(array.ndim))
    return Value(array, params=frozenset([path]), provenance=Provenance(path, array.shape, axes))


def provenance_after(eqn, inputs: list[Value], shape: tuple[int, ...]) -> Provenance | None:
    """The provenance of the result of an equation, of the given shape, between parameters.

    Args:
        eqn: The equation.
        inputs: Its inputs, none of them a feature.
        shape: The shape of its output.
    """
    name, params = eqn.primitive.name, eqn.params
    if name in ELEMENTWISE:
        return _elementwise(inputs, shape)
    provenance = inputs[0].provenance if inputs else None
    if provenance is None:
        return None
    if name == "transpose":
        axes = tuple(provenance.axes[axis] for axis in params["permutation"])
        return provenance._replace(axes=axes)
    if name == "rev":
        return provenance
    if name == "squeeze" or (name == "reshape" and params["dimensions"] is None):
        return provenance.reshaped(shape)
    if name in ("broadcast_in_dim", "expand_dims"):
        return provenance.expanded(params["broadcast_dimensions"], shape)
    return None


def _elementwise(inputs: list[Value], shape: tuple[int, ...]) -> Provenance | None:
    """The provenance of an elementwise function of several values: of the one kernel among them."""
    candidates = {
        value.provenance
        for value in inputs
        if value.provenance is not None and value.array.shape == shape
    }
    # A factor per channel can happen to have the kernel's shape, but runs over fewer of its axes.
    most = max((candidate.kernel_axis_count() for candidate in candidates), default=0)
    kernels = [candidate for candidate in candidates if candidate.kernel_axis_count() == most]
    return kernels[0] if len(kernels) == 1 else None
