"""`Kernel`: a step on a manifold, arranged in passes; and the kernel of any manifold.

A step on a million small points is limited by memory traffic. A kernel arranges the verbs of a
manifold so that a step reads weights and gradients as few times as possible, and stores only a few
numbers per point between its passes:

    normal       numbers that determine the normal part of the gradient      a pass over x and g
    squares      ⟨v, v⟩ of the tangent vector v, for the norm of the group   a pass over x and g
    aim          numbers that determine the retraction of t·v                a pass over x and g
    move         R(x, t·v) − x, entry by entry                               a pass over x and g
"""

import abc
from typing import Any

import jax
import jax.numpy as jnp

from fgsgd_jax import linalg
from fgsgd_jax.geometry import Manifold


class Kernel(abc.ABC):
    """The passes of a step on one manifold.

    Arguments: x is a point, g a gradient, v its tangent part, t a number per point. `exact=False`
    allows an approximation on which the rounding of x stays as it is; one exact step removes what
    a few approximate ones add.
    """

    # Whether v follows from x, g and the normal numbers by a multiplication per entry, so that it
    # is better computed again in every pass than stored.
    recomputes_tangent: bool = True

    # Whether `aim` has a cheaper approximation.
    approximates_aim: bool = False

    # Whether `aim` takes so long that its numbers are stored even where points are few.
    has_costly_aim: bool = False

    # Whether an entry of the result depends on other entries of its point, so that it cannot
    # overwrite them in place. Such a move is materialized, or XLA's CPU compiler writes the results
    # of all weights to buffers of their own and copies them back.
    mixes_entries: bool = False

    @abc.abstractmethod
    def normal(self, x: jax.Array, g: jax.Array) -> Any:
        """The numbers that determine the normal part of g, as few per point as possible."""

    @abc.abstractmethod
    def tangent(self, x: jax.Array, g: jax.Array, normal: Any) -> Any:
        """The tangent part of g; of a mixture, a tuple with one for each manifold."""

    def vector(self, v: Any) -> jax.Array:
        """The tangent vector as one array, from what `tangent` returns."""
        return v

    def parts(self, vector: jax.Array) -> Any:
        """The tangent vector in the form that `tangent` returns, from one array."""
        return vector

    def squares(self, x: jax.Array, v: Any, normal: Any) -> jax.Array:
        """⟨v, v⟩, `(*lanes)`."""
        return linalg.inner(v, v)

    def length(self, v: Any, normal: Any) -> jax.Array:
        """‖v‖, `(*lanes)`; NaN where an entry is infinite: such a vector has no direction."""
        return linalg.finite_or_nan(linalg.norm(self.vector(v)))

    def shortened(self, t: jax.Array, length: jax.Array) -> jax.Array:
        """t, or less where the square of t·v could overflow, for a v of this length. `(*lanes)`.

        Of so long a step only the direction counts, unless the space is flat.
        """
        most = linalg.SQUARABLE_STEP[length.dtype.itemsize]
        product = jnp.abs(t) * length
        return t * jnp.where(product > most, most / product, 1)

    @abc.abstractmethod
    def aim(
        self,
        x: jax.Array,
        v: jax.Array,
        t: jax.Array,
        normal: Any,
        squares: jax.Array,
        at_rest: jax.Array,
        *,
        exact: bool,
    ) -> Any:
        """The numbers that determine the move; those of a move by exactly 0 in lanes `at_rest`."""

    def amplifies_rounding(self, t: jax.Array, normal: Any) -> jax.Array:
        """Whether approximate steps would amplify the rounding of x and must not be taken.

        A scalar; asked only if `approximates_aim`.
        """
        raise NotImplementedError

    @abc.abstractmethod
    def move(
        self, x: jax.Array, v: jax.Array, t: jax.Array, aimed: Any, *, exact: bool
    ) -> jax.Array:
        """R(x, t·v) − x."""


class VerbsKernel(Kernel):
    """The step of any manifold, by its verbs."""

    recomputes_tangent = False

    def __init__(self, manifold: Manifold):
        self.manifold = manifold

    def normal(self, x, g):
        return None

    def tangent(self, x, g, normal):
        return self.manifold.to_tangent(x, g)

    def squares(self, x, v, normal):
        return self.manifold.inner(x, v, v)

    def aim(self, x, v, t, normal, squares, at_rest, *, exact):
        return at_rest

    def move(self, x, v, t, aimed, *, exact):
        # At rest t·v: exactly 0, with the derivative of the step.
        return jnp.where(aimed, t * v, self.manifold.retract(x, t * v) - x)
