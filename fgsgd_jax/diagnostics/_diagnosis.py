"""`diagnose`: all diagnostics of a network, by path."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from fgsgd_jax._arrays import checked_array
from fgsgd_jax._text import shown
from fgsgd_jax._trees import leaves_with_paths
from fgsgd_jax.diagnostics import _weights
from fgsgd_jax.norms import Norms, group_norms, layer_norms
from fgsgd_jax.spec import (
    Collection,
    Coordinates,
    checked_coordinates,
    require_collection,
    require_weights,
)
from fgsgd_jax.transforms import PerGroup


class Diagnosis(NamedTuple):
    """The diagnostics of one weight, its gradient and its update.

    Attributes:
        drift: The largest residual of its components at unit scale, a scalar.
        scale: s, which broadcasts against `(*lanes)`; 1 without a scale.
        feature_std: λ, `(input channels,)` or a scalar; 1 without a scale.
        norms: The norms of its groups, `(groups,)` each.
        layer_norms: The norms of the whole weight, `(stacked layers,)` each.
        normal: The share of the gradient that is not tangent, a scalar; None without gradients.
        gradient_norm: g, `(groups,)`; None without gradients.
        tau: τ, `(groups,)`; None without gradients.
        angle: The angle by which the update turns each component, in radians, `(*lanes)`; None
            without updates.
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
        params: The tree from which the spec was built.
        spec: Their spec.
        gradients: The Euclidean gradients at `params`, for `normal`, g and τ.
        updates: The updates that the optimizer returned for these gradients, for the angles.
        trace: The momentum after that update, `optax.tree.get(state, "trace")`: g and τ are then
            computed from it, as the normalizer does, and otherwise from the gradients.
        feature_std: λ by path, as `fgsgd_jax.get_feature_std` reads it from an optimizer state.
        coordinates: The coordinates of the optimizer, see `fgsgd_jax.fgsgd`.
        rho: ρ of the optimizer, a number or a function of the group.
        curvature: c of the optimizer, a number or a function of the group.

    Returns:
        A `Diagnosis` for every leaf on manifolds, by path.

    Raises:
        TypeError: If an argument is of another kind.
        ValueError: If the trees do not match the spec, or a number is outside of its range.

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
    require_weights(params, spec)
    coordinates = checked_coordinates(coordinates)
    rho, curvature = _weights.checked_numbers(rho, curvature)
    stds, manifold_ids = spec.feature_std(feature_std), spec.manifold_ids()
    all_gradients, all_updates, all_traces = map(
        dict, map(leaves_with_paths, (gradients, updates, trace))
    )
    result = {}
    for path, weight in leaves_with_paths(params):
        leaf_spec = spec.leaf_spec_of(path, weight)
        if leaf_spec is None:
            continue
        known = leaf_spec, weight, manifold_ids.get(path), stds.get(path)
        diagnosis = Diagnosis(
            *_weights.drift_and_scale(*known),
            feature_std=stds.get(path, jnp.ones(())),
            norms=group_norms(weight, leaf_spec),
            layer_norms=layer_norms(weight, leaf_spec),
        )
        if gradients is not None:
            normal, gradient_norm, tau = _weights.gradient_numbers(
                coordinates,
                *known,
                _leaf(all_gradients, path, spec, "gradients"),
                None if trace is None else _leaf(all_traces, path, spec, "trace"),
                _weights.group_numbers(path, leaf_spec, rho, curvature),
            )
            diagnosis = diagnosis._replace(normal=normal, gradient_norm=gradient_norm, tau=tau)
        if updates is not None:
            update = _leaf(all_updates, path, spec, "updates")
            diagnosis = diagnosis._replace(angle=_weights.angle_of(leaf_spec, weight, update))
        result[path] = diagnosis
    return result


def summary(found: Mapping[str, Diagnosis]) -> dict[str, jax.Array]:
    """The largest numbers over all weights, and the share of groups with τ > 1, by name.

    Args:
        found: The result of `diagnose`.

    Returns:
        Scalars: `drift`, `group_frobenius`, `group_spectral`, `layer_frobenius`, `layer_spectral`,
        `smallest_scale`, `largest_scale`, and, where they were measured, `normal`,
        `gradient_norm`, `tau`, `normalized_share`, `angle`.

    Raises:
        TypeError: If it is no result of `diagnose`.
        ValueError: If no weight is on a manifold.

    Example:
        >>> import jax
        >>> import fgsgd_jax as fg
        >>> params = {"w": jax.random.normal(jax.random.key(0), (3, 3, 8, 4))}
        >>> spec = fg.collection(params, ("w", fg.pom("PO", fg.Sphere())))
        >>> numbers = summary(diagnose(fg.project(params, spec), spec))
        >>> round(float(numbers["group_frobenius"]), 3)  # eight unit components in a group
        2.828
    """
    require_diagnoses("summary", found)
    if not found:
        raise ValueError(
            "No weight is on a manifold, so there is nothing to sum up. Give a spec with manifolds "
            "to diagnose."
        )
    diagnoses = list(found.values())

    def entries(numbers: Callable[[Diagnosis], Any]) -> jax.Array:
        return _weights.concatenated(map(numbers, diagnoses))

    result = {
        "drift": jnp.max(entries(lambda d: d.drift)),
        "group_frobenius": jnp.max(entries(lambda d: d.norms.frobenius)),
        "group_spectral": jnp.max(entries(lambda d: d.norms.spectral)),
        "layer_frobenius": jnp.max(entries(lambda d: d.layer_norms.frobenius)),
        "layer_spectral": jnp.max(entries(lambda d: d.layer_norms.spectral)),
        "smallest_scale": jnp.min(entries(lambda d: d.scale)),
        "largest_scale": jnp.max(entries(lambda d: d.scale)),
    }
    if diagnoses and diagnoses[0].tau is not None:
        result |= _weights.summary_of_gradients(
            *zip(*((d.normal, d.gradient_norm, d.tau) for d in diagnoses), strict=True)
        )
    if diagnoses and diagnoses[0].angle is not None:
        result["angle"] = jnp.max(entries(lambda d: d.angle))
    return result


def require_diagnoses(name: str, found: Any) -> None:
    """Raises a TypeError unless something is the result of `diagnose`."""
    if not isinstance(found, Mapping) or not all(isinstance(d, Diagnosis) for d in found.values()):
        raise TypeError(f"{name} takes what diagnose(params, spec, …) returns, got {shown(found)}.")


def _leaf(leaves: Mapping[str, Any], path: str, spec: Collection, name: str):
    if path not in leaves:
        raise ValueError(
            f"The {name} have no leaf {path!r}. Give a tree like the parameters from which the "
            "spec was built."
        )
    leaf = checked_array(f"The leaf {path!r} of the {name}", leaves[path])
    spec.leaf_spec_of(path, leaf)  # raises for another shape
    return leaf
