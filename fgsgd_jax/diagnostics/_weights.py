"""The numbers of one weight, jitted once for all weights with equal entries in the spec."""

import functools
from collections.abc import Iterable
from typing import Any

import jax
import jax.numpy as jnp

from fgsgd_jax import linalg
from fgsgd_jax.norms import group_matrices
from fgsgd_jax.spec import Coordinates, LeafSpec, step_radius, times
from fgsgd_jax.transforms import (
    PerGroup,
    checked_curvature,
    checked_rho,
    group_of,
    normalizer,
    value_at,
)


@functools.partial(jax.jit, static_argnums=0)
def drift_and_scale(
    leaf_spec: LeafSpec, weight: jax.Array, manifold_ids: jax.Array | None, std: Any
) -> tuple[jax.Array, jax.Array]:
    """The largest residual of a component, a scalar, and the scale s; 1 without a scale."""
    s = leaf_spec.scale(std, weight.dtype)
    return leaf_spec.residual(weight, manifold_ids, s), jnp.ones(()) if s is None else s


@functools.partial(jax.jit, static_argnums=(0, 1))
def gradient_numbers(
    coordinates: Coordinates,
    leaf_spec: LeafSpec,
    weight: jax.Array,
    manifold_ids: jax.Array | None,
    std: Any,
    gradient: jax.Array,
    trace: jax.Array | None,
    numbers: list[jax.Array],
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """The normal share of a gradient, a scalar, and g and τ, `(groups,)` each.

    Args:
        coordinates: The coordinates of the optimizer.
        leaf_spec: The entry of the weight in the spec.
        weight: The weight.
        manifold_ids: The drawn manifold of every component, for a mixture.
        std: λ, for a weight with a scale.
        gradient: The Euclidean gradient.
        trace: The momentum, of which g and τ are then computed; None for those of the gradient.
        numbers: ρ and c.
    """
    s = leaf_spec.scale(std, weight.dtype)
    _, factor = step_radius(coordinates, s)
    points = times(leaf_spec.points(gradient), factor)
    gradient = leaf_spec.to_weight(points, points.dtype)
    tangent = leaf_spec.to_tangent(weight, gradient, manifold_ids, s, coordinates="scaled")
    length = jnp.linalg.norm(jnp.ravel(gradient))
    normal = jnp.linalg.norm(jnp.ravel(gradient - tangent)) / jnp.where(length == 0, 1, length)
    g = linalg.norm(group_matrices(tangent if trace is None else trace, leaf_spec))
    return normal, g, normalizer(g, *numbers)


@functools.partial(jax.jit, static_argnums=0)
def angle_of(leaf_spec: LeafSpec, weight: jax.Array, update: jax.Array) -> jax.Array:
    """The angle by which an update turns every component, from the chord of unit vectors."""
    dtype = linalg.working_dtype(weight.dtype)

    def unit(w):
        points = leaf_spec.component.to_points(w)
        return points / linalg.norm(points)

    weight = weight.astype(dtype)
    chord = linalg.norm(unit(weight + update.astype(dtype)) - unit(weight))
    return 2 * jnp.arcsin(jnp.minimum(chord / 2, 1))


def summary_of_gradients(normals, gradient_norms, taus) -> dict[str, jax.Array]:
    """The largest value over all weights, and the share of groups with τ > 1."""
    tau = concatenated(taus)
    return {
        "normal": jnp.max(concatenated(normals)),
        "gradient_norm": jnp.max(concatenated(gradient_norms)),
        "tau": jnp.max(tau),
        "normalized_share": jnp.mean(tau > 1),
    }


def concatenated(arrays: Iterable[Any]) -> jax.Array:
    """The entries of several arrays in one vector."""
    return jnp.concatenate([jnp.ravel(array) for array in arrays])


def checked_numbers(rho: Any, curvature: Any) -> tuple[Any, Any]:
    """ρ and c, which raise where they make no sense.

    Raises:
        TypeError: If one is no number, nor a function of the group.
        ValueError: If one is outside of its range, or ρ is known to the optimizer alone.
    """
    if isinstance(rho, str) and rho == "travelled":
        raise ValueError(
            "rho='travelled' is known to the optimizer alone. Give diagnostics a number, or a "
            "function of the group marked by fgsgd_jax.per_group."
        )
    return checked_rho(rho), checked_curvature(curvature)


def group_numbers(path: str, leaf_spec: LeafSpec, *numbers: float | PerGroup) -> list[jax.Array]:
    """Numbers such as ρ and c for the groups of one weight, as scalars."""
    group = group_of(path, leaf_spec, per_component=False)
    return [jnp.asarray(value_at(number, jnp.zeros([], int), group), float) for number in numbers]
