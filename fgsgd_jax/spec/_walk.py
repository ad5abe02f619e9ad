"""`map_leaves`: a walk over trees that have the leaves of a spec."""

from collections.abc import Callable
from typing import Any

from fgsgd_jax._trees import leaves_with_paths, map_with_path
from fgsgd_jax.spec._collection import Collection


def map_leaves(
    spec: Collection, on_manifold: Callable, on_euclidean: Callable, tree: Any, *rest: Any
) -> Any:
    """Maps one function over the leaves on manifolds and another over the Euclidean leaves.

    Leaves of different trees belong together if their paths are the same, so the trees may differ
    in structure (an NNX State and plain dictionaries). Leaves that `tree` lacks are skipped.

    Args:
        spec: The spec of the parameters.
        on_manifold: Called as `on_manifold(path, leaf_spec, leaf, *rest_leaves)`.
        on_euclidean: Called as `on_euclidean(leaf, *rest_leaves)`.
        tree: The tree whose structure the result has.
        *rest: Further trees, or dictionaries from path to leaf.

    Raises:
        ValueError: If a tree of `rest` lacks a leaf of `tree`, or a leaf does not fit the spec.
    """
    others = [dict(leaves_with_paths(other)) for other in rest]

    def map_leaf(path, leaf):
        leaf_spec = spec.leaf_spec_of(path, leaf)
        if any(path not in other for other in others):
            raise ValueError(
                f"The updates have a leaf {path!r} that the parameters or the state do not have. "
                "Give init and update trees with the same leaves."
            )
        leaves = (leaf, *(other[path] for other in others))
        if leaf_spec is None:
            return on_euclidean(*leaves)
        for other in leaves[1:]:
            spec.leaf_spec_of(path, other)
        return on_manifold(path, leaf_spec, *leaves)

    return map_with_path(map_leaf, tree)
