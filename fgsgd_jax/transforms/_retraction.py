"""`retract_updates`: the last link of a chain on manifolds."""

from fgsgd_jax.spec import (
    Collection,
    Coordinates,
    checked_coordinates,
    map_leaves,
    require_collection,
)
from fgsgd_jax.transforms._finished import finished, require_unfinished
from fgsgd_jax.transforms._guards import (
    require_on_manifolds,
    require_still_on_manifolds,
    require_tangent,
)
from fgsgd_jax.transforms._link import Link, SpecState, require_params, require_state


def retract_updates(spec: Collection, *, coordinates: Coordinates = "unit") -> Link:
    """Turns tangent steps into updates that end on the manifolds (Algorithm 1, line 7).

    A tangent step v at the weight x becomes the update R(x, v) − x, where R is the retraction of
    the manifold; adding it, as `optax.apply_updates` does, ends on the manifold. So this is the
    last link of a chain: scaling or clipping its output takes weights off the manifold. A component
    whose step is 0 does not move; one whose step has a NaN or infinite entry becomes NaN. From a
    weight that is off its manifold any other step, however short, ends within 1e-2 of the manifold
    (beyond entries of about 1e5, within the rounding of the weight), or is NaN. Euclidean leaves
    pass unchanged, in the dtype of the weight. After `set_feature_std` the update ends on the
    re-scaled manifolds.

    Args:
        spec: The spec of the parameters.
        coordinates: As for `fgsgd`; the same in all links of a chain.

    Returns:
        A transformation whose `update` needs `params`.

    Raises:
        ValueError: Where values are known, which they are not inside a jitted function: at `init`
            and `update`, if a weight is not on its manifold; at `update`, if a step is not tangent,
            because the chain lacks `project_to_tangent`, or has a link after it that does not keep
            tangent vectors tangent, as `optax.scale_by_adam`.

    Example:
        >>> import jax.numpy as jnp
        >>> import fgsgd_jax as fg
        >>> params = {"w": jnp.array([[1.0], [0.0]]).reshape(2, 1, 1, 1)}
        >>> spec = fg.collection(params, ("w", fg.pom("layer", fg.Sphere())))
        >>> link = retract_updates(spec)
        >>> step = {"w": jnp.array([0.0, 1.0]).reshape(2, 1, 1, 1)}
        >>> update, _ = link.update(step, link.init(params), params)
        >>> (params["w"] + update["w"]).ravel()
        Array([0.70710677, 0.70710677], dtype=float32)

    References:
        Absil, Mahony & Sepulchre, 2008, section 4.1; Ozay, 2019, Algorithm 1.
    """
    require_collection(spec)
    coordinates = checked_coordinates(coordinates)

    def init_fn(params):
        require_on_manifolds(params, spec)
        return SpecState.of(spec, params)

    def update_fn(updates, state, params=None, **extra_args):
        del extra_args
        require_params(params, "a retraction starts from the present weights")
        require_state(state, SpecState, spec)
        require_unfinished(updates)
        require_still_on_manifolds(params, spec, state)

        def on_manifold(path, leaf_spec, step, weight):
            manifold_ids, s, s_next = state.leaf(path, leaf_spec, weight)
            require_tangent(path, leaf_spec, step, weight, manifold_ids, s)
            return leaf_spec.retract(weight, step, manifold_ids, s, s_next, coordinates=coordinates)

        def on_euclidean(step, weight):
            return step.astype(weight.dtype)

        moves = finished(map_leaves(spec, on_manifold, on_euclidean, updates, params), spec)
        return moves, state.after_update()

    return Link.of(init_fn, update_fn, spec=spec, coordinates=coordinates)
