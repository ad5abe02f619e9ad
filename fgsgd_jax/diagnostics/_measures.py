"""Measures for `optax.monitor`, which keeps what they find in the state of an optimizer."""

from collections.abc import Callable

import jax.numpy as jnp
import optax

from fgsgd_jax._trees import leaves_with_paths
from fgsgd_jax.diagnostics import _weights
from fgsgd_jax.spec import Collection, Coordinates, checked_coordinates, require_collection
from fgsgd_jax.transforms import PerGroup, SpecState, require_params


def of_gradients(
    spec: Collection,
    *,
    coordinates: Coordinates = "unit",
    rho: float | PerGroup = 1.0,
    curvature: float | PerGroup = 1.0,
) -> optax.GradientTransformationExtraArgs:
    """A measure for `optax.monitor`, in front of a chain, where the updates are gradients.

    Args:
        spec: The collection of the parameters.
        coordinates: Those of the optimizer.
        rho: ρ of the optimizer.
        curvature: c of the optimizer.

    Returns:
        What `optax.monitor` takes: the largest `drift`, `normal`, `gradient_norm` and `tau` of all
        weights, and the `normalized_share` of groups with τ > 1.

    Example:
        >>> import jax, jax.numpy as jnp, optax
        >>> import fgsgd_jax as fg
        >>> params = {"w": jax.random.normal(jax.random.key(0), (3, 3, 2, 4))}
        >>> spec = fg.collection(params, ("w", fg.pom("PO", fg.Sphere())))
        >>> params = fg.project(params, spec)
        >>> tx = optax.chain(
        ...     optax.monitor({"gradients": of_gradients(spec)}),
        ...     fg.fgsgd(0.1, spec),
        ...     optax.monitor({"updates": of_updates(spec)}),
        ... )
        >>> grads = {"w": 10 * params["w"][::-1]}
        >>> _, state = tx.update(grads, tx.init(params), params)
        >>> float(optax.tree.get(state, "normalized_share"))
        1.0
        >>> bool(0 < optax.tree.get(state, "angle") < 0.1 * 0.42)
        True
    """
    require_collection(spec)
    coordinates = checked_coordinates(coordinates)

    def measure(path, layer, weight, manifold_ids, std, gradient):
        numbers = _weights.numbers_of(path, layer, rho, curvature)
        found = _weights.of_gradient(
            coordinates, layer, weight, manifold_ids, std, [gradient], numbers
        )
        return _weights.of_weight(layer, weight, manifold_ids, std)[0], *found

    def joined(measured):
        drifts, *others = zip(*measured, strict=True)
        return {"drift": jnp.max(_weights.every(drifts))} | _weights.summary_of_gradients(*others)

    return _measure(spec, measure, joined)


def of_updates(spec: Collection) -> optax.GradientTransformationExtraArgs:
    """A measure for `optax.monitor`, at the end of a chain, where the updates are final.

    Args:
        spec: The collection of the parameters.

    Returns:
        What `optax.monitor` takes: the largest and the `mean_angle` by which components turn.
    """

    def measure(path, layer, weight, manifold_ids, std, update):
        del path, manifold_ids, std
        return _weights.angle_of(layer, weight, update)

    def joined(measured):
        angle = _weights.every(measured)
        return {"angle": jnp.max(angle), "mean_angle": jnp.mean(angle)}

    return _measure(spec, measure, joined)


def _measure(spec, measure: Callable, joined: Callable) -> optax.GradientTransformationExtraArgs:
    def init_fn(params):
        del params
        return SpecState.of(spec)

    def update_fn(updates, state, params=None, **extra_args):
        del extra_args
        require_params(params, "it is measured from the present weights")
        weights = dict(leaves_with_paths(params))
        measured = [
            measure(path, layer, weights[path], state.manifold_ids.get(path), std, update)
            for path, update in leaves_with_paths(updates)
            if (layer := spec.leaf_spec_of(path, update)) is not None
            for std in [state.feature_std.get(path)]
        ]
        return joined(measured), state.after_update()

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)
