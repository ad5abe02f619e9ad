"""The geodesics of the Stiefel manifold under the Euclidean metric, and their inverse.

Points are tall: `(rows, columns, *lanes)` with rows ≥ columns.
"""

import jax
import jax.numpy as jnp
from jax import lax

from fgsgd_jax import linalg

# `log` solves a dense system in the entries of a point; 1024² numbers are the most it should ask.
LARGEST_LOG = 1024
# The relative size of the last Gauss-Newton correction that still counts as converged.
CERTAIN = {4: 1e-4, 8: 1e-9}
# The exponential of a skew matrix keeps two digits in float32 up to a norm of 2¹⁵.
SQUARINGS_OF_SKEW = 16


def to_tangent(x, g):
    """g − x·sym(xᵀg), the part of g that is tangent at x."""
    return g - linalg.matmul(x, linalg.symmetric(linalg.gram(x, g)))


def exp(x, v):
    """[x v]·expm([[A, −vᵀv], [1, A]])·[expm(−A); 0], A = xᵀv (Edelman et al., eq. 2.42).

    For square points that is x·expm(A).
    """
    p = x.shape[1]
    a = linalg.skew(linalg.gram(x, v))
    if x.shape[0] == p:
        return linalg.polish(linalg.matmul(x, linalg.expm(a, SQUARINGS_OF_SKEW)))
    eye = linalg.identity(p, p, x) + jnp.zeros_like(a)
    # With v/s for v the second block row is s times as large: then no block is larger than ‖v‖.
    s = lax.stop_gradient(jnp.maximum(1, linalg.norm(v)))
    v = v / s
    block = jnp.concatenate(
        [
            jnp.concatenate([a, -s * linalg.gram(v, v)], axis=1),
            jnp.concatenate([s * eye, a], axis=1),
        ]
    )
    left = linalg.matmul(jnp.concatenate([x, v], axis=1), linalg.expm(block)[:, :p])
    return linalg.polish(linalg.matmul(left, linalg.expm(-a)))


def log(x, y):
    """`_log_one` in every lane."""
    lanes = x.shape[2:]
    if x.shape[0] * x.shape[1] > LARGEST_LOG:
        raise ValueError(
            f"The logarithm on Stiefel solves for all entries of a point at once and stops at "
            f"{LARGEST_LOG} of them, but a point here is {x.shape[0]} × {x.shape[1]}."
        )
    flat_x, flat_y = (a.reshape((*a.shape[:2], -1)) for a in (x, y))
    return jax.vmap(_log_one, in_axes=-1, out_axes=-1)(flat_x, flat_y).reshape(x.shape[:2] + lanes)


def _log_one(x, y):
    """Gauss-Newton on ‖exp(x, v) − y‖² over the tangent space at x, then the certificate.

    From the projected chord it converges to rounding within ten steps up to length 3.1, where the
    simpler fixed point v ← v + (y − exp(x, v)) already fails at 1.5.
    """
    size, dtype = x.size, x.dtype

    def tangent(flat):
        return to_tangent(x, flat.reshape(x.shape))

    def endpoint(flat):
        return exp(x, tangent(flat)).ravel()

    basis = jnp.eye(size, dtype=dtype)
    normal = basis - jax.vmap(lambda e: tangent(e).ravel())(basis)

    def step(v):
        gap = y.ravel() - endpoint(v)
        jacobian = jax.vmap(lambda e: jax.jvp(endpoint, (v,), (e,))[1], out_axes=1)(basis)
        # The projection on the normal space fills the null space of the Jacobian.
        curvature = linalg.gram(jacobian, jacobian) + normal
        return linalg.solve(curvature, linalg.gram(jacobian, gap[:, None]))[:, 0]

    v = tangent((y - x).ravel()).ravel()
    v = lax.fori_loop(0, 12, lambda _, v: v + step(v), v)
    last = step(v)
    v = tangent(v + last)

    length = linalg.norm(v)
    rounding = jnp.sqrt(size) * jnp.finfo(dtype).eps
    certain = (linalg.norm(exp(x, v) - y) <= 16 * rounding) & (length < jnp.pi)
    # Near a conjugate point many vectors end within rounding of y; there the last correction is
    # not small, and the answer not certain.
    certain &= jnp.linalg.norm(last) <= CERTAIN[dtype.itemsize] * length + 8 * rounding
    return jnp.where(certain, v, jnp.nan)
