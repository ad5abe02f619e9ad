"""Steps on spheres and oblique manifolds: one number per point, or per column, decides them."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from fgsgd_jax import _xla_cpu, linalg
from fgsgd_jax.kernels._kernel import Kernel


class RescalingKernel(Kernel):
    """A step that adds t·v and multiplies by a factor f per point or column: f(x + tv) − x.

    Attributes:
        product: ⟨x, y⟩ of every point, or of every column.
    """

    product: Callable

    def normal(self, x, g):
        # Where they are not stored, every pass computes these numbers again: they must be the same.
        return self.product(x, g, rounded=not _xla_cpu.reads_stored_arrays())

    def tangent(self, x, g, normal):
        return g - normal * x

    def move(self, x, v, t, aimed, *, exact):
        return (aimed - 1) * x + aimed * (t * v)  # f·t is about 1/‖v‖, and may underflow

    def squared_length(self, x, v) -> tuple:
        """The coefficients of ‖x + tv‖² = a + 2bt + ct² of every point, or column.

        b = ⟨x, v⟩ is rounding, which counts where ⟨x, g⟩ is much larger than ‖v‖.
        """
        return self.product(x, x), self.product(x, v), self.product(v, v)

    def factor(self, squared_length: tuple, t, at_rest):
        """f, exactly, from the coefficients of ‖x + tv‖²; 1 in lanes `at_rest`."""
        a, b, c = squared_length
        square = jnp.where(t == 0, a, a + 2 * t * b + t * t * c)  # where t is 0, c may be infinite
        return jnp.where(at_rest, 1, 1 / jnp.sqrt(square))


class SphereKernel(RescalingKernel):
    """A step of `Sphere`: with n = ⟨x, g⟩, v = g − n·x and f = 1/‖x + tv‖, it is f(x + tv) − x.

    Measuring ‖x + tv‖ takes a pass over the weights. As v is tangent it is (1 + t²‖v‖²)^½, up to
    the rounding of x, so most steps may use that instead (`exact=False`).
    """

    product = staticmethod(linalg.inner)
    approximates_aim = True

    def aim(self, x, v, t, normal, squares, at_rest, *, exact):
        if exact:
            return jnp.where(at_rest, 1, 1 / _norm_of_step(x, v, t))
        # Where t is 0, the squares may be infinite.
        return jnp.where(at_rest | (t == 0), 1, 1 / jnp.sqrt(1 + t * t * squares))

    def amplifies_rounding(self, t, normal) -> jax.Array:
        # At ‖x‖² = 1 + δ the projection leaves −⟨x, g⟩δ along x, and with the approximate length
        # the squared norm becomes at most 1 + δ(1 − 2t⟨x, g⟩): with this bound, 3δ after 16 steps.
        largest = jnp.max(jnp.abs(t)) * jnp.max(jnp.abs(normal))
        return ~(largest <= 1 / 32)  # True for NaN


class ObliqueKernel(RescalingKernel):
    """A step of `Oblique`: the same for every column.

    Args:
        bounded: Whether the squares of a step are finite. Shortening the step of a component would
            shorten that of its other columns.
    """

    product = staticmethod(linalg.column_inner)

    def __init__(self, *, bounded: bool):
        self.bounded = bounded

    def shortened(self, t, length):
        return t

    def aim(self, x, v, t, normal, squares, at_rest, *, exact):
        length = _column_norm_of_step(x, v, t) if self.bounded else linalg.column_norm(x + t * v)
        return jnp.where(at_rest, 1, 1 / length)


# x + t·v is summed entry by entry where points are small, so that it is nowhere stored.


def _norm_of_step(x, v, t) -> jax.Array:
    """‖x + t·v‖ at a unit x and a tangent t·v whose square is finite."""
    if linalg.is_small(x):
        pairs = zip(linalg.entries(x), linalg.entries(v), strict=True)
        return jnp.sqrt(linalg.total((a + t * b) ** 2 for a, b in pairs))
    return jnp.sqrt(linalg.inner(x + t * v, x + t * v))


def _column_norm_of_step(x, v, t) -> jax.Array:
    """‖xⱼ + t·vⱼ‖ of every column, likewise."""
    if linalg.is_small(x):
        return jnp.sqrt(linalg.total((x[i] + t * v[i]) ** 2 for i in range(x.shape[0])))
    return jnp.sqrt(linalg.column_inner(x + t * v, x + t * v))
