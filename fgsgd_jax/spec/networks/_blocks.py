"""Blocks: which weights of a network stand beside normalization layers, by their paths.

There are two questions. `normalized`: does a normalization follow nearly every weight, so that the
scale of none matters? `restored`: does any follow at all, so that the sizes of features do not
multiply from block to block?
"""

import math
from collections import Counter
from collections.abc import Collection, Iterable

from fgsgd_jax.spec.networks._kinds import is_normalization, kind_of
from fgsgd_jax.spec.networks._names import WEIGHT_NAMES, keys_of

Block = tuple[str, ...]

# A block of three weights may have two normalization layers: in residual blocks that normalize
# first, the convolution of the shortcut has none of its own.
WEIGHTS, NORMALIZATIONS = 3, 2

# Parts of the names of layers that standardize their weights, in lower case without underscores.
_STANDARDIZED = ("wsconv", "stdconv", "standardized", "weightnorm")


def layer_of(path: str) -> Block:
    """The keys of the layer of a leaf."""
    return keys_of(path)[:-1]


def block_of(keys: Block) -> Block:
    """The block that a layer or block stands in; lists, as `convs` in `convs/0`, are no blocks."""
    while keys and keys[-1].isdigit():
        keys = keys[:-1]
    return keys[:-1]


def normalizations(leaves: Iterable[tuple[str, tuple[int, ...]]]) -> Counter[Block]:
    """The number of normalization layers in each block.

    A layer counts if it is called a normalization, or if it holds a `scale` or `offset`, or two
    vectors of one size, and nothing else.

    Args:
        leaves: Path, and shape without stacked layers, of all leaves.
    """
    counted, _ = _normalization_layers(dict(leaves))
    return Counter(map(block_of, counted))


def doubtful_normalizations(leaves: Iterable[tuple[str, tuple[int, ...]]]) -> dict[Block, str]:
    """Layers that may be normalizations, and the paths of their scales.

    A `weight` or `gamma` without an offset, in a layer whose name does not say what it is, may as
    well be the slopes of PReLU, or what multiplies the output of a block.
    """
    return _normalization_layers(dict(leaves))[1]


def is_standardized(path: str) -> bool:
    """Whether a layer divides its weight by its own norm or deviation, so that no length matters.

    Example:
        >>> [is_standardized(f"{layer}/kernel") for layer in ("WSConv_0", "StdConv", "Conv_0")]
        [True, True, False]
    """
    *layer, last = keys_of(path)
    names = [key.lower().replace("_", "") for key in layer]
    return last == "weight_v" or any(part in key for key in names for part in _STANDARDIZED)


def _normalization_layers(
    shapes: dict[str, tuple[int, ...]],
) -> tuple[set[Block], dict[Block, str]]:
    """The layers that are normalizations, and those that may be, with the path of their scale."""
    holding = {
        layer_of(path)[:length]
        for path, shape in shapes.items()
        if len(shape) > 1
        for length in range(path.count("/") + 1)
    }
    dense = {
        layer_of(path)
        for path, shape in shapes.items()
        if keys_of(path)[-1] in WEIGHT_NAMES and sum(size > 1 for size in shape) > 1
    }
    alike = Counter((layer_of(path), shape) for path, shape in shapes.items())
    counted, doubtful = set(), {}
    for path, shape in shapes.items():
        layer = layer_of(path)
        if not is_normalization(path, shape):
            continue
        if kind_of("/".join(layer)) == "normalization":
            if layer not in dense:  # such as a layer that gives a `mean`
                counted.add(layer)
        elif math.prod(shape) > 1 and layer not in holding and "layer_scale" not in path:
            if alike[layer, shape] == 1 and keys_of(path)[-1] in ("weight", "gamma"):
                doubtful[layer] = path
            else:
                counted.add(layer)
    return counted, doubtful


def normalized(
    leaves: Iterable[tuple[str, tuple[int, ...]]],
    weights: Collection[str],
    also: Iterable[Block] = (),
) -> frozenset[str]:
    """The paths of the weights whose features a normalization layer keeps.

    A block keeps the features of its layers if it has two normalization layers for every three
    weights. So a normalization of the input alone, or before the head, does not count for the
    layers between. In a block without any, that around it decides, and has to have enough for both.

    Args:
        leaves: Path, and shape without stacked layers, of all leaves.
        weights: The paths of the weights that need normalization.
        also: Further layers that are taken for normalizations.

    Example:
        >>> leaves = [(f"{name}/kernel", (8, 8)) for name in ("a/Dense_0", "b/Dense_0")]
        >>> leaves.append(("a/LayerNorm_0/scale", (8,)))
        >>> normalized(leaves, ["a/Dense_0/kernel", "b/Dense_0/kernel"])
        frozenset({'a/Dense_0/kernel'})
    """
    available = normalizations(leaves) + Counter(map(block_of, also))
    own = {path: block_of(layer_of(path)) for path in weights}

    def around(block: Block) -> Block:
        """The block with normalization layers that is nearest to a block, itself included."""
        while block and not available[block]:
            block = block_of(block)
        return block

    inside = Counter(own.values())  # weights that stand in a block itself
    below = Counter(around(block) for block in own.values())  # and in blocks inside of it

    def is_normalized(block: Block) -> bool:
        counted = inside if available[block] else below
        outer = around(block)
        needed = counted[outer] * NORMALIZATIONS
        return available[outer] > 0 and available[outer] * WEIGHTS >= needed

    return frozenset(
        path for path, block in own.items() if is_standardized(path) or is_normalized(block)
    )


def restored(
    leaves: Iterable[tuple[str, tuple[int, ...]]], weights: Collection[str]
) -> frozenset[str]:
    """The paths of the weights behind which a normalization layer restores the size of features.

    It stands in one block with the weight, or in the block around that one. At the top of the tree,
    where there may be a final normalization only, it takes one for each block without its own.

    Args:
        leaves: As for `normalized`.
        weights: The paths of the weights.

    Example:
        >>> leaves = [(f"{name}/kernel", (8, 8)) for name in ("a/Dense_0", "b/Dense_0")]
        >>> restored([*leaves, ("norm/scale", (8,))], [path for path, _ in leaves])
        frozenset()
    """
    available = normalizations(leaves)
    own = {path: block_of(layer_of(path)) for path in weights}
    without = {block for block in own.values() if block and not available[block]}
    at_top = available[()] >= sum(block_of(block) == () for block in without)

    def is_restored(block: Block) -> bool:
        if available[block] or not block:
            return available[block] > 0
        outer = block_of(block)
        return available[outer] > 0 and (outer != () or at_top)

    return frozenset(
        path for path, block in own.items() if is_standardized(path) or is_restored(block)
    )
