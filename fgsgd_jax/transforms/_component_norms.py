"""Numbers per component, per group or per entry of a weight: norms, and division by them."""

import functools
from typing import Literal

import jax
import jax.numpy as jnp

from fgsgd_jax import linalg
from fgsgd_jax.spec import (
    LeafSpec,
    drawn_groups,
    group_norms,
    keeps_sharding,
    per_component,
    split_by_rows,
)

Moment = Literal["component", "group", "entry"]


@functools.cache
def moment_shape(leaf_spec: LeafSpec, moment: Moment) -> tuple[int, ...]:
    """The shape of an array with one number for each."""
    if moment == "entry":
        return leaf_spec.shape
    lanes = leaf_spec.points_shape[2:]
    if moment == "component":
        return lanes
    squares = jax.ShapeDtypeStruct(lanes, jnp.float32)
    norms = functools.partial(group_norms, leaf_spec)
    return jax.eval_shape(norms, squares, drawn_groups(leaf_spec)).shape


def norms_of_groups(leaf_spec: LeafSpec, norms: jax.Array, groups) -> jax.Array:
    """The norm of every group from those of its components, without overflow of their squares."""
    scale = linalg.divisor(jnp.max(norms))
    return scale * group_norms(leaf_spec, (norms / scale) ** 2, groups)


@functools.partial(jax.jit, static_argnums=0, static_argnames="moment")
def sizes(leaf_spec: LeafSpec, vector, weight, manifold_ids, groups, s, *, moment: Moment):
    """|g| of every entry, or ‖g‖ of every component or group."""
    if moment == "entry":
        return jnp.abs(vector)
    sizes = leaf_spec.manifold(manifold_ids).norm(
        leaf_spec.unit_points(weight, s), leaf_spec.points(vector)
    )
    return norms_of_groups(leaf_spec, sizes, groups) if moment == "group" else sizes


@functools.partial(jax.jit, static_argnums=0, static_argnames="moment")
@keeps_sharding
@split_by_rows
def divide(leaf_spec: LeafSpec, vector, weight, divisor, manifold_ids, groups, s, *, moment):
    if moment == "entry":
        x, v = leaf_spec.unit_points(weight, s), leaf_spec.points(vector / divisor)
        v = leaf_spec.manifold(manifold_ids).to_tangent(x, v)
        return leaf_spec.to_weight(v, vector.dtype)
    numbers = per_component(divisor, groups) if moment == "group" else divisor
    return leaf_spec.to_weight(leaf_spec.points(vector) / numbers, vector.dtype)
