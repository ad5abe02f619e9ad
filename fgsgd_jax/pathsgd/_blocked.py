"""Sums over the masses of a large dense kernel, of which no array is written down.

XLA's CPU compiler multiplies by numbers in memory only, and writing the masses of a kernel that no
cache holds, to read them twice, costs several times what reading the kernel does. Here they are
made block by block, in the cache, once for the sum and once more for its derivative.
"""

import functools

import jax
import jax.numpy as jnp
from jax import lax

from fgsgd_jax import _linalg
from fgsgd_jax.pathsgd import _extended_range

# A kernel of fewer entries than these, with its masses, stays in the cache.
LARGE = 1 << 18
BLOCK = 1 << 18  # entries: a mebibyte in float32


def pays(kernel_size: int, p) -> bool:
    """Whether the masses of a kernel are better not written down."""
    return isinstance(p, (int, float)) and _linalg.on_one_cpu() and kernel_size >= LARGE


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def summed(axis: int, p, units, scale, weight, tap, scale_tap):
    """Σ of units·(scale·|weight|)^p along one axis of a matrix.

    Derivatives are known by `units` and by the taps, as `Kernel` has them.

    Args:
        axis: The axis of the weight that the sum runs over, 0 or 1.
        p: The power, a number.
        units: As long as that axis.
        scale: As long as that axis.
        weight: A matrix.
        tap: Zeros like the weight.
        scale_tap: Zeros like the weight.
    """
    return _along(axis, axis, p, units, scale, weight)


def _forwards(axis, p, units, scale, weight, tap, scale_tap):
    return summed(axis, p, units, scale, weight, tap, scale_tap), (units, scale, weight)


def _backwards(axis, p, kept, derivative):
    units, scale, weight = kept
    of_units = _along(1 - axis, axis, p, derivative, scale, weight)
    on_units, along = lax.expand_dims(units, (1 - axis,)), lax.expand_dims(derivative, (axis,))
    scales = lax.broadcast_in_dim(scale, weight.shape, (axis,))
    return of_units, None, None, on_units * along, scales


summed.defvjp(_forwards, _backwards)


def _along(axis: int, scaled: int, p, factors, scale, weight):
    """Σ along one axis of factors·(scale·|weight|)^p, the scale lying along the axis `scaled`."""
    rows, columns = weight.shape
    length = max(1, BLOCK // columns)
    blocks = rows // length

    def of_rows(start, length, total):
        """The sums with those of some rows."""

        def part(vector):
            return lax.dynamic_slice_in_dim(vector, start, length)

        block_scale = lax.expand_dims(part(scale) if scaled == 0 else scale, (1 - scaled,))
        masses = _extended_range.power_of(block_scale * part(weight), p, wide=False).mantissa
        if axis == 0:
            return total + jnp.matmul(part(factors), masses, precision=lax.Precision.HIGHEST)
        sums = jnp.matmul(masses, factors, precision=lax.Precision.HIGHEST)
        return lax.dynamic_update_slice_in_dim(total, sums, start, 0)

    total = jnp.zeros(columns if axis == 0 else rows, weight.dtype)
    total = lax.fori_loop(0, blocks, lambda i, total: of_rows(i * length, length, total), total)
    return of_rows(blocks * length, rows % length, total) if rows % length else total
