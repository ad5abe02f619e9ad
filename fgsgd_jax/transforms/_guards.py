"""Checks of what is known outside of jitted functions: weights on manifolds, tangent steps.

Inside a jitted function values are unknown, and these functions do nothing there.
"""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from fgsgd_jax._trees import leaves_with_paths
from fgsgd_jax.spec import (
    Collection,
    Coordinates,
    LeafSpec,
    map_leaves,
    require_weights,
    residual,
)
from fgsgd_jax.transforms._left_out import note_given, warn_of_left_out
from fgsgd_jax.transforms._link import SpecState, has_known_values
from fgsgd_jax.transforms._straight_averages import require_no_straight_averages

# A weight with a residual up to this counts as on its manifold, by the item size of its dtype. The
# bound admits weights that were averaged or stored in a shorter dtype, and is far below the
# residual of a weight never projected.
ON_MANIFOLD = {2: 5e-2, 4: 1e-3, 8: 1e-3}

# A step is not tangent if this share of its length is normal to the manifolds, unless the normal
# part is so short that it may be the rounding of a large gradient.
NORMAL_SHARE = 0.05
ROUNDING = 1000  # times the resolution of float32, or of a shorter dtype, at the weight


def tolerance(leaf_spec: LeafSpec, dtype) -> float:
    """The largest residual with which a weight of a dtype counts as on its manifolds.

    Rounding every entry of an orthonormal x by half an eps of itself leaves ‖xᵀx − 1‖ at most
    eps·√columns, since ‖x‖ = √columns, which for a large bfloat16 matrix is above the fixed bound.
    """
    dtype = jnp.dtype(dtype)
    rounding = float(jnp.finfo(dtype).eps) * math.sqrt(min(leaf_spec.points_shape[:2]))
    return max(ON_MANIFOLD[min(dtype.itemsize, 8)], 2 * rounding)


def require_tangent(path: str, leaf_spec: LeafSpec, step, weight, manifold_ids, s) -> None:
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


def require_tangent_vectors(vectors: Any, params: Any, spec: Collection) -> None:
    """Raises if the vectors at weights of unit λ are known, and not tangent."""
    if params is None or not are_known((vectors, params)):
        return
    manifold_ids = spec.manifold_ids()

    def check(path, leaf_spec, vector, weight):
        s = leaf_spec.scale(None, weight.dtype)
        require_tangent(path, leaf_spec, vector, weight, manifold_ids.get(path), s)

    map_leaves(spec, check, lambda *_: None, vectors, params)


def require_on_manifolds(params: Any, spec: Collection, feature_std: Any = None) -> None:
    """Raises if the values of weights are known, and not on their manifolds, or NaN.

    Or if they will not stay there, see `require_no_straight_averages`.
    """
    require_no_straight_averages(spec)
    note_given(params, spec)
    distances = _distances(params, spec, feature_std)
    off = {path: found for path, found in distances.items() if not found.near}
    if off:
        raise ValueError(
            f"{_described(off, distances)}. Move them there first: params = "
            "fgsgd_jax.project(params, spec)."
        )


def require_still_on_manifolds(params: Any, spec: Collection, state: SpecState) -> None:
    """Raises if the values of the weights of an update are known, and not on their manifolds.

    NaN passes: an update keeps it, as the sign of a gradient that was not finite. Warns of weights
    that are left out, also inside a jitted function.
    """
    warn_of_left_out(params, spec)
    if not are_known((params, state.feature_std)):
        return
    distances = _distances(params, spec, state.feature_std)
    off = _off_by_a_number(distances)
    if off:
        raise ValueError(
            f"{_described(off, distances)}: something else moved them since the last update, such "
            "as an average of weights, optax.lookahead or another wrapper without "
            "keep_on_manifolds(spec) behind it; a chain lacks retract_updates(spec) at its end, or "
            "has other links behind it or behind keep_on_manifolds(spec); they belong to a spec "
            "with another scale; or they are no weights: the order is update(gradients, state, "
            "params). Give the weights that this optimizer updated last, or move them to the "
            "manifolds: params = fgsgd_jax.project(params, spec)."
        )


def require_new_weights_on_manifolds(
    updates: Any, params: Any, spec: Collection, state: SpecState
) -> None:
    """Raises if weights after an update are known, and not on their manifolds. NaN passes."""
    if not are_known((updates, params, state.next_feature_std)):
        return
    new = map_leaves(spec, lambda path, leaf_spec, u, w: w + u, lambda u, w: w, updates, params)
    distances = _distances(new, spec, state.next_feature_std)
    off = _off_by_a_number(distances)
    if off:
        raise ValueError(
            f"After this update {_described(off, distances)}. average_on_manifolds averages the "
            "weights after a step, so it comes behind all that changes the step: "
            "optax.chain(fgsgd_jax.fgsgd(rate, spec), average_on_manifolds(spec))."
        )


def are_known(params: Any) -> bool:
    """Whether the values of all leaves are known."""
    return all(
        isinstance(leaf, (jax.Array, np.ndarray)) and not isinstance(leaf, Tracer)
        for leaf in jax.tree.leaves(params)
    )


class _Distance(NamedTuple):
    """The residual of a weight, and whether it counts as on its manifolds, which NaN does not."""

    residual: float
    near: bool


def _distances(params: Any, spec: Collection, feature_std: Any) -> dict[str, _Distance]:
    """By path, how far weights are from their manifolds; {} if their values are unknown.

    Raises:
        ValueError: If the parameters are not those of the spec.
    """
    require_weights(params, spec, empty=True, shapes=True)
    tolerances = {
        path: tolerance(leaf_spec, leaf.dtype)
        for path, leaf in leaves_with_paths(params)
        if (leaf_spec := spec.leaf_spec_of(path, leaf)) is not None
    }
    if not tolerances or not are_known(params):
        return {}
    with jax.ensure_compile_time_eval():  # known weights may be used in a function being traced
        measured = residual(params, spec, feature_std=feature_std)
        values = {path: float(distance) for path, distance in measured.items()}
    return {path: _Distance(value, value <= tolerances[path]) for path, value in values.items()}


def _off_by_a_number(distances: dict[str, _Distance]) -> dict[str, _Distance]:
    """The weights that are not on their manifolds, but for those that are NaN."""
    return {
        path: found
        for path, found in distances.items()
        if not (found.near or math.isnan(found.residual))
    }


def _described(off: dict[str, _Distance], distances: dict[str, _Distance]) -> str:
    """How many weights are off their manifolds, and which is the furthest."""
    worst = max(off, key=lambda path: math.inf if math.isnan(off[path][0]) else off[path][0])
    return (
        f"{len(off)} of {len(distances)} weights are not on their manifolds; the furthest is "
        f"{worst!r}, with a residual of {off[worst].residual:.2g}"
    )
