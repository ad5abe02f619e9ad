"""Components: how a weight is cut into points, and put together from them.

A weight is cut into small matrices, its *components* (component weights in the paper), by giving
every axis one of five roles:

    rows, columns       axes within a component, flattened in the order given
    inputs, outputs     axes that count components over input and output channels
    stack               axes that count whole layers: attention heads, experts, scanned layers

Every axis must be named, so no axis becomes part of a norm by accident. The components of a weight
are stored as points, an array `(rows, columns, *lanes)`: the first two axes are one component, and
the lanes, in the order they have in the weight, count components.

`_layouts.py` derives the cuts that have a name from the layout of a weight, and `_spelling.py`
reads axes written as text.
"""

import dataclasses
import functools
import math
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np

Axes = int | tuple[int, ...]
ROLES = ("rows", "columns", "inputs", "outputs", "stack")


@dataclasses.dataclass(frozen=True)
class Component:
    """The role of each axis of a weight; every axis is named once.

    Each role takes an axis number or a tuple of them. `pom` also takes the axes as text, such as
    `component="in:rows heads:stack out:columns"`.

    Attributes:
        rows: Axes flattened into the rows of a component.
        columns: Axes flattened into the columns; none for components that are vectors.
        inputs: Axes that count components over input channels.
        outputs: Axes that count components over output channels.
        stack: Axes that count whole layers (heads, experts, scanned layers). A group never spans
            several of them.
        split: Pairs (axis, sizes) for axes of the weight that are split first, as by a reshape; one
            size may be -1. The roles count the axes after the split.
        name: What the component is called in tables; components are equal whatever their names.

    Raises:
        TypeError: If a role is given something other than axis numbers.
        ValueError: If an axis is named twice or left out.

    Example:
        The query kernel of an attention layer, (features, heads, head size), as one matrix per
        head:

        >>> heads = Component(rows=0, columns=2, stack=1)
        >>> heads.points_shape((64, 8, 16))
        (64, 16, 8)

        A kernel (features, 3 · size) that holds queries, keys and values, as three matrices:

        >>> Component(rows=0, stack=1, columns=2, split=((1, (3, -1)),)).points_shape((64, 192))
        (64, 64, 3)
    """

    rows: tuple[int, ...]
    columns: tuple[int, ...] = ()
    inputs: tuple[int, ...] = ()
    outputs: tuple[int, ...] = ()
    stack: tuple[int, ...] = ()
    split: tuple[tuple[int, tuple[int, ...]], ...] = ()
    name: str = dataclasses.field(default="", compare=False, repr=False)

    if TYPE_CHECKING:  # the fields are tuples; the arguments may be numbers as well

        def __init__(
            self,
            rows: Axes,
            columns: Axes = (),
            inputs: Axes = (),
            outputs: Axes = (),
            stack: Axes = (),
            split: tuple[tuple[int, tuple[int, ...]], ...] = (),
            name: str = "",
        ): ...

    def __post_init__(self):
        for role in ROLES:
            object.__setattr__(self, role, _axes(role, getattr(self, role)))
        if not self.rows:
            raise ValueError(
                "A component needs at least one axis for its rows, got rows=(); give rows=0, "
                "for instance."
            )
        if sorted(self.axes) != list(range(len(self.axes))):
            raise ValueError(
                f"A component names every axis of a weight once, counting from 0, but {self} "
                f"names the axes {sorted(self.axes)}."
            )
        _check_split(self.split)
        if not all(0 <= axis < self.weight_axes for axis, _ in self.split):
            raise ValueError(
                f"Component(split=…) splits the axes 0 to {self.weight_axes - 1} of a weight, got "
                f"{self.split!r}; correct the axis numbers."
            )

    def __str__(self) -> str:
        if self.name:
            return self.name
        given = {role: getattr(self, role) for role in (*ROLES, "split")}
        return ", ".join(f"{role}={axes}" for role, axes in given.items() if axes)

    @functools.cached_property
    def axes(self) -> tuple[int, ...]:
        """The axes in the order of the points: rows, columns, lanes."""
        return self.rows + self.columns + self.lanes

    @functools.cached_property
    def lanes(self) -> tuple[int, ...]:
        """The axes that count components, in the order they have in the weight."""
        return tuple(sorted(self.inputs + self.outputs + self.stack))

    @property
    def weight_axes(self) -> int:
        """The number of axes of the weight itself, before axes are split."""
        return len(self.axes) - sum(len(sizes) - 1 for _, sizes in self.split)

    def lane_axes(self, axes: tuple[int, ...]) -> tuple[int, ...]:
        """The positions of the given axes of the weight among the lanes."""
        return tuple(self.lanes.index(axis) for axis in axes)

    def split_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """The sizes of the axes that the roles count: the shape after axes are split.

        Raises:
            ValueError: If an axis does not have the size of its parts. The message lacks its
                subject, the path of the weight, for the caller to add.
        """
        parts = {axis: _parts(axis, shape, sizes) for axis, sizes in self.split}
        return sum((parts.get(axis, (size,)) for axis, size in enumerate(shape)), ())

    @functools.cache  # noqa: B019 - components are few and small
    def points_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """The shape `(rows, columns, *lanes)` of the points of a weight of this shape."""
        sizes = self.split_shape(shape)

        def size(axes):
            return math.prod(sizes[axis] for axis in axes)

        return (size(self.rows), size(self.columns), *(sizes[axis] for axis in self.lanes))

    def to_points(self, weight: jax.Array) -> jax.Array:
        """Cuts a weight into points `(rows, columns, *lanes)`."""
        points_shape = self.points_shape(weight.shape)
        # No step does anything for "slice", so kernels keep their layout and sharding.
        if self.split:
            weight = weight.reshape(self.split_shape(weight.shape))
        if self.axes != tuple(range(weight.ndim)):
            weight = jnp.transpose(weight, self.axes)
        return weight if weight.shape == points_shape else weight.reshape(points_shape)

    def from_points(self, points: jax.Array, shape: tuple[int, ...]) -> jax.Array:
        """The weight of this shape that has these points: the inverse of `to_points`."""
        sizes = self.split_shape(shape)
        ordered = tuple(sizes[axis] for axis in self.axes)
        weight = points if points.shape == ordered else points.reshape(ordered)
        if self.axes != tuple(range(len(sizes))):
            inverse = sorted(range(len(sizes)), key=self.axes.__getitem__)
            weight = jnp.transpose(weight, inverse)
        return weight.reshape(shape) if self.split else weight


def _axes(role: str, given: object) -> tuple[int, ...]:
    """Axis numbers as a tuple."""

    def is_number(axis):
        return isinstance(axis, (int, np.integer)) and not isinstance(axis, bool)

    axes = (given,) if is_number(given) else given
    if not isinstance(axes, tuple) or not all(map(is_number, axes)):
        raise TypeError(
            f"Component({role}=…) takes an axis number, such as 0, or a tuple of axis numbers, "
            f"such as (0,); got {given!r}."
        )
    return tuple(int(axis) for axis in axes)  # pyright: ignore[reportArgumentType]


def _check_split(split: object) -> None:
    try:
        valid = all(
            isinstance(axis, int)
            and isinstance(sizes, tuple)
            and sum(size == -1 for size in sizes) <= 1
            and all(isinstance(size, int) and (size > 0 or size == -1) for size in sizes)
            for axis, sizes in split  # pyright: ignore[reportGeneralTypeIssues]
        )
    except (TypeError, ValueError):
        valid = False
    if not valid:
        raise ValueError(
            "Component(split=…) takes pairs (axis, sizes), such as ((1, (3, -1)),), in which at "
            f"most one size of an axis is -1; got {split!r}."
        )


def _parts(axis: int, shape: tuple[int, ...], sizes: tuple[int, ...]) -> tuple[int, ...]:
    """The sizes of the parts of an axis, the one left open computed."""
    known = math.prod(size for size in sizes if size != -1)
    if -1 in sizes and shape[axis] % known == 0:
        return tuple(shape[axis] // known if size == -1 else size for size in sizes)
    if math.prod(sizes) == shape[axis]:
        return sizes
    parts = " × ".join("…" if size == -1 else str(size) for size in sizes)
    raise ValueError(
        f"has shape {shape}, and its axis {axis} of size {shape[axis]} is not {parts}, as the "
        "component says; correct the sizes"
    )
