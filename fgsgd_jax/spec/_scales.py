"""Scales: the length s = γ/λ of a component, and the radius on which its steps are taken.

Points on manifolds are at unit scale; a weight is W = s·θ, where θ is such a point and

    γ   is fixed when the spec is built: a number, an array, from the shape of the weight
        ("geometric"), γ = (b + b̂)^−½ with the fan-in b = A·B·C and the fan-out b̂, or as
        `_kept_scales.py` computes it;
    λ   is the standard deviation of the features that a component multiplies, one for each input
        channel: 1 until it is measured, then the last measurement.

The kernel has shape (A, B, C, D): height, width, input channels, output channels. The fan-out is
A·B·D, as Glorot and Bengio define it, or H·W·D, as in eq. (2), if the size H·W of the layer's
output feature map is given.

References:
    Ozay, *Fine-grained optimization of deep neural networks*, NeurIPS 2019, section 3, eq. (2).
"""

import dataclasses
import math
from typing import Any, Literal

import jax
import numpy as np

from fgsgd_jax._text import counted, did_you_mean
from fgsgd_jax.spec._components import Component


@dataclasses.dataclass(frozen=True)
class Numbers:
    """A float64 array that can be compared and hashed, for a γ that differs between components.

    Attributes:
        shape: The shape of the array.
        content: Its bytes.
        measured: Whether the numbers were measured from the values of a weight.
    """

    shape: tuple[int, ...]
    content: bytes
    measured: bool = False

    @classmethod
    def of(cls, array: np.ndarray, *, measured: bool = False) -> "Numbers":
        """From an array, which is converted to float64."""
        return cls(array.shape, array.astype(np.float64).tobytes(), measured)

    def array(self) -> np.ndarray:
        """As a NumPy array."""
        return np.frombuffer(self.content, np.float64).reshape(self.shape)


@dataclasses.dataclass(frozen=True)
class Variance:
    """A request for the γ at which the weights of an output channel have ‖w‖ = gain."""

    gain: float


Gamma = float | Numbers | None
ScaleRequest = Literal["geometric", "initial"] | Variance | float | Numbers | None

_NAMES = ("geometric", "variance", "initial")
RELU_GAIN = math.sqrt(2)  # a ReLU halves the mean square of its input


def checked_scale(scale: Any) -> ScaleRequest:
    """The `scale` argument of `pom` and `collection` in a hashable form.

    Raises:
        ValueError: If it is none of the values that `pom` lists.
    """
    if scale is None or (isinstance(scale, str) and scale in ("geometric", "initial")):
        return scale  # pyright: ignore[reportReturnType]
    if isinstance(scale, str) and scale == "variance":
        return Variance(RELU_GAIN)
    if isinstance(scale, tuple) and len(scale) == 2 and scale[0] == "variance":
        if not is_positive(scale[1]):
            raise ValueError(
                f"The gain of scale=('variance', gain) is a positive number, got {scale[1]!r}; "
                "2**0.5 suits ReLU, 1 a layer without an activation."
            )
        return Variance(float(scale[1]))
    named = scale[0] if isinstance(scale, tuple) and scale else scale
    try:
        array = np.asarray(scale, np.float64)
    except (TypeError, ValueError):
        array = np.array(math.nan)
    if isinstance(scale, (str, bool)) or not np.all(np.isfinite(array) & (array > 0)):
        raise ValueError(
            "A scale is None (for 1), 'geometric', 'variance', ('variance', gain), 'initial', a "
            "positive number, or an array of positive numbers that broadcasts against the "
            f"components; got {scale!r}." + did_you_mean(named, _NAMES)
        )
    return float(array) if array.ndim == 0 else Numbers.of(array)


def gamma(
    request: ScaleRequest, component: Component, shape: tuple[int, ...], map_size: int | None
) -> Gamma:
    """γ of a weight; None for a weight that stays at unit scale, so that λ does not apply to it.

    "variance" and "initial" depend on the manifolds as well; `kept_gamma` computes them.

    Args:
        request: The scale asked for, from `checked_scale`.
        component: How the weight is cut.
        shape: The shape of the weight.
        map_size: H·W of the layer's output feature map, for the fan-out of eq. (2); None for the
            fan-out A·B·D.

    Raises:
        ValueError: If an array does not broadcast against the components. The message lacks its
            subject, the path of the weight, for the caller to add.
    """
    if request == "geometric":
        fan_in, fan_out, outputs = fans(component, shape)
        return (fan_in + (fan_out if map_size is None else map_size * outputs)) ** -0.5
    if isinstance(request, Numbers):
        lanes = component.points_shape(shape)[2:]
        broadcasts = len(request.shape) <= len(lanes) and all(
            size in (1, lane)
            for size, lane in zip(reversed(request.shape), reversed(lanes), strict=False)
        )
        if not broadcasts:
            has = (
                f"has {counted(math.prod(lanes), 'component')}, counted by axes of shape {lanes}"
                if lanes
                else "is one component"
            )
            shapes = f", or an array of shape {lanes}, any axis of which may be 1" if lanes else ""
            raise ValueError(
                f"{has}, so a scale of shape {request.shape} does not fit; give a number{shapes}"
            )
    return None if isinstance(request, (str, Variance)) else request


def fans(component: Component, shape: tuple[int, ...]) -> tuple[int, int, int]:
    """Fan-in A·B·C, fan-out A·B·D and output channels D of a weight, per stacked layer.

    The output channels are the axes named `outputs`, or `columns` if there are none. The input
    channels are the axes named `inputs`, or the last remaining axis if there are none, such as C of
    (A, B, C, D).
    """
    sizes = component.split_shape(shape)

    def size(axes):
        return math.prod(sizes[axis] for axis in axes)

    outputs = component.outputs or component.columns
    remaining = [axis for axis in component.rows + component.columns if axis not in outputs]
    inputs = component.inputs or tuple(sorted(remaining)[-1:])
    total = size(component.rows + component.columns + component.inputs + component.outputs)
    return total // size(outputs), total // size(inputs), size(outputs)


# --- coordinates: the radius on which steps are taken ----------------------------------------

Coordinates = Literal["unit", "scaled"] | float
"""The radius σ of the manifolds on which a step is taken: 1 ("unit"), s ("scaled"), or a number."""


def checked_coordinates(coordinates: Any) -> Coordinates:
    """The `coordinates` argument of an optimizer in a hashable form.

    Raises:
        ValueError: If it is not "unit", "scaled" or a positive number.
    """
    if isinstance(coordinates, str) and coordinates in ("unit", "scaled"):
        return coordinates  # pyright: ignore[reportReturnType]
    if isinstance(coordinates, jax.Array):
        raise ValueError(
            "The coordinates of a step must be known when the optimizer is built, got a JAX array. "
            "Give a Python number; with optax.inject_hyperparams, also give "
            "static_args=('coordinates',)."
        )
    if not is_positive(coordinates):
        raise ValueError(
            "The coordinates of a step are 'unit', 'scaled' or a positive number, the radius of "
            f"the manifolds on which the step is taken; got {coordinates!r}."
            + did_you_mean(coordinates, ("unit", "scaled"))
        )
    return float(coordinates)


def is_positive(number: Any) -> bool:
    """Whether something is a finite number above 0."""
    numeric = isinstance(number, (int, float, np.integer, np.floating, jax.Array))
    scalar = numeric and not isinstance(number, bool) and np.ndim(number) == 0
    return scalar and 0 < float(number) < math.inf


def step_radius(coordinates: Coordinates, s: jax.Array | None) -> tuple[Any, Any]:
    """The radius σ on which a step is taken and the factor s/σ of its gradient; None stands for 1.

    Args:
        coordinates: From `checked_coordinates`.
        s: The scale of the weight, broadcasting against `(*lanes)`; None for 1.
    """
    if coordinates == "scaled":
        return s, None
    if coordinates == "unit":
        return None, s
    return coordinates, (1 if s is None else s) / coordinates
