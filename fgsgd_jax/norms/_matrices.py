"""Norms of many matrices at once, one per lane."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from fgsgd_jax import linalg
from fgsgd_jax._arrays import checked_array

MATRICES = "(rows, columns, *lanes)"


class Norms(NamedTuple):
    """The three norms of many matrices, arrays of one shape.

    Attributes:
        frobenius: The square root of the sum of squares.
        spectral: The largest singular value.
        two_to_one: The sum of the Euclidean norms of the rows.
    """

    frobenius: jax.Array
    spectral: jax.Array
    two_to_one: jax.Array


def frobenius(x: jax.Array, /) -> jax.Array:
    """‖x‖_F of every matrix: `(rows, columns, *lanes)` → `(*lanes)`.

    Raises:
        TypeError: If x is no array of real numbers.
        ValueError: If it has fewer than two axes, or no rows or columns.

    Example:
        >>> import jax.numpy as jnp
        >>> frobenius(jnp.array([[3.0, 0.0], [0.0, 4.0]]))
        Array(5., dtype=float32)
    """
    return linalg.norm(linalg.in_working_dtype(checked_array("x", x, MATRICES)))


def two_to_one(x: jax.Array, /) -> jax.Array:
    """‖x‖₂→₁, the sum of the Euclidean norms of the rows: `(rows, columns, *lanes)` → `(*lanes)`.

    Raises:
        TypeError: If x is no array of real numbers.
        ValueError: If it has fewer than two axes, or no rows or columns.

    Example:
        >>> import jax.numpy as jnp
        >>> two_to_one(jnp.array([[3.0, 4.0], [0.0, 2.0]]))
        Array(7., dtype=float32)
    """
    x = linalg.in_working_dtype(checked_array("x", x, MATRICES))
    return jnp.sum(linalg.column_norm(linalg.transpose(x)), axis=0)


def spectral(x: jax.Array, /) -> jax.Array:
    """‖x‖₂, the largest singular value of every matrix: `(rows, columns, *lanes)` → `(*lanes)`.

    Accurate to a few units in the last place, however close together, large or small the singular
    values are. It needs no LAPACK: the Gram matrix of the shorter side is squared until the
    remaining error cannot change the result.

    Raises:
        TypeError: If x is no array of real numbers.
        ValueError: If it has fewer than two axes, or no rows or columns.

    Example:
        >>> import jax.numpy as jnp
        >>> spectral(jnp.array([[3.0, 0.0], [0.0, 4.0]]))
        Array(4., dtype=float32)
    """
    return _spectral(checked_array("x", x, MATRICES))


@jax.jit
def _spectral(x: jax.Array) -> jax.Array:
    x = linalg.in_working_dtype(x)
    if x.shape[0] < x.shape[1]:
        x = linalg.transpose(x)
    if x.shape[1] == 1:
        return linalg.norm(x)
    largest = jnp.max(jnp.abs(x), axis=(0, 1))
    scale = jnp.where((largest > 0) & jnp.isfinite(largest), largest, 1)
    unit = x / scale  # its squares neither overflow nor underflow
    norm = scale * linalg.safe_sqrt(_largest_eigenvalue(linalg.gram(unit, unit)))
    return jnp.where(jnp.isinf(largest), largest, norm)


def _largest_eigenvalue(gram: jax.Array) -> jax.Array:
    """λ₁ of every positive semidefinite matrix, `(n, n, *lanes)` → `(*lanes)`.

    For M₀ of trace 1 let Mₖ = Mₖ₋₁²/tₖ with tₖ the trace of Mₖ₋₁². Then log λ₁(M₀) =
    Σⱼ₌₁ᵏ log tⱼ/2ʲ + log λ₁(Mₖ)/2ᵏ. Mₖ tends to a projection divided by its rank, whose λ₁ is tₖ.
    Squaring k times equals 2ᵏ steps of the power method, with no start vector to choose, and the
    error of tₖ enters with the factor 2⁻ᵏ only.
    """
    size = gram.shape[0]
    tolerance = jnp.finfo(gram.dtype).eps / 2

    def of_trace_one(m):
        trace = sum(m[i, i] for i in range(1, size)) + m[0, 0] if size < 32 else jnp.trace(m)
        positive = jnp.where(trace == 0, 1, trace)  # NaN stays NaN
        return m / positive, trace, jnp.log(positive)

    def goes_on(state):
        k, _, _, _, error = state
        return (k < jnp.finfo(gram.dtype).nmant + 3) & jnp.any(error > tolerance)

    def square(state):
        k, m, total, _, _ = state
        squared, _, log_trace = of_trace_one(linalg.matmul(m, m))
        share = jnp.exp2(-(k + 1).astype(gram.dtype))
        # λ₁ of the current matrix is tₖ up to the factor 1 + n·‖Mₖ − Mₖ₋₁‖.
        error = size * linalg.norm(squared - m) * share
        return k + 1, squared, total + share * log_trace, share * log_trace, error

    m, first, _ = of_trace_one(gram)
    zero = jnp.zeros_like(first)
    start = (jnp.int32(0), m, zero, zero, jnp.full_like(first, jnp.inf))
    _, _, total, last, _ = lax.while_loop(goes_on, square, start)
    return first * jnp.exp(total + last)


def norms_of(x: jax.Array, /) -> Norms:
    """The three norms of every matrix: `(rows, columns, *lanes)` → `(*lanes)` each.

    Raises:
        TypeError: If x is no array of real numbers.
        ValueError: If it has fewer than two axes, or no rows or columns.

    Example:
        >>> import jax.numpy as jnp
        >>> norms_of(jnp.array([[3.0, 0.0], [0.0, 4.0]])).two_to_one
        Array(7., dtype=float32)
    """
    return _norms_of(checked_array("x", x, MATRICES))


@jax.jit
def _norms_of(x: jax.Array) -> Norms:
    return Norms(frobenius(x), spectral(x), two_to_one(x))
