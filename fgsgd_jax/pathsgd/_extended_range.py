"""Masses: what the paths into a unit weigh, in a number format that no rescaling overflows.

The mass of a unit is the sum over all paths that end in it of ∏|w|^p. Rescaling a unit by c takes
c^p into its mass and out of those of its outgoing weights, so masses range over far more powers of
two than a float has, though the network computes the same. A mass is therefore a mantissa m and a
whole exponent e of its own, m·2^e. Sums bring their terms to the exponent of the largest one, which
is what a rescaling of units does, so no sum depends on how the units were scaled before.

A pass on plain floats, which is cheaper, has no exponents: there weights are multiplied by the size
of the units they stand on before the power p, which keeps all within floats that the units fit in.

Derivatives are taken with respect to mantissas; exponents are constants.
"""

from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.core import Tracer

# A zero (of a dead unit, a zero weight) has no size to take an exponent from, but its derivative
# counts: how many paths would run through it. Terms of a sum below the largest are dropped where
# they vanish, as in any float; zeros above it have a finite derivative up to `LARGEST_SHIFT`, none
# beyond. With derivatives magnified by `SEED`, a float32 holds those of zeros among masses of
# 2^±113 (units scaled by 1e±17, for p = 2), and leaves room for 2^27 terms.
ZERO_EXPONENT = -63
LARGEST_SHIFT = 50
SEED_EXPONENT = 50
LOWEST = np.iinfo(np.int32).min // 4  # an exponent below all others, with room to add some


class Mass(NamedTuple):
    """An array of non-negative numbers mantissa·2^exponent.

    Attributes:
        mantissa: Float array.
        exponent: int32 array of the same shape; None in a pass on plain floats.
    """

    mantissa: Any
    exponent: Any


def power_of(weight, p, *, wide: bool = True) -> Mass:
    """|w|^p.

    Args:
        weight: A float array w.
        p: The power, a number or a scalar array.
        wide: Whether the masses have exponents.
    """
    size = jnp.abs(weight)
    if not wide:
        return Mass(_power(size, p), None)
    exponent = jnp.where(size > 0, _exponent(size), 0)
    mantissa = size * two_to(-exponent, size.dtype)  # in [1, 2), or 0
    mass = _raised(Mass(mantissa, exponent), p)
    return mass._replace(exponent=jnp.where(size > 0, mass.exponent, ZERO_EXPONENT))


def _power(x, power):
    if isinstance(power, (int, float)) and power == int(power):
        return lax.integer_pow(x, int(power))
    return jnp.power(x, jnp.asarray(power, x.dtype))


def raised(mass: Mass, power) -> Mass:
    """The mass to a power."""
    if isinstance(power, (int, float)) and power == 1:
        return mass
    return _raised(normalized(mass), power)


def _raised(mass: Mass, power) -> Mass:
    """The power of a mass with its mantissa in [1, 2), or 0."""
    mantissa, exponent = mass
    if isinstance(power, (int, float)) and power == int(power):
        return Mass(_power(mantissa, power), int(power) * exponent)
    scaled = jnp.asarray(power, mantissa.dtype) * exponent.astype(mantissa.dtype)
    whole = lax.floor(scaled)
    mantissa = _power(mantissa, power) * jnp.exp2(scaled - whole)
    return Mass(mantissa, whole.astype(jnp.int32))


def normalized(mass: Mass) -> Mass:
    """The same masses with mantissas in [1, 2), or 0."""
    shift = jnp.where(mass.mantissa > 0, _exponent(mass.mantissa), 0)
    return Mass(mass.mantissa * two_to(-shift, mass.mantissa.dtype), mass.exponent + shift)


def number(mass: Mass):
    """The masses as floats; 0 or infinite where a float has no such number."""
    mass = normalized(mass)
    half = mass.exponent // 2  # in two steps, as 2^exponent may overflow where the product does not
    return (
        mass.mantissa
        * two_to(half, mass.mantissa.dtype)
        * two_to(mass.exponent - half, mass.mantissa.dtype)
    )


def without_scales(masses, p, axes: tuple[int, ...]):
    """Floats as m·s^p, with m at most 1 and s the same along some axes, which keep size 1 in s."""
    largest = lax.stop_gradient(jnp.max(masses, axes, keepdims=True))
    largest = jnp.where(largest > 0, largest, 1)
    # A root, unlike sums and products, is nothing that XLA computes again for every weight.
    scale = lax.sqrt(largest) if _is(p, 2) else _power(largest, 1 / p)
    return masses / largest, scale


def divided_plainly(array, derivative, scale, p):
    """The array over κ = (derivative·scale^p)^{2/p}; 0 where κ is 0, unless the array is NaN there.

    κ itself may be no float, so it is never formed. A scale of 0 stands for 1.
    """
    root = derivative if _is(p, 2) else _power(derivative, 1 / p)
    alive = root >= jnp.finfo(root.dtype).tiny  # what is less has no finite inverse
    inverse = jnp.where(alive, 1 / jnp.where(alive, root, 1), 0)
    quotient = array * inverse if _is(p, 2) else array * inverse * inverse
    back = 1 / jnp.where(scale > 0, scale, 1)
    return quotient * back * back


def _is(p, value: float) -> bool:
    return isinstance(p, (int, float)) and p == value


def divided(array, mass: Mass):
    """The array over the masses; 0 where a mass is 0, unless the array is NaN there."""
    mantissa, exponent = normalized(mass)
    alive = mantissa > 0
    half = exponent // 2
    # By multiplication, so that NaN stays NaN in dead places, too.
    inverse = jnp.where(alive, 1 / jnp.where(alive, mantissa, 1), 0)
    scaled = array * inverse * two_to(-half, mantissa.dtype)
    return scaled * two_to(half - exponent, mantissa.dtype)


def times(a: Mass, b: Mass) -> Mass:
    if a.exponent is None:
        return Mass(a.mantissa * b.mantissa, None)
    return Mass(a.mantissa * b.mantissa, a.exponent + b.exponent)


def plus(a: Mass, b: Mass) -> Mass:
    """The sum, with broadcasting."""
    if a.exponent is None:
        return Mass(a.mantissa + b.mantissa, None)
    both = [Mass(*jnp.broadcast_arrays(*terms)) for terms in zip(a, b, strict=True)]
    stacked = Mass(*(jnp.stack(part) for part in both))
    return summed(Mass(stacked.mantissa, stacked.exponent), (0,))


def summed(mass: Mass, axes: tuple[int, ...]) -> Mass:
    """The sums over some axes."""
    if mass.exponent is None:
        return Mass(jnp.sum(mass.mantissa, axes), None)
    top = largest_exponent(mass, axes)
    mantissa = aligned(mass, top)
    return Mass(jnp.sum(mantissa, axes), jnp.squeeze(top, axes))


def largest_exponent(mass: Mass, axes: tuple[int, ...]):
    """The exponent that a sum over some axes is brought to; these axes keep size 1.

    Zeros have a say only where nothing else is.
    """
    alive = mass.mantissa > 0
    top = jnp.max(jnp.where(alive, mass.exponent, LOWEST), axes, keepdims=True)
    idle = jnp.max(mass.exponent, axes, keepdims=True)
    return jnp.where(top > LOWEST, top, idle)


def aligned(mass: Mass, exponent):
    """The mantissas of the same masses at another exponent."""
    shift = mass.exponent - exponent
    factor = two_to(shift, mass.mantissa.dtype)
    return mass.mantissa * jnp.where(shift <= LARGEST_SHIFT, factor, 0)


def largest(a: Mass, b: Mass) -> Mass:
    """The larger of two masses, elementwise."""
    if a.exponent is None:
        return Mass(jnp.maximum(a.mantissa, b.mantissa), None)
    a, b = normalized(a), normalized(b)
    top = jnp.maximum(a.exponent, b.exponent)
    return Mass(jnp.maximum(aligned(a, top), aligned(b, top)), top)


# --- floats as mantissa and exponent -------------------------------------------------------------


def _layout(dtype):
    """The bits of the mantissa, the bias of the exponent, and the integers of a float type."""
    if dtype == jnp.float64:
        return 52, 1023, jnp.int64
    return 23, 127, jnp.int32


def _exponent(x):
    """⌊log₂ x⌋ for normal x > 0; for 0 and denormal numbers the exponent below all normal ones."""
    bits, bias, integers = _layout(x.dtype)
    field = lax.bitcast_convert_type(lax.stop_gradient(x), integers) >> bits
    return (field & (2 * bias + 1)).astype(jnp.int32) - bias


def two_to(exponent, dtype):
    """2^exponent, exactly; 0 or the largest power where that is no normal number."""
    bits, bias, integers = _layout(dtype)
    field = jnp.clip(exponent + bias, 0, 2 * bias).astype(integers)
    return lax.bitcast_convert_type(field << bits, dtype)


def ones(shape, dtype, *, wide: bool) -> Mass:
    return Mass(jnp.ones(shape, dtype), jnp.zeros(shape, jnp.int32) if wide else None)


def is_concrete(value) -> bool:
    """Whether an array's numbers are known while a function is traced."""
    return not isinstance(value, Tracer)
