"""The layers of a chain: which leaves of the parameters are its kernels and biases, in order."""

import dataclasses
import itertools
import re
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from fgsgd_jax._text import shown
from fgsgd_jax._trees import leaves_with_paths, listed

Layers = Sequence[str | tuple[str, str | None]]


@dataclasses.dataclass(frozen=True)
class AffineMap:
    """The kernel and bias of one layer, as indices of leaves.

    Attributes:
        kernel: The index of the kernel, whose last axis is the outputs, the one before the inputs.
        bias: The index of the bias, or None.
    """

    kernel: int
    bias: int | None


def chain_of(params: Any, layers: Layers | None) -> tuple[list, Any, list[AffineMap]]:
    """The leaves of the parameters, the structure of the tree, and the layers in order.

    Args:
        params: The parameters of a chain of layers.
        layers: The paths of the kernels, or pairs of the paths of kernel and bias, in order; None
            to find them.

    Raises:
        TypeError: If a kernel or bias is no array of floats.
        ValueError: If the shapes of consecutive layers do not fit each other, if it is unclear
            which layer a vector belongs to, or if there is no layer, or one without entries.
    """
    paths = [path for path, _ in leaves_with_paths(params)]
    leaves, structure = jax.tree.flatten(params)
    chain = _found(paths, leaves) if layers is None else _named(paths, layers)
    if not chain:
        raise ValueError(
            "`layers` is empty; name the layers of the chain in order, or leave it out."
        )
    for index in itertools.chain.from_iterable(map(dataclasses.astuple, chain)):
        if index is not None:
            _require_weight(paths[index], leaves[index])
    shapes = [jnp.shape(leaf) for leaf in leaves]
    for affine in chain:
        _require_fitting_bias(affine, paths, shapes)
    for before, after in itertools.pairwise(chain):
        _require_fitting_kernels(before, after, paths, shapes)
    return leaves, structure, chain


def _require_weight(path: str, leaf: Any) -> None:
    """Raises a TypeError unless a leaf is an array of numbers that can be scaled."""
    dtype = getattr(leaf, "dtype", None)
    real = dtype is not None and jnp.issubdtype(dtype, jnp.floating) and dtype.itemsize > 1
    if not real or isinstance(leaf, jax.ShapeDtypeStruct):
        given = shown(leaf) if dtype is None or real else f"of dtype {dtype}"
        raise TypeError(
            f"The layers of a chain need arrays of float16, bfloat16, float32 or float64, but "
            f"{path!r} is {given}."
        )
    if not leaf.size:
        raise ValueError(f"{path!r} has no entries (shape {leaf.shape}), so it is no layer.")


def _require_fitting_bias(affine: AffineMap, paths: list[str], shapes: list) -> None:
    outputs = shapes[affine.kernel][-1]
    if affine.bias is not None and shapes[affine.bias] != (outputs,):
        raise ValueError(
            f"The bias {paths[affine.bias]!r} of shape {shapes[affine.bias]} does not fit the "
            f"{outputs} outputs of {paths[affine.kernel]!r}; name the layers in order by `layers`."
        )


def _require_fitting_kernels(
    before: AffineMap, after: AffineMap, paths: list[str], shapes: list
) -> None:
    outputs, inputs = shapes[before.kernel][-1], shapes[after.kernel][-2]
    # A dense layer can follow a flattened feature map, with inputs for each position.
    is_dense = len(shapes[after.kernel]) == 2
    if inputs != outputs and not (is_dense and inputs % outputs == 0):
        raise ValueError(
            f"{paths[before.kernel]!r} has {outputs} outputs, but {paths[after.kernel]!r}, taken "
            f"for the layer after it, has {inputs} inputs. Name the layers of the chain in order "
            "by `layers`; kernels have inputs and outputs as their last two axes."
        )


def _found(paths: list[str], leaves: list) -> list[AffineMap]:
    """The layers of a chain, in the order of their paths."""
    order = sorted(range(len(paths)), key=lambda index: _sort_key(paths[index]))
    kernels = [index for index in order if jnp.ndim(leaves[index]) >= 2]
    biases = [index for index in order if jnp.ndim(leaves[index]) == 1]
    if not kernels:
        raise ValueError(
            "The parameters have no array of two or more axes, so there are no layers. Give the "
            "parameters of the whole network."
        )
    node = {index: paths[index].rpartition("/")[0] for index in (*kernels, *biases)}
    # Either each layer is a node of its own, or one node holds the kernels and biases of all.
    if len({node[index] for index in kernels}) == len(kernels):
        bias_of_node = {node[index]: index for index in biases}
        chain = [AffineMap(kernel, bias_of_node.pop(node[kernel], None)) for kernel in kernels]
        unassigned = list(bias_of_node.values())
    elif not biases:
        chain, unassigned = [AffineMap(kernel, None) for kernel in kernels], []
    elif len(biases) == len(kernels):
        chain, unassigned = list(map(AffineMap, kernels, biases)), []
    else:
        chain, unassigned = [], biases
    if unassigned:
        raise ValueError(
            f"It is not clear which layer the vector {paths[unassigned[0]]!r} belongs to; name the "
            "layers of the chain in order by `layers`, as pairs of kernel and bias."
        )
    return chain


def _is_layer(layer: Any) -> bool:
    return isinstance(layer, str) or (isinstance(layer, (list, tuple)) and len(layer) == 2)


def _named(paths: list[str], layers: Layers) -> list[AffineMap]:
    """The layers of a chain, as named by the user."""
    is_list = isinstance(layers, (list, tuple))
    if not is_list or not all(map(_is_layer, layers)):
        raise TypeError(
            "`layers` are the paths of the kernels in order, each alone or in a pair with that of "
            f"its bias, such as [('in/kernel', 'in/bias'), 'out/kernel'], got {shown(layers)}."
        )
    indices = {path: index for index, path in enumerate(paths)}

    def index_of(path: str) -> int:
        if path not in indices:
            raise ValueError(f"`layers` names {path!r}, but the leaves are {listed(paths)}.")
        return indices[path]

    pairs = [(layer, None) if isinstance(layer, str) else layer for layer in layers]
    return [
        AffineMap(index_of(kernel), None if bias is None else index_of(bias))
        for kernel, bias in pairs
    ]


def _sort_key(path: str) -> list:
    """Sorts numbers in paths numerically: layer2 before layer10."""
    parts = re.split(r"(\d+)", path)
    return [(1, int(part), "") if part.isdigit() else (0, 0, part) for part in parts]
