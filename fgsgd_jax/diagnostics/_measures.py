"""Measures for `optax.monitor`, which stores their results in the state of an optimizer."""

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
    """A measure for `optax.monitor` at the start of a chain, where the updates are gradients.

    Args:
        spec: The spec of the parameters.
        coordinates: The coordinates of the optimizer.
        rho: ρ of the optimizer, a number or a function of the group.
        curvature: c of the optimizer, a number or a function of the group.

    Returns:
        A measure of scalars by name: the largest `drift`, `normal`, `gradient_norm` and `tau` over
        all weights, and the `normalized_share` of groups with τ > 1.

    Raises:
        ValueError: If the coordinates are unknown, or `params` are missing in an update.

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
    rho, curvature = _weights.checked_numbers(rho, curvature)

    def measure(path, leaf_spec, weight, manifold_ids, std, gradient):
        known = leaf_spec, weight, manifold_ids, std
        drift, _ = _weights.drift_and_scale(*known)
        numbers = _weights.group_numbers(path, leaf_spec, rho, curvature)
        return drift, *_weights.gradient_numbers(coordinates, *known, gradient, None, numbers)

    def summarize(measured):
        drifts, *others = zip(*measured, strict=True)
        drift = jnp.max(_weights.concatenated(drifts))
        return {"drift": drift} | _weights.summary_of_gradients(*others)

    return _monitored(spec, measure, summarize)


def of_updates(spec: Collection) -> optax.GradientTransformationExtraArgs:
    """A measure for `optax.monitor` at the end of a chain, where the updates are final.

    Args:
        spec: The spec of the parameters.

    Returns:
        A measure of scalars by name: `angle` and `mean_angle`, the largest and the mean angle by
        which components turn, in radians.

    Raises:
        ValueError: If `params` are missing in an update.

    Example:
        >>> import jax.numpy as jnp
        >>> import fgsgd_jax as fg
        >>> params = {"w": jnp.array([[1.0], [0.0]])}
        >>> spec = fg.collection(params, ("w", fg.pom("layer", fg.Sphere())))
        >>> measure = fg.diagnostics.of_updates(spec)
        >>> update = {"w": jnp.array([[-1.0], [1.0]])}  # a quarter turn
        >>> found, _ = measure.update(update, measure.init(params), params)
        >>> round(float(found["angle"]), 4)
        1.5708

        `of_gradients` has an example with `optax.monitor`.
    """
    require_collection(spec)

    def measure(path, leaf_spec, weight, manifold_ids, std, update):
        del path, manifold_ids, std
        return _weights.angle_of(leaf_spec, weight, update)

    def summarize(measured):
        angle = _weights.concatenated(measured)
        return {"angle": jnp.max(angle), "mean_angle": jnp.mean(angle)}

    return _monitored(spec, measure, summarize)


def _monitored(
    spec: Collection, measure: Callable, summarize: Callable
) -> optax.GradientTransformationExtraArgs:
    """A measure that applies `measure` to every weight on manifolds and then `summarize`."""

    def init_fn(params):
        return SpecState.of(spec, params)

    def update_fn(updates, state, params=None, **extra_args):
        del extra_args
        require_params(params, "the measure is computed at the current weights")
        weights = dict(leaves_with_paths(params))
        measured = []
        for path, update in leaves_with_paths(updates):
            leaf_spec = spec.leaf_spec_of(path, update)
            if leaf_spec is not None:
                manifold_ids, std = state.manifold_ids.get(path), state.feature_std.get(path)
                measured.append(measure(path, leaf_spec, weights[path], manifold_ids, std, update))
        return summarize(measured), state.after_update()

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)
