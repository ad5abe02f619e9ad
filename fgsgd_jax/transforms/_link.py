"""What links on manifolds share: their settings, and the part of the spec in their states."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from optax._src.base import NO_PARAMS_MSG  # Optax has no public name for its own sentence

from fgsgd_jax.spec import Collection, LeafSpec


class Link(optax.GradientTransformationExtraArgs):
    """An Optax transformation that keeps the settings it was made with.

    So that `chain_links` can fuse it with its neighbors. In every other respect it is the
    transformation.
    """

    settings: dict[str, Any]

    @classmethod
    def of(cls, init_fn, update_fn, **settings) -> "Link":
        """The transformation of these two functions, made with these settings."""
        link = cls(init_fn, update_fn)
        link.settings = settings
        return link


class SpecState(NamedTuple):
    """The part of a link's state that belongs to the spec, by path.

    Attributes:
        manifold_ids: The drawn manifold of every component, for weights on several manifolds.
        feature_std: λ of the present weights, for weights that have a scale.
        next_feature_std: λ of the weights after the next update.
    """

    manifold_ids: dict[str, jax.Array]
    feature_std: dict[str, jax.Array]
    next_feature_std: dict[str, jax.Array]

    @classmethod
    def of(cls, spec: Collection) -> "SpecState":
        """The state at the start, with λ = 1."""
        return cls(spec.manifold_ids(), spec.feature_std(), spec.feature_std())

    def after_update(self) -> "SpecState":
        """The state after an update, whose weights have the scale that was set."""
        # A copy, because no array may be twice in a state that is donated.
        return self._replace(feature_std=jax.tree.map(jnp.copy, self.next_feature_std))

    def leaf(self, path: str, leaf_spec: LeafSpec, weight: jax.Array) -> "LeafState":
        """The manifolds and scales of one weight."""
        stds = self.feature_std.get(path), self.next_feature_std.get(path)
        scales = (leaf_spec.scale(std, weight.dtype) for std in stds)
        return LeafState(self.manifold_ids.get(path), *scales)


class LeafState(NamedTuple):
    """The manifolds and scales of one weight, None where it has a single manifold, or no scale.

    Attributes:
        manifold_ids: The drawn manifold of every component.
        s: The scale of the present weight.
        s_next: The scale of the weight after the next update.
    """

    manifold_ids: jax.Array | None
    s: jax.Array | None
    s_next: jax.Array | None


def require_params(params, reason: str) -> None:
    """Raises Optax's message for missing params, with the reason why a link needs them."""
    if params is None:
        raise ValueError(f"{NO_PARAMS_MSG} Manifolds need them because {reason}.")
