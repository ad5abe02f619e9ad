"""Sums and products of many small matrices: inner products, Gram matrices, matrix products.

Small matrices (the 3×3 slices of a convolution kernel) are worked entry by entry: every operation
is a multiply-add over all points, which compilers turn into long vector loops on any device. Large
matrices (few points) become matrix products. Float32 products are always computed in full float32,
because a Gram matrix in TF32 or bfloat16 leaves an orthonormality error of 1e-3 to 1e-2 that no
iteration removes.
"""

import functools
import operator
from collections.abc import Iterable

import jax
import jax.numpy as jnp
from jax import lax

from fgsgd_jax import _xla_cpu
from fgsgd_jax.linalg._entries import Entries

# Up to this many entries a matrix is worked entry by entry. 11×11, the largest common receptive
# field, still is; beyond it the unrolled program compiles slowly and matrix products win.
UNROLLED_SIZE = 121
# The same where all points together fit in the cache: there up to nine terms compile as fast as a
# sum, but more, such as the 49 of the 7×7 kernels of a first layer, compile for seconds and gain
# nothing.
UNROLLED_SIZE_OF_FEW = 9


def working_dtype(dtype) -> jnp.dtype:
    """The dtype in which geometry is computed: float32, or float64 where the input has it.

    Without `jax_enable_x64` float32 for NumPy's float64 as well: JAX would warn of the other one.
    """
    return jax.dtypes.canonicalize_dtype(jnp.promote_types(dtype, jnp.float32))


def in_working_dtype(x: jax.Array) -> jax.Array:
    """x in the dtype in which geometry is computed: bfloat16 and float16 become float32."""
    x = jnp.asarray(x)
    return x.astype(working_dtype(x.dtype))


def entries(x: jax.Array) -> list[jax.Array]:
    """The entries of every matrix, row by row, `(*lanes)` each."""
    return [x[i, j] for i in range(x.shape[0]) for j in range(x.shape[1])]


def is_small(x: jax.Array) -> bool:
    """Whether the matrices of x are worked entry by entry."""
    if isinstance(x, Entries):
        return True
    few = x.size < _xla_cpu.MATERIALIZED_SIZE
    return x.shape[0] * x.shape[1] <= (UNROLLED_SIZE_OF_FEW if few else UNROLLED_SIZE)


def total(terms: Iterable[jax.Array]) -> jax.Array:
    """The sum of arrays, written out."""
    return functools.reduce(operator.add, terms)


def rounded(product: jax.Array, like: jax.Array) -> jax.Array:
    """The product, rounded before anything is added to it.

    Compilers may contract a product and a sum, a·b + c, to one operation with one rounding. They
    decide so wherever a function is computed, and its results differ by the rounding of the
    product. Contracted or not, a·b + 0·x is the rounded product, and compilers have to keep the
    sum, as x may not be finite.

    Args:
        product: The product, or an array that may be one.
        like: Any array that broadcasts against it, and is finite where the product is.
    """
    return product + 0 * like


def _rounded_product(x: jax.Array, y: jax.Array) -> jax.Array:
    return rounded(x * y, x)


def inner(x: jax.Array, y: jax.Array, *, rounded: bool = False) -> jax.Array:
    """⟨x, y⟩ of every matrix. `(rows, columns, *lanes)` → `(*lanes)`.

    Args:
        x: Matrices.
        y: Matrices.
        rounded: Whether the products are `rounded`, so that the result is the same everywhere.
    """
    product = _rounded_product if rounded else operator.mul
    if is_small(x):
        # XLA's CPU reductions over leading axes are 8 times slower than the sum written out.
        return _xla_cpu.materialize(lambda: total(map(product, entries(x), entries(y))), x)
    return _xla_cpu.materialize(lambda: jnp.sum(product(x, y), axis=(0, 1)), x)


def column_inner(x: jax.Array, y: jax.Array, *, rounded: bool = False) -> jax.Array:
    """⟨xⱼ, yⱼ⟩ of every column, likewise. `(rows, columns, *lanes)` → `(columns, *lanes)`."""
    product = _rounded_product if rounded else operator.mul
    if is_small(x):
        return _xla_cpu.materialize(
            lambda: total(product(x[i], y[i]) for i in range(x.shape[0])), x
        )
    return _xla_cpu.materialize(lambda: jnp.sum(product(x, y), axis=0), x)


def gram(x: jax.Array, y: jax.Array) -> jax.Array:
    """xᵀy. `(rows, c, *lanes)`, `(rows, d, *lanes)` → `(c, d, *lanes)`."""
    if is_small(x):
        rows = range(x.shape[0])
        return _xla_cpu.materialize(lambda: total(x[i][:, None] * y[i][None] for i in rows), x)
    return _einsum("ij...,ik...->jk...", x, y)


def matmul(x: jax.Array, y: jax.Array) -> jax.Array:
    """x·y, for a product that is used more than once.

    `(rows, c, *lanes)`, `(c, d, *lanes)` → `(rows, d, *lanes)`.
    """
    return _xla_cpu.materialize(lambda: times(x, y), x) if is_small(x) else times(x, y)


def times(x: jax.Array, y: jax.Array) -> jax.Array:
    """x·y, for a product that is used once."""
    if is_small(x):
        return total(x[:, j, None] * y[None, j] for j in range(y.shape[0]))
    return _einsum("ij...,jk...->ik...", x, y)


def _einsum(equation: str, x: jax.Array, y: jax.Array) -> jax.Array:
    return jnp.einsum(equation, x, y, precision=lax.Precision.HIGHEST)


def transpose(x: jax.Array) -> jax.Array:
    """xᵀ of every matrix."""
    return jnp.swapaxes(x, 0, 1)


def symmetric(x: jax.Array) -> jax.Array:
    """½(x + xᵀ)."""
    return 0.5 * (x + transpose(x))


def skew(x: jax.Array) -> jax.Array:
    """½(x − xᵀ)."""
    return 0.5 * (x - transpose(x))


def identity(rows: int, columns: int, like: jax.Array) -> jax.Array:
    """The identity `(rows, columns, 1, …)`, with one axis per lane axis of `like` to broadcast."""
    eye = jnp.eye(rows, columns, dtype=like.dtype)
    return eye.reshape((rows, columns) + (1,) * (like.ndim - 2))
