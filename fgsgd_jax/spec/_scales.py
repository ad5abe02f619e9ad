"""Scales: how long a component is, s = γ/λ.

Geometry knows weights θ at unit scale only; a layer holds W = s·θ. The two factors of s are

    γ   chosen once: a number or array, or from the shape of the weight,
        γ = (b + b̂)^−½, b = A·B·C its fan-in and b̂ its fan-out ("geometric")
    λ   the standard deviation of the features that enter a component, one for each input channel:
        1 until it is measured, then held for an epoch

The fan-out is A·B·D, as Glorot and Bengio count it, or, where the size H·W of the map that the
layer gives is known, H·W·D, as eq. (2) has it.

References:
    Ozay, *Fine-grained optimization of deep neural networks*, NeurIPS 2019, section 3, eq. (2).
"""

import dataclasses
import math
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from fgsgd_jax.spec._components import Component


@dataclasses.dataclass(frozen=True)
class Numbers:
    """An array that can be compared and hashed, for γ given lane by lane."""

    shape: tuple[int, ...]
    content: bytes

    @classmethod
    def of(cls, array: np.ndarray) -> "Numbers":
        """The numbers of an array, in float64."""
        return cls(array.shape, array.astype(np.float64).tobytes())

    def array(self) -> np.ndarray:
        """The array again."""
        return np.frombuffer(self.content, np.float64).reshape(self.shape)


Gamma = float | Numbers | None
ScaleRequest = Literal["geometric"] | float | Numbers | None


def requested(scale: Any) -> ScaleRequest:
    """What a user asked for, hashable.

    Raises:
        ValueError: If it is neither None, "geometric" nor positive numbers, as a sentence.
    """
    if scale is None or (isinstance(scale, str) and scale == "geometric"):
        return scale
    try:
        array = np.asarray(scale, np.float64)
    except (TypeError, ValueError):
        array = np.array(math.nan)
    if isinstance(scale, (str, bool)) or not np.all(np.isfinite(array) & (array > 0)):
        raise ValueError(
            "A scale is None (1), 'geometric', or a positive number or array of them, one for each "
            f"component, not {scale!r}."
        )
    return float(array) if array.ndim == 0 else Numbers.of(array)


def gamma(
    request: ScaleRequest, component: Component, shape: tuple[int, ...], map_size: int | None
) -> Gamma:
    """The γ of a weight; None where it is 1 and no λ will ever divide it.

    Args:
        request: As `requested` gives it.
        component: The cut of the weight.
        shape: The shape of the weight.
        map_size: H·W of the feature map that the layer gives, for the b̂ of eq. (2); None counts
            the fan-out instead.

    Raises:
        ValueError: If an array does not fit the components, as a sentence without the path.
    """
    if request == "geometric":
        b, fan_out, outputs = fans(component, shape)
        return (b + (fan_out if map_size is None else map_size * outputs)) ** -0.5
    if isinstance(request, Numbers):
        lanes = component.points_shape(shape)[2:]
        fits = len(request.shape) <= len(lanes) and all(
            size in (1, lane)
            for size, lane in zip(reversed(request.shape), reversed(lanes), strict=False)
        )
        if not fits:
            raise ValueError(
                f"has components along {lanes}, over which a scale of shape {request.shape} cannot "
                "be spread; give a number, or an array of this shape with axes of length 1 where "
                "it does not vary"
            )
    return request


def fans(component: Component, shape: tuple[int, ...]) -> tuple[int, int, int]:
    """Fan-in A·B·C, fan-out A·B·D and D of a weight, or of one of its stacked layers.

    Output channels are the axes that count components over them, else the columns; input channels
    the axes that count components over them, else the last axis that is left, as in (A, B, C, D).
    """

    def size(axes):
        return math.prod(shape[axis] for axis in axes)

    outputs = component.outputs or component.columns
    left = [axis for axis in component.rows + component.columns if axis not in outputs]
    inputs = component.inputs or tuple(sorted(left)[-1:])
    every = size(component.rows + component.columns + component.inputs + component.outputs)
    return every // size(outputs), every // size(inputs), size(outputs)


# --- the length on which steps are taken -----------------------------------------------------

Coordinates = Literal["unit", "scaled"] | float
"""The radius σ of the manifolds on which a step is taken: 1, s, or a number."""


def checked_coordinates(coordinates: Any) -> Coordinates:
    """The coordinates in a form that can be hashed.

    Raises:
        ValueError: If they are not "unit", "scaled" or a positive number.
    """
    if isinstance(coordinates, str) and coordinates in ("unit", "scaled"):
        return coordinates  # pyright: ignore[reportReturnType]
    if isinstance(coordinates, jax.Array):
        raise ValueError(
            "The coordinates of a step have to be known when the optimizer is built, and were "
            "given as an array; give a Python number, to optax.inject_hyperparams with "
            "static_args=('coordinates',)."
        )
    if not _is_positive(coordinates):
        raise ValueError(
            "The coordinates of a step are 'unit', 'scaled' or a positive number, the radius of "
            f"the manifolds it is taken on, not {coordinates!r}."
        )
    return float(coordinates)


def _is_positive(number: Any) -> bool:
    """Whether something is a finite number above 0."""
    known = isinstance(number, (int, float, np.integer, np.floating, jax.Array))
    single = known and not isinstance(number, bool) and np.ndim(number) == 0
    return single and 0 < float(number) < math.inf


def step_radius(coordinates: Coordinates, s: jax.Array | None) -> tuple[Any, Any]:
    """The radius σ on which a step is taken, and the factor s/σ of its gradient; None for 1."""
    if coordinates == "scaled":
        return s, None
    if coordinates == "unit":
        return None, s
    return coordinates, (1 if s is None else s) / coordinates


# --- λ, as it was measured -----------------------------------------------------------------------


def checked_feature_std(
    path: str,
    given: Any,
    shape: tuple[int, ...],
    min_std: float | None = None,
    pooled: bool = False,
) -> jax.Array:
    """λ of a weight in the shape its layer wants, after a look at the values where they are known.

    A component that holds several input channels has one λ, the root of their mean variance.

    Args:
        path: The path of the weight, for messages.
        given: Standard deviations, one for each input channel, or one for all.
        shape: `LeafSpec.feature_channels`.
        min_std: Smaller ones are raised to this.
        pooled: Whether all channels get one λ, whatever a component holds.

    Raises:
        ValueError: If there are not as many as input channels, or some are NaN, infinite, negative,
            or zero where `min_std` does not raise them; if `min_std` is no positive number.
    """
    if not (min_std is None or isinstance(min_std, Tracer) or _is_positive(min_std)):
        raise ValueError(
            "min_std, the least standard deviation to divide by, is a positive number or None for "
            f"none, not {min_std!r}."
        )
    stds = jnp.asarray(given)
    if not jnp.issubdtype(stds.dtype, jnp.floating):
        stds = stds.astype(float)
    if stds.ndim > 1 or (stds.ndim and shape and stds.shape != shape):
        wanted = f"the {shape[0]} input channels" if shape else "every input channel, or one"
        raise ValueError(
            f"{path!r} got feature standard deviations of shape {stds.shape}; give one for "
            f"{wanted}, as feature_std of fgsgd_jax.nnx or fgsgd_jax.linen measures them."
        )
    if not isinstance(stds, Tracer):
        _check_values(path, np.atleast_1d(np.asarray(stds, np.float64)), min_std)
    if min_std is not None:
        stds = jnp.maximum(stds, min_std)
    if stds.ndim and (pooled or not shape):
        stds = jnp.sqrt(jnp.mean(stds**2))
    return jnp.broadcast_to(stds, shape)


def _check_values(path: str, stds: np.ndarray, min_std: float | None) -> None:
    positive = stds > 0 if min_std is None else stds >= 0
    bad = np.flatnonzero(~(positive & np.isfinite(stds)))
    if len(bad) == 0:
        return
    worst = stds[bad[0]]
    cure = (
        "Features that never change have none: give min_std=, the least standard deviation to "
        "divide by."
        if worst == 0
        else "Look at the model's features there."
    )
    raise ValueError(
        f"{path!r} got {len(bad)} feature standard deviations of {len(stds)} that are not positive "
        f"numbers; that of input channel {bad[0]} is {worst:g}. {cure}"
    )
