"""The head of a network whose path does not say so: the last layer, which no other reads."""

from collections.abc import Sequence
from typing import Any

from fgsgd_jax._text import natural_order
from fgsgd_jax.spec._blocks import layer_of
from fgsgd_jax.spec._kinds import kind_of
from fgsgd_jax.spec._layouts import DEFAULT, letters_for

Leaves = Sequence[tuple[str, Any]]


def last_dense(leaves: Leaves) -> str:
    """The path of the last dense weight in natural order; "" if a head is named, or none is dense.

    Example:
        >>> import jax.numpy as jnp
        >>> last_dense([(f"Dense_{i}/kernel", jnp.ones((4, 4))) for i in range(11)])
        'Dense_10/kernel'
    """
    dense = [
        path for path, leaf in leaves if kind_of(path) in ("dense", "") and len(leaf.shape) > 1
    ]
    if names_a_head(leaves) or not dense:
        return ""
    return max(dense, key=natural_order)


def unread_dense(leaves: Leaves, layout: str | None) -> str:
    """The path of the last of several dense weights, if no other layer can read its output.

    The last is that in natural order among those with the fewest keys. No layer can read its output
    if no axis of another layer, embeddings aside, is as long. Otherwise it cannot be told from a
    hidden layer, and the result is "".

    Args:
        leaves: The pairs (path, leaf).
        layout: The layout given to `collection`, or None.
    """
    dense = {
        path: leaf for path, leaf in leaves if kind_of(path) == "dense" and len(leaf.shape) == 2
    }
    letters = letters_for(layout or DEFAULT, 2)
    if names_a_head(leaves) or len(dense) < 2 or letters is None:
        return ""
    depth = min(path.count("/") for path in dense)
    last = max((path for path in dense if path.count("/") == depth), key=natural_order)
    outputs = dense[last].shape[letters.index("O")]
    elsewhere = {
        size
        for path, leaf in leaves
        if layer_of(path) != layer_of(last) and kind_of(path) != "embedding"
        for size in leaf.shape
    }
    return "" if outputs in elsewhere else last


def names_a_head(leaves: Leaves) -> bool:
    """Whether a path says that a leaf is a head."""
    return any(kind_of(path) == "head" for path, _ in leaves)
