"""`retract_updates`: the last link of a chain on manifolds."""

import math

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from fgsgd_jax._trees import leaves_with_paths
from fgsgd_jax.spec import (
    Collection,
    Coordinates,
    checked_coordinates,
    map_leaves,
    require_collection,
    residual,
)
from fgsgd_jax.transforms._link import Link, SpecState, require_params, require_state

# A weight with a residual up to this counts as on its manifold. Rounding leaves about eps per
# entry; the bound admits weights that were averaged, stored in a shorter dtype or measured by a
# norm over thousands of entries, and is far below the residual of a weight never projected.
ON_MANIFOLD = {2: 5e-2, 4: 1e-3, 8: 1e-3}


def retract_updates(spec: Collection, *, coordinates: Coordinates = "unit") -> Link:
    """Turns tangent steps into updates that end on the manifolds (Algorithm 1, line 7).

    A tangent step v at the weight x becomes the update R(x, v) − x, where R is the retraction of
    the manifold; adding it, as `optax.apply_updates` does, ends on the manifold. So this is the
    last link of a chain: scaling or clipping after it would leave the manifold. A component whose
    step is 0 does not move. Euclidean leaves pass unchanged, in the dtype of the weight. After
    `set_feature_std` the update ends on the re-scaled manifolds.

    Args:
        spec: The spec of the parameters.
        coordinates: As for `fgsgd`; the same in all links of a chain.

    Returns:
        A transformation whose `update` needs `params`. Its `init` raises `ValueError` if a weight
        is not on its manifold, where values are known (not inside a jitted function).

    Example:
        >>> import jax.numpy as jnp
        >>> import fgsgd_jax as fg
        >>> params = {"w": jnp.array([[1.0], [0.0]]).reshape(2, 1, 1, 1)}
        >>> spec = fg.collection(params, ("w", fg.pom("layer", fg.Sphere())))
        >>> link = retract_updates(spec)
        >>> step = {"w": jnp.array([0.0, 1.0]).reshape(2, 1, 1, 1)}
        >>> update, _ = link.update(step, link.init(params), params)
        >>> (params["w"] + update["w"]).ravel()
        Array([0.70710677, 0.70710677], dtype=float32)

    References:
        Absil, Mahony & Sepulchre, 2008, section 4.1; Ozay, 2019, Algorithm 1.
    """
    require_collection(spec)
    coordinates = checked_coordinates(coordinates)

    def init_fn(params):
        require_on_manifolds(params, spec)
        return SpecState.of(spec)

    def update_fn(updates, state, params=None, **extra_args):
        del extra_args
        require_params(params, "a retraction starts from the present weights")
        require_state(state, SpecState, spec)

        def on_manifold(path, leaf_spec, step, weight):
            manifold_ids, s, s_next = state.leaf(path, leaf_spec, weight)
            return leaf_spec.retract(weight, step, manifold_ids, s, s_next, coordinates=coordinates)

        def on_euclidean(step, weight):
            return step.astype(weight.dtype)

        moves = map_leaves(spec, on_manifold, on_euclidean, updates, params)
        return moves, state.after_update()

    return Link.of(init_fn, update_fn, spec=spec, coordinates=coordinates)


def require_on_manifolds(params, spec: Collection) -> None:
    """Raises if the values of weights are known, and not on their manifolds."""
    leaves = leaves_with_paths(params)
    for path, leaf in leaves:
        spec.leaf_spec_of(path, leaf)
    known = all(
        isinstance(leaf, (jax.Array, np.ndarray)) and not isinstance(leaf, Tracer)
        for _, leaf in leaves
    )
    if not known:
        return
    dtypes = {path: leaf.dtype for path, leaf in leaves}
    with jax.ensure_compile_time_eval():  # known weights may be used in a function being traced
        distances = {path: float(distance) for path, distance in residual(params, spec).items()}
    off = {
        path: distance
        for path, distance in distances.items()
        if not distance <= ON_MANIFOLD[min(jnp.dtype(dtypes[path]).itemsize, 8)]
    }
    if off:
        worst = max(off, key=lambda path: math.inf if math.isnan(off[path]) else off[path])
        raise ValueError(
            f"{len(off)} of {len(distances)} weights are not on their manifolds; the furthest is "
            f"{worst!r}, with a residual of {off[worst]:.2g}. Move them there first: "
            "params = fgsgd_jax.project(params, spec)."
        )
