"""Blocks: which weights of a network stand beside normalization layers, by their paths."""

from collections import Counter
from collections.abc import Collection, Iterable

from fgsgd_jax.spec._kinds import is_normalization, keys_of

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
    layers = {layer_of(path) for path, shape in leaves if is_normalization(path, shape)}
    available = Counter(map(block_of, layers))
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
