"""What Euclidean leaves get: their own transformation, or weight decay."""

import warnings
from collections.abc import Hashable
from typing import Any

import jax
import optax

from fgsgd_jax._trees import leaves_with_paths
from fgsgd_jax.optimizers._arguments import require_number_or_schedule
from fgsgd_jax.spec import Collection


def with_euclidean(
    links, spec: Collection, euclidean, weight_decay, weight_decay_mask
) -> optax.GradientTransformationExtraArgs:
    """The links, with weight decay of Euclidean leaves, or with their own transformation."""
    require_number_or_schedule("weight_decay", weight_decay)
    known_zero = isinstance(weight_decay, (int, float)) and weight_decay == 0
    if not known_zero:
        # The warning points to the caller of the optimizer.
        decay = _decay_of_euclidean_leaves(spec, weight_decay, weight_decay_mask, stacklevel=5)
        links = optax.with_extra_args_support(optax.chain(decay, links))
    if euclidean is None:
        return links
    if not (hasattr(euclidean, "init") and hasattr(euclidean, "update")):
        raise TypeError(
            f"euclidean must be a transformation, such as optax.adamw(1e-3), got {euclidean!r}."
        )
    transforms: dict[Hashable, Any] = {"manifold": links, "euclidean": euclidean}
    return optax.with_extra_args_support(optax.partition(transforms, spec.labels))


def _decay_of_euclidean_leaves(spec: Collection, weight_decay, mask, stacklevel: int):
    """Weight decay of the Euclidean leaves of a mask; warns about the other leaves it covers."""
    fixed = [path for path, leaf_spec in spec.on_manifolds() if leaf_spec.fixes_norm]

    def warn(paths, stacklevel):
        some = ", ".join(map(repr, paths[:3])) + (", …" if len(paths) > 3 else "")
        warnings.warn(
            f"weight_decay does nothing where the norm of a weight is fixed, as it is for "
            f"{len(paths)} weight{'s'[: len(paths) > 1]} ({some}); only Euclidean leaves decay. "
            "Give weight_decay_mask=spec.euclidean_mask to say that this is meant.",
            stacklevel=stacklevel,
        )

    if mask is None:
        # An injected hyper-parameter is a traced array, which may be 0.
        if fixed and not isinstance(weight_decay, jax.Array):
            warn(fixed, stacklevel)
        return optax.add_decayed_weights(weight_decay, mask=spec.euclidean_mask)

    def euclidean_part(tree):
        asked = mask(tree) if callable(mask) else mask
        covered = [path for path, chosen in leaves_with_paths(asked) if chosen and path in fixed]
        if covered:
            warn(covered, 2)
        return jax.tree.map(
            lambda chosen, euclidean: bool(chosen) and euclidean, asked, spec.euclidean_mask(tree)
        )

    return optax.add_decayed_weights(weight_decay, mask=euclidean_part)
