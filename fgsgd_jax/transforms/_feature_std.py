"""`set_feature_std`: measured features re-scale the weights, once per epoch.

The `SpecState` of every link has λ, by path, twice: `feature_std` for the scale of the present
weights, and `next_feature_std` for the scale of the weights after the next update. The update
divides by the first and multiplies by the second, so no weight is ever off its manifold.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from fgsgd_jax._arrays import checked_array
from fgsgd_jax._numbers import require_flag
from fgsgd_jax._text import shown
from fgsgd_jax._trees import leaves_with_paths
from fgsgd_jax.spec import checked_feature_stds
from fgsgd_jax.transforms._link import SpecState


def set_feature_std(
    state: Any, stds: Any, *, min_std: float | None = None, pooled: bool = False
) -> Any:
    """The optimizer state with newly measured feature statistics λ; scales become s = γ/λ.

    The next update moves the weights to the re-scaled manifolds, W ← (s_new/s_old)·W, and takes its
    step there. Call it once per epoch, for instance, with the result of
    `fgsgd_jax.nnx.feature_std` or `fgsgd_jax.linen.feature_std`.

    Args:
        state: The state of `fgsgd`, `rsgd` or a chain of this library's links, with or without
            wrappers of Optax; its spec must have a `scale`.
        stds: Standard deviations of the features that enter a weight, by path: an array over its
            input channels, or one number. Weights that are not named keep their λ.
        min_std: Raise smaller values to this one; 1 clips λ as in the paper. With None, no value
            may be zero.
        pooled: Whether all input channels of a weight get one λ, the root of their mean variance.
            A single λ multiplies the weight as a whole, which a normalization layer after it
            undoes. λ by channel, as in the paper, changes the function that the weight computes.

    Returns:
        The new state.

    Raises:
        TypeError: If an argument is of another kind, or a standard deviation is None.
        ValueError: If the spec has no scale, a path is not on a manifold, there are not as
            many numbers as input channels, one is NaN, infinite, negative, or zero without a
            `min_std`, or `min_std` is not positive. Inside a jitted function values cannot be
            checked.

    Example:
        >>> import jax.numpy as jnp, optax
        >>> import fgsgd_jax as fg
        >>> params = {"w": jnp.ones((3, 3, 2, 8))}
        >>> spec = fg.collection(params, ("w", fg.pom("PO", fg.Sphere())), scale=1.0)
        >>> params = fg.project(params, spec)
        >>> tx = fg.fgsgd(0.1, spec)
        >>> state = set_feature_std(tx.init(params), {"w": jnp.array([1.0, 2.0])})
        >>> updates, state = tx.update({"w": jnp.zeros((3, 3, 2, 8))}, state, params)
        >>> params = optax.apply_updates(params, updates)
        >>> jnp.linalg.norm(params["w"][..., 0], axis=(0, 1)).round(4)  # s = 1/λ
        Array([1. , 0.5], dtype=float32)

    References:
        Ozay, *Fine-grained optimization of deep neural networks*, NeurIPS 2019, section 3.
    """
    require_flag("pooled", pooled)
    _require_stds(stds)
    known = {
        path: std
        for part in _required_spec_states(state)
        for path, std in part.next_feature_std.items()
    }
    if not known:
        raise ValueError(
            "This state has no feature statistics to set: its spec was built without a "
            "scale. Build it with collection(…, scale='geometric') or scale=1.0, and the "
            "optimizer and its state from it."
        )
    shapes = {path: tuple(jax.tree.leaves(std)[0].shape) for path, std in known.items()}
    checked = checked_feature_stds(stds, shapes, min_std, pooled)

    def renewed(old: dict[str, Any]) -> dict[str, Any]:
        return {
            path: _like(std, checked[path]) if path in checked else std for path, std in old.items()
        }

    return jax.tree.map(
        lambda node: (
            node._replace(next_feature_std=renewed(node.next_feature_std))
            if isinstance(node, SpecState)
            else node
        ),
        state,
        is_leaf=_is_spec_state,
    )


def get_feature_std(state: Any) -> dict[str, jax.Array]:
    """The feature statistics λ by which the present weights are scaled, by path.

    Args:
        state: As for `set_feature_std`.

    Returns:
        What `project`, `residual` and `diagnostics` take as `feature_std`; empty without a scale.

    Raises:
        TypeError: If this is no state of an optimizer on manifolds.

    Example:
        >>> import jax.numpy as jnp
        >>> import fgsgd_jax as fg
        >>> params = {"w": jnp.ones((3, 3, 2, 8))}
        >>> spec = fg.collection(params, ("w", fg.pom("PO", fg.Sphere())), scale=1.0)
        >>> state = fg.fgsgd(0.1, spec).init(fg.project(params, spec))
        >>> get_feature_std(state)["w"]
        Array([1., 1.], dtype=float32)
    """
    _required_spec_states(state)
    return known_feature_std(state)


def known_feature_std(state: Any) -> dict[str, jax.Array]:
    """As `get_feature_std`, and empty for the state of any other transformation."""
    known = {path: std for part in _spec_states(state) for path, std in part.feature_std.items()}
    return {path: jax.tree.leaves(std)[0] for path, std in known.items()}


def _required_spec_states(state: Any) -> list[SpecState]:
    parts = _spec_states(state)
    if not parts:
        given = "None" if state is None else type(state).__name__
        raise TypeError(
            "`state` must be the state of an optimizer on manifolds, as tx.init(params) or "
            f"tx.update(…) returned it, but {given} was given, in which no link on manifolds "
            "keeps anything."
        )
    return parts


def _require_stds(stds: Any) -> None:
    """Raises where nothing was given for standard deviations, which would change nothing."""
    leaves = jax.tree.leaves(stds, is_leaf=lambda node: node is None)
    nothing = not leaves and not isinstance(stds, Mapping)
    if nothing or any(leaf is None for leaf in leaves):
        raise TypeError(
            "`stds` must be standard deviations by path, such as fgsgd_jax.nnx.feature_std(model, "
            f"batches) returns, got {shown(stds)}. Leave out the weights that keep theirs."
        )
    for path, std in leaves_with_paths(stds):
        checked_array(f"The standard deviation of {path!r}", std)


def _is_spec_state(node: Any) -> bool:
    return isinstance(node, SpecState)


def _spec_states(state: Any) -> list[SpecState]:
    nodes = jax.tree.leaves(state, is_leaf=_is_spec_state)
    return [node for node in nodes if isinstance(node, SpecState)]


def _like(old: Any, new: jax.Array) -> Any:
    """The new array where the old one is, which Flax NNX keeps in a Variable."""
    leaf, structure = jax.tree.flatten(old)
    # A copy, as the same new array goes into the state of every link.
    return structure.unflatten([jnp.array(new, leaf[0].dtype, copy=True)])
