"""`diagnose`: all diagnostics of a network, by path."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from fgsgd_jax._trees import leaves_with_paths
from fgsgd_jax.diagnostics import _weights
from fgsgd_jax.norms import Norms, group_norms, layer_norms
from fgsgd_jax.spec import Collection, Coordinates, checked_coordinates, require_collection
from fgsgd_jax.transforms import PerGroup


class Diagnosis(NamedTuple):
    """How one weight is, and what its gradient and update do; None where they were not given.

    Attributes:
        drift: The largest residual of its components at unit scale, a scalar.
        scale: s, broadcasting against `(*lanes)`; 1 without a scale.
        feature_std: λ, `(input channels,)` or a scalar; 1 without a scale.
        norms: Of its groups, `(groups,)` each.
        layer_norms: Of the whole weight, `(stacked layers,)` each.
        normal: The share of the gradient that is not tangent, a scalar.
        gradient_norm: g, `(groups,)`.
        tau: τ, `(groups,)`.
        angle: By how much the update turns each component, radians, `(*lanes)`.
    """

    drift: jax.Array
    scale: jax.Array
    feature_std: jax.Array
    norms: Norms
    layer_norms: Norms
    normal: jax.Array | None = None
    gradient_norm: jax.Array | None = None
    tau: jax.Array | None = None
    angle: jax.Array | None = None


def diagnose(
    params: Any,
    spec: Collection,
    *,
    gradients: Any = None,
    updates: Any = None,
    trace: Any = None,
    feature_std: Mapping[str, Any] | None = None,
    coordinates: Coordinates = "unit",
    rho: float | PerGroup = 1.0,
    curvature: float | PerGroup = 1.0,
) -> dict[str, Diagnosis]:
    """All diagnostics of the weights on manifolds, by path.

    Args:
        params: The tree the spec was built from.
        spec: The collection.
        gradients: The Euclidean gradients at `params`, for `normal`, g and τ.
        updates: What the optimizer returned for them, for the angles.
        trace: The momentum after that update, `optax.tree.get(state, "trace")`: then g and τ are
            its own, as the normalizer saw it. Without one, those of the gradients.
        feature_std: λ by path, as `get_feature_std` reads it from an optimizer's state.
        coordinates: Those of the optimizer, see `fgsgd_jax.fgsgd`.
        rho: ρ of the optimizer, a number or function of the group.
        curvature: c of the optimizer, likewise.

    Returns:
        A `Diagnosis` for every leaf on manifolds.

    Raises:
        ValueError: If the trees do not belong to the spec.

    Example:
        >>> import jax.numpy as jnp
        >>> import fgsgd_jax as fg
        >>> params = {"w": jnp.array([[1.0], [0.0]]).reshape(2, 1, 1, 1)}
        >>> spec = fg.collection(params, ("w", fg.pom("layer", fg.Sphere())))
        >>> gradients = {"w": jnp.array([3.0, 4.0]).reshape(2, 1, 1, 1)}
        >>> found = diagnose(params, spec, gradients=gradients)["w"]
        >>> [float(number[0].round(4)) for number in (found.gradient_norm, found.tau)]  # 4·(2 + 4)
        [4.0, 24.0]
        >>> round(float(found.normal), 4)
        0.6
    """
    require_collection(spec)
    coordinates = checked_coordinates(coordinates)
    stds, manifold_ids = spec.feature_std(feature_std), spec.manifold_ids()
    all_gradients, all_updates, all_traces = map(
        dict, map(leaves_with_paths, (gradients, updates, trace))
    )
    found = {}
    for path, weight in leaves_with_paths(params):
        layer = spec.leaf_spec_of(path, weight)
        if layer is None:
            continue
        known = layer, weight, manifold_ids.get(path), stds.get(path)
        drift, scale = _weights.of_weight(*known)
        std = stds.get(path, jnp.ones(()))
        norms = group_norms(weight, layer), layer_norms(weight, layer)
        one = Diagnosis(drift, scale, std, *norms)
        if gradients is not None:
            vectors = [_leaf(all_gradients, path, spec, "gradients")]
            if trace is not None:
                vectors.append(_leaf(all_traces, path, spec, "trace"))
            numbers = _weights.numbers_of(path, layer, rho, curvature)
            normal, gradient_norm, tau = _weights.of_gradient(coordinates, *known, vectors, numbers)
            one = one._replace(normal=normal, gradient_norm=gradient_norm, tau=tau)
        if updates is not None:
            update = _leaf(all_updates, path, spec, "updates")
            one = one._replace(angle=_weights.angle_of(layer, weight, update))
        found[path] = one
    return found


def summary(found: Mapping[str, Diagnosis]) -> dict[str, jax.Array]:
    """What is largest over all weights, and the share of groups with τ > 1; scalars by name.

    Args:
        found: As `diagnose` gives it.

    Returns:
        `drift`, `group_frobenius`, `group_spectral`, `layer_frobenius`, `layer_spectral`,
        `smallest_scale`, `largest_scale`, and, where they were measured, `normal`,
        `gradient_norm`, `tau`, `normalized_share`, `angle`.
    """
    diagnoses = list(found.values())
    numbers = {
        "drift": jnp.max(_weights.every(one.drift for one in diagnoses)),
        "group_frobenius": jnp.max(_weights.every(one.norms.frobenius for one in diagnoses)),
        "group_spectral": jnp.max(_weights.every(one.norms.spectral for one in diagnoses)),
        "layer_frobenius": jnp.max(_weights.every(one.layer_norms.frobenius for one in diagnoses)),
        "layer_spectral": jnp.max(_weights.every(one.layer_norms.spectral for one in diagnoses)),
        "smallest_scale": jnp.min(_weights.every(one.scale for one in diagnoses)),
        "largest_scale": jnp.max(_weights.every(one.scale for one in diagnoses)),
    }
    if diagnoses and diagnoses[0].tau is not None:
        numbers |= _weights.summary_of_gradients(
            *zip(*((one.normal, one.gradient_norm, one.tau) for one in diagnoses), strict=True)
        )
    if diagnoses and diagnoses[0].angle is not None:
        numbers["angle"] = jnp.max(_weights.every(one.angle for one in diagnoses))
    return numbers


def _leaf(leaves: Mapping[str, Any], path: str, spec: Collection, name: str):
    if path not in leaves:
        raise ValueError(
            f"The {name} have no leaf {path!r}. Give a tree of the parameters that the collection "
            "was built from."
        )
    spec.leaf_spec_of(path, leaves[path])
    return leaves[path]
