"""Floats with a separate exponent, so that no rescaling of a network overflows its path sums.

The path sum of a unit is Σ ∏|w|^p over all paths that end in the unit. Rescaling a unit by c
multiplies its path sum by c^p and divides |w|^p of its outgoing weights by it, so path sums span
far more powers of two than a float has, although the network computes the same function. A path sum
is therefore stored as m·2^e, with a float m and an integer e. Sums first bring their terms to the
exponent of the largest term. That is itself a rescaling of units, so the relative error of a sum
does not depend on how the units were scaled.

Plain floats (exponent None) are cheaper. There each weight is multiplied by the scale of its input
unit before the power p is taken, so that numbers stay in range as long as the units themselves do.

Derivatives are with respect to mantissas; exponents are constants.
"""

from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import lax

# A zero (a zero weight, a dead unit) has no exponent of its own, but its derivative matters: it is
# the sum over the paths through it. Zeros are given `ZERO_EXPONENT`. In a sum, terms far below the
# largest one underflow to 0, as with any float; a zero whose exponent is above that of the largest
# term keeps its derivative up to a shift of `LARGEST_SHIFT`, and has derivative 0 beyond.
# Derivatives are computed times 2^SEED_EXPONENT. So a float32 holds the derivatives of zeros next
# to path sums of 2^±113 (units scaled by 1e±17 for p = 2), with room for sums of 2^27 terms.
ZERO_EXPONENT = -63
LARGEST_SHIFT = 50
SEED_EXPONENT = 50
LOWEST = np.iinfo(np.int32).min // 4  # below all exponents; a few of them add without overflow


class ScaledFloat(NamedTuple):
    """An array of non-negative numbers mantissa·2^exponent.

    Attributes:
        mantissa: Float array.
        exponent: int32 array of the same shape; None for plain floats.
    """

    mantissa: Any
    exponent: Any


def ones(shape, dtype, *, extended: bool) -> ScaledFloat:
    """An array of ones, with exponents or as plain floats."""
    exponent = jnp.zeros(shape, jnp.int32) if extended else None
    return ScaledFloat(jnp.ones(shape, dtype), exponent)


# --- powers --------------------------------------------------------------------------------------


def abs_power(weight, p, *, extended: bool = True) -> ScaledFloat:
    """|w|^p of every entry.

    Args:
        weight: A float array w.
        p: The power, a number or a scalar array.
        extended: Whether the result has exponents.
    """
    size = jnp.abs(weight)
    if not extended:
        return ScaledFloat(float_power(size, p), None)
    exponent = jnp.where(size > 0, _exponent(size), 0)
    mantissa = size * two_to(-exponent, size.dtype)  # in [1, 2), or 0
    result = _power_of_normalized(ScaledFloat(mantissa, exponent), p)
    return result._replace(exponent=jnp.where(size > 0, result.exponent, ZERO_EXPONENT))


def float_power(x, p):
    """x^p of plain floats x ≥ 0, by multiplications if p is known to be an integer."""
    if isinstance(p, (int, float)) and p == int(p):
        return lax.integer_pow(x, int(p))
    return jnp.power(x, jnp.asarray(p, x.dtype))


def power(x: ScaledFloat, p) -> ScaledFloat:
    """x^p of every entry."""
    if equals(p, 1):
        return x
    if x.exponent is None:
        return ScaledFloat(float_power(x.mantissa, p), None)
    return _power_of_normalized(normalized(x), p)


def _power_of_normalized(x: ScaledFloat, p) -> ScaledFloat:
    """x^p, for x with mantissas in [1, 2), or 0."""
    mantissa, exponent = x
    if isinstance(p, (int, float)) and p == int(p):
        return ScaledFloat(float_power(mantissa, p), int(p) * exponent)
    scaled = jnp.asarray(p, mantissa.dtype) * exponent.astype(mantissa.dtype)
    whole = lax.floor(scaled)
    mantissa = float_power(mantissa, p) * jnp.exp2(scaled - whole)
    return ScaledFloat(mantissa, whole.astype(jnp.int32))


# --- sums, products, comparisons -----------------------------------------------------------------


def times(a: ScaledFloat, b: ScaledFloat) -> ScaledFloat:
    """The product a·b of arrays of equal shape; plain floats broadcast."""
    if a.exponent is None:
        return ScaledFloat(a.mantissa * b.mantissa, None)
    return ScaledFloat(a.mantissa * b.mantissa, a.exponent + b.exponent)


def plus(a: ScaledFloat, b: ScaledFloat) -> ScaledFloat:
    """The sum a + b, with broadcasting."""
    if a.exponent is None:
        return ScaledFloat(a.mantissa + b.mantissa, None)
    mantissas = jnp.stack(jnp.broadcast_arrays(a.mantissa, b.mantissa))
    exponents = jnp.stack(jnp.broadcast_arrays(a.exponent, b.exponent))
    return summed(ScaledFloat(mantissas, exponents), (0,))


def summed(x: ScaledFloat, axes: tuple[int, ...]) -> ScaledFloat:
    """The sums over some axes."""
    if x.exponent is None:
        return ScaledFloat(jnp.sum(x.mantissa, axes), None)
    top = largest_exponent(x, axes)
    return ScaledFloat(jnp.sum(aligned(x, top), axes), jnp.squeeze(top, axes))


def maximum(a: ScaledFloat, b: ScaledFloat) -> ScaledFloat:
    """The larger of two numbers, entry by entry."""
    if a.exponent is None:
        return ScaledFloat(jnp.maximum(a.mantissa, b.mantissa), None)
    a, b = normalized(a), normalized(b)
    top = jnp.maximum(a.exponent, b.exponent)
    return ScaledFloat(jnp.maximum(aligned(a, top), aligned(b, top)), top)


def largest_exponent(x: ScaledFloat, axes: tuple[int, ...]):
    """The largest exponent over some axes, which keep size 1; zeros count only among zeros."""
    top = jnp.max(jnp.where(x.mantissa > 0, x.exponent, LOWEST), axes, keepdims=True)
    top_of_zeros = jnp.max(x.exponent, axes, keepdims=True)
    return jnp.where(top > LOWEST, top, top_of_zeros)


def aligned(x: ScaledFloat, exponent):
    """The mantissas of the same numbers at another exponent."""
    shift = x.exponent - exponent
    factor = two_to(shift, x.mantissa.dtype)
    return x.mantissa * jnp.where(shift <= LARGEST_SHIFT, factor, 0)


def normalized(x: ScaledFloat) -> ScaledFloat:
    """The same numbers with mantissas in [1, 2), or 0."""
    shift = jnp.where(x.mantissa > 0, _exponent(x.mantissa), 0)
    return ScaledFloat(x.mantissa * two_to(-shift, x.mantissa.dtype), x.exponent + shift)


# --- back to floats ------------------------------------------------------------------------------


def to_float(x: ScaledFloat):
    """The numbers as floats; 0 or infinity where they are out of range."""
    x = normalized(x)
    half = x.exponent // 2  # in two steps: 2^exponent can overflow although the product does not
    return x.mantissa * two_to(half, x.mantissa.dtype) * two_to(x.exponent - half, x.mantissa.dtype)


def divided(array, by: ScaledFloat):
    """array/by; 0 where `by` is 0, except that NaN stays NaN."""
    mantissa, exponent = normalized(by)
    nonzero = mantissa > 0
    half = exponent // 2
    # By multiplication, so that NaN stays NaN where `by` is 0, too.
    inverse = jnp.where(nonzero, 1 / jnp.where(nonzero, mantissa, 1), 0)
    scaled = array * inverse * two_to(-half, mantissa.dtype)
    return scaled * two_to(half - exponent, mantissa.dtype)


# --- plain floats --------------------------------------------------------------------------------


def without_scale(x, p, axes: tuple[int, ...]):
    """Factors plain floats x ≥ 0 as m·s^p, with m ≤ 1.

    Args:
        x: The floats.
        p: The power.
        axes: Axes along which s is constant.

    Returns:
        m, and s with size 1 in `axes`.
    """
    largest = lax.stop_gradient(jnp.max(x, axes, keepdims=True))
    largest = jnp.where(largest > 0, largest, 1)
    # XLA recomputes sums and products for every weight that uses them, but not a square root.
    scale = lax.sqrt(largest) if equals(p, 2) else float_power(largest, 1 / p)
    return x / largest, scale


def divided_by_scales(array, derivative, scale, p):
    """The array over κ = (derivative·scale^p)^{2/p}; 0 where κ is 0, except that NaN stays NaN.

    κ itself can be out of range of a float, so it is never computed. A scale of 0 stands for 1.
    """
    root = derivative if equals(p, 2) else float_power(derivative, 1 / p)
    invertible = root >= jnp.finfo(root.dtype).tiny  # 1/root would be infinite below
    inverse = jnp.where(invertible, 1 / jnp.where(invertible, root, 1), 0)
    quotient = array * inverse if equals(p, 2) else array * inverse * inverse
    inverse_scale = 1 / jnp.where(scale > 0, scale, 1)
    return quotient * inverse_scale * inverse_scale


def equals(p, number: float) -> bool:
    """Whether the power p is known to be this number; a traced p is not known."""
    return isinstance(p, (int, float)) and p == number


# --- the bits of a float -------------------------------------------------------------------------


def _layout(dtype):
    """The bits of the mantissa, the bias of the exponent and the integer type of a float type."""
    if dtype == jnp.float64:
        return 52, 1023, jnp.int64
    return 23, 127, jnp.int32


def _exponent(x):
    """⌊log₂ x⌋ of normal x > 0; for 0 and subnormal x, one less than the smallest normal one."""
    bits, bias, integers = _layout(x.dtype)
    field = lax.bitcast_convert_type(lax.stop_gradient(x), integers) >> bits
    return (field & (2 * bias + 1)).astype(jnp.int32) - bias


def two_to(exponent, dtype):
    """2^exponent, exactly; 0 below the normal range, the largest power of two above it."""
    bits, bias, integers = _layout(dtype)
    field = jnp.clip(exponent + bias, 0, 2 * bias).astype(integers)
    return lax.bitcast_convert_type(field << bits, dtype)
