"""Steps on 3×3 orthogonal matrices: a rotation, whose axis decides everything."""

import jax.numpy as jnp

from fgsgd_jax import linalg
from fgsgd_jax.kernels._kernel import Kernel


class RotationKernel(Kernel):
    """A polar step of `Stiefel` on 3×3 points.

    The tangent vector is x·hat(w) with the axis w of the skew part of xᵀg, three numbers, and the
    polar factor of x + t·v is x·r, with r the rotation by arctan ‖tw‖ about w, four numbers.
    """

    mixes_entries = True

    def normal(self, x, g):
        return linalg.axis_3x3(x, g)

    def tangent(self, x, g, normal):
        return linalg.times_hat(x, normal)

    def squares(self, x, v, normal):
        return 2 * linalg.inner(normal[None], normal[None])

    def aim(self, x, v, t, normal, squares, at_rest, *, exact):
        rotation = linalg.rotation_3x3(normal, t)
        # σ, the last of the four numbers, is never 0 in a rotation: 0 marks a point at rest.
        return jnp.where(at_rest, 0, rotation)

    def move(self, x, v, t, aimed, *, exact):
        moved = linalg.turned_3x3(x, aimed, polished=exact)
        return jnp.where(aimed[3] == 0, 0, moved)
