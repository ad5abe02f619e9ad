"""Orthonormal columns: the polar factor and the QR factor of many matrices, by products alone."""

import jax
import jax.numpy as jnp
from jax import lax

from fgsgd_jax import _xla_cpu
from fgsgd_jax.linalg._norms import norm, shorten
from fgsgd_jax.linalg._products import gram, identity, inner, matmul
from fgsgd_jax.linalg._rotations import (
    POLISHABLE,
    axis_3x3,
    is_polishable_3x3,
    rotation_3x3,
    turned_3x3,
)

# Side of the largest matrix that Gram-Schmidt unrolls column by column; longer ones take a loop
# over the columns, whose compile time does not grow.
UNROLLED_COLUMNS = 11

# The polar factor of a step longer than this (Frobenius norm) is that of the shortened step. At
# this length the polar factor of x + v agrees with that of v alone to rounding, whatever x is, so
# the direction taken is that of v; squares stay finite.
LONGEST_STEP = {4: 1e4, 8: 1e8}

# Steps are shortened to this length, so that their squares stay finite. A unit point is negligible
# next to such a step: only the direction counts.
SQUARABLE_STEP = {4: 1e15, 8: 1e150}

# One pass of the residual polynomial multiplies an error e = σ² − 1 as 63/128·e⁵. From these
# bounds one pass (float32) or two (float64) end at rounding.
SHORT_STEP = {4: 0.045, 8: 0.2}
SHORT_PASSES = {4: 1, 8: 2}
# A long pass multiplies the squares of small singular values by 2.46² = 6, so squares as far apart
# as 1 and LONGEST_STEP² meet after 11 (float32) or 21 (float64) passes; the rest is for the loose
# bound that scales the first pass (a row sum, up to √columns too large) and for convergence.
LONG_PASSES = {4: 16, 8: 28}
# An error that the passes leave only where they did not converge; rounding is far below it.
CONVERGED = 1e-3


def gram_error(y: jax.Array) -> jax.Array:
    """yᵀy − 1, by how much the columns of y miss orthonormality."""
    return gram(y, y) - identity(y.shape[1], y.shape[1], y)


def polish(y: jax.Array) -> jax.Array:
    """One Newton-Schulz step y(3⁄2 − ½yᵀy), which removes rounding; NaN far from orthonormal."""
    e = gram_error(y)
    return y - matmul(y, jnp.where(row_sum_norm(e) <= POLISHABLE, 0.5, jnp.nan) * e)


def row_sum_norm(e: jax.Array) -> jax.Array:
    """The largest row sum of |e|, a bound of its eigenvalues. `(*lanes)`."""
    return jnp.max(jnp.sum(jnp.abs(e), axis=1), axis=0)


def polar_step(x: jax.Array, v: jax.Array) -> jax.Array:
    """The polar factor of x + v, for x with orthonormal columns and v tangent there.

    Because v is tangent, (x+v)ᵀ(x+v) = 1 + vᵀv: no singular value is below 1, and a polynomial in
    the residual E = (x+v)ᵀ(x+v) − 1 gives the polar factor and corrects drift of x at once. Any
    other x + v gives its polar factor or, where its singular values are too far apart, NaN; a 3×3
    x that is far from orthonormal gives NaN.
    """
    rows, columns = x.shape[:2]
    if columns == 1:
        y = x + v
        return y / norm(y)
    if rows == columns == 3:
        return _polar_step_3x3(x, v)
    size = x.dtype.itemsize
    y = _xla_cpu.materialize(lambda: x + v, x)
    e = gram_error(y)
    short = row_sum_norm(e) <= SHORT_STEP[size]  # False for NaN

    def some_are_long():
        # y − x rather than v, which then need not stay in memory for this rare branch.
        z = jnp.where(short, y, x + shorten(y - x, LONGEST_STEP[size]))
        polar = _long_polar(z)
        if short.ndim == 0:
            return polar
        return jnp.where(short, _short_polar(z, gram_error(z)), polar)

    # Long steps are rare, so the long iteration runs only if some lane needs it. Even then each
    # lane takes its own result, so that no lane depends on another.
    return lax.cond(jnp.all(short), lambda: _short_polar(y, e), some_are_long)


def _polar_step_3x3(x: jax.Array, v: jax.Array) -> jax.Array:
    def rotation():
        rotation = rotation_3x3(axis_3x3(x, shortened), jnp.ones((), x.dtype))
        return jnp.where(is_polishable_3x3(x), rotation, jnp.nan)

    shortened = shorten(v, SQUARABLE_STEP[x.dtype.itemsize])
    return x + turned_3x3(x, _xla_cpu.materialize(rotation, x))


def _short_polar(y: jax.Array, e: jax.Array) -> jax.Array:
    y = residual_polynomial(y, e)
    for _ in range(SHORT_PASSES[y.dtype.itemsize] - 1):
        y = residual_polynomial(y, gram_error(y))
    return y


def _long_polar(y: jax.Array) -> jax.Array:
    """The polar factor of any y, by centered passes of the residual polynomial.

    NaN where they do not converge: where singular values are much further apart than in a step, or
    zero.
    """

    def centered_pass(_, y):
        m = gram(y, y)
        # Eigenvalues lie in (0, b]: scaling by 2/b puts them in (0, 2], where the series converges.
        # Only shrink: a matrix whose largest value is below 2 needs no scaling.
        largest = row_sum_norm(m)
        scale = jnp.minimum(1, 1.9 / largest)
        e = scale * m - identity(y.shape[1], y.shape[1], y)
        return residual_polynomial(y, e, jnp.sqrt(scale))

    y = lax.fori_loop(0, LONG_PASSES[y.dtype.itemsize], centered_pass, y)
    return jnp.where(row_sum_norm(gram_error(y)) <= CONVERGED, y, jnp.nan)


def residual_polynomial(y: jax.Array, e: jax.Array, scale: jax.Array | None = None) -> jax.Array:
    """y·(1 + e)^−½ to fourth order in e: y + y(−½e + ⅜e² − 5⁄16e³ + 35⁄128e⁴).

    Carrying the correction apart from the 1 keeps three to eight times more digits. With a `scale`,
    a number per point, the same for scale·y, which is not stored.
    """
    eye = identity(e.shape[0], e.shape[0], e)
    square = matmul(e, e)
    q = -0.5 * e + matmul(square, 0.375 * eye - 0.3125 * e + 0.2734375 * square)
    return y + matmul(y, q) if scale is None else scale * y + matmul(y, scale * q)


def gram_schmidt(y: jax.Array) -> jax.Array:
    """The Q of y = QR with a positive diagonal of R, for y of full rank; rows ≥ columns.

    Every column is orthogonalized twice, which keeps Q orthonormal to rounding for any condition
    number below 1/eps (Kahan's "twice is enough").
    """
    columns = y.shape[1]
    if columns <= UNROLLED_COLUMNS:
        return _gram_schmidt_unrolled(y)

    def orthogonalize(j, q):
        column = lax.dynamic_slice_in_dim(y, j, 1, axis=1)
        column = column / norm(column)
        for _ in range(2):
            column = column - matmul(q, gram(q, column))  # columns of q from j on are still 0
            column = column / norm(column)
        return lax.dynamic_update_slice_in_dim(q, column, j, axis=1)

    return lax.fori_loop(0, columns, orthogonalize, jnp.zeros_like(y))


def _gram_schmidt_unrolled(y: jax.Array) -> jax.Array:
    finished: list[jax.Array] = []
    for j in range(y.shape[1]):
        column = y[:, j : j + 1]
        column = column / norm(column)
        for _ in range(2):
            for q in finished:
                column = column - q * inner(q, column)
            column = column / norm(column)
        finished.append(_xla_cpu.materialize(lambda column=column: column, y))
    return jnp.concatenate(finished, axis=1)
