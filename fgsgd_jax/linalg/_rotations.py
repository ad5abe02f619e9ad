"""Rotations of 3×3 matrices in closed form: polar factors without an iteration."""

from collections.abc import Iterable

import jax
import jax.numpy as jnp

from fgsgd_jax.linalg._products import total

# One Newton-Schulz step turns an error E = xᵀx − 1 into ¾E². It is taken for points up to this far
# off (a bound of the largest eigenvalue of E), which the rounding of bfloat16 stays below; what
# is left is below 1e-2, and the next step leaves 1e-4 of it. Points further off give NaN.
POLISHABLE = 0.1


def axis_3x3(x: jax.Array, g: jax.Array) -> jax.Array:
    """The axis w of the skew part of xᵀg = hat(w) + symmetric, for 3×3. `(3, *lanes)`.

    hat(w) is the matrix of the product w × y.
    """

    def entry(i, j):
        return total(x[k, i] * g[k, j] for k in range(3))

    return 0.5 * jnp.stack([entry(k, j) - entry(j, k) for j, k in ((1, 2), (2, 0), (0, 1))])


def times_hat(x: jax.Array, w: jax.Array) -> jax.Array:
    """x·hat(w), for 3×3."""
    ahead = ((1, 2), (2, 0), (0, 1))
    return jnp.stack([x[:, a] * w[b] - x[:, b] * w[a] for a, b in ahead], axis=1)


def rotation_3x3(w: jax.Array, t: jax.Array) -> jax.Array:
    """The rotation r by arctan ‖tw‖ about w, as the numbers p and σ of r = 1 + σ·hat(p) + hat(p)².

    For t·w that can be squared. A rotation by α < ½π about a unit axis n has p = √2·sin(½α)·n and
    σ = √2·cos(½α). With c = cos α = (1 + ‖tw‖²)^−½ these are p = c/σ·tw and σ = √(1 + c), which
    lose no digit at any length. `(3, *lanes)` → `(4, *lanes)`, σ last.
    """
    c = 1 / jnp.sqrt(1 + total((t * w[k]) ** 2 for k in range(3)))
    sigma = jnp.sqrt(1 + c)
    return jnp.stack([*(c / sigma * (t * w[k]) for k in range(3)), sigma])


def is_polishable_3x3(x: jax.Array) -> jax.Array:
    """Whether one Newton-Schulz step makes a 3×3 x orthonormal. `(*lanes)`, False for NaN."""
    e = _gram_error_3x3(x)
    return total(entry**2 for entry in e.values()) <= POLISHABLE**2


def _gram_error_3x3(x: jax.Array) -> dict[tuple[int, int], jax.Array]:
    """The entries of E = xᵀx − 1."""
    e = {}
    for m, n in ((0, 0), (1, 1), (2, 2), (0, 1), (1, 2), (2, 0)):
        e[m, n] = e[n, m] = total(x[i, m] * x[i, n] for i in range(3)) - (m == n)
    return e


def turned_3x3(
    x: jax.Array,
    rotation: Iterable[jax.Array],
    *,
    polished: bool = True,
    at_rest: jax.Array | bool = False,
) -> jax.Array:
    """The polar factor of x + t·v minus x, for the tangent vector v = x·hat(w) at a 3×3 x.

    1 + t·hat(w) has the eigenvalues 1 and 1 ± i‖tw‖, so its polar factor is exactly r, the
    `rotation_3x3` of w and t, for every length. If `polished`, a Newton-Schulz step comes first,
    1 − ½E with E = xᵀx − 1, which removes the rounding of x. The result is x·(r − 1) or, polished,
    x·(r − 1 − ½Er), for an x that `is_polishable_3x3`.

    Points `at_rest` are not polished: where r = 1 the result is exactly 0 there, and its derivative
    is still that of the step.
    """
    *p, sigma = rotation
    e = _gram_error_3x3(x) if polished else {}
    half = jnp.where(at_rest, 0, 0.5)
    columns = []
    for j, a, b in ((0, 1, 2), (1, 2, 0), (2, 0, 1)):
        turn = {j: -(p[a] * p[a] + p[b] * p[b])}  # column j of r − 1
        turn[a] = p[j] * p[a] + sigma * p[b]
        turn[b] = p[j] * p[b] - sigma * p[a]
        if polished:
            r = turn | {j: 1 + turn[j]}
            turn = {m: turn[m] - half * total(e[m, n] * r[n] for n in range(3)) for m in range(3)}
        columns.append(total(x[:, m] * turn[m] for m in range(3))[:, None])
    return jnp.concatenate(columns, axis=1)
