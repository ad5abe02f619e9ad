"""The features that enter a kernel, read from the convolution or matrix product that applies it."""

import dataclasses
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from fgsgd_jax.features._provenance import Provenance, Value


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class KernelUse:
    """One application of a kernel to features, with a statistic of these features.

    Attributes:
        path: The path of the kernel.
        axes: For each axis of the statistic, the axis of the kernel that it runs over; `POOLED` for
            an axis that runs over the steps of a scan that uses the same kernel in each.
        positions: The number of feature vectors: examples times positions of the feature map.
        outputs: The number of output vectors: examples times positions of the output's map.
        statistic: A tree of arrays with the axes `axes`, or None.
    """

    path: str = dataclasses.field(metadata={"static": True})
    axes: tuple[int, ...] = dataclasses.field(metadata={"static": True})
    positions: int = dataclasses.field(metadata={"static": True})
    outputs: int = dataclasses.field(metadata={"static": True})
    statistic: Any


class FeatureVectors(NamedTuple):
    """The features that enter a kernel, as vectors.

    Attributes:
        vectors: An array `(positions, *channels)`.
        operand_axes: The axes of the equation's kernel operand that the channels run over.
        outputs: The number of output vectors.
    """

    vectors: jax.Array
    operand_axes: list[int]
    outputs: int


def entering_product(eqn, features: jax.Array, *, features_first: bool) -> FeatureVectors:
    """The features that a `dot_general` multiplies with a kernel.

    Args:
        eqn: The equation.
        features: The operand that is not the kernel.
        features_first: Whether that is the first operand.
    """
    contracted, batched = eqn.params["dimension_numbers"]
    of_features, of_kernel = (0, 1) if features_first else (1, 0)
    # Axes that both share, contracted or batched, are channels, in the order of the kernel's axes.
    pairs = sorted(
        pair
        for axes in (contracted, batched)
        for pair in zip(axes[of_kernel], axes[of_features], strict=True)
    )
    channel_axes = [axis for _, axis in pairs]
    other_axes = [axis for axis in range(features.ndim) if axis not in channel_axes]
    positions = math.prod(features.shape[axis] for axis in other_axes)
    vectors = jnp.transpose(features, other_axes + channel_axes)
    vectors = vectors.reshape(positions, *vectors.shape[len(other_axes) :])
    return FeatureVectors(vectors, [axis for axis, _ in pairs], positions)


def entering_convolution(eqn, features: Value) -> FeatureVectors:
    """The features that a `conv_general_dilated` multiplies with a kernel, without padding."""
    numbers, groups = eqn.params["dimension_numbers"], eqn.params["feature_group_count"]
    batch_axis, channel_axis = numbers.lhs_spec[:2]
    x, unpadded = features.array, features.unpadded
    if unpadded is not None and all(
        unpadded.shape[axis] == x.shape[axis] for axis in (batch_axis, channel_axis)
    ):
        x = unpadded
    x = jnp.moveaxis(x, channel_axis, -1)
    # The kernel of a grouped convolution has one group's channels and is applied to every group.
    vectors = x.reshape(-1, x.shape[-1] // groups)
    out_shape, out_spec = eqn.outvars[0].aval.shape, numbers.out_spec
    outputs = math.prod(out_shape[axis] for axis in (out_spec[0], *out_spec[2:]))
    return FeatureVectors(vectors, [numbers.rhs_spec[1]], outputs)


def kernel_use(kernel: Provenance, features: FeatureVectors, statistic: Callable) -> KernelUse:
    """One use of a kernel, with the statistic of the features over the kernel's own axes."""
    vectors = features.vectors
    axes = tuple(axis for operand in features.operand_axes for axis in kernel.axes[operand])
    vectors = vectors.reshape(len(vectors), *(kernel.shape[axis] for axis in axes))
    return KernelUse(
        kernel.path, kernel.scan_axes + axes, len(vectors), features.outputs, statistic(vectors)
    )
