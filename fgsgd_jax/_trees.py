"""Trees of parameters: their leaves by path, the keys of a path joined by `/`."""

from collections.abc import Callable
from typing import Any

import jax
from jax.tree_util import DictKey, FlattenedIndexKey, GetAttrKey, SequenceKey


def _path(keys) -> str:
    return "/".join(map(_name, keys))


def _name(key) -> str:
    match key:
        case DictKey(key=name) | FlattenedIndexKey(key=name):
            return str(name)
        case GetAttrKey(name=name):
            return name
        case SequenceKey(idx=index):
            return str(index)
    return str(key)


def _is_variable(node: Any) -> bool:
    """Whether a node is a Variable of Flax NNX, recognized without importing Flax."""
    return any(
        cls.__name__ == "Variable" and cls.__module__.startswith("flax.nnx")
        for cls in type(node).__mro__
    )


def _flatten(tree: Any) -> tuple[list[tuple[str, Any]], Any]:
    """The pairs (path, leaf) of a tree, and its structure.

    Flax NNX names one leaf in two ways: `init` sees a State of Variables, whose paths end in the
    attribute `value`, `update` sees plain arrays, whose paths do not. Here a Variable goes by its
    own path. None and Optax's `MaskedNode` are no leaves.
    """
    nodes, _ = jax.tree_util.tree_flatten_with_path(tree, is_leaf=_is_variable)
    leaves, structure = jax.tree.flatten(tree)
    if len(nodes) != len(leaves):  # an empty Variable is a node without a leaf
        nodes = [(keys, node) for keys, node in nodes if jax.tree.leaves(node)]
    paths = (_path(keys) for keys, _ in nodes)
    return list(zip(paths, leaves, strict=True)), structure


def leaves_with_paths(tree: Any) -> list[tuple[str, Any]]:
    """The pairs (path, leaf) of a tree, the path being its keys joined by `/`."""
    return _flatten(tree)[0]


def map_with_path(function: Callable, tree: Any) -> Any:
    """A tree like `tree` of `function(path, leaf)`."""
    leaves, structure = _flatten(tree)
    return structure.unflatten([function(path, leaf) for path, leaf in leaves])


def listed(paths, most: int = 20) -> str:
    """The first paths, quoted, and how many more there are: for messages."""
    paths = [repr(path) for path in paths]
    more = f" and {len(paths) - most} more" if len(paths) > most else ""
    return ", ".join(paths[:most]) + more
