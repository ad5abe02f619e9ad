"""Products of a vector with |w|^p of a large matrix, without storing |w|^p.

XLA's CPU compiler multiplies matrices only from memory. Writing |w|^p of a matrix that is larger
than the cache, and reading it twice, takes several times as long as reading the matrix. Here |w|^p
is computed block by block in the cache, once for the product and once more for its derivative. On
other platforms it is an ordinary product.
"""

import functools

import jax
import jax.numpy as jnp
from jax import lax

from fgsgd_jax import _xla_cpu
from fgsgd_jax.pathsgd import _extended_range

LARGE_SIZE = 1 << 18  # a matrix of fewer entries stays in the cache, together with |w|^p
BLOCK_SIZE = 1 << 18  # entries: one mebibyte in float32


def is_faster(kernel_size: int, p) -> bool:
    """Whether a matrix of this many entries is better multiplied in blocks."""
    known = isinstance(p, (int, float))
    return known and kernel_size >= LARGE_SIZE and _xla_cpu.on_single_device()


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def product(axis: int, p, units, scale, weight, perturbation, scale_slot):
    """Σ of units·(scale·|weight|)^p along one axis of a matrix.

    Differentiable by `units`, and by `perturbation` and `scale_slot` as `Kernel` describes.

    Args:
        axis: The axis of the weight that the sum runs over, 0 or 1.
        p: The power, a number.
        units: A vector as long as that axis.
        scale: A vector as long as that axis.
        weight: A matrix.
        perturbation: Zeros like the weight.
        scale_slot: Zeros like the weight.
    """
    return _sum(axis, axis, p, units, scale, weight)


def _forward(axis, p, units, scale, weight, perturbation, scale_slot):
    result = product(axis, p, units, scale, weight, perturbation, scale_slot)
    return result, (units, scale, weight)


def _backward(axis, p, residuals, derivative):
    units, scale, weight = residuals
    by_units = _sum(1 - axis, axis, p, derivative, scale, weight)
    outer = lax.expand_dims(units, (1 - axis,)) * lax.expand_dims(derivative, (axis,))
    scales = lax.broadcast_in_dim(scale, weight.shape, (axis,))
    return by_units, None, None, outer, scales


product.defvjp(_forward, _backward)


def _sum(axis: int, scale_axis: int, p, factors, scale, weight):
    """Σ along one axis of factors·(scale·|weight|)^p, the scale lying along `scale_axis`."""

    def in_blocks(factors, scale, weight):
        return _in_blocks(axis, scale_axis, p, factors, scale, weight, BLOCK_SIZE)

    def at_once(factors, scale, weight):
        return _in_blocks(axis, scale_axis, p, factors, scale, weight, weight.size)

    return lax.platform_dependent(factors, scale, weight, cpu=in_blocks, default=at_once)


def _in_blocks(axis: int, scale_axis: int, p, factors, scale, weight, block_size: int):
    """The same, from blocks of rows."""
    rows, columns = weight.shape
    length = max(1, block_size // columns)
    blocks = rows // length

    def add_rows(start, length, total):
        """The result with the contribution of some rows."""

        def part(array):
            return lax.dynamic_slice_in_dim(array, start, length)

        block_scale = part(scale) if scale_axis == 0 else scale
        block_scale = lax.expand_dims(block_scale, (1 - scale_axis,))
        block = _extended_range.abs_power(block_scale * part(weight), p, extended=False).mantissa
        if axis == 0:
            return total + jnp.matmul(part(factors), block, precision=lax.Precision.HIGHEST)
        sums = jnp.matmul(block, factors, precision=lax.Precision.HIGHEST)
        return lax.dynamic_update_slice_in_dim(total, sums, start, 0)

    total = jnp.zeros(columns if axis == 0 else rows, weight.dtype)
    total = lax.fori_loop(0, blocks, lambda i, total: add_rows(i * length, length, total), total)
    return add_rows(blocks * length, rows % length, total) if rows % length else total
