"""The polar factor of any matrix, by a singular value decomposition, and its derivatives."""

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from fgsgd_jax import linalg


def checked_polar_factor(x: jax.Array) -> tuple[jax.Array, np.ndarray]:
    """`polar_factor` of known values, and what is wrong with them.

    Returns:
        The factor, and an array `(*lanes)`: 1 for a matrix of full rank, 0 for one with linearly
        dependent columns, NaN for one with entries that are not finite.
    """
    nearest, values = _factor_and_values(x)
    lanes = np.asarray(values).reshape(-1, x.shape[1])
    defined = np.where(np.isfinite(lanes[:, 0]), 1.0, np.nan)
    # Rank is decided in float64, where the exact 0 of a float32 matrix differs from rounding.
    eps = jnp.finfo(x.dtype).eps
    (doubtful,) = np.nonzero(lanes[:, -1] <= 4 * x.shape[0] * eps * lanes[:, 0])
    last = np.asarray(_lanes_first(x)).reshape(-1, *x.shape[:2])[doubtful]
    exact = np.linalg.svd(last.astype(np.float64), compute_uv=False)
    full_rank = exact[:, -1] > x.shape[0] * np.finfo(np.float64).eps * exact[:, 0]
    undefined = np.isnan(np.asarray(_lanes_first(nearest))).any((-2, -1)).reshape(-1)
    defined[doubtful] = full_rank & ~undefined[doubtful]
    return nearest, defined.reshape(x.shape[2:])


@jax.custom_jvp
def polar_factor(x: jax.Array) -> jax.Array:
    """The nearest matrices with orthonormal columns, u·vᵀ of x = u·σ·vᵀ; rows ≥ columns.

    NaN where linearly dependent columns leave it undefined. Its derivatives of any order are
    finite, also where singular values are equal, as those of an orthonormal x are.

    Args:
        x: `(rows, columns, *lanes)`, in the working dtype.
    """
    return _factor_and_values(x)[0]


def _factor_and_values(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The polar factor and the singular values `(*lanes, columns)` in falling order."""
    u, values, vt = _svd(x, full_matrices=False)
    nearest = jnp.matmul(u, vt, precision=lax.Precision.HIGHEST)
    undefined = _is_undefined(x.shape, values)[..., None, None]
    # The product of two LAPACK factors is orthonormal to 1e-5 only; one polish brings 1e-7.
    return linalg.polish(_lanes_last(jnp.where(undefined, jnp.nan, nearest))), values


def _svd(x: jax.Array, *, full_matrices: bool = True) -> tuple[jax.Array, ...]:
    """The singular value decomposition, NaN where an entry is not finite.

    LAPACK may not return from a matrix with an infinite entry (seen with jaxlib 0.10.2).
    """
    finite = jnp.all(jnp.isfinite(x), axis=(0, 1))
    factors = jnp.linalg.svd(_lanes_first(jnp.where(finite, x, 0)), full_matrices=full_matrices)

    def of_finite(factor: jax.Array) -> jax.Array:
        extra = factor.ndim - finite.ndim
        return jnp.where(finite.reshape(finite.shape + (1,) * extra), factor, jnp.nan)

    return tuple(map(of_finite, factors))


def _is_undefined(shape: tuple[int, ...], values: jax.Array) -> jax.Array:
    """Whether the singular values leave the polar factor undefined. `(*lanes)`.

    A singular value of 0 leaves its direction undefined, and one of the size of rounding cannot be
    told from 0. The last one of a square matrix is an exception: only the sign of its direction is
    open, and both choices are equally near. Among a million random 3×3 matrices there are always
    some of this kind, and they are not refused.
    """
    rows, columns = shape[:2]
    eps = jnp.finfo(values.dtype).eps
    largest, smallest = values[..., 0], values[..., -1]
    if rows == columns > 1:
        several = values[..., -2] <= rows * eps * largest
        return several | (smallest <= eps**1.5 * largest)
    return smallest <= rows * eps * largest


@polar_factor.defjvp
def _derivative(primals, tangents):
    """With x = y·h: y·k + (1 − yyᵀ)·dx·h⁻¹, where k is skew and solves hk + kh = yᵀdx − dxᵀy.

    For x = y, h = 1 it is the projection on the tangent space.
    """
    (x,), (dx,) = primals, tangents
    y = polar_factor(x)
    h, along = linalg.symmetric(linalg.gram(y, x)), linalg.gram(y, dx)
    turn = _solve_lyapunov(h, along - linalg.transpose(along))
    inverse = _solve_lyapunov(h, 2 * linalg.identity(h.shape[0], h.shape[1], h) + jnp.zeros_like(h))
    across = linalg.times(dx - linalg.times(y, along), inverse)
    return y, linalg.times(y, turn) + across


def _solve_lyapunov(h: jax.Array, b: jax.Array) -> jax.Array:
    """The k of hk + kh = b, for symmetric positive definite h. Differentiable in h and b."""
    # Of a positive definite matrix the left singular vectors are the eigenvectors.
    u, values, _ = _svd(lax.stop_gradient(h))
    vectors, values = _lanes_last(u), jnp.moveaxis(values, -1, 0)

    def solve(_, b):
        turned = linalg.gram(vectors, linalg.times(b, vectors)) / (values[:, None] + values)
        return linalg.times(linalg.times(vectors, turned), linalg.transpose(vectors))

    def product(k):
        return linalg.times(h, k) + linalg.times(k, h)

    return lax.custom_linear_solve(product, b, solve, symmetric=True)


def _lanes_first(x: jax.Array) -> jax.Array:
    return jnp.moveaxis(x, (0, 1), (-2, -1))


def _lanes_last(x: jax.Array) -> jax.Array:
    return jnp.moveaxis(x, (-2, -1), (0, 1))
