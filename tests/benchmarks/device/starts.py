"""Weights from which an update can start, made with NumPy.

`Manifold.random` would compile a program for each shape, and on a CPU it takes minutes for all
Stiefel points of a vision transformer.
"""

import functools
import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import fgsgd_jax as fg

DISTINCT = 512  # random points, repeated: the values do not matter, but must lie on the manifolds


def start_on(spec: fg.Collection, params: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
    """Weights on the manifolds of a spec, in the dtypes of `params`; others are as in `params`."""
    specs = {name: spec[name] for name in params}
    return {
        name: leaf if own is None else _weight_on(own).astype(leaf.dtype)
        for (name, leaf), own in zip(params.items(), specs.values(), strict=True)
    }


def _weight_on(leaf_spec: fg.LeafSpec) -> jax.Array:
    rows, columns, *lanes = leaf_spec.points_shape
    count = math.prod(lanes)
    manifold_ids = leaf_spec.draw().manifold_ids
    weight = np.empty((count, rows, columns), np.float32)
    for position, manifold in enumerate(leaf_spec.manifolds):
        own = slice(None) if manifold_ids is None else manifold_ids.ravel() == position
        few = points_on(manifold, (min(count, DISTINCT), rows, columns))
        weight[own] = np.resize(few, weight.shape)[own]
    points = jnp.asarray(np.moveaxis(weight, 0, -1).reshape(leaf_spec.points_shape))
    return leaf_spec.component.from_points(points, leaf_spec.shape)


@functools.cache
def points_on(manifold: Any, shape: tuple[int, int, int]) -> np.ndarray:
    """Random points in float32, `(count, rows, columns)`.

    Args:
        manifold: A sphere, an oblique or a Stiefel manifold.
        shape: The shape of the points.
    """
    normal = np.random.default_rng(0).standard_normal(shape, np.float32)
    if isinstance(manifold, fg.Stiefel):
        return np.linalg.qr(normal).Q
    axes = (1, 2) if isinstance(manifold, fg.Sphere) else (1,)
    return normal / np.linalg.norm(normal, axis=axes, keepdims=True)
