"""Steps on 3×3 orthogonal matrices: a rotation, whose axis decides everything."""

import jax.numpy as jnp

from fgsgd_jax import linalg
from fgsgd_jax.kernels._kernel import Kernel


class RotationKernel(Kernel):
    """A polar step of `Stiefel` on 3×3 points.

    The tangent vector is x·hat(w) with the axis w of the skew part of xᵀg, three numbers, and the
    polar factor of x + t·v is x·r, with r the rotation by arctan ‖tw‖ about w, four numbers.
    """

    approximates_aim = True
    mixes_entries = True

    def normal(self, x, g):
        return linalg.axis_3x3(x, g)

    def tangent(self, x, g, normal):
        return linalg.times_hat(x, normal)

    def squares(self, x, v, normal):
        return 2 * linalg.square_norm(normal[None])

    def length(self, v, normal):
        return linalg.finite_or_nan(2**0.5 * linalg.norm(normal[None]))

    def aim(self, x, v, t, normal, squares, at_rest, *, exact):
        *p, sigma = linalg.rotation_3x3(normal, t)
        # σ is positive in a rotation: −σ marks a point at rest.
        rotation = jnp.stack([*p, jnp.where(at_rest, -sigma, sigma)])
        # Points that are too far off give NaN. It is the exact steps that find them.
        return jnp.where(linalg.is_polishable_3x3(x), rotation, jnp.nan) if exact else rotation

    def amplifies_rounding(self, t, normal):
        return jnp.array(False)

    def move(self, x, v, t, aimed, *, exact):
        *p, sigma = aimed
        rotation = [*p, jnp.abs(sigma)]
        return linalg.turned_3x3(x, rotation, polished=exact, at_rest=sigma < 0)
