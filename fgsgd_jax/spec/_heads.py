"""The head of a network whose path does not say so: the last layer, which no other reads."""

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from fgsgd_jax._text import natural_order, texts_and_numbers
from fgsgd_jax.spec._blocks import block_of, layer_of, normalizations
from fgsgd_jax.spec._kinds import is_normalization, keys_of, kind_of, words_of
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
    if _names_a_head(leaves) or not dense:
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
    if _names_a_head(leaves) or len(dense) < 2 or letters is None:
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


def _names_a_head(leaves: Leaves) -> bool:
    return any(kind_of(path) == "head" for path, _ in leaves)


def last_convolutions(
    leaves: Leaves, convolutions: Iterable[str], layout: str | None
) -> tuple[frozenset[str], frozenset[str]]:
    """The convolutions that give the output of a network without a dense head, and any that may.

    The first read another convolution, and no layer reads them: none has as many inputs as they
    have outputs. They stand as near to the top of the tree as any layer, or in a module called
    head, and are the last of those that differ from them in numbers only. The second are of this
    kind by shape or by path alone.

    Args:
        leaves: The pairs (path, leaf), without stacked layers.
        convolutions: The paths of the convolutions.
        layout: The layout of one layer, or None.

    Example:
        >>> import jax.numpy as jnp
        >>> leaves = [(f"Conv_{i}/kernel", jnp.ones((3, 3, 8, 8))) for i in range(3)]
        >>> leaves.append(("Conv_3/kernel", jnp.ones((1, 1, 8, 5))))
        >>> last_convolutions(leaves, [path for path, _ in leaves], None)
        (frozenset({'Conv_3/kernel'}), frozenset())
    """
    shapes = {path: tuple(leaf.shape) for path, leaf in leaves}
    dense = {path: _channels(its, layout) for path, its in shapes.items() if _is_dense(path, its)}
    convs = {path: _channels(shapes[path], layout) for path in convolutions}
    norms = {its[-1] for path, its in shapes.items() if is_normalization(path, its)}
    attention = {
        size
        for path, its in shapes.items()
        if len(its) > 1 and kind_of(path) in ("query", "attention")
        for size in its
    }

    def is_read(path: str, outputs: int) -> bool:
        """Whether a layer has these inputs; dense layers flatten, and convolutions have groups."""
        return (
            outputs in norms | attention
            or any(its[0] % outputs == 0 for other, its in dense.items() if other != path)
            or any(
                outputs in (its[0], its[1] if outputs % its[0] == 0 else None)
                for other, its in convs.items()
                if other != path
            )
        )

    depth = {path: len(block_of(layer_of(path))) for path in (*convs, *dense)}
    top = min(depth.values(), default=0)
    has_dense_head = any(depth[path] == top or not is_read(path, dense[path][1]) for path in dense)
    if _names_a_head(leaves) or has_dense_head:
        return frozenset(), frozenset()
    numbered: dict[tuple[str, ...], list[str]] = {}
    for path in sorted(convs, key=natural_order):
        numbered.setdefault(tuple(texts_and_numbers(path)[::2]), []).append(path)
    last = {paths[-1] for paths in numbered.values()}
    outer = {path for path in convs if depth[path] == top or _is_in_head(path)}
    unread = {
        path
        for path in outer
        if not is_read(path, convs[path][1])
        and any(convs[path][0] == its[1] for other, its in convs.items() if other != path)
    }
    if heads := unread & last:
        return frozenset(heads), frozenset(unread - heads)
    layers, own = (
        normalizations(shapes.items()),
        Counter(block_of(layer_of(path)) for path in convs),
    )
    ends = {paths[-1] for paths in numbered.values() if len(paths) > 1} & outer
    ends = {path for path in ends if convs[path][1] not in attention}
    blocks = {path: block_of(layer_of(path)) for path in ends}
    return frozenset(), frozenset(path for path in ends if layers[blocks[path]] < own[blocks[path]])


def _channels(shape: tuple[int, ...], layout: str | None) -> tuple[int, int]:
    """The numbers of input and output channels of a weight; (0, 0) if the layout does not say."""
    letters = letters_for(layout or DEFAULT, len(shape))
    return (shape[letters.index("I")], shape[letters.index("O")]) if letters else (0, 0)


def _is_dense(path: str, shape: tuple[int, ...]) -> bool:
    return kind_of(path) in ("dense", "") and len(shape) == 2


def _is_in_head(path: str) -> bool:
    return any({"head", "classifier", "logits"} & set(words_of(key)) for key in keys_of(path))
