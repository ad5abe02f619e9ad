"""The oblique manifold: a unit sphere for every column."""

import dataclasses
import math
from typing import final

import jax
import jax.numpy as jnp

from fgsgd_jax import linalg
from fgsgd_jax.geometry._manifold import (
    Manifold,
    require_nonzero,
    require_points,
    require_shape,
)
from fgsgd_jax.geometry._sphere import arc, cos_sinc, log_factor


@final
@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class Oblique(Manifold):
    """Matrices whose columns have norm 1: a product of spheres, one per column.

    The tangent space at x is every v with diag(xᵀv) = 0. Distances of the columns add in squares;
    the curvature of a plane lies in [0, 1].

    Example:
        >>> import jax.numpy as jnp
        >>> Oblique().project(jnp.array([[3.0, 0.0], [4.0, 2.0]]))
        Array([[0.6, 0. ],
               [0.8, 1. ]], dtype=float32)

    References:
        Absil & Gallivan, *Joint diagonalization on the oblique manifold for independent component
        analysis*, 2006; Ozay, 2019, section 2.
    """

    curvature_bound = 1.0
    wants_matrix = True

    def project(self, x, /):
        require_points(self, x)
        length = linalg.column_norm(x)
        require_nonzero(self, length, "zero column")
        return x / length

    def to_tangent(self, x, g, /):
        require_points(self, x, g)
        return g - linalg.column_inner(x, g) * x

    def retract(self, x, v, /):
        require_points(self, x, v)
        y = x + v
        return y / linalg.column_norm(y)

    def exp(self, x, v, /):
        require_points(self, x, v)
        cosine, sinc = cos_sinc(linalg.column_norm(v))
        return cosine * x + sinc * v

    def log(self, x, y, /):
        require_points(self, x, y)
        w = self.to_tangent(x, y - x)
        mirror_chord = linalg.column_norm(x + y)
        return log_factor(self._angles(x, y), linalg.column_norm(w), mirror_chord) * w

    def dist(self, x, y, /):
        require_points(self, x, y)
        return linalg.norm(self._angles(x, y)[None])

    def _angles(self, x, y):
        return arc(linalg.column_norm(x - y), linalg.column_norm(x + y))

    def residual(self, x, /):
        require_points(self, x)
        return jnp.max(jnp.abs(linalg.column_norm(linalg.in_working_dtype(x)) - 1), axis=0)

    def dimension(self, shape):
        require_shape(self, shape)
        return math.prod(shape[:2]) - shape[1]

    def second_fundamental_form(self, x, u, v, /):
        return -linalg.column_inner(u, v) * x
