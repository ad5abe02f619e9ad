"""`project_to_tangent`: the first link of a chain on manifolds."""

from fgsgd_jax.spec import (
    Collection,
    Coordinates,
    checked_coordinates,
    map_leaves,
    require_collection,
)
from fgsgd_jax.transforms._link import Link, SpecState, require_params, require_state


def project_to_tangent(spec: Collection, *, coordinates: Coordinates = "unit") -> Link:
    """Projects gradients on the tangent space of the manifolds (Algorithm 1, line 5).

    From the gradient of each component, the part that is normal to its manifold is removed.
    Euclidean leaves pass unchanged. The first link of a chain: later links may add, scale and clip
    tangent vectors freely, and `retract_updates` must come last.

    Args:
        spec: The spec of the parameters.
        coordinates: As for `fgsgd`; the same in all links of a chain.

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
        return SpecState.of(spec, params)

    def update_fn(updates, state, params=None, **extra_args):
        del extra_args
        require_params(params, "the tangent space depends on the present weights")
        require_state(state, SpecState, spec)

        def on_manifold(path, leaf_spec, gradient, weight):
            manifold_ids, s, _ = state.leaf(path, leaf_spec, weight)
            return leaf_spec.to_tangent(weight, gradient, manifold_ids, s, coordinates=coordinates)

        projected = map_leaves(spec, on_manifold, lambda gradient, _: gradient, updates, params)
        return projected, state.after_update()

    return Link.of(init_fn, update_fn, spec=spec, coordinates=coordinates)
