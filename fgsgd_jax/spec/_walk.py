"""`map_leaves`: a walk over trees that have the leaves of a spec."""

from collections.abc import Callable, Container
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import tree_flatten_with_path

from fgsgd_jax._text import shown
from fgsgd_jax._trees import joined_path, leaves_with_paths, listed, map_with_path
from fgsgd_jax.spec._collection import Collection, require_parameters
from fgsgd_jax.spec._leaf import LeafSpec

_TO_STAY = (
    "Give zeros for a weight that is to stay, or take it out of the optimizer by optax.masked."
)


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
        ValueError: If a tree of `rest` lacks a leaf of `tree`, leaves that belong together differ
            in shape, or a leaf does not fit the spec.
    """
    require_known_leaves(spec, tree)
    others = [dict(leaves_with_paths(other)) for other in rest]
    if others and others[0] and _is_bare(tree):
        raise ValueError(
            f"The gradients, or updates, are {shown(tree)}, but the parameters have the leaves "
            f"{listed(others[0])}. The order is update(gradients, state, params)."
        )

    def map_leaf(path, leaf):
        if any(path not in other for other in others):
            raise ValueError(
                f"The updates have a leaf {path!r} that the parameters or the state do not have. "
                "Give init and update trees with the same leaves."
            )
        leaves = (leaf, *(other[path] for other in others))
        for other in leaves[1:]:
            spec_of_leaf(spec, path, other)
            _require_same_shape(path, leaf, other)
        leaf_spec = spec_of_leaf(spec, path, leaf)
        if leaf_spec is None:
            return on_euclidean(*leaves)
        return on_manifold(path, leaf_spec, *leaves)

    return map_with_path(map_leaf, tree)


def spec_of_leaf(spec: Collection, path: str, leaf: Any) -> LeafSpec | None:
    """The leaf spec of a leaf, after a check of its shape and dtype; None if it is Euclidean.

    Raises:
        ValueError: If the shape is not that of the spec, or the geometry of a leaf on manifolds
            cannot be computed in its dtype.
    """
    leaf_spec = spec.leaf_spec_of(path, leaf)
    if leaf_spec is not None and not _has_working_dtype(leaf.dtype):
        raise ValueError(_wrong_dtype(path, leaf))
    return leaf_spec


def _wrong_dtype(path: str, leaf: Any) -> str:
    return (
        f"{path!r} has dtype {leaf.dtype}, but weights on manifolds, and their gradients, need "
        "float16, bfloat16, float32 or float64. Cast the leaf to one of them, or make it "
        "Euclidean in the spec (None)."
    )


def require_weights(
    params: Any, spec: Collection, *, empty: bool = False, shapes: bool = False
) -> None:
    """Raises unless a tree has weights of a spec.

    Args:
        params: What was given as parameters: all leaves of the spec, or some of them.
        spec: The spec.
        empty: Whether it may have no leaves, as the trees with which Optax calls `init`.
        shapes: Whether leaves may be shapes without values.

    Raises:
        TypeError: If it is no tree of arrays, or a leaf is a shape without values.
        ValueError: If it has other leaves than the spec, of other shapes, or of dtypes that no
            weight on a manifold has.
    """
    leaves = leaves_with_paths(params)
    require_parameters(params, spec)
    if not leaves and not empty:
        raise ValueError(
            f"The parameters have no leaves, but the spec was built from {listed(spec)}. Give the "
            "parameters that it was built from."
        )
    require_known_leaves(spec, params)
    for path, leaf in leaves:
        if not (hasattr(leaf, "shape") and hasattr(leaf, "dtype")):
            raise TypeError(f"{path!r} is {shown(leaf)}, which is no array.")
        if not shapes and isinstance(leaf, jax.ShapeDtypeStruct):
            raise TypeError(
                f"{path!r} is a shape without values. Give the parameters, or make this call in "
                "the function that jax.eval_shape is given."
            )
        on_manifolds = spec_of_leaf(spec, path, leaf) is not None
        if on_manifolds and not jnp.issubdtype(leaf.dtype, jnp.floating):
            raise ValueError(_wrong_dtype(path, leaf))


def require_known_leaves(spec: Collection, tree: Any) -> None:
    """Raises if a tree has leaves that the spec does not have.

    Raises:
        TypeError: If it is no tree of parameters, such as the variables of a Flax module.
        ValueError: If it is another tree.
    """
    unknown = [path for path, _ in leaves_with_paths(tree) if path not in spec]
    if unknown:
        require_parameters(tree, spec)  # which names what was given in their place
        raise ValueError(
            f"The spec has no lea{'f' if len(unknown) == 1 else 'ves'} {listed(unknown)}; it was "
            f"built from the leaves {listed(spec)}. {_advice(spec, unknown)}"
        )


def require_gradients(
    spec: Collection | None,
    gradients: Any,
    params: Any = None,
    *,
    of_all: bool = False,
    order: str = "update(gradients, state, params)",
) -> None:
    """Raises unless there is a gradient for every leaf of the parameters.

    None in place of a gradient leaves a weight as it is, unless the optimizer keeps some of it.

    Args:
        spec: The spec of the parameters; None where it is unknown, and all need gradients.
        gradients: The gradients.
        params: The parameters, or None to look only at leaves on manifolds.
        of_all: Whether the optimizer keeps something of Euclidean leaves as well.
        order: The call that was given them, for the messages.

    Raises:
        ValueError: The message names the leaf.
    """
    nodes, _ = tree_flatten_with_path(gradients, is_leaf=lambda node: node is None)
    without = {joined_path(keys) for keys, leaf in nodes if leaf is None}
    known, weights = dict(leaves_with_paths(gradients)), dict(leaves_with_paths(params))
    needed = weights if spec is None else spec
    for path in sorted(without.intersection(needed)):
        if spec is None or of_all or spec[path] is not None:
            raise ValueError(f"The gradient of {path!r} is None. {_TO_STAY}")
    for path, weight in weights.items():
        if path in known:
            _require_same_shape(path, known[path], weight, order)
        elif path not in without:
            raise ValueError(
                f"The gradients have no leaf {path!r}, which the parameters have; the order is "
                f"{order}. {_TO_STAY}"
            )
    if params is not None and (others := [path for path in known if path not in weights]):
        raise ValueError(
            f"The gradients have a leaf {others[0]!r}, which the parameters do not have; the order "
            f"is {order}. Give gradients of these parameters."
        )


def _advice(known: Container[str], unknown: list[str]) -> str:
    """What to do about leaves that the spec does not have."""
    parts = [path.rpartition("/") for path in unknown]
    if any(parent in known and name in ("real", "imaginary") for parent, _, name in parts):
        return (
            "optax.contrib.split_real_and_imaginary splits every complex leaf: wrap only the "
            "transformation of the Euclidean leaves in it, which you give as `euclidean`."
        )
    above = {"/".join(path.split("/")[:count]) for path in unknown for count in range(1, 4)}
    if lists := [path for path in sorted(above) if path in known]:
        return f"{listed(lists)} is no array; convert it with jnp.asarray."
    if unknown == [""]:
        return (
            "A single array was given in place of the tree, as by optax.flatten, which hides the "
            "shapes of the weights: wrap only the transformation of the Euclidean leaves in it, "
            "which you give as `euclidean`."
        )
    return "Build the spec from the parameters you use it with."


def _require_same_shape(path: str, leaf: Any, weight: Any, order: str = "") -> None:
    if np.shape(leaf) != np.shape(weight):
        raise ValueError(
            f"The gradient, update or momentum of {path!r} has shape {np.shape(leaf)}, but its "
            f"weight has shape {np.shape(weight)}. Give gradients of these parameters, and the "
            f"state that was made for them{order and ', in the order ' + order}."
        )


def _is_bare(tree: Any) -> bool:
    """Whether a tree is a single node without leaves, such as None or a spec; masks have more."""
    structure = jax.tree.structure(tree)
    return structure.num_nodes == 1 and structure.num_leaves == 0


def _has_working_dtype(dtype: Any) -> bool:
    """Whether geometry can be computed for a dtype; gradients of whole numbers can be."""
    if jnp.issubdtype(dtype, jnp.floating):
        return jnp.dtype(dtype).itemsize >= 2
    return jnp.issubdtype(dtype, jnp.integer)
