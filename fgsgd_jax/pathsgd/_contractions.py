"""Path sums through matrix products and convolutions: Σ over inputs of unit·|w|^p.

The units that one sum runs over can differ in scale by more than a float's range. So the units are
divided by a scale for each input, and the weights of that input are multiplied by it, before they
are taken to the power p (plain floats) or in their exponents (extended range).
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from fgsgd_jax.pathsgd import _blocked, _extended_range
from fgsgd_jax.pathsgd._extended_range import ScaledFloat
from fgsgd_jax.pathsgd._values import (
    Kernel,
    PathSums,
    Setting,
    Unsupported,
    any_on_input,
    kernel_of,
    path_sums_of,
)

# --- matrix products -----------------------------------------------------------------------------


class _Axes(NamedTuple):
    """The axes of one operand of a `dot_general`; `batch` axes are shared, but not summed over."""

    summed: tuple[int, ...]
    batch: tuple[int, ...]
    free: tuple[int, ...]


def _axes_of(numbers, side: int, ndim: int) -> _Axes:
    summed, batch = (tuple(axes[side]) for axes in numbers)
    return _Axes(summed, batch, tuple(a for a in range(ndim) if a not in (*summed, *batch)))


def contract(setting: Setting, params, bind, a, b) -> PathSums:
    """The rule of `dot_general`, between units and weights or between weights."""
    if any_on_input(a) and any_on_input(b):
        raise Unsupported("multiplies units with units")
    numbers = params["dimension_numbers"]
    operands = [path_sums_of(setting, a), path_sums_of(setting, b)]
    axes = [_axes_of(numbers, side, x.mantissa.ndim) for side, x in enumerate(operands)]
    units, weights = (1, 0) if any_on_input(b) else (0, 1)
    kernel = kernel_of((a, b)[weights])
    mantissas = [operand.mantissa for operand in operands]
    exponent: Any = None
    if setting.extended or kernel:
        mantissas[units], scale = _without_scale(setting, operands[units], axes[units].free)
        scale = jnp.squeeze(scale, axes[units].free)
        if kernel and _use_blocks(setting, kernel, axes[weights], mantissas[units].size):
            vectors = mantissas[units].ravel(), scale.ravel()
            (axis,) = axes[weights].summed
            sums: Any = _blocked.product(axis, setting.p, *vectors, *kernel)
            sums = sums.reshape(_product_shape(mantissas, axes))
            return PathSums(ScaledFloat(sums, None), any_on_input(a, b))
        shape = mantissas[weights].shape
        scale = _scale_of_weights(scale, axes[units], axes[weights], shape)
        mantissas[weights], exponent = _with_scale(
            setting, operands[weights], kernel, scale, axes[weights].summed
        )
    product = lax.dot_general(mantissas[0], mantissas[1], numbers, precision=lax.Precision.HIGHEST)
    if setting.extended:
        exponent = _exponent_of_product(exponent, axes, weights, product.shape)
    return PathSums(ScaledFloat(product, exponent), any_on_input(a, b))


def _use_blocks(setting: Setting, kernel: Kernel, axes: _Axes, unit_count: int) -> bool:
    """Whether the product is of a matrix with a vector of units, and faster in blocks."""
    shape = kernel.weight.shape
    by_vector = len(shape) == 2 and [shape[axis] for axis in axes.summed] == [unit_count]
    return by_vector and not setting.extended and _blocked.is_faster(kernel.weight.size, setting.p)


def _product_shape(arrays: list, axes: list[_Axes]) -> list[int]:
    """The shape of a product: the batch axes, then the free axes of both operands."""
    (left, right), (of_left, of_right) = arrays, axes
    shape = [left.shape[axis] for axis in (*of_left.batch, *of_left.free)]
    return shape + [right.shape[axis] for axis in of_right.free]


def _scale_of_weights(scale, units: _Axes, weights: _Axes, shape):
    """The scale of the unit that each weight is multiplied with, in the shape of the weights."""
    scale = jnp.transpose(scale, _ranks((*units.batch, *units.summed)))
    return lax.broadcast_in_dim(scale, shape, (*weights.batch, *weights.summed))


def _exponent_of_product(exponent, axes: list[_Axes], weights: int, shape):
    """The exponents of the weights' free and batch axes, in the shape of the product."""
    own = axes[weights]
    # The axes of a product are the batch axes, the free axes of a, and the free axes of b.
    batch = range(len(own.batch))
    start = len(own.batch) + (len(axes[0].free) if weights == 1 else 0)
    exponent = jnp.squeeze(exponent, own.summed)
    exponent = jnp.transpose(exponent, _ranks((*own.batch, *own.free)))
    return lax.broadcast_in_dim(exponent, shape, (*batch, *range(start, start + len(own.free))))


def _ranks(axes: tuple[int, ...]) -> tuple[int, ...]:
    """The permutation that brings these axes of an array without the others into this order."""
    return tuple(sorted(axes).index(axis) for axis in axes)


# --- convolutions --------------------------------------------------------------------------------


def convolve(setting: Setting, params, bind, units, kernel) -> PathSums:
    """The rule of `conv_general_dilated`, of units with weights."""
    if any_on_input(kernel):
        raise Unsupported("convolves with units")
    if params["batch_group_count"] != 1:
        raise Unsupported("convolves groups of a batch")
    numbers, groups = params["dimension_numbers"], params["feature_group_count"]
    inputs, weights = path_sums_of(setting, units), path_sums_of(setting, kernel)
    mantissa, weight_mantissa = inputs.mantissa, weights.mantissa
    exponent: Any = None
    if setting.extended or kernel_of(kernel):
        channel = numbers.lhs_spec[1]
        other_axes = tuple(axis for axis in range(mantissa.ndim) if axis != channel)
        mantissa, scale = _without_scale(setting, inputs, other_axes)
        scale = _scale_of_convolution(scale, weights.mantissa.shape, numbers, groups)
        output = numbers.rhs_spec[0]
        over = tuple(axis for axis in range(weight_mantissa.ndim) if axis != output)
        weight_mantissa, exponent = _with_scale(setting, weights, kernel_of(kernel), scale, over)
    product = lax.conv_general_dilated(
        mantissa,
        weight_mantissa,
        params["window_strides"],
        params["padding"],
        params["lhs_dilation"],
        params["rhs_dilation"],
        numbers,
        groups,
        precision=lax.Precision.HIGHEST,
    )
    if setting.extended:
        channel = (numbers.out_spec[1],)
        exponent = lax.broadcast_in_dim(exponent.reshape(-1), product.shape, channel)
    return PathSums(ScaledFloat(product, exponent), any_on_input(units, kernel))


def _scale_of_convolution(scale, shape, numbers, groups: int):
    """The scale of each input channel, in the shape of the weights of a grouped convolution."""
    outputs = shape[numbers.rhs_spec[0]]
    scale = scale.reshape(groups, 1, -1)
    # An output channel uses the input channels of its own group.
    scale = jnp.repeat(scale, outputs // groups, axis=1).reshape(outputs, -1)
    return lax.broadcast_in_dim(scale, shape, numbers.rhs_spec[:2])


# --- scales: taken from the units, given to the weights ------------------------------------------


def _without_scale(setting: Setting, units: ScaledFloat, axes: tuple[int, ...]):
    """The mantissas of the units at a common scale along some axes, and the scales.

    A scale is an exponent in extended range. On plain floats it is a factor s of |w|, so the path
    sums are divided by s^p. The scales have size 1 in `axes`.
    """
    if not setting.extended:
        return _extended_range.without_scale(units.mantissa, setting.p, axes)
    units = _extended_range.normalized(units)
    exponent = _extended_range.largest_exponent(units, axes)
    return _extended_range.aligned(units, exponent), exponent


def _with_scale(
    setting: Setting, weights: ScaledFloat, kernel: Kernel | None, scale, over: tuple[int, ...]
):
    """The mantissas of the weights with the scales of their units, and the exponents of the sums.

    Args:
        setting: The setting.
        weights: |w|^p.
        kernel: w, on plain floats.
        scale: The scale of the unit of each weight, in the shape of the weights.
        over: The axes of the weights that are summed over.
    """
    if kernel is None or setting.extended:
        scaled = ScaledFloat(weights.mantissa, weights.exponent + scale)
        exponent = _extended_range.largest_exponent(scaled, over)
        return _extended_range.aligned(scaled, exponent), exponent
    # (s·|w|)^p rather than s^p·|w|^p, whose factors can be out of range where their product is not.
    scaled = _extended_range.abs_power(scale * kernel.weight, setting.p, extended=False).mantissa
    return _with_derivatives(scaled, kernel.perturbation, kernel.scale_slot, scale), None


@jax.custom_vjp
def _with_derivatives(scaled, perturbation, scale_slot, scale):
    """(s·|w|)^p, with the derivatives that the attributes of `Kernel` describe."""
    return scaled


def _forward(scaled, perturbation, scale_slot, scale):
    return scaled, scale


def _backward(scale, derivative):
    return None, derivative, scale, None


_with_derivatives.defvjp(_forward, _backward)
