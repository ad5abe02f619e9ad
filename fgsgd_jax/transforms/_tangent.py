"""`project_to_tangent`: the first link of a chain on manifolds."""

import functools
from typing import NamedTuple

import jax
import optax

from fgsgd_jax.spec import (
    Collection,
    Coordinates,
    LeafSpec,
    checked_coordinates,
    map_leaves,
    require_collection,
)
from fgsgd_jax.transforms._feature_std import arrived
from fgsgd_jax.transforms._params import require_params


class ProjectToTangentState(NamedTuple):
    """The drawn manifold of every component of mixed weights, and λ now and next, by path."""

    manifold_ids: dict[str, jax.Array]
    feature_std: dict[str, jax.Array]
    next_feature_std: dict[str, jax.Array]


def project_to_tangent(
    spec: Collection, *, coordinates: Coordinates = "unit"
) -> optax.GradientTransformationExtraArgs:
    """Projects gradients on the tangent space of the manifolds (Algorithm 1, line 5).

    Component by component, the part of the gradient that would leave the manifold is removed.
    Euclidean leaves pass unchanged. The first link of a chain: what follows may add, scale and clip
    tangent vectors as it pleases, and `retract_updates` must come last.

    Args:
        spec: The collection of the parameters.
        coordinates: On which manifolds steps are taken, as for `fgsgd`; the same in all links.

    Returns:
        A transformation whose `update` needs `params`.

    Example:
        >>> import jax.numpy as jnp
        >>> import fgsgd_jax as fg
        >>> params = {"w": jnp.array([[1.0], [0.0]]).reshape(2, 1, 1, 1)}
        >>> spec = fg.collection(params, ("w", fg.pom("layer", fg.Sphere())))
        >>> link = project_to_tangent(spec)
        >>> tangent, _ = link.update({"w": jnp.ones((2, 1, 1, 1))}, link.init(params), params)
        >>> tangent["w"].ravel()
        Array([0., 1.], dtype=float32)

    References:
        Ozay, 2019, Algorithm 1.
    """
    require_collection(spec)
    coordinates = checked_coordinates(coordinates)

    def init_fn(params):
        del params
        return ProjectToTangentState(spec.manifold_ids(), spec.feature_std(), spec.feature_std())

    def update_fn(updates, state, params=None, **extra_args):
        del extra_args
        require_params(params, "the tangent space is that of the present weights")

        def one(path, layer, gradient, weight):
            drawn, feature_std = state.manifold_ids.get(path), state.feature_std.get(path)
            return _to_tangent(layer, coordinates, weight, gradient, drawn, feature_std)

        projected = map_leaves(spec, one, lambda gradient, _: gradient, updates, params)
        return projected, arrived(state)

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


# An inner jit, so that leaves that are treated alike are traced once.
@functools.partial(jax.jit, static_argnums=(0, 1))
def _to_tangent(
    layer: LeafSpec, coordinates: Coordinates, weight, gradient, manifold_ids, feature_std
):
    s = layer.scale(feature_std, weight.dtype)
    return layer.to_tangent(weight, gradient, manifold_ids, s, coordinates=coordinates)
