"""Weights, gradients, specs and updates that the benchmarks measure, made without compilation.

`fg.initialize` and `jax.random` would compile a program for each shape of a weight.
"""

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import fgsgd_jax as fg
from fgsgd_jax._trees import leaves_with_paths
from fgsgd_jax.experiments.bench import networks
from fgsgd_jax.spec import Scheme

DISTINCT = 512  # random points, repeated: the values do not matter, but must lie on the manifolds


def manifolds_named(names: tuple[str, ...]) -> tuple[fg.Manifold, ...]:
    """The manifolds with these names in lower case."""
    known = {
        "sphere": fg.Sphere,
        "oblique": fg.Oblique,
        "stiefel": fg.Stiefel,
        "euclidean": fg.Euclidean,
    }
    return tuple(known[name]() for name in names)


def on_manifolds(
    params: dict[str, jax.Array],
    scheme: Scheme,
    manifolds: tuple[str, ...],
    *,
    groups: int | None = None,
    seed: int = 0,
) -> tuple[fg.Collection, dict[str, jax.Array]]:
    """A spec with all kernels of a network on manifolds, and weights that satisfy it.

    Args:
        params: Weights of the network by name.
        scheme: The scheme of the groups.
        manifolds: The names of the manifolds.
        groups: The number of groups, for PIO.
        seed: The seed of the random groups and manifolds.

    Raises:
        ValueError: If no weight is a kernel.
    """
    request = fg.pom(scheme, manifolds_named(manifolds), groups=groups)
    rules = ((name, request if networks.is_kernel(name) else None) for name in params)
    spec = fg.collection(params, *rules, seed=seed)
    if not any(spec.on_manifolds()):
        raise ValueError(f"None of {', '.join(params)} is a kernel: nothing would be measured.")
    return spec, start_on(spec, params)


def start_on(spec: fg.Collection, params: Any) -> Any:
    """Weights on the manifolds of a spec, in the dtypes of `params`; others are as in `params`."""
    leaves = [
        leaf if leaf_spec is None else _weight_on(leaf_spec).astype(leaf.dtype)
        for leaf_spec, leaf in ((spec[path], leaf) for path, leaf in leaves_with_paths(params))
    ]
    return jax.tree.unflatten(jax.tree.structure(params), leaves)


def _weight_on(leaf_spec: fg.LeafSpec) -> jax.Array:
    """A weight on its manifolds that repeats a few random points."""
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
def points_on(manifold: fg.Manifold, shape: tuple[int, int, int]) -> np.ndarray:
    """Random points of one of the manifolds of `manifolds_named` in float32.

    Made with NumPy: `Manifold.random` would compile a program for each shape, and on a CPU takes
    minutes for all Stiefel points of a vision transformer.

    Args:
        manifold: The manifold.
        shape: `(count, rows, columns)`.
    """
    normal = np.random.default_rng(0).standard_normal(shape, np.float32)
    if isinstance(manifold, fg.Euclidean):
        return normal
    if isinstance(manifold, fg.Stiefel):
        if shape[1] < shape[2]:  # the rows are orthonormal
            return np.swapaxes(np.linalg.qr(np.swapaxes(normal, 1, 2)).Q, 1, 2)
        return np.linalg.qr(normal).Q
    axes = (1, 2) if isinstance(manifold, fg.Sphere) else (1,)
    return normal / np.linalg.norm(normal, axis=axes, keepdims=True)


def normal(shapes: networks.Shapes, seed: int) -> dict[str, jax.Array]:
    """Normal weights, or gradients, of standard deviation 0.01 in float32."""
    numbers = np.random.default_rng(seed)
    return {
        name: jnp.asarray(np.float32(0.01) * numbers.standard_normal(shape, np.float32))
        for name, shape in shapes.items()
    }


def update_of(tx: optax.GradientTransformation) -> Callable[..., tuple]:
    """A whole update as a function `(weights, state, gradient) -> (weights, state)`."""

    def update(params, state, gradient):
        updates, state = tx.update(gradient, state, params)
        return optax.apply_updates(params, updates), state

    return update
