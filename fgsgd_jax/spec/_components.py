"""Components: how one weight array falls into points and lanes, and back.

A weight of a layer is cut into matrices, its *component weights*, by naming what each axis is:

    rows, columns       the axes that make up one component, flattened in the order given
    inputs, outputs     the axes that count components over input and output channels
    stack               axes that count whole layers: attention heads, experts, scanned layers

so that nothing is swallowed by a norm unasked. Three cuts have names. For a convolution kernel of
shape (A, B, C, D) (height, width, input and output channels) they are

    "slice"     A × B per input and output channel: the component of the paper
    "filter"    A·B·C × 1 per output channel
    "matrix"    A·B·C × D, the whole kernel at once

and for a dense kernel (C, D), "filter" is C × 1 per output and "matrix" is C × D.
"""

import dataclasses
import math
from typing import Literal, get_args

import jax
import jax.numpy as jnp

ComponentName = Literal["slice", "filter", "matrix"]


@dataclasses.dataclass(frozen=True)
class Component:
    """What each axis of a weight is; every axis is named once.

    Attributes:
        rows: Axes flattened into the rows of a component.
        columns: Axes flattened into its columns; none for components that are vectors.
        inputs: Axes that count components over input channels.
        outputs: Axes that count components over output channels.
        stack: Axes that count whole layers (heads, experts, scanned layers). Groups never span
            them.

    Example:
        The query kernel of an attention layer, (features, heads, head size), as one matrix a head:

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
                    f"Component({field.name}=…) takes a tuple of axis numbers, as in (0,), not "
                    f"{axes!r}."
                )
        if not self.rows:
            raise ValueError("A component needs at least one axis for its rows.")
        if sorted(self.axes) != list(range(len(self.axes))):
            raise ValueError(
                f"A component names every axis of a weight once, counting from 0, but {self} "
                f"names {sorted(self.axes)}."
            )

    def __str__(self) -> str:
        for name, component in _NAMED.items():
            if self in component.values():
                return name
        parts = (f"{field.name}={getattr(self, field.name)}" for field in dataclasses.fields(self))
        return ", ".join(part for part in parts if not part.endswith("()"))

    @property
    def axes(self) -> tuple[int, ...]:
        """The axes of the weight in the order of the points: rows, columns, then lanes."""
        return self.rows + self.columns + self.lanes

    @property
    def lanes(self) -> tuple[int, ...]:
        """The axes that count components, in the order they have in the weight."""
        return tuple(sorted(self.inputs + self.outputs + self.stack))

    def lane_axes(self, axes: tuple[int, ...]) -> tuple[int, ...]:
        """Where the given axes of the weight lie among the lanes."""
        return tuple(self.lanes.index(axis) for axis in axes)

    def points_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """The shape `(rows, columns, *lanes)` a weight of this shape is cut into."""

        def size(axes):
            return math.prod(shape[axis] for axis in axes)

        return (size(self.rows), size(self.columns), *(shape[axis] for axis in self.lanes))

    def to_points(self, weight: jax.Array) -> jax.Array:
        """Cuts a weight into points `(rows, columns, *lanes)`."""
        # Both steps are the identity for "slice", so that kernels keep their layout and sharding.
        if self.axes != tuple(range(weight.ndim)):
            weight, shape = jnp.transpose(weight, self.axes), weight.shape
        else:
            shape = weight.shape
        points_shape = self.points_shape(shape)
        return weight if weight.shape == points_shape else weight.reshape(points_shape)

    def from_points(self, points: jax.Array, shape: tuple[int, ...]) -> jax.Array:
        """Puts the points of a weight of this shape together again."""
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
            f"A component is one of {', '.join(map(repr, names))} or a Component(rows=…, "
            f"columns=…, …) that names every axis, not {component!r}."
        )


def resolve_component(
    component: Component | ComponentName | None, shape: tuple[int, ...], *, prefer_matrix: bool
) -> Component:
    """The cut of a weight of this shape.

    Args:
        component: A cut, its name, or None for the default of the shape: "slice" for kernels of
            more than 1×1, else "matrix" or "filter".
        shape: The shape of the weight.
        prefer_matrix: Whether the manifolds need matrices where "slice" would give numbers.

    Raises:
        ValueError: If the shape has no such cut, as a sentence without the path of the weight.
    """
    if isinstance(component, Component):
        if len(component.axes) != len(shape):
            raise ValueError(
                f"has {len(shape)} axes, but its component, {component}, names "
                f"{len(component.axes)}; name every axis of {shape} once"
            )
        return component
    if component is None and len(shape) not in (0, 1, 2, 4):
        raise ValueError(
            f"has shape {shape}; there is no default cut for {len(shape)} axes. Name them, "
            "as in component=Component(rows=(0,), columns=(2,), stack=(1,)) for heads"
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
                f"is a vector of shape {shape}; components are cut from arrays with input and "
                "output channels, so leave it Euclidean (None)"
            )
        raise ValueError(
            f"has {len(shape)} axes, of which {component!r} cannot tell the roles. Name them, as "
            "in component=Component(rows=(0,), columns=(2,), stack=(1,)) for heads"
        )
    return cuts[len(shape)]
