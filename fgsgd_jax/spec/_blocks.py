"""Blocks: which weights of a network stand beside normalization layers, by their paths.

There are two questions. `normalized`: does a normalization follow nearly every weight, so that the
scale of none matters? `restored`: does any follow at all, so that the sizes of features do not
multiply from block to block?
"""

import math
from collections import Counter
from collections.abc import Collection, Iterable

from fgsgd_jax.spec._kinds import is_normalization, keys_of, kind_of

Block = tuple[str, ...]

# A block of three weights may have two normalization layers: in residual blocks that normalize
# first, the convolution of the shortcut has none of its own.
WEIGHTS, NORMALIZATIONS = 3, 2


def layer_of(path: str) -> Block:
    """The keys of the layer of a leaf."""
    return tuple(keys_of(path)[:-1])


def block_of(keys: Block) -> Block:
    """The block that a layer or block stands in; lists, as `convs` in `convs/0`, are no blocks."""
    while keys and keys[-1].isdigit():
        keys = keys[:-1]
    return keys[:-1]


def normalizations(leaves: Iterable[tuple[str, tuple[int, ...]]]) -> Counter[Block]:
    """The number of normalization layers in each block.

    A `scale` or `gamma` counts if its layer is called a normalization, or holds nothing else, as a
    weight with a factor of its own or a block does, and is no single number.

    Args:
        leaves: Path, and shape without stacked layers, of all leaves.
    """
    shapes = dict(leaves)
    holding = {
        layer_of(path)[:length]
        for path, shape in shapes.items()
        if len(shape) > 1
        for length in range(path.count("/") + 1)
    }

    def counts(path: str, shape: tuple[int, ...]) -> bool:
        """Whether it is a normalization; `scale` in a layer of weights, or a number, is none."""
        layer = layer_of(path)
        is_gain = math.prod(shape) == 1 or layer in holding or "layer_scale" in path
        named = kind_of("/".join(layer)) == "normalization"
        return is_normalization(path, shape) and (named or not is_gain)

    layers = {layer_of(path) for path, shape in shapes.items() if counts(path, shape)}
    return Counter(map(block_of, layers))


def normalized(
    leaves: Iterable[tuple[str, tuple[int, ...]]], weights: Collection[str]
) -> frozenset[str]:
    """The paths of the weights whose features a normalization layer keeps.

    A block keeps the features of its layers if it has two normalization layers for every three
    weights. So a normalization of the input alone, or before the head, does not count for the
    layers between. In a block without any, that around it decides, and has to have enough for both.

    Args:
        leaves: Path, and shape without stacked layers, of all leaves.
        weights: The paths of the weights that need normalization.

    Example:
        >>> leaves = [(f"{name}/kernel", (8, 8)) for name in ("a/Dense_0", "b/Dense_0")]
        >>> leaves.append(("a/LayerNorm_0/scale", (8,)))
        >>> normalized(leaves, ["a/Dense_0/kernel", "b/Dense_0/kernel"])
        frozenset({'a/Dense_0/kernel'})
    """
    available = normalizations(leaves)
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

    return frozenset(path for path, block in own.items() if is_normalized(block))


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

    return frozenset(path for path, block in own.items() if is_restored(block))
