"""`checked`: an optimizer that looks whether the weights are still on their manifolds."""

import jax.numpy as jnp
import optax

from fgsgd_jax.spec import Collection, map_leaves, require_collection, residual
from fgsgd_jax.transforms._feature_std import known_feature_std
from fgsgd_jax.transforms._guards import are_known, require_on_manifolds, tolerance
from fgsgd_jax.transforms._link import require_params, require_transformation
from fgsgd_jax.transforms._straight_averages import initial_state


def checked(
    tx: optax.GradientTransformation, spec: Collection
) -> optax.GradientTransformationExtraArgs:
    """An optimizer that checks, before every update, that the weights are on their manifolds.

    Weights leave their manifolds when something else moves them between updates: averaging, a
    second optimizer, a transformation after `retract_updates`, a checkpoint of other weights. A
    step from there is not the step of the algorithm, and need not end on the manifold. Outside of
    jitted functions the optimizers of this library check it themselves; this is for the inside. The
    check measures `residual`, one more pass over the weights; the state is that of `tx`.

    Args:
        tx: The optimizer, such as `fgsgd(…)` or a chain of links.
        spec: The spec of the parameters.

    Returns:
        A transformation whose `update` needs `params`. It raises `ValueError` if weights are off
        their manifolds, and names the furthest. Inside a jitted function, where values are
        unknown, the update of every leaf that is off is NaN instead.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> import fgsgd_jax as fg
        >>> params = {"w": jnp.array([[1.0], [0.0]])}
        >>> spec = fg.collection(params, ("w", fg.pom("layer", fg.Sphere())))
        >>> tx = checked(fg.fgsgd(0.1, spec), spec)
        >>> state = tx.init(params)
        >>> moved = {"w": 0.5 * params["w"]}
        >>> updates, _ = jax.jit(tx.update)(params, state, moved)
        >>> updates["w"].ravel()
        Array([nan, nan], dtype=float32)
    """
    require_transformation(tx)
    require_collection(spec)
    plain = optax.with_extra_args_support(tx)

    def update_fn(updates, state, params=None, **extra_args):
        require_params(params, "the check measures how far the present weights are from them")
        stds = known_feature_std(state) or None
        if are_known(params):
            require_on_manifolds(params, spec, stds)
            return plain.update(updates, state, params, **extra_args)
        new_updates, new_state = plain.update(updates, state, params, **extra_args)
        distances = residual(params, spec, feature_std=stds)

        def on_manifold(path, leaf_spec, update, weight):
            near = distances[path] <= tolerance(leaf_spec, weight.dtype)
            return jnp.where(near, update, jnp.nan)

        kept = map_leaves(spec, on_manifold, lambda update, _: update, new_updates, params)
        return kept, new_state

    def init_fn(params):
        return initial_state(plain, params)

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)
