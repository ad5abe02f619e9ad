"""How far the groups of weights have been from where they started."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp

from fgsgd_jax import linalg
from fgsgd_jax._trees import leaves_with_paths
from fgsgd_jax.geometry import Manifold, Stiefel
from fgsgd_jax.spec import Collection, LeafSpec, select
from fgsgd_jax.transforms._component_norms import Moment, moment_shape, norms_of_groups
from fgsgd_jax.transforms._link import SpecState


class Travelled(NamedTuple):
    """The distances travelled so far, by path.

    Attributes:
        start: The first weights, at unit scale.
        farthest: The largest distance from them, of every group or component.
    """

    start: dict[str, jax.Array]
    farthest: dict[str, jax.Array]

    @classmethod
    def of(cls, spec: Collection, state: SpecState, params, per: Moment = "group") -> "Travelled":
        """The distances before the first step: 0."""
        start, farthest = {}, {}
        for path, weight in leaves_with_paths(params):
            leaf_spec = spec.leaf_spec_of(path, weight)
            if leaf_spec is None:
                continue
            dtype = linalg.working_dtype(weight.dtype)
            farthest[path] = jnp.zeros(moment_shape(leaf_spec, per), dtype)
            start[path] = state.unit_copy(path, leaf_spec, weight, dtype)
        return cls(start, farthest)

    def at(self, path, leaf_spec, weight, manifold_ids, groups, s, per: Moment = "group"):
        """The largest distances so far, with those of the present weight."""
        now = _distances(leaf_spec, self.start[path], weight, manifold_ids, groups, s, per=per)
        return jnp.maximum(self.farthest[path], now)


@functools.partial(jax.jit, static_argnums=0, static_argnames="per")
def _distances(leaf_spec: LeafSpec, start, weight, manifold_ids, groups, s, *, per: Moment):
    x, y = leaf_spec.points(start), leaf_spec.unit_points(weight, s)
    each = [_distance(manifold, x, y) for manifold in leaf_spec.manifolds]
    distances = select(manifold_ids, each)
    return norms_of_groups(leaf_spec, distances, groups) if per == "group" else distances


def _distance(manifold: Manifold, x: jax.Array, y: jax.Array) -> jax.Array:
    """The geodesic distance where it has a closed form, else the chord, which is not longer."""
    if isinstance(manifold, Stiefel) or not hasattr(manifold, "dist"):
        return linalg.norm(y - x)
    return manifold.dist(x, y)  # pyright: ignore[reportAttributeAccessIssue]
