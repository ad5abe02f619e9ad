"""What Euclidean leaves get: SGD at a rate of their own, or another transformation; decay."""

import warnings
from typing import Any

import jax
import numpy as np
import optax
from jax.core import Tracer

from fgsgd_jax._numbers import checked_schedule, require_flag, require_number_or_schedule
from fgsgd_jax._trees import leaves_with_paths, listed
from fgsgd_jax.spec import AS_ASKED, Collection, require_gradients
from fgsgd_jax.transforms import WritesWeights, initial_state, require_transformation, wrong_state

# The rate of Euclidean leaves over the rate of leaves on manifolds. A step of `fgsgd` turns a
# component by at most 0.42 times the rate, whatever the gradient; nothing limits a step of SGD, so
# the rates that suit the two differ by more than a factor of ten. Validation error in per cent on
# digits, momentum 0.9, means of two seeds (`python -m tests.benchmarks.euclidean_rates --seeds 2`;
# MLP: three hidden layers on Stiefel manifolds; "plain" without normalization):
#
#                             CNN                  MLP              plain MLP
#     rate of fgsgd    0.1   0.3   1.0      0.1   0.3   1.0      0.1   0.3   1.0
#     rate             2.0   2.5  89.4      2.3   4.4  57.7      2.4   9.6  89.4
#     rate/10          2.4   1.9   1.8      1.9   3.1  10.2      4.9   4.7  27.1
#     rate/20          2.8   1.6   1.5      1.8   3.3   7.6      5.3   4.0  18.9
#     rate/100         4.2   2.3   2.5      1.9   1.9   6.8      5.0   4.9  15.0
#     Adam, rate/100   3.1   2.3   1.6      1.6   3.7   8.1      4.5   4.9  15.5
#     rate, with τ     3.7   3.5  11.2      2.8   3.3  16.5      4.0   7.3  89.4
#     rate/10, with τ  3.8   2.0   3.8      1.4   2.5   8.2      5.8   5.2  17.9
EUCLIDEAN_SHARE = 0.05


def euclidean_share(euclidean: Any) -> float:
    """The rate of the SGD of Euclidean leaves, as a share of the rate on manifolds."""
    return 1.0 if isinstance(euclidean, str) and euclidean == "sgd" else EUCLIDEAN_SHARE


def with_euclidean(
    links, spec: Collection, euclidean, weight_decay, weight_decay_mask
) -> optax.GradientTransformationExtraArgs:
    """The links, with weight decay of Euclidean leaves, or with their own transformation."""
    require_number_or_schedule("weight_decay", weight_decay)
    weight_decay = checked_schedule("weight_decay", weight_decay)
    _warn_if_all_is_euclidean(spec)
    if euclidean is not None and not isinstance(euclidean, str):
        _check_transformation(euclidean, weight_decay)
        own = _without_new_weights(euclidean)
        return _like(links, *_partition({"manifold": links, "euclidean": own}, spec))
    if isinstance(euclidean, str) and euclidean != "sgd":
        raise ValueError(
            'euclidean must be "sgd", a transformation such as optax.adamw(1e-3), or None, got '
            f"{euclidean!r}."
        )
    if _is_zero(weight_decay):
        return links
    # The warning points to the caller of the optimizer.
    decay = _decay_of_euclidean_leaves(spec, weight_decay, weight_decay_mask, stacklevel=5)
    return _like(links, *optax.chain(decay, links))


def _like(links, init_fn, update_fn) -> optax.GradientTransformationExtraArgs:
    """A transformation that passes extra arguments on to the links, and their result on."""
    writes = isinstance(links, WritesWeights)
    return (WritesWeights if writes else optax.GradientTransformationExtraArgs)(init_fn, update_fn)


def _without_new_weights(euclidean) -> optax.GradientTransformationExtraArgs:
    """The transformation of Euclidean leaves, whose updates are always differences."""
    euclidean = optax.with_extra_args_support(euclidean)

    def update_fn(updates, state, params=None, *, new_weights=False, **extra_args):
        del new_weights
        return euclidean.update(updates, state, params, **extra_args)

    def init_fn(params):
        return initial_state(euclidean, params)

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def _warn_if_all_is_euclidean(spec: Collection) -> None:
    """Warns the caller of an optimizer if nobody asked for a spec without manifolds."""
    reasons = zip(spec, spec.reasons, strict=False)
    why = {path: reason for path, reason in reasons if reason and reason not in AS_ASKED}
    if why and not any(spec.on_manifolds()):
        path, reason = next(iter(why.items()))
        warnings.warn(
            f"No leaf of this spec is on a manifold, so all {len(spec)} are trained as Euclidean "
            f"leaves; the reason for {path!r} is: {reason}. Name weights in rules, as in "
            f"collection(params, ({path!r}, pom(…))), or give a preset, as in preset='mlp'.",
            stacklevel=4,
        )


def _is_zero(number) -> bool:
    return isinstance(number, (int, float, np.number)) and number == 0


def _check_transformation(euclidean, weight_decay) -> None:
    require_transformation(euclidean, "euclidean")
    unknown = isinstance(weight_decay, Tracer)
    if not unknown and (callable(weight_decay) or np.any(np.asarray(weight_decay) != 0)):
        raise ValueError(
            f"weight_decay={weight_decay} would do nothing beside euclidean=…, which decides what "
            "happens to Euclidean leaves; leaves on manifolds never decay. Give the decay to that "
            "transformation, as in optax.adamw(1e-3, weight_decay=0.1)."
        )


def _partition(transforms, spec: Collection) -> optax.GradientTransformationExtraArgs:
    """`optax.partition` by the spec, with a sentence for the state of another optimizer."""
    parted = optax.with_extra_args_support(optax.partition(transforms, spec.labels))

    def update_fn(updates, state, params=None, **extra_args):
        if not hasattr(state, "inner_states"):
            raise TypeError(wrong_state("PartitionState", state, "one without euclidean=…"))
        require_gradients(spec, updates, params, of_all=True)
        return parted.update(updates, state, params, **extra_args)

    return optax.GradientTransformationExtraArgs(parted.init, update_fn)


def _decay_of_euclidean_leaves(spec: Collection, weight_decay, mask, stacklevel: int):
    """Weight decay of the Euclidean leaves of a mask; warns where it does not do what was asked."""
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
        if fixed and len(fixed) == len(spec) and not isinstance(weight_decay, jax.Array):
            warn(fixed, stacklevel)
        return optax.add_decayed_weights(weight_decay, mask=spec.euclidean_mask)

    def euclidean_part(tree):
        asked = mask(tree) if callable(mask) else mask
        for path, chosen in leaves_with_paths(asked):
            require_flag(f"weight_decay_mask{f' of {path!r}' if path else ''}", chosen)
        covered = [path for path, chosen in leaves_with_paths(asked) if chosen and path in fixed]
        if covered:
            warn(covered, 2)
        return _both(asked, spec.euclidean_mask(tree))

    return optax.add_decayed_weights(weight_decay, mask=euclidean_part)


def _both(asked: Any, euclidean: Any) -> Any:
    """The leaves of two masks, the first of which may have one value for a whole part of the tree.

    Raises:
        ValueError: If the two are different trees.
    """
    try:
        return jax.tree.map(lambda chosen, one: bool(chosen) and one, asked, euclidean)
    except ValueError:
        given, needed = (
            listed(path for path, _ in leaves_with_paths(tree)) for tree in (asked, euclidean)
        )
        raise ValueError(
            f"weight_decay_mask has values for {given or 'no leaves'}, but the leaves are "
            f"{needed}. Give True or False for every leaf, or a function that does, such as "
            "spec.euclidean_mask."
        ) from None
