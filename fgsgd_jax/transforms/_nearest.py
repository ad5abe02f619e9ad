"""`keep_on_manifolds`: a last link that ends on the manifolds whatever stands before it."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import optax

from fgsgd_jax import linalg
from fgsgd_jax._arrays import require_gradient_values
from fgsgd_jax.geometry import Manifold, Stiefel
from fgsgd_jax.spec import (
    Collection,
    LeafSpec,
    keeps_sharding,
    map_leaves,
    require_collection,
    select,
    split_by_rows,
    times,
)
from fgsgd_jax.transforms._finished import finished
from fgsgd_jax.transforms._guards import require_on_manifolds, require_still_on_manifolds
from fgsgd_jax.transforms._link import Link, SpecState, require_params, require_state


def keep_on_manifolds(spec: Collection) -> Link:
    """Replaces an update by the one that ends at the nearest point of the manifolds.

    If u is the update that arrives for the weight x, the update becomes P(x + u) − x, where P is
    the projection on the manifolds. So this is the last link of a chain whose other links do not
    keep weights there: those that scale updates after a retraction, or add something to them, such
    as `optax.contrib.reduce_on_plateau`, line searches, or weight decay. The README of
    `fgsgd_jax/optimizers` has a table. A component whose update is 0 does not move, and Euclidean
    leaves pass unchanged, in the dtype of the weight.

    With `optax.lookahead`, whose parameters are pairs of fast and slow weights, it comes after the
    wrapper, takes the spec of one of the two, and keeps both on the manifolds: the slow weights are
    then averages by projection.

    Args:
        spec: The spec of the parameters.

    Returns:
        A transformation whose `update` needs `params`. What has no nearest point becomes NaN.

    Raises:
        ValueError: Where values are known, which they are not inside a jitted function: at `init`
            and `update`, if a weight is not on its manifold, for instance because another link
            behind this one changes the updates.

    Example:
        >>> import jax, jax.numpy as jnp, optax
        >>> import fgsgd_jax as fg
        >>> params = {"w": jax.random.normal(jax.random.key(0), (3, 3, 4, 8))}
        >>> spec = fg.collection(params, ("w", fg.pom("PO", fg.Stiefel())))
        >>> params = fg.project(params, spec)
        >>> tx = optax.chain(fg.rsgd(0.1, spec), optax.add_decayed_weights(0.1))
        >>> safe = optax.chain(tx, keep_on_manifolds(spec))
        >>> for optimizer in (tx, safe):
        ...     updates, _ = optimizer.update(params, optimizer.init(params), params)
        ...     off = fg.residual(optax.apply_updates(params, updates), spec)["w"]
        ...     print(bool(off < 1e-6))
        False
        True

    References:
        Absil & Malick, *Projection-like retractions on matrix manifolds*, 2012.
    """
    require_collection(spec)

    def init_fn(params):
        halves = _halves(params)
        for half in halves:
            require_on_manifolds(half, spec)
        return SpecState.of(spec, halves[0])

    def update_fn(updates, state, params=None, **extra_args):
        del extra_args
        require_params(params, "the nearest point depends on the present weights")
        require_state(state, SpecState, spec)
        require_gradient_values(updates)
        for half in _halves(params):
            require_still_on_manifolds(half, spec, state)

        def on_manifold(path, leaf_spec, update, weight):
            manifold_ids, s, s_next = state.leaf(path, leaf_spec, weight)
            return _end_on_manifold(leaf_spec, weight, update, manifold_ids, s, s_next)

        def on_euclidean(update, weight):
            return update.astype(weight.dtype)

        kept = [
            map_leaves(spec, on_manifold, on_euclidean, *half)
            for half in zip(_halves(updates), _halves(params), strict=True)
        ]
        moves = optax.LookaheadParams(*kept) if _is_pair(params) else kept[0]
        return finished(moves, spec), state.after_update()

    return Link.of(init_fn, update_fn, spec=spec)


def nearest_points(leaf_spec: LeafSpec, y: jax.Array, manifold_ids) -> jax.Array:
    """The points nearest to y, `(rows, columns, *lanes)`, without a decomposition."""
    return select(manifold_ids, [_nearest_point(m, y) for m in leaf_spec.manifolds])


def _nearest_point(manifold: Manifold, y: jax.Array) -> jax.Array:
    # The projection of Stiefel is a singular value decomposition, meant for once before training.
    return linalg.polar(y) if isinstance(manifold, Stiefel) else manifold.project(y)


@functools.partial(jax.jit, static_argnums=0)
@keeps_sharding
@split_by_rows
def nearest_weight(leaf_spec: LeafSpec, weight: jax.Array, manifold_ids, s) -> jax.Array:
    """The weight of scale s on the manifolds that is nearest to a weight."""
    nearest = nearest_points(leaf_spec, leaf_spec.unit_points(weight, s), manifold_ids)
    return leaf_spec.to_weight(times(nearest, s), weight.dtype)


@functools.partial(jax.jit, static_argnums=0)
@keeps_sharding
@split_by_rows
def _end_on_manifold(leaf_spec: LeafSpec, weight, update, manifold_ids, s, s_next) -> jax.Array:
    x, u = leaf_spec.points(weight), leaf_spec.points(update)
    y = x + u
    nearest = nearest_points(leaf_spec, y if s is None else y / s_next, manifold_ids)
    nearest = nearest if s is None else nearest * s_next
    rests = linalg.norm(u) == 0 if s is None else (linalg.norm(u) == 0) & (s == s_next)
    return leaf_spec.to_weight(jnp.where(rests, 0, nearest - x), weight.dtype)


def _is_pair(params: Any) -> bool:
    return isinstance(params, optax.LookaheadParams)


def _halves(params: Any) -> tuple[Any, ...]:
    return tuple(params) if _is_pair(params) else (params,)
