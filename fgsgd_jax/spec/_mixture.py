"""`Mixture`: a batch of points, each on one of several manifolds."""

import functools
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fgsgd_jax.geometry import Manifold


class Mixture(NamedTuple):
    """Several manifolds with the verbs of one: each lane is on a manifold of its own.

    Every verb is computed for all lanes on every manifold, and each lane takes the result of its
    own: for small points that costs less than gathering the lanes of each manifold.

    Attributes:
        manifolds: The manifolds.
        manifold_ids: The index of every lane's manifold, int8 `(*lanes)`.
    """

    manifolds: tuple[Manifold, ...]
    manifold_ids: jax.Array

    def project(self, x: jax.Array) -> jax.Array:
        """The nearest points."""
        return self._select(m.project(self._own_points(i, x)) for i, m in enumerate(self.manifolds))

    def to_tangent(self, x: jax.Array, g: jax.Array) -> jax.Array:
        """The projections of g on the tangent spaces."""
        return self._select(m.to_tangent(x, g) for m in self.manifolds)

    def retract(self, x: jax.Array, v: jax.Array) -> jax.Array:
        """The points reached from x along v."""
        return self._select(
            m.retract(self._own_points(i, x), self._own_vectors(i, v))
            for i, m in enumerate(self.manifolds)
        )

    def transport(self, x: jax.Array, y: jax.Array, v: jax.Array) -> jax.Array:
        """The tangent vectors v, carried from x to y."""
        return self._select(m.transport(x, y, v) for m in self.manifolds)

    def inner(self, x: jax.Array, u: jax.Array, v: jax.Array) -> jax.Array:
        """⟨u, v⟩, `(*lanes)`."""
        return self._select(m.inner(x, u, v) for m in self.manifolds)

    def representer(self, x: jax.Array, g: jax.Array) -> jax.Array:
        """The vectors that represent g with respect to `inner`."""
        return self._select(m.representer(x, g) for m in self.manifolds)

    def norm(self, x: jax.Array, v: jax.Array) -> jax.Array:
        """√⟨v, v⟩, `(*lanes)`."""
        return self._select(m.norm(x, v) for m in self.manifolds)

    def residual(self, x: jax.Array) -> jax.Array:
        """How far x is from the manifolds, `(*lanes)`."""
        return self._select(m.residual(x) for m in self.manifolds)

    def _select(self, results) -> jax.Array:
        return select(self.manifold_ids, list(results))

    # A point of another manifold may have no nearest point on this one, or take its slow path for
    # long steps. So lanes of other manifolds hold a placeholder and a zero vector.

    def _own_points(self, index: int, x: jax.Array) -> jax.Array:
        placeholder = _placeholder(self.manifolds[index], *x.shape[:2])
        placeholder = placeholder.reshape(x.shape[:2] + (1,) * (x.ndim - 2))
        return jnp.where(self.manifold_ids == index, x, placeholder.astype(x.dtype))

    def _own_vectors(self, index: int, v: jax.Array) -> jax.Array:
        return jnp.where(self.manifold_ids == index, v, 0)


def select(manifold_ids, results: Sequence[jax.Array], of: Sequence[int] = ()) -> jax.Array:
    """For every lane, the result of its own manifold.

    Args:
        manifold_ids: The index of every lane's manifold, None for a single one.
        results: A result of each manifold.
        of: The indices of the manifolds that the results belong to; by default all of them.
    """
    selected, indices = results[0], of or range(len(results))
    for index, result in list(zip(indices, results, strict=True))[1:]:
        selected = jnp.where(manifold_ids == index, result, selected)
    return selected


@functools.lru_cache(maxsize=256)
def _placeholder(manifold: Manifold, rows: int, columns: int) -> np.ndarray:
    """Any point of the manifold, a constant of programs."""
    with jax.ensure_compile_time_eval():
        draw = jax.jit(functools.partial(manifold.random, shape=(rows, columns)))
        return np.asarray(draw(jax.random.key(0)))
