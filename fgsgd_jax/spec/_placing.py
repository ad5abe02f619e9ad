"""`project`, `initialize`, `residual`: whole trees of parameters and their manifolds."""

import functools
import zlib
from collections.abc import Mapping
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from fgsgd_jax._keys import require_key
from fgsgd_jax._trees import leaves_with_paths
from fgsgd_jax.geometry import NOT_FINITE
from fgsgd_jax.spec._collection import Collection, require_collection
from fgsgd_jax.spec._leaf import LeafSpec
from fgsgd_jax.spec._scales import Numbers
from fgsgd_jax.spec._walk import map_leaves, require_weights, spec_of_leaf

Tree = TypeVar("Tree")


def project(
    params: Tree, spec: Collection, *, feature_std: Mapping[str, Any] | None = None
) -> Tree:
    """Moves every component to the nearest point of its manifold.

    Do it before training: it changes weights, those of a pretrained network too. At unit scale it
    changes their length: in a network without normalization layers, the
    features of every layer grow or vanish, and the loss with them. There give the spec
    `scale="variance"`, which keeps the size of features, or `scale="initial"`, which keeps the
    lengths that the weights have now. `print(spec)` warns of it.

    Args:
        params: The parameters that the spec was built from. Euclidean leaves are returned as they
            are.
        spec: The spec of the parameters.
        feature_std: λ by path, as `get_feature_std` returns it from an optimizer state; 1 by
            default.

    Returns:
        A tree with the structure of `params`.

    Raises:
        TypeError: If a leaf is a shape without values.
        ValueError: If a component has no nearest point (it is zero, on a Stiefel manifold of
            deficient rank, or not finite), or the spec was not built from these parameters. Inside
            a jitted function, where values are unknown, such a component becomes NaN.

    Example:
        >>> import jax.numpy as jnp
        >>> from fgsgd_jax import Sphere, collection, pom
        >>> params = {"w": jnp.full((3, 3, 1, 1), 2.0)}  # of norm 6
        >>> spec = collection(params, ("w", pom("layer", Sphere())))
        >>> print(project(params, spec)["w"][0, :, 0, 0])  # of norm 1
        [0.33333334 0.33333334 0.33333334]
    """
    require_collection(spec)
    require_weights(params, spec)
    manifold_ids, stds = spec.manifold_ids(), spec.feature_std(feature_std)

    def project_leaf(path, leaf_spec, weight):
        _require_scale(path, leaf_spec, weight)
        try:
            s = leaf_spec.scale(stds.get(path), weight.dtype)
            # An array, since JAX warns of NumPy's float64 where it has no such dtype.
            projected = leaf_spec.project(jnp.asarray(weight), manifold_ids.get(path), s)
        except ValueError as error:
            _require_not_zero(path, weight)
            raise ValueError(f"{path!r}: {error}") from None
        _require_numbers(path, weight, projected)
        return _on_devices_of(weight, projected)

    return map_leaves(spec, project_leaf, lambda weight: weight, params)


def initialize(key: jax.Array, params: Tree, spec: Collection) -> Tree:
    """Draws every component uniformly from its manifold.

    Args:
        key: A PRNG key. What a leaf draws depends on the key and its own path only, not on the
            other leaves of the tree.
        params: The parameters that the spec was built from. Euclidean leaves are returned as they
            are.
        spec: The spec of the parameters.

    Returns:
        A tree with the structure of `params`.

    Raises:
        TypeError: If the key is not one key of JAX.
        ValueError: If the spec was not built from these parameters.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from fgsgd_jax import Stiefel, collection, pom
        >>> params = {"w": jnp.zeros((3, 3, 4, 8)), "bias": jnp.ones(8)}
        >>> spec = collection(params, ("w", pom("PO", Stiefel())))
        >>> drawn = initialize(jax.random.key(0), params, spec)
        >>> bool(residual(drawn, spec)["w"] < 1e-5), bool(jnp.all(drawn["bias"] == 1))
        (True, True)
    """
    require_collection(spec)
    require_key(key)
    require_weights(params, spec, shapes=True)
    manifold_ids = spec.manifold_ids()

    def draw_leaf(path, leaf_spec, weight):
        leaf_key = jax.random.fold_in(key, zlib.crc32(path.encode()))
        dtype = jax.dtypes.canonicalize_dtype(weight.dtype)
        s = leaf_spec.scale(None, dtype)
        drawn = leaf_spec.random(leaf_key, dtype, manifold_ids.get(path), s)
        return _on_devices_of(weight, drawn)

    return map_leaves(spec, draw_leaf, lambda weight: weight, params)


def residual(
    params: Any, spec: Collection, *, feature_std: Mapping[str, Any] | None = None
) -> dict[str, jax.Array]:
    """How far each weight is from its manifolds: the largest residual of its components.

    Components are divided by their scale first. The residual of a component x is |‖x‖ − 1| on a
    sphere, the largest |‖xⱼ‖ − 1| over the columns on an oblique manifold, ‖xᵀx − 1‖ on a Stiefel
    manifold (‖xxᵀ − 1‖ if x has more columns than rows) and 0 on Euclidean space.

    Args:
        params: The parameters that the spec was built from.
        spec: The spec of the parameters.
        feature_std: λ by path, as `get_feature_std` returns it from an optimizer state; 1 by
            default.

    Returns:
        By path, a scalar for every leaf on manifolds.

    Raises:
        ValueError: If the spec was not built from these parameters.

    Example:
        >>> import jax.numpy as jnp
        >>> from fgsgd_jax import Sphere, collection, pom
        >>> params = {"w": jnp.full((3, 3, 2, 4), 2.0), "bias": jnp.ones(4)}  # slices of norm 6
        >>> spec = collection(params, ("w", pom("PO", Sphere())))
        >>> residual(params, spec)
        {'w': Array(5., dtype=float32)}
    """
    require_collection(spec)
    require_weights(params, spec)
    manifold_ids, stds = spec.manifold_ids(), spec.feature_std(feature_std)
    return {
        path: _residual_of_leaf(leaf_spec, weight, manifold_ids.get(path), stds.get(path))
        for path, weight in leaves_with_paths(params)
        if (leaf_spec := spec_of_leaf(spec, path, weight)) is not None
    }


@functools.partial(jax.jit, static_argnums=0)
def _residual_of_leaf(leaf_spec: LeafSpec, weight, manifold_ids, feature_std) -> jax.Array:
    return leaf_spec.residual(weight, manifold_ids, leaf_spec.scale(feature_std, weight.dtype))


def _require_numbers(path: str, weight: Any, projected: jax.Array) -> None:
    """Raises if a projected weight is known to have NaN entries."""
    if isinstance(projected, Tracer) or not bool(jnp.any(jnp.isnan(projected))):
        return
    bad = np.argwhere(~np.isfinite(np.asarray(weight)))
    if len(bad):
        raise ValueError(
            f"{path!r} has NaN or infinite entries, {len(bad)} of {np.size(weight)}, the first at "
            f"{tuple(bad[0].tolist())}. {NOT_FINITE}"
        )
    _require_not_zero(path, weight)
    raise ValueError(
        f"{path!r} has components without a nearest point: a component is zero or of deficient "
        "rank. Initialize the weight at random (`fgsgd_jax.initialize`) or leave it Euclidean."
    )


def _require_scale(path: str, leaf_spec: LeafSpec, weight: Any) -> None:
    """Raises if γ is larger than all numbers of the dtype of a weight."""
    gamma = leaf_spec.gamma
    largest = np.max(gamma.array()) if isinstance(gamma, Numbers) else gamma or 1.0
    if largest > float(jnp.finfo(weight.dtype).max):
        raise ValueError(
            f"The scale of {path!r}, {largest:.3g}, is too large for its dtype, {weight.dtype}. "
            "Give a smaller scale, or weights of a longer dtype."
        )


def _require_not_zero(path: str, weight: Any) -> None:
    """Raises if all entries of a weight are zero."""
    if not np.any(np.asarray(weight)):
        raise ValueError(
            f"{path!r} is zero, so it has no nearest point. Leave it Euclidean (None) if it must "
            "start at zero, as one of the two factors of LoRA; else initialize it at random "
            "(`fgsgd_jax.initialize`)."
        )


def _on_devices_of(weight: Any, value: jax.Array) -> jax.Array:
    """The value with the sharding of the weight, if the weight is on several devices."""
    concrete = isinstance(weight, jax.Array) and not isinstance(weight, Tracer)
    if concrete and not isinstance(value, Tracer) and len(weight.devices()) > 1:
        return jax.device_put(value, weight.sharding)
    return value  # on one device, `device_put` would commit the value to that device
