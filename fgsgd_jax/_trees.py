"""Trees of parameters: their leaves by path, where a path is the keys joined by `/`."""

from collections.abc import Callable, Iterable
from typing import Any

import jax
from jax.tree_util import keystr, tree_flatten_with_path


def joined_path(keys: tuple[Any, ...]) -> str:
    """The path of a leaf, such as `conv/kernel`, from its keys in a pytree."""
    return keystr(keys, simple=True, separator="/")


def flatten_with_paths(tree: Any) -> tuple[list[tuple[str, Any]], Any]:
    """The pairs (path, leaf) of a tree and its structure.

    None and Optax's `MaskedNode` have no leaves. A Flax NNX Variable, or a box of Flax Linen, as
    `nn.with_partitioning` makes it, has its own path as the path of its leaf, without the attribute
    `value`: `init` is given a State of Variables and `update` the plain arrays, and a leaf needs
    the same path in both.
    """
    nodes, _ = tree_flatten_with_path(tree, is_leaf=_is_box)
    leaves, structure = jax.tree.flatten(tree)
    if len(nodes) != len(leaves):  # an empty box is a node without a leaf
        nodes = [(keys, node) for keys, node in nodes if jax.tree.leaves(node)]
    paths = (joined_path(keys) for keys, _ in nodes)
    return list(zip(paths, leaves, strict=True)), structure


def leaves_with_paths(tree: Any) -> list[tuple[str, Any]]:
    """The pairs (path, leaf) of a tree, in the order of its leaves."""
    return flatten_with_paths(tree)[0]


def map_with_path(function: Callable[[str, Any], Any], tree: Any) -> Any:
    """A tree with the structure of `tree` and the leaves `function(path, leaf)`."""
    leaves, structure = flatten_with_paths(tree)
    return structure.unflatten([function(path, leaf) for path, leaf in leaves])


def listed(paths: Iterable[str], most: int = 20) -> str:
    """The paths in quotes for an error message, at most `most` of them and the number omitted."""
    quoted = [repr(path) for path in paths]
    omitted = f" and {len(quoted) - most} more" if len(quoted) > most else ""
    return ", ".join(quoted[:most]) + omitted


def is_nnx_module(tree: Any) -> bool:
    """Whether a tree is a Flax NNX module, recognized without importing Flax."""
    return _is_instance(tree, "Module", "flax.nnx")


def _is_box(node: Any) -> bool:
    """Whether a node is a Flax NNX Variable or a box of Flax Linen around an array."""
    return _is_instance(node, "Variable", "flax.nnx") or _is_instance(
        node, "AxisMetadata", "flax.core"
    )


def _is_instance(node: Any, name: str, package: str) -> bool:
    return any(
        cls.__name__ == name and cls.__module__.startswith(package) for cls in type(node).__mro__
    )
