"""Flat space, so that "no constraint" is a manifold like any other."""

import dataclasses
import math
from typing import final

import jax
import jax.numpy as jnp

from fgsgd_jax import linalg
from fgsgd_jax._keys import require_key
from fgsgd_jax._numbers import checked_float_dtype
from fgsgd_jax.geometry._manifold import Manifold, require_points, require_shape


@final
@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class Euclidean(Manifold):
    """All matrices. Every vector is tangent, and a step is an addition.

    Example:
        >>> import jax.numpy as jnp
        >>> Euclidean().retract(jnp.ones((1, 2)), jnp.array([[0.5, -1.0]]))
        Array([[1.5, 0. ]], dtype=float32)
    """

    curvature_bound = 0.0
    fixes_norm = False

    def project(self, x, /):
        require_points(self, x)
        return x

    def to_tangent(self, x, g, /):
        require_points(self, x, g)
        return g

    def retract(self, x, v, /):
        require_points(self, x, v)
        return x + v

    def exp(self, x, v, /):
        require_points(self, x, v)
        return x + v

    def log(self, x, y, /):
        require_points(self, x, y)
        return y - x

    def dist(self, x, y, /):
        require_points(self, x, y)
        return linalg.norm(y - x)

    def residual(self, x, /):
        require_points(self, x)
        return jnp.zeros(x.shape[2:], linalg.working_dtype(x.dtype))

    def random(self, key, shape, dtype=jnp.float32):
        """Independent standard normal entries; flat space has no uniform distribution."""
        require_key(key)
        require_shape(self, shape)
        dtype = checked_float_dtype("dtype", dtype)
        return jax.random.normal(key, shape, dtype)

    def dimension(self, shape):
        require_shape(self, shape)
        return math.prod(shape[:2])

    def second_fundamental_form(self, x, u, v, /):
        del x, v
        return jnp.zeros_like(u)
