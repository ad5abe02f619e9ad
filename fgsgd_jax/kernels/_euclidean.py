"""Steps in flat space, for components that a mixture leaves unconstrained."""

from fgsgd_jax import linalg
from fgsgd_jax.kernels._kernel import Kernel


class EuclideanKernel(Kernel):
    """A step of `Euclidean`: t·v, without further numbers."""

    def normal(self, x, g):
        return ()

    def tangent(self, x, g, normal):
        return g

    def squares(self, x, v, normal):
        return linalg.square_norm(v)

    def shortened(self, t, length):
        return t

    def aim(self, x, v, t, normal, squares, at_rest, *, exact):
        return ()

    def move(self, x, v, t, aimed, *, exact):
        return t * v
