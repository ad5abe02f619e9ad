"""Finished updates: those that end on the manifolds, which no other step may take for gradients."""

import weakref
from typing import Any

from fgsgd_jax._arrays import require_gradient_values
from fgsgd_jax._trees import leaves_with_paths
from fgsgd_jax.spec import Collection

# By their ids, the arrays that last links have returned and that are still in use. An array has no
# room for a mark, and its values show none: an update is short, and so is a gradient. Entries of
# arrays that are gone disappear. Tracers are entered too, so jitted functions are checked as well.
_finished: weakref.WeakValueDictionary[int, Any] = weakref.WeakValueDictionary()


def finished(updates: Any, spec: Collection) -> Any:
    """The updates, of which those of leaves on manifolds are known from now on to be finished."""
    for path, update in leaves_with_paths(updates):
        if path in spec and spec[path] is not None:
            _finished[id(update)] = update
    return updates


def require_unfinished(updates: Any) -> None:
    """Raises if what arrives in place of gradients was returned by the last link of another chain.

    What something else has changed in between is not known again. Shapes without values are no
    gradients either.
    """
    require_gradient_values(updates)
    for path, update in leaves_with_paths(updates):
        if _finished.get(id(update)) is update:
            raise ValueError(
                f"{path!r} gets two steps: what arrives as its gradient is the update of another "
                "optimizer on manifolds, new weights minus weights. A chain has one optimizer, or "
                "one link such as retract_updates(spec), at its end. Several optimizers share the "
                "weights by optax.partition; keep_on_manifolds(spec) follows what changes updates."
            )
