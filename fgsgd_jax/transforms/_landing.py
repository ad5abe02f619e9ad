"""`land_updates`: steps that stay near the Stiefel manifold without a retraction."""

import functools

import jax
import jax.numpy as jnp

from fgsgd_jax import linalg
from fgsgd_jax._numbers import require_flag, require_number
from fgsgd_jax._trees import listed
from fgsgd_jax.geometry import Stiefel
from fgsgd_jax.spec import (
    Collection,
    LeafSpec,
    keeps_sharding,
    map_leaves,
    require_collection,
    split_by_rows,
)
from fgsgd_jax.transforms._finished import finished, require_unfinished
from fgsgd_jax.transforms._guards import require_on_manifolds
from fgsgd_jax.transforms._left_out import warn_of_left_out
from fgsgd_jax.transforms._link import Link, SpecState, require_params, require_state

# The largest ‖xᵀx − 1‖ that a step may reach: from below 1, the attraction leads back.
FARTHEST = 0.5


def land_updates(spec: Collection, *, attraction: float = 0.5, after_step: bool = True) -> Link:
    """Takes tangent steps as they are, and pulls weights towards the Stiefel manifold.

    In place of `retract_updates`, the last link of a chain. For the tangent step v at x, with the
    attraction a(y) = y(yᵀy − 1), the gradient of ¼‖yᵀy − 1‖², the update is::

        v − α·a(x + v)    `after_step`: with α = ½ one Newton-Schulz step, as in POGO
        v − α·a(x)        otherwise: the landing algorithm, with α = η·λ of its paper

    Weights are then not on the manifold but near it: after a short step from the manifold
    ‖xᵀx − 1‖ is at most about ¾‖v‖⁴ in the first form, and ‖v‖² in the second. `residual` measures
    it. In the second form steps are shortened where it would become larger than ½; in the first,
    steps should be shorter than ½.

    It is seldom worth it. It takes two products of the size of the weight; the polar retraction of
    a short step takes these two and two of columns × columns, and ends within 1e-6 of the manifold
    in float32. So it saves up to half of a retraction for square weights and little for tall ones.

    Args:
        spec: The spec of the parameters, with all weights on Stiefel manifolds or Euclidean.
        attraction: α, from 0 to ½; above ½ weights may swing around the manifold.
        after_step: Whether the attraction is that of the weight after the step.

    Returns:
        A transformation whose `update` needs `params`. Its `init` raises `ValueError` if a weight
        is not on its manifold.

    Raises:
        ValueError: If a weight is on another manifold, or α is not between 0 and ½.

    Example:
        >>> import jax, jax.numpy as jnp, optax
        >>> import fgsgd_jax as fg
        >>> params = {"w": jnp.eye(4, 2)}
        >>> spec = fg.collection(params, ("w", fg.pom("layer", fg.Stiefel())))
        >>> link = fg.land_updates(spec)
        >>> step = {"w": 0.1 * jnp.eye(4, 2, k=-2)}  # tangent, of length 0.1·√2
        >>> update, _ = link.update(step, link.init(params), params)
        >>> off = fg.residual(optax.apply_updates(params, update), spec)["w"]
        >>> round(float(off), 6)  # ¾·(0.1⁴)·√2
        0.000106

    References:
        Ablin & Peyré, *Fast and accurate optimization on the orthogonal manifold without
        retraction*, 2022 (landing, and its safe step); POGO: arXiv 2602.14656, 2026.
    """
    require_collection(spec)
    others = [
        path
        for path, leaf_spec in spec.on_manifolds()
        if not all(isinstance(manifold, Stiefel) for manifold in leaf_spec.manifolds)
    ]
    if others:
        raise ValueError(
            f"land_updates is for Stiefel manifolds, but {listed(others)} is on another, whose "
            "retraction costs as little. Use retract_updates."
        )
    require_flag("after_step", after_step)
    require_number("attraction", attraction)
    if not 0 < attraction <= 0.5:
        raise ValueError(f"attraction must be above 0 and at most ½, got {attraction!r}.")

    def init_fn(params):
        require_on_manifolds(params, spec)
        return SpecState.of(spec, params)

    def update_fn(updates, state, params=None, **extra_args):
        del extra_args
        require_params(params, "the attraction depends on the present weights")
        require_state(state, SpecState, spec)
        require_unfinished(updates)
        warn_of_left_out(params, spec)

        def on_manifold(path, leaf_spec, step, weight):
            _, s, s_next = state.leaf(path, leaf_spec, weight)
            return _land(leaf_spec, weight, step, s, s_next, attraction, after_step=after_step)

        def on_euclidean(step, weight):
            return step.astype(weight.dtype)

        moves = finished(map_leaves(spec, on_manifold, on_euclidean, updates, params), spec)
        return moves, state.after_update()

    return Link.of(init_fn, update_fn, spec=spec, attraction=attraction, after_step=after_step)


@functools.partial(jax.jit, static_argnums=0, static_argnames="after_step")
@keeps_sharding
@split_by_rows
def _land(leaf_spec: LeafSpec, weight, step, s, s_next, attraction, *, after_step: bool):
    x, v = leaf_spec.unit_points(weight, s), leaf_spec.points(step)
    wide = x.shape[0] < x.shape[1]
    x, v = (linalg.transpose(a) if wide else a for a in (x, v))
    if after_step:
        moved = v - attraction * _attraction(x + v)
    else:
        pull = -attraction * _attraction(x)
        moved = pull + _safe_share(x + pull, v) * v
    moved = linalg.transpose(moved) if wide else moved
    x = linalg.transpose(x) if wide else x
    return leaf_spec.update(x, moved, s, s_next, weight.dtype)


def _attraction(y: jax.Array) -> jax.Array:
    return linalg.times(y, linalg.gram_error(y))


def _safe_share(x: jax.Array, v: jax.Array) -> jax.Array:
    """The share c ≤ 1 of a step v at which (x + cv)ᵀ(x + cv) is at most ½ from 1.

    With d = ‖xᵀx − 1‖ and h = ‖xᵀv + vᵀx‖, it is at most d + ch + c²‖v‖² from 1.
    """
    room = jnp.maximum(FARTHEST - linalg.norm(linalg.gram_error(x)), 0)
    h, length = 2 * linalg.norm(linalg.symmetric(linalg.gram(x, v))), linalg.norm(v)
    # The positive root of c²‖v‖² + ch = room, in a form that no cancellation spoils.
    root = h + jnp.sqrt(h**2 + 4 * room * length**2)
    return jnp.where(2 * room < root, 2 * room / jnp.where(root == 0, 1, root), 1)
