"""Manifolds of matrices at unit scale, on arrays of shape `(rows, columns, *lanes)`."""

from fgsgd_jax.geometry._euclidean import Euclidean as Euclidean
from fgsgd_jax.geometry._manifold import NOT_FINITE as NOT_FINITE
from fgsgd_jax.geometry._manifold import Manifold as Manifold
from fgsgd_jax.geometry._manifold import overrides as overrides
from fgsgd_jax.geometry._oblique import Oblique as Oblique
from fgsgd_jax.geometry._product import Product as Product
from fgsgd_jax.geometry._sphere import Sphere as Sphere
from fgsgd_jax.geometry._stiefel import Stiefel as Stiefel
