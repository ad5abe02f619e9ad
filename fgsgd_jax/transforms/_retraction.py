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
    LeafSpec,
    checked_coordinates,
    map_leaves,
    require_collection,
    require_known_leaves,
    residual,
    spec_of_leaf,
)
from fgsgd_jax.transforms._link import (
    Link,
    SpecState,
    has_known_values,
    require_params,
    require_state,
)

# A weight with a residual up to this counts as on its manifold, by the item size of its dtype. The
# bound admits weights that were averaged or stored in a shorter dtype, and is far below the
# residual of a weight never projected.
ON_MANIFOLD = {2: 5e-2, 4: 1e-3, 8: 1e-3}

# A step is not tangent if this share of its length is normal to the manifolds, unless the normal
# part is so short that it may be the rounding of a large gradient.
NORMAL_SHARE = 0.05
ROUNDING = 1000  # times the resolution of float32, or of a shorter dtype, at the weight


def retract_updates(spec: Collection, *, coordinates: Coordinates = "unit") -> Link:
    """Turns tangent steps into updates that end on the manifolds (Algorithm 1, line 7).

    A tangent step v at the weight x becomes the update R(x, v) − x, where R is the retraction of
    the manifold; adding it, as `optax.apply_updates` does, ends on the manifold. So this is the
    last link of a chain: scaling or clipping after it would leave the manifold. A component whose
    step is 0 does not move; one whose step has a NaN or infinite entry becomes NaN. From a weight
    that is off its manifold a step ends within 1e-2 of the manifold, or is NaN. Euclidean leaves
    pass unchanged, in the dtype of the weight. After `set_feature_std` the update ends on the
    re-scaled manifolds.

    Args:
        spec: The spec of the parameters.
        coordinates: As for `fgsgd`; the same in all links of a chain.

    Returns:
        A transformation whose `update` needs `params`.

    Raises:
        ValueError: Where values are known, which they are not inside a jitted function: at `init`,
            if a weight is not on its manifold; at `update`, if a step is not tangent, because the
            chain lacks `project_to_tangent`, or has a link after it that does not keep tangent
            vectors tangent, as `optax.scale_by_adam`.

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
        return SpecState.of(spec, params)

    def update_fn(updates, state, params=None, **extra_args):
        del extra_args
        require_params(params, "a retraction starts from the present weights")
        require_state(state, SpecState, spec)

        def on_manifold(path, leaf_spec, step, weight):
            manifold_ids, s, s_next = state.leaf(path, leaf_spec, weight)
            _require_tangent(path, leaf_spec, step, weight, manifold_ids, s)
            return leaf_spec.retract(weight, step, manifold_ids, s, s_next, coordinates=coordinates)

        def on_euclidean(step, weight):
            return step.astype(weight.dtype)

        moves = map_leaves(spec, on_manifold, on_euclidean, updates, params)
        return moves, state.after_update()

    return Link.of(init_fn, update_fn, spec=spec, coordinates=coordinates)


def tolerance(leaf_spec: LeafSpec, dtype) -> float:
    """The largest residual with which a weight of a dtype counts as on its manifolds.

    Rounding every entry of an orthonormal x by half an eps of itself leaves ‖xᵀx − 1‖ at most
    eps·√columns, since ‖x‖ = √columns, which for a large bfloat16 matrix is above the fixed bound.
    """
    dtype = jnp.dtype(dtype)
    rounding = float(jnp.finfo(dtype).eps) * math.sqrt(min(leaf_spec.points_shape[:2]))
    return max(ON_MANIFOLD[min(dtype.itemsize, 8)], 2 * rounding)


def _require_tangent(path: str, leaf_spec: LeafSpec, step, weight, manifold_ids, s) -> None:
    """Raises if the values of a step are known, and it is not tangent beyond rounding.

    Not at a weight that is off its manifold, where there is no tangent space.
    """
    known = all(map(has_known_values, (step, weight, manifold_ids, s)))  # None is known as well
    if not known or leaf_spec.overrides("representer"):  # which is no part of the projection
        return
    coordinates: Coordinates = "unit" if s is None else "scaled"
    with jax.ensure_compile_time_eval():
        tangent = leaf_spec.to_tangent(weight, step, manifold_ids, s, coordinates=coordinates)
    step64, tangent64, weight64 = (np.asarray(a, np.float64) for a in (step, tangent, weight))
    with np.errstate(invalid="ignore"):  # inf − inf
        normal, v, x = map(np.linalg.norm, (step64 - tangent64, step64, weight64))
    eps = max(float(jnp.finfo(dtype).eps) for dtype in (step.dtype, weight.dtype, jnp.float32))
    if not (normal > NORMAL_SHARE * v and normal > ROUNDING * eps * x):  # NaN is no verdict
        return
    with jax.ensure_compile_time_eval():
        off = float(leaf_spec.residual(weight, manifold_ids, s))
    if off <= tolerance(leaf_spec, weight.dtype):
        raise ValueError(
            f"The step of {path!r} is not tangent to its manifolds: {normal / v:.0%} of its length "
            "is normal to them. Put project_to_tangent(spec) first in the chain, and only links "
            "that scale or add tangent vectors behind it. For any other optimizer use "
            "fgsgd_jax.on_manifold(optimizer, spec)."
        )


def are_known(params) -> bool:
    """Whether the values of all leaves are known."""
    return all(
        isinstance(leaf, (jax.Array, np.ndarray)) and not isinstance(leaf, Tracer)
        for leaf in jax.tree.leaves(params)
    )


def require_on_manifolds(params, spec: Collection, feature_std=None) -> None:
    """Raises if the values of weights are known, and not on their manifolds."""
    require_known_leaves(spec, params)
    placed = {
        path: (leaf_spec, leaf.dtype)
        for path, leaf in leaves_with_paths(params)
        if (leaf_spec := spec_of_leaf(spec, path, leaf)) is not None
    }
    if not are_known(params):
        return
    with jax.ensure_compile_time_eval():  # known weights may be used in a function being traced
        measured = residual(params, spec, feature_std=feature_std)
        distances = {path: float(distance) for path, distance in measured.items()}
    off = {path: d for path, d in distances.items() if not d <= tolerance(*placed[path])}
    if off:
        worst = max(off, key=lambda path: math.inf if math.isnan(off[path]) else off[path])
        raise ValueError(
            f"{len(off)} of {len(distances)} weights are not on their manifolds; the furthest is "
            f"{worst!r}, with a residual of {off[worst]:.2g}. Move them there first: "
            "params = fgsgd_jax.project(params, spec)."
        )
