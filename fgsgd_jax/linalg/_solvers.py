"""Linear systems and the matrix exponential, for many matrices at once and without LAPACK."""

import jax
import jax.numpy as jnp
from jax import lax

from fgsgd_jax.linalg._products import identity, matmul


def solve(a: jax.Array, b: jax.Array) -> jax.Array:
    """The solution of a·x = b by elimination without pivoting.

    For a whose symmetric part is positive definite, the case in which no pivoting is needed.
    `(n, n, *lanes)`, `(n, k, *lanes)` → `(n, k, *lanes)`.
    """
    n = a.shape[0]
    lanes = jnp.broadcast_shapes(a.shape[2:], b.shape[2:])
    joined = jnp.concatenate(
        [jnp.broadcast_to(a, a.shape[:2] + lanes), jnp.broadcast_to(b, b.shape[:2] + lanes)], axis=1
    )
    index = jnp.arange(n).reshape((n, 1) + (1,) * len(lanes))

    def eliminate(k, joined):
        row = lax.dynamic_slice_in_dim(joined, k, 1, axis=0)
        row = row / lax.dynamic_slice_in_dim(row, k, 1, axis=1)
        factors = lax.dynamic_slice_in_dim(joined, k, 1, axis=1)
        return jnp.where(index == k, row, joined - factors * row)

    return lax.fori_loop(0, n, eliminate, joined)[:, n:]


def expm(a: jax.Array, most_squarings: int = 13) -> jax.Array:
    """The matrix exponential, by scaling, a Taylor polynomial and squaring.

    Matrices of 1-norm above 2^(most_squarings − 1) give NaN. Every squaring doubles the rounding of
    the one before, or multiplies it by 4 where the matrix is not normal.
    """
    degree = 18
    size = jnp.max(jnp.sum(jnp.abs(a), axis=0), axis=0)
    squarings = jnp.maximum(0, jnp.ceil(jnp.log2(jnp.where(size > 0, size, 1)))) + 1
    squarings = lax.stop_gradient(squarings)
    scaled = a * jnp.exp2(-squarings)
    eye = identity(a.shape[0], a.shape[0], a) + jnp.zeros_like(a)

    def horner(k, result):  # loops, because unrolled products compile slowly
        return eye + matmul(scaled, result) / (degree - k)

    result = lax.fori_loop(0, degree, horner, eye)  # 0.5¹⁸/18! is below float64's rounding

    def square(k, m):
        return jnp.where(k < squarings, matmul(m, m), m)

    result = lax.fori_loop(0, most_squarings, square, result)
    return jnp.where(squarings <= most_squarings, result, jnp.nan)
