"""Polar factors of any matrix by products alone, and the Lyapunov equation by the same polynomials.

Odd polynomials that take every singular value of [10⁻³, 1] to 1 give the polar factor UVᵀ of
UΣVᵀ, also called the matrix sign. They need no decomposition, so they run on every device, for many
matrices at once, and on sharded ones.

References:
    Amsel, Persson, Musco & Gower, *The Polar Express: optimal matrix sign methods and their
    application to the Muon algorithm*, arXiv 2505.16932, 2025 (the coefficients); Higham,
    *Functions of Matrices*, 2008, sections 2.4 and 5.3 (the sign of a block matrix solves the
    Lyapunov equation).
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from fgsgd_jax.linalg._norms import norm
from fgsgd_jax.linalg._orthonormal import gram_error, polish, residual_polynomial, row_sum_norm
from fgsgd_jax.linalg._products import (
    gram,
    identity,
    is_small,
    matmul,
    symmetric,
    times,
    transpose,
)

# a, b and c of p(σ) = aσ + bσ³ + cσ⁵, one row for each pass.
POLAR_EXPRESS = np.array(
    [
        (8.28721201814563, -23.595886519098837, 17.300387312530933),
        (4.107059111542203, -2.9478499167379106, 0.5448431082926601),
        (3.9486908534822946, -2.908902115962949, 0.5518191394370137),
        (3.3184196573706015, -2.488488024314874, 0.51004894012372),
        (2.300652019954817, -1.6689039845747493, 0.4188073119525673),
        (1.891301407787398, -1.2679958271945868, 0.37680408948524835),
        (1.8750014808534479, -1.2500016453999487, 0.3750001645474248),
        (1.875, -1.25, 0.375),
    ]
)
# The optimal polynomials leave singular values up to 2, where rounding would let them escape: all
# but the last are those of an interval 1 % longer.
POLAR_EXPRESS[:-1] /= 1.01 ** np.array([1, 3, 5])
# Passes of the second polynomial that come in between where smaller singular values count: each
# takes them four times nearer to 1.
WIDE_PASSES = {4: 7, 8: 16}

# Matrices with so many times more rows than columns take their last passes on yᵀy. Not the first
# ones: the squares of singular values of 10⁻³ would be lost in the rounding of yᵀy.
TALL, GRAM_PASSES = 3, 5

# A pass of the residual polynomial multiplies an error e = σ² − 1 as 63/128·e⁵: up to this error
# two passes (float32) or three (float64) end at rounding.
NEARLY_ORTHONORMAL = 0.5
NEAR_PASSES = {4: 2, 8: 3}


def msign(x: jax.Array, *, wide: bool = False) -> jax.Array:
    """The polar factor UVᵀ of x = UΣVᵀ, 0 for x = 0; it does not depend on the length of x.

    Accurate to rounding for singular values above 10⁻³·‖x‖, smaller ones become less than 1. With
    `wide`, above the rounding of x.
    """
    if x.shape[0] < x.shape[1]:
        return transpose(msign(transpose(x), wide=wide))
    y, coefficients = unit(x), _coefficients(x.dtype, wide)
    # A pass on y takes two products with y, one on yᵀy none.
    tall = x.shape[0] >= TALL * x.shape[1] and not is_small(x)
    over_gram = GRAM_PASSES if tall else 0
    direct = len(coefficients) - over_gram
    y = lax.fori_loop(0, direct, lambda k, y: _pass(coefficients[k], y), y)
    return times(y, _gram_passes(coefficients[direct:], gram(y, y))) if tall else y


def polar(x: jax.Array) -> jax.Array:
    """The polar factor of x to rounding, for x of full rank, else NaN."""
    if x.shape[0] < x.shape[1]:
        return transpose(polar(transpose(x)))
    e = gram_error(x)
    near = row_sum_norm(e) <= NEARLY_ORTHONORMAL  # False for NaN

    def some_are_far():
        y = polish(msign(x, wide=True))
        full_rank = jnp.max(jnp.abs(gram_error(y)), axis=(0, 1)) < NEARLY_ORTHONORMAL
        y = jnp.where(full_rank, polish(y), jnp.nan)
        return jnp.where(near, _near_polar(x, e), y)

    return lax.cond(jnp.all(near), lambda: _near_polar(x, e), some_are_far)


def _near_polar(x: jax.Array, e: jax.Array) -> jax.Array:
    x = residual_polynomial(x, e)
    for _ in range(NEAR_PASSES[x.dtype.itemsize] - 1):
        x = residual_polynomial(x, gram_error(x))
    return x


def solve_lyapunov(q: jax.Array, c: jax.Array) -> jax.Array:
    """The symmetric x with qx + xq = c, for q symmetric and positive semi-definite, c symmetric.

    The sign of [[q, c], [0, −q]] is [[1, 2x], [0, −1]]. In the eigenbasis of q the polynomial p in
    place of the sign gives x_ij = ½c_ij(p(σ_i) + p(σ_j))/(σ_i + σ_j): pairs of eigenvalues far
    below 10⁻³·‖q‖ are damped rather than divided by almost 0.
    """
    size = norm(q)
    a, coefficients = unit(q), _coefficients(q.dtype, wide=False)

    def step(k, blocks):
        a, b = blocks
        first, third, fifth = coefficients[k]
        square, ab = matmul(a, a), matmul(a, b)
        commutator = ab - transpose(ab)
        product = matmul(square, commutator)
        even = third * commutator + fifth * (product - transpose(product))
        odd = third * square + fifth * matmul(square, square)
        odd = odd + first * identity(a.shape[0], a.shape[0], a)
        return symmetric(matmul(a, odd)), symmetric(matmul(a, even) + matmul(b, odd))

    _, b = lax.fori_loop(0, len(coefficients), step, (a, c))
    return 0.5 * b / jnp.where(size == 0, 1, size)


def unit(x: jax.Array) -> jax.Array:
    """x of norm 1, or 0."""
    size = norm(x)
    return x / jnp.where(size == 0, 1, size)


def _coefficients(dtype, wide: bool) -> jax.Array:
    between = [POLAR_EXPRESS[1:2]] * (WIDE_PASSES[dtype.itemsize] if wide else 0)
    return jnp.asarray(np.concatenate([POLAR_EXPRESS[:1], *between, POLAR_EXPRESS[1:]]), dtype)


def _gram_passes(coefficients: jax.Array, square: jax.Array) -> jax.Array:
    """The p for which y·p is y after some passes, from yᵀy alone: a pass is y·q with q of yᵀy."""
    eye = identity(square.shape[0], square.shape[0], square)

    def step(k, carry):
        square, p = carry
        a, b, c = coefficients[k]
        q = a * eye + b * square + c * matmul(square, square)
        return matmul(matmul(q, square), q), matmul(p, q)

    start = square, eye + jnp.zeros_like(square)
    return lax.fori_loop(0, len(coefficients), step, start)[1]


def _pass(coefficients: jax.Array, y: jax.Array) -> jax.Array:
    """y(a + b·yᵀy + c(yᵀy)²)."""
    a, b, c = coefficients
    square = gram(y, y)
    return a * y + times(y, b * square + c * matmul(square, square))
