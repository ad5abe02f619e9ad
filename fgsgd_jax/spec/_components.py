"""Components: how a weight is cut into points, and put together from them.

A weight is cut into small matrices, its *components* (component weights in the paper), by giving
every axis one of five roles:

    rows, columns       axes within a component, flattened in the order given
    inputs, outputs     axes that count components over input and output channels
    stack               axes that count whole layers: attention heads, experts, scanned layers

Every axis must be named, so no axis becomes part of a norm by accident. The components of a weight
are stored as points, an array `(rows, columns, *lanes)`: the first two axes are one component, and
the lanes, in the order they have in the weight, count components.

Three ways to cut a weight have names. For a convolution kernel of shape (A, B, C, D) (height,
width, input channels, output channels) they are

    "slice"     A × B per input and output channel, as in the paper
    "filter"    A·B·C × 1 per output channel
    "matrix"    A·B·C × D, the whole kernel

and for a dense kernel (C, D), "filter" is C × 1 per output channel and "matrix" is C × D.
"""

import dataclasses
import math
from typing import Literal, get_args

import jax
import jax.numpy as jnp

ComponentName = Literal["slice", "filter", "matrix"]


@dataclasses.dataclass(frozen=True)
class Component:
    """The role of each axis of a weight; every axis is named once.

    Attributes:
        rows: Axes flattened into the rows of a component.
        columns: Axes flattened into the columns; none for components that are vectors.
        inputs: Axes that count components over input channels.
        outputs: Axes that count components over output channels.
        stack: Axes that count whole layers (heads, experts, scanned layers). A group never spans
            several of them.

    Example:
        The query kernel of an attention layer, (features, heads, head size), as one matrix per
        head:

        >>> heads = Component(rows=(0,), columns=(2,), stack=(1,))
        >>> heads.points_shape((64, 8, 16))
        (64, 16, 8)
    """

    rows: tuple[int, ...]
    columns: tuple[int, ...] = ()
    inputs: tuple[int, ...] = ()
    outputs: tuple[int, ...] = ()
    stack: tuple[int, ...] = ()

    def __post_init__(self):
        for field in dataclasses.fields(self):
            axes = getattr(self, field.name)
            if not isinstance(axes, tuple) or not all(isinstance(axis, int) for axis in axes):
                raise TypeError(
                    f"Component({field.name}=…) takes a tuple of axis numbers, such as (0,); got "
                    f"{axes!r}."
                )
        if not self.rows:
            raise ValueError(
                "A component needs at least one axis for its rows, got rows=(); give rows=(0,), "
                "for instance."
            )
        if sorted(self.axes) != list(range(len(self.axes))):
            raise ValueError(
                f"A component names every axis of a weight once, counting from 0, but {self} "
                f"names the axes {sorted(self.axes)}."
            )

    def __str__(self) -> str:
        for name, component in _NAMED.items():
            if self in component.values():
                return name
        parts = (f"{field.name}={getattr(self, field.name)}" for field in dataclasses.fields(self))
        return ", ".join(part for part in parts if not part.endswith("()"))

    @property
    def axes(self) -> tuple[int, ...]:
        """The axes of the weight in the order of the points: rows, columns, lanes."""
        return self.rows + self.columns + self.lanes

    @property
    def lanes(self) -> tuple[int, ...]:
        """The axes that count components, in the order they have in the weight."""
        return tuple(sorted(self.inputs + self.outputs + self.stack))

    def lane_axes(self, axes: tuple[int, ...]) -> tuple[int, ...]:
        """The positions of the given axes of the weight among the lanes."""
        return tuple(self.lanes.index(axis) for axis in axes)

    def points_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """The shape `(rows, columns, *lanes)` of the points of a weight of this shape."""

        def size(axes):
            return math.prod(shape[axis] for axis in axes)

        return (size(self.rows), size(self.columns), *(shape[axis] for axis in self.lanes))

    def to_points(self, weight: jax.Array) -> jax.Array:
        """Cuts a weight into points `(rows, columns, *lanes)`."""
        # Neither step does anything for "slice", so kernels keep their layout and sharding.
        if self.axes != tuple(range(weight.ndim)):
            weight, shape = jnp.transpose(weight, self.axes), weight.shape
        else:
            shape = weight.shape
        points_shape = self.points_shape(shape)
        return weight if weight.shape == points_shape else weight.reshape(points_shape)

    def from_points(self, points: jax.Array, shape: tuple[int, ...]) -> jax.Array:
        """The weight of this shape that has these points: the inverse of `to_points`."""
        ordered = tuple(shape[axis] for axis in self.axes)
        weight = points if points.shape == ordered else points.reshape(ordered)
        if self.axes == tuple(range(len(shape))):
            return weight
        inverse = sorted(range(len(shape)), key=self.axes.__getitem__)
        return jnp.transpose(weight, inverse)


_NAMED: dict[str, dict[int, Component]] = {
    "slice": {4: Component(rows=(0,), columns=(1,), inputs=(2,), outputs=(3,))},
    "filter": {
        2: Component(rows=(0,), outputs=(1,)),
        4: Component(rows=(0, 1, 2), outputs=(3,)),
    },
    "matrix": {
        2: Component(rows=(0,), columns=(1,)),
        4: Component(rows=(0, 1, 2), columns=(3,)),
    },
}


def check_component_name(component: object) -> None:
    """Raises unless `component` is a `Component`, one of the names, or None."""
    names = get_args(ComponentName)
    if component is not None and not isinstance(component, Component) and component not in names:
        raise ValueError(
            f"`component` must be one of {', '.join(map(repr, names))}, or a Component(rows=…, "
            f"columns=…, …) that names every axis; got {component!r}."
        )


def resolve_component(
    component: Component | ComponentName | None, shape: tuple[int, ...], *, prefer_matrix: bool
) -> Component:
    """The `Component` for a weight of this shape.

    Args:
        component: A `Component`, a name, or None for the default of the shape: "slice" for
            kernels larger than 1×1, and "matrix" or "filter" for all others.
        shape: The shape of the weight.
        prefer_matrix: Whether the default for those others is "matrix", as manifolds that
            constrain columns need it, rather than "filter".

    Raises:
        ValueError: If a weight of this shape cannot be cut as asked. The message lacks its subject,
            the path of the weight, for the caller to add.
    """
    if isinstance(component, Component):
        if len(component.axes) != len(shape):
            raise ValueError(
                f"has {len(shape)} axes, but its component, {component}, names "
                f"{len(component.axes)}; name every axis of the shape {shape} once"
            )
        return component
    if component is None and len(shape) not in (0, 1, 2, 4):
        raise ValueError(
            f"has shape {shape}, and there is no default component for {len(shape)} axes. Name "
            "them, as in component=Component(rows=(0,), columns=(2,), stack=(1,)) for attention "
            "heads"
        )
    if component is None:
        if len(shape) == 4 and shape[0] * shape[1] > 1:
            component = "slice"
        else:
            component = "matrix" if prefer_matrix else "filter"
    cuts = _NAMED[component]
    if len(shape) not in cuts:
        if len(shape) < 2:
            raise ValueError(
                f"has shape {shape}, but only an array with input and output channels can be cut "
                "into components, so leave it Euclidean (None)"
            )
        raise ValueError(
            f"has {len(shape)} axes, but {component!r} is defined for "
            f"{' or '.join(map(str, cuts))} axes. Name them, as in "
            "component=Component(rows=(0,), columns=(2,), stack=(1,)) for attention heads"
        )
    return cuts[len(shape)]
