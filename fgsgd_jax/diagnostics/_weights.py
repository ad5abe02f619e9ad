"""What is measured of one weight, jitted once for all weights that are treated alike."""

import functools
from collections.abc import Iterable
from typing import Any

import jax
import jax.numpy as jnp

from fgsgd_jax import _linalg
from fgsgd_jax.norms._weights import side_by_side
from fgsgd_jax.spec import Coordinates, LeafSpec
from fgsgd_jax.spec._scales import step_radius
from fgsgd_jax.transforms import PerGroup
from fgsgd_jax.transforms._step import group_of, normalizer, value_at


@functools.partial(jax.jit, static_argnums=0)
def of_weight(layer: LeafSpec, weight, manifold_ids, std):
    """Drift and scale."""
    s = layer.scale(std, weight.dtype)
    return layer.residual(weight, manifold_ids, s), jnp.ones(()) if s is None else s


@functools.partial(jax.jit, static_argnums=(0, 1))
def of_gradient(
    coordinates: Coordinates, layer: LeafSpec, weight, manifold_ids, std, vectors, numbers
):
    """The normal share of the gradient, g and τ; `vectors` are the gradient and perhaps a trace."""
    s = layer.scale(std, weight.dtype)
    gradient = layer.component.to_points(vectors[0])
    gradient = gradient.astype(_linalg.working_dtype(gradient.dtype))
    _, factor = step_radius(coordinates, s)
    gradient = gradient if factor is None else gradient * factor
    whole = layer.component.from_points(gradient, layer.shape)
    tangent = layer.to_tangent(weight, whole, manifold_ids, s, coordinates="scaled")
    length = jnp.linalg.norm(jnp.ravel(whole))
    normal = jnp.linalg.norm(jnp.ravel(whole - tangent)) / jnp.where(length == 0, 1, length)
    g = _linalg.norm(side_by_side(vectors[1] if len(vectors) > 1 else tangent, layer))
    return normal, g, normalizer(g, *(number.astype(g.dtype) for number in numbers))


@functools.partial(jax.jit, static_argnums=0)
def angle_of(layer: LeafSpec, weight, update):
    """The angle between every component before and after, from the chord of unit vectors."""
    dtype = _linalg.working_dtype(weight.dtype)

    def unit(w):
        points = layer.component.to_points(w)
        return points / _linalg.norm(points)

    weight = weight.astype(dtype)
    chord = _linalg.norm(unit(weight + update.astype(dtype)) - unit(weight))
    return 2 * jnp.arcsin(jnp.minimum(chord / 2, 1))


def summary_of_gradients(normals, gradient_norms, taus) -> dict[str, jax.Array]:
    """The largest of all weights, and the share of groups with τ > 1."""
    tau = every(taus)
    return {
        "normal": jnp.max(every(normals)),
        "gradient_norm": jnp.max(every(gradient_norms)),
        "tau": jnp.max(tau),
        "normalized_share": jnp.mean(tau > 1),
    }


def every(numbers: Iterable[Any]) -> jax.Array:
    """All numbers of some arrays, one after another."""
    return jnp.concatenate([jnp.ravel(number) for number in numbers])


def numbers_of(path: str, layer: LeafSpec, *numbers: float | PerGroup) -> list[jax.Array]:
    group = group_of(path, layer, per_component=False)
    return [jnp.asarray(value_at(number, jnp.zeros([], int), group), float) for number in numbers]
