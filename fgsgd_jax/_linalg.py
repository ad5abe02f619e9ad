"""Linear algebra on lanes: many small matrices at once, without a loop and without LAPACK.

An array of shape `(rows, columns, *lanes)` holds one matrix per lane. A number per matrix, such as
⟨x, y⟩, has shape `(*lanes)`, a number per column `(columns, *lanes)`; both broadcast against the
matrices as they are, so nothing here needs `keepdims`, `vmap` or a transposition.

Small matrices (the 3×3 slices of a convolution kernel) are worked entry by entry: every operation
is a multiply-add over all lanes, which compilers turn into long vector loops on any device. Large
matrices (few lanes) become matrix products. This module is the only place that knows the
difference; the switch is `UNROLLED_SIZE`.

No function here calls LAPACK: on small matrices it costs 30 to 300 times the arithmetic, it
cannot be sharded, and a batched QR or Cholesky inside a jitted function deadlocks on the CPU with
JAX 0.10.0 to 0.11.0. Float32 products are always computed in full float32, because a Gram matrix
in TF32 or bfloat16 leaves an orthonormality error of 1e-3 to 1e-2 that no iteration removes.
"""

import functools
import operator
from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.core import Tracer
from jax.sharding import AxisType

# Up to this many entries a matrix is worked entry by entry. 11×11, the largest common receptive
# field, still is; beyond it the unrolled program compiles slowly and matrix products win.
UNROLLED_SIZE = 121
# The same where all points together fit in the cache: there a few terms compile as fast as a sum,
# and more of them, such as those of the 7×7 kernels of a first layer, for seconds to gain nothing.
UNROLLED_SIZE_OF_FEW = 9

# Side of the largest matrix that Gram-Schmidt and elimination unroll column by column; longer ones
# take a loop over the columns, whose compile time does not grow.
UNROLLED_COLUMNS = 11

# The polar factor of a step longer than this (Frobenius norm) is taken of the shortened step. At
# this length the polar factor of x + v agrees with that of v alone to rounding, whatever x is, so
# the direction taken is that of v; squares stay finite.
LONGEST_STEP = {4: 1e4, 8: 1e8}

# Steps are shortened to this length, so that their squares stay finite. Beside it a unit point is
# nothing: only the direction counts.
SQUARABLE_STEP = {4: 1e15, 8: 1e150}

# One pass of the residual polynomial multiplies an error e = σ² − 1 as 63/128·e⁵. From these
# bounds one pass (float32) or two (float64) end at rounding.
SHORT_STEP = {4: 0.045, 8: 0.2}
SHORT_PASSES = {4: 1, 8: 2}
# A long pass multiplies the squares of small singular values by 2.46² = 6, so squares as far apart
# as 1 and LONGEST_STEP² meet after 11 (float32) or 21 (float64) passes; the rest is for the loose
# bound that scales the first pass (a row sum, up to √columns too large) and for convergence.
LONG_PASSES = {4: 16, 8: 28}


# Arrays of fewer entries stay in the cache, and are not worth a pass of their own.
STAGED_SIZE = 1 << 16


def working_dtype(dtype) -> jnp.dtype:
    """The dtype geometry is computed in: at least float32, float64 where the input has it."""
    return jnp.promote_types(dtype, jnp.float32)


def _is_small(x: jax.Array) -> bool:
    most = UNROLLED_SIZE_OF_FEW if x.size < STAGED_SIZE else UNROLLED_SIZE
    return x.shape[0] * x.shape[1] <= most


def _sum(terms: Iterable[jax.Array]) -> jax.Array:
    return functools.reduce(operator.add, terms)


def stage(function: Callable, like: jax.Array, *, after: jax.Array | None = None) -> Any:
    """`function()`, computed into memory once, before all that uses it.

    XLA's CPU compiler computes a number per lane anew for every entry that it is multiplied with,
    and so reads and adds nine times as much as needed for 3×3 points; it drops optimization
    barriers. The branch of a conditional it leaves alone, so on large arrays the function becomes
    one, under a condition that is always true. Elsewhere this is the function itself.

    Args:
        function: A function without arguments, in whose result every entry is cheap. What it
            closes over is computed before it, so whole points that it could make are best made in
            it.
        like: An array of the size it works on.
        after: From `done`, something that has to be computed before.
    """

    def never():
        result = jax.eval_shape(function)
        return jax.tree.map(lambda one: jnp.zeros(one.shape, one.dtype), result)

    return stage_either(jnp.array(True), function, never, like, after=after)


def stage_either(
    which: jax.Array, function: Callable, otherwise: Callable, like: jax.Array, *, after=None
) -> Any:
    """`function()`, or `otherwise()` where the scalar `which` is false, as a stage.

    Where nothing is staged the function, which may always stand for the other one.
    """
    if not _is_staged(like):
        return function()
    return lax.cond(which & true_after(after), function, otherwise)


def _is_staged(like: jax.Array) -> bool:
    # Outside of a compiled function nothing is computed twice.
    compiled = isinstance(like, Tracer)
    return compiled and jax.default_backend() == "cpu" and like.size >= STAGED_SIZE


def on_one_cpu() -> bool:
    """Whether programs run on a single CPU device, and axes have no shardings to be minded."""
    if jax.default_backend() != "cpu" or jax.device_count() > 1:
        return False
    return AxisType.Explicit not in jax.sharding.get_abstract_mesh().axis_types


def true_after(after: jax.Array | None) -> jax.Array:
    """True, which the compiler does not know before what `after` stands for has been computed."""
    return lax.optimization_barrier(jnp.array(True)) if after is None else (after | 1) != 0


def done(*arrays: jax.Array) -> jax.Array | None:
    """What `stage` may be told to wait for: that arrays have been computed. None where it need not.

    XLA's CPU compiler runs all weights side by side, and memory that was not used by the last
    update costs more than the arithmetic. Where it cannot tell that a weight has been read for the
    last time, an update in place takes a copy of it.
    """
    if not on_one_cpu():
        return None
    if not arrays:
        return lax.optimization_barrier(jnp.zeros((), jnp.int32))
    firsts = (x[(0,) * x.ndim].astype(jnp.float32) for x in arrays)
    bits = (lax.bitcast_convert_type(first, jnp.int32) for first in firsts)
    return functools.reduce(operator.or_, bits)


def _with_lanes_last(equation: str) -> str:
    """'ij,ik->jk' → 'ij...,ik...->jk...'."""
    inputs, output = equation.split("->")
    return ",".join(f"{term}..." for term in inputs.split(",")) + f"->{output}..."


def _einsum(equation: str, x: jax.Array, y: jax.Array) -> jax.Array:
    return jnp.einsum(_with_lanes_last(equation), x, y, precision=lax.Precision.HIGHEST)


# --- sums and products -------------------------------------------------------------------------


def inner(x: jax.Array, y: jax.Array) -> jax.Array:
    """⟨x, y⟩ of every matrix. `(rows, columns, *lanes)` → `(*lanes)`."""
    if _is_small(x):
        # XLA's CPU reductions over leading axes are 8 times slower than the sum written out.
        return _sum(x[i, j] * y[i, j] for i in range(x.shape[0]) for j in range(x.shape[1]))
    return jnp.sum(x * y, axis=(0, 1))


def column_inner(x: jax.Array, y: jax.Array) -> jax.Array:
    """⟨xⱼ, yⱼ⟩ of every column. `(rows, columns, *lanes)` → `(columns, *lanes)`."""
    if _is_small(x):
        return _sum(x[i] * y[i] for i in range(x.shape[0]))
    return jnp.sum(x * y, axis=0)


def gram(x: jax.Array, y: jax.Array) -> jax.Array:
    """xᵀy. `(rows, c, *lanes)`, `(rows, d, *lanes)` → `(c, d, *lanes)`."""
    if _is_small(x):
        return stage(lambda: _sum(x[i][:, None] * y[i][None, :] for i in range(x.shape[0])), x)
    return _einsum("ij,ik->jk", x, y)


def times(x: jax.Array, y: jax.Array) -> jax.Array:
    """Xy. `(rows, c, *lanes)`, `(c, d, *lanes)` → `(rows, d, *lanes)`."""
    if _is_small(x):
        return _sum(x[:, j, None] * y[None, j] for j in range(y.shape[0]))
    return _einsum("ij,jk->ik", x, y)


def matmul(x: jax.Array, y: jax.Array) -> jax.Array:
    """`times`, for a product that is used more than once."""
    return stage(lambda: times(x, y), x) if _is_small(x) else times(x, y)


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
    return jnp.eye(rows, columns, dtype=like.dtype).reshape(
        (rows, columns) + (1,) * (like.ndim - 2)
    )


# --- norms -------------------------------------------------------------------------------------


def safe_sqrt(x: jax.Array) -> jax.Array:
    """√x with derivative 0 at 0, so that a zero vector has a finite derivative."""
    positive = ~(x <= 0)  # written so that NaN stays NaN
    return jnp.where(positive, jnp.sqrt(jnp.where(positive, x, 1)), 0)


def _scale(largest: jax.Array) -> jax.Array:
    """What to divide by before squaring, given the largest entry: never 0 nor infinite."""
    return lax.stop_gradient(jnp.where((largest > 0) & jnp.isfinite(largest), largest, 1))


def _safe_norm(entries: list[jax.Array]) -> jax.Array:
    """(Σ eᵢ²)^½ entry by entry of the arrays; squares neither overflow nor vanish."""
    scale = _scale(functools.reduce(jnp.maximum, map(jnp.abs, entries)))
    return scale * safe_sqrt(_sum((entry / scale) ** 2 for entry in entries))


def _reduced_norm(x: jax.Array, axes: tuple[int, ...]) -> jax.Array:
    scale = _scale(jnp.max(jnp.abs(x), axis=axes))
    return scale * safe_sqrt(jnp.sum((x / scale) ** 2, axis=axes))


def norm(x: jax.Array) -> jax.Array:
    """‖x‖ (Frobenius) of every matrix, `(*lanes)`; squares neither overflow nor vanish."""
    if _is_small(x):
        return _safe_norm([x[i, j] for i in range(x.shape[0]) for j in range(x.shape[1])])
    return _reduced_norm(x, (0, 1))


def column_norm(x: jax.Array) -> jax.Array:
    """‖xⱼ‖ of every column, `(columns, *lanes)`; squares neither overflow nor vanish."""
    return _safe_norm(list(x)) if _is_small(x) else _reduced_norm(x, (0,))


def norm_of_step(x: jax.Array, v: jax.Array, t: jax.Array) -> jax.Array:
    """‖x + t·v‖ at a unit x and a tangent t·v that can be squared; no array for x + t·v."""
    if _is_small(x):
        places = [(i, j) for i in range(x.shape[0]) for j in range(x.shape[1])]
        return jnp.sqrt(_sum((x[place] + t * v[place]) ** 2 for place in places))
    return jnp.sqrt(inner(x + t * v, x + t * v))


def column_norm_of_step(x: jax.Array, v: jax.Array, t: jax.Array) -> jax.Array:
    """‖xⱼ + t·vⱼ‖ of every column, likewise."""
    if _is_small(x):
        return jnp.sqrt(_sum((x[i] + t * v[i]) ** 2 for i in range(x.shape[0])))
    return jnp.sqrt(column_inner(x + t * v, x + t * v))


def shorten(v: jax.Array, longest: float) -> jax.Array:
    """V, or v scaled to norm `longest` where it is longer."""
    length = stage(lambda: norm(v), v)
    return v * jnp.where(length > longest, longest / length, 1)


# --- orthonormal columns -----------------------------------------------------------------------


def _gram_error(y: jax.Array) -> jax.Array:
    return gram(y, y) - identity(y.shape[1], y.shape[1], y)


def _residual_polynomial(y: jax.Array, e: jax.Array, scale: jax.Array | None = None) -> jax.Array:
    """Y·(1 + e)^−½ to fourth order in e: y + y(−½e + ⅜e² − 5⁄16e³ + 35⁄128e⁴).

    Carrying the correction apart from the 1 keeps three to eight times more digits. With a `scale`,
    a number per point, the same of scale·y, which is nowhere stored.
    """
    eye = identity(e.shape[0], e.shape[0], e)
    square = matmul(e, e)
    q = -0.5 * e + matmul(square, 0.375 * eye - 0.3125 * e + 0.2734375 * square)
    return y + matmul(y, q) if scale is None else scale * y + matmul(y, scale * q)


def polish(y: jax.Array) -> jax.Array:
    """One Newton-Schulz step y(3⁄2 − ½yᵀy): removes the rounding that piles up over many steps."""
    return y - matmul(y, 0.5 * _gram_error(y))


def polar_step(x: jax.Array, v: jax.Array) -> jax.Array:
    """The polar factor of x + v, for x with orthonormal columns and v tangent there.

    Because v is tangent, (x+v)ᵀ(x+v) = 1 + vᵀv: no singular value is below 1, and a polynomial in
    the residual E = (x+v)ᵀ(x+v) − 1 gives the polar factor, correcting drift of x on the way.
    """
    rows, columns = x.shape[:2]
    if columns == 1:
        y = x + v
        return y / norm(y)
    if rows == columns == 3:
        w = axis_3x3(x, shorten(v, SQUARABLE_STEP[x.dtype.itemsize]))
        return x + turned_3x3(x, stage(lambda: rotation_3x3(w, jnp.ones((), x.dtype)), x))
    size = x.dtype.itemsize
    y = stage(lambda: x + v, x)
    e = _gram_error(y)
    short = jnp.max(jnp.sum(jnp.abs(e), axis=1), axis=0) <= SHORT_STEP[size]  # false for NaN

    def some_are_long():
        # Made of x and y, lest v be stored for the sake of this.
        z = jnp.where(short, y, x + shorten(y - x, LONGEST_STEP[size]))
        polar = _long_polar(z)
        if short.ndim == 0:
            return polar
        return jnp.where(short, _short_polar(z, _gram_error(z)), polar)

    # Long steps are rare, so the long route is not computed without need; where it is, every lane
    # still goes its own way, so that no lane depends on another.
    return lax.cond(jnp.all(short), lambda: _short_polar(y, e), some_are_long)


def _short_polar(y: jax.Array, e: jax.Array) -> jax.Array:
    y = _residual_polynomial(y, e)
    for _ in range(SHORT_PASSES[y.dtype.itemsize] - 1):
        y = _residual_polynomial(y, _gram_error(y))
    return y


def _long_polar(y: jax.Array) -> jax.Array:
    """The polar factor for any y of full rank, by centered passes of the residual polynomial."""

    def centered_pass(_, y):
        m = gram(y, y)
        # Eigenvalues lie in (0, b]: scaling by 2/b puts them in (0, 2], where the series converges.
        # Only shrink: a matrix whose largest value is below 2 needs no scaling.
        largest = jnp.max(jnp.sum(jnp.abs(m), axis=1), axis=0)
        scale = jnp.minimum(1, 1.9 / largest)
        e = scale * m - identity(y.shape[1], y.shape[1], y)
        return _residual_polynomial(y, e, jnp.sqrt(scale))

    return lax.fori_loop(0, LONG_PASSES[y.dtype.itemsize], centered_pass, y)


def axis_3x3(x: jax.Array, g: jax.Array) -> jax.Array:
    """The axis w of the skew part of xᵀg = hat(w) + symmetric, for 3×3. `(3, *lanes)`.

    hat(w) is the matrix of the product w × y.
    """

    def entry(i, j):
        return _sum(x[k, i] * g[k, j] for k in range(3))

    return 0.5 * jnp.stack([entry(k, j) - entry(j, k) for j, k in ((1, 2), (2, 0), (0, 1))])


def times_hat(x: jax.Array, w: jax.Array) -> jax.Array:
    """X·hat(w), for 3×3."""
    ahead = ((1, 2), (2, 0), (0, 1))
    return jnp.stack([x[:, a] * w[b] - x[:, b] * w[a] for a, b in ahead], axis=1)


def rotation_3x3(w: jax.Array, t: jax.Array) -> jax.Array:
    """The rotation r by arctan ‖tw‖ about w, as the numbers p and σ of r = 1 + σ·hat(p) + hat(p)².

    For t·w that can be squared. A rotation by α < ½π about a unit axis n has p = √2·sin(½α)·n and
    σ = √2·cos(½α). With c = cos α = (1 + ‖tw‖²)^−½ these are p = c/σ·tw and σ = √(1 + c), which
    lose no digit at any length. `(3, *lanes)` → `(4, *lanes)`, σ last.
    """
    c = 1 / jnp.sqrt(1 + _sum((t * w[k]) ** 2 for k in range(3)))
    sigma = jnp.sqrt(1 + c)
    return jnp.stack([*(c / sigma * (t * w[k]) for k in range(3)), sigma])


def turned_3x3(x: jax.Array, rotation: jax.Array, *, polished: bool = True) -> jax.Array:
    """The polar factor of x + t·v, less x, for the tangent v = x·hat(w) at a 3×3 x.

    Given r, the `rotation_3x3` of w and t: 1 + t·hat(w) has the eigenvalues 1 and 1 ± i‖tw‖, so
    its polar factor is r, exactly, for every length. Polished, a Newton-Schulz step comes before
    it, 1 − ½E with E = xᵀx − 1, which removes the rounding of x. Less x, the result is x·(r − 1) or
    x·(r − 1 − ½Er).
    """
    *p, sigma = rotation
    e = {}
    if polished:
        for m, n in ((0, 0), (1, 1), (2, 2), (0, 1), (1, 2), (2, 0)):
            e[m, n] = e[n, m] = _sum(x[i, m] * x[i, n] for i in range(3)) - (m == n)
    columns = []
    for j, a, b in ((0, 1, 2), (1, 2, 0), (2, 0, 1)):
        turn = {j: -(p[a] * p[a] + p[b] * p[b])}  # column j of r − 1
        turn[a] = p[j] * p[a] + sigma * p[b]
        turn[b] = p[j] * p[b] - sigma * p[a]
        if polished:
            r = turn | {j: 1 + turn[j]}
            turn = {m: turn[m] - 0.5 * _sum(e[m, n] * r[n] for n in range(3)) for m in range(3)}
        columns.append(_sum(x[:, m] * turn[m] for m in range(3))[:, None])
    return jnp.concatenate(columns, axis=1)


def gram_schmidt(y: jax.Array) -> jax.Array:
    """The Q of y = QR with a positive diagonal of R, for y of full rank; rows ≥ columns.

    Every column is orthogonalized twice, which keeps Q orthonormal to rounding for any condition
    number below 1/eps (Kahan's "twice is enough").
    """
    columns = y.shape[1]
    if columns <= UNROLLED_COLUMNS:
        done: list[jax.Array] = []
        for j in range(columns):
            column = y[:, j : j + 1]
            column = column / norm(column)
            for _ in range(2):
                for q in done:
                    column = column - q * inner(q, column)
                column = column / norm(column)
            done.append(stage(lambda column=column: column, y))
        return jnp.concatenate(done, axis=1)

    def orthogonalize(j, q):
        column = lax.dynamic_slice_in_dim(y, j, 1, axis=1)
        column = column / norm(column)
        for _ in range(2):
            column = column - matmul(q, gram(q, column))  # columns of q from j on are still 0
            column = column / norm(column)
        return lax.dynamic_update_slice_in_dim(q, column, j, axis=1)

    return lax.fori_loop(0, columns, orthogonalize, jnp.zeros_like(y))


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


def expm(a: jax.Array) -> jax.Array:
    """The matrix exponential, by scaling, a Taylor polynomial and squaring.

    Matrices of 1-norm above 2¹² give NaN: their exponential would have no correct digit left.
    """
    most_squarings, degree = 13, 18
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
