"""Arithmetic on points: arrays `(rows, columns, *lanes)`, or tuples of them for a `Product`."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fgsgd_jax import linalg
from fgsgd_jax._text import shown
from fgsgd_jax.geometry import Manifold


def add(x, v):
    return jax.tree.map(jnp.add, x, v)


def subtract(x, y):
    return jax.tree.map(jnp.subtract, x, y)


def scale(t, v):
    return jax.tree.map(lambda leaf: t * leaf, v)


def dot(g, v) -> jax.Array:
    """The sum of products of all entries, tr(gᵀv) of single matrices. `(*lanes)`."""
    products = jax.tree.map(lambda a, b: jnp.sum(a * b, axis=(0, 1)), g, v)
    return linalg.total(jax.tree.leaves(products))


def difference(x, y) -> jax.Array:
    """The largest difference between entries of x and y; NaN if any difference is."""
    differences = jax.tree.map(lambda a, b: jnp.max(jnp.abs(a - b)), x, y)
    return jnp.max(jnp.stack(jax.tree.leaves(differences)))


def largest(x) -> jax.Array:
    """The largest absolute value of an entry of x; NaN if any entry is."""
    return difference(x, jax.tree.map(jnp.zeros_like, x))


def stack(*points):
    """Points of one shape along a new last lane axis, so that a verb is compiled once for all."""
    return jax.tree.map(lambda *leaves: jnp.stack(leaves, axis=-1), *points)


def concatenate(*points):
    """Points and stacks of points along the last lane axis of the stacks."""
    rank = max(jnp.ndim(leaf) for point in points for leaf in jax.tree.leaves(point))

    def join(*leaves):
        stacks = [leaf if leaf.ndim == rank else leaf[..., None] for leaf in leaves]
        return jnp.concatenate(stacks, axis=-1)

    return jax.tree.map(join, *points)


def gaussian_like(key: jax.Array, x):
    """Independent standard normal entries in the shape and dtype of x."""
    leaves, structure = jax.tree.flatten(x)
    keys = jax.random.split(key, len(leaves))
    drawn = [
        jax.random.normal(key, leaf.shape, leaf.dtype)
        for key, leaf in zip(keys, leaves, strict=True)
    ]
    return structure.unflatten(drawn)


def unit_tangent(manifold: Manifold, key: jax.Array, x):
    """A random tangent vector at x, of norm 1 in every lane."""
    v = manifold.to_tangent(x, gaussian_like(key, x))
    return scale(1 / manifold.norm(x, v), v)


def checked_shape(shape: Any) -> Any:
    """A shape, or a sequence of shapes, as (a tuple of) tuples.

    Raises:
        TypeError: If it is neither.
    """
    is_sequence = isinstance(shape, (tuple, list)) and len(shape) > 0
    if is_sequence and all(isinstance(part, (tuple, list)) for part in shape):
        return tuple(map(checked_shape, shape))
    if is_sequence and all(isinstance(part, (int, np.integer)) for part in shape):
        return tuple(map(int, shape))
    raise TypeError(
        "`shape` must be the shape of points, such as (4, 3), or a tuple of shapes for a Product, "
        f"got {shown(shape)}."
    )
