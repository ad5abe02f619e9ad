"""What links on manifolds share: their settings, and the part of the spec in their states."""

import collections
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.core import Tracer
from optax._src.base import NO_PARAMS_MSG  # Optax has no public name for its own sentence

from fgsgd_jax import linalg
from fgsgd_jax._text import shown
from fgsgd_jax._trees import leaves_with_paths
from fgsgd_jax.spec import Collection, LeafSpec, require_weights


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


_OF_SPEC = "spec_"  # before a fingerprint, so that the message of a checkpointer says what differs


class SpecState(NamedTuple):
    """The part of a link's state that belongs to the spec, by path.

    Attributes:
        manifold_ids: The drawn manifold of every component, for weights on several manifolds.
        feature_std: λ of the present weights, for weights that have a scale.
        next_feature_std: λ of the weights after the next update.
        fingerprint: `Collection.fingerprint` as a key, by which `require_state` finds a state of
            another spec inside jitted functions, and checkpointers that restore by name do; and as
            a uint32 value, for those that restore a list of leaves.
    """

    manifold_ids: dict[str, jax.Array]
    feature_std: dict[str, jax.Array]
    next_feature_std: dict[str, jax.Array]
    fingerprint: dict[str, jax.Array]

    @classmethod
    def of(cls, spec: Collection, params: Any) -> "SpecState":
        """The state at the start, with λ = 1 in the working dtype of each weight."""
        require_weights(params, spec, empty=True, shapes=True)
        dtypes = working_dtypes(params)
        drawn = cls.without_arrays(spec)

        def ones():
            known = spec.feature_std().items()
            return {path: std.astype(dtypes[path]) for path, std in known}

        return drawn._replace(
            manifold_ids=spec.manifold_ids(), feature_std=ones(), next_feature_std=ones()
        )

    @classmethod
    def without_arrays(cls, spec: Collection) -> "SpecState":
        """The fingerprint only, for a link that needs neither manifolds nor λ."""
        return cls({}, {}, {}, {key_of(spec): jnp.asarray(np.uint32(spec.fingerprint))})

    def after_update(self) -> "SpecState":
        """The state after an update, whose weights have the scale that was set."""
        # A copy, because no array may be twice in a state that is donated.
        return self._replace(feature_std=jax.tree.map(jnp.copy, self.next_feature_std))

    def leaf(self, path: str, leaf_spec: LeafSpec, weight: jax.Array) -> "LeafState":
        """The manifolds and scales of one weight."""
        stds = self.feature_std.get(path), self.next_feature_std.get(path)
        scales = (leaf_spec.scale(std, weight.dtype) for std in stds)
        return LeafState(self.manifold_ids.get(path), *scales)

    def unit_copy(self, path: str, leaf_spec: LeafSpec, weight: Any, dtype: Any) -> jax.Array:
        """A copy of one weight at unit scale, for a state; see `copy_for_state`."""
        if isinstance(weight, jax.ShapeDtypeStruct):
            return copy_for_state(weight, dtype)
        s = leaf_spec.scale(self.feature_std.get(path), weight.dtype)
        return copy_for_state(leaf_spec.to_weight(leaf_spec.unit_points(weight, s), dtype))


def key_of(spec: Collection) -> str:
    """The fingerprint of a spec as a key, for states."""
    return f"{_OF_SPEC}{spec.fingerprint}"


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


def working_dtypes(params: Any) -> dict[str, np.dtype]:
    """By path, the dtype of numbers that belong to a weight, which is not the default of JAX.

    float32 for other paths: `optax.tree.map_params` calls `init` with a tree that has no leaves.
    """
    known = {path: linalg.working_dtype(leaf.dtype) for path, leaf in leaves_with_paths(params)}
    return collections.defaultdict(lambda: np.dtype("float32"), known)


def require_state(state: Any, kind: type, spec: Collection) -> None:
    """Raises unless a state is one that `init` made for this spec.

    Args:
        state: The state given to an update.
        kind: The class of the states that this transformation makes.
        spec: The spec of the transformation.

    Raises:
        TypeError: If the state is of another class.
        ValueError: If a fingerprint is not that of the spec. Its value is unknown inside a jitted
            function; its key is not.
    """
    if not isinstance(state, kind):
        raise TypeError(wrong_state(kind.__name__, state))
    of_spec = state if isinstance(state, SpecState) else state.spec
    if not isinstance(getattr(of_spec, "fingerprint", None), dict):
        raise ValueError(
            "This optimizer state does not have the fingerprint of its spec as a key: it was saved "
            "by an older version of fgsgd_jax. Make a new one with init(params)."
        )
    ((key, value),) = of_spec.fingerprint.items()
    known = known_values(value)
    found = {int(key.removeprefix(_OF_SPEC)), *(() if known is None else known.ravel().tolist())}
    if others := found - {spec.fingerprint}:
        raise ValueError(
            "This optimizer state was made for another spec: with another seed, other rules, "
            "shapes or scales. Build the spec as it was built for the state, or make a new state "
            f"with init(params). The fingerprint of the state is {min(others)}, that of the spec "
            f"{spec.fingerprint}."
        )


def wrong_state(needed: str, given: Any, example: str = "") -> str:
    """A message for an update that was given a state of another class.

    Args:
        needed: The name of the class that it needs.
        given: The state given.
        example: An optimizer that has such a state, or "".
    """
    another = f"another optimizer, such as {example}," if example else "another optimizer,"
    return (
        f"update needs a state of class {needed}, got {type(given).__name__}: this is the state of "
        f"{another} or a tree restored without its classes. Give it what init of this optimizer "
        "returned, or restore into that."
    )


def known_values(array: Any) -> np.ndarray | None:
    """The values of an array; None inside a function being traced, or if they are elsewhere."""
    return np.asarray(array) if has_known_values(array) else None


def has_known_values(array: Any) -> bool:
    """Whether `known_values` has the values of an array; asking moves none to the host."""
    return not isinstance(array, Tracer) and getattr(array, "is_fully_addressable", True)


def copy_for_state(leaf: Any, dtype: Any = None) -> jax.Array:
    """A copy of a weight, which may be donated later; zeros for a shape without values."""
    if isinstance(leaf, jax.ShapeDtypeStruct):
        return jnp.zeros(leaf.shape, dtype or leaf.dtype)
    return jnp.array(leaf, dtype)


def require_transformation(tx: Any, name: str = "`tx`") -> None:
    """Raises a TypeError unless an argument is an Optax transformation."""
    if not (hasattr(tx, "init") and hasattr(tx, "update")):
        raise TypeError(
            f"{name} must be an Optax transformation, such as optax.adam(1e-3), got {shown(tx)}."
        )


def require_params(params, reason: str) -> None:
    """Raises Optax's message for missing params, with the reason why a link needs them."""
    if params is None:
        raise ValueError(f"{NO_PARAMS_MSG} Manifolds need them because {reason}.")
    if any(isinstance(leaf, jax.ShapeDtypeStruct) for leaf in jax.tree.leaves(params)):
        raise TypeError(
            "The parameters of an update are shapes without values. Give the parameters, or make "
            "this call in the function that jax.eval_shape is given."
        )
