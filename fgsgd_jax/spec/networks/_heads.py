"""The head of a network whose path does not say so: the last layer, which no other reads."""

from collections.abc import Callable, Sequence
from typing import Any

from fgsgd_jax._text import natural_order
from fgsgd_jax._trees import listed
from fgsgd_jax.spec._layouts import DEFAULT, letters_for
from fgsgd_jax.spec._reasons import Reason
from fgsgd_jax.spec.networks._blocks import Block
from fgsgd_jax.spec.networks._dense import is_dense
from fgsgd_jax.spec.networks._kinds import kind_of
from fgsgd_jax.spec.networks._modules import layer_among
from fgsgd_jax.spec.networks._names import module_and_name
from fgsgd_jax.spec.networks._outputs import is_of_decoder, outputs_by_name, without_numbers
from fgsgd_jax.spec.networks._readers import DenseLayers
from fgsgd_jax.spec.networks._stacked import Layouts

Leaves = Sequence[tuple[str, Any]]


def dense_heads(
    preset: str, leaves: Leaves, layouts: Layouts
) -> tuple[dict[str, Reason], frozenset[str], str]:
    """The dense layers that are heads, those that may be, and one that is a head by its path alone.

    Where a head is named, others that no layer reads may be one. In a transformer without, the
    last is a head if no layer reads it, and others that none reads may be. Among dense layers all
    are that are named as outputs, that none reads, or that end one of two modules of which each
    reads the other, and the last by its path may be one; where others could read all of them, the
    last is one by its path alone, which matters where there are several modules. A weight that
    holds stacked layers is no head by its path alone, but it may be those of an ensemble.

    Args:
        preset: The name of the preset.
        leaves: The pairs (path, leaf), without stacked layers.
        layouts: The layout of every leaf.

    Returns:
        By path, why a layer is a head; the paths of layers that may be; a path, or "".
    """
    if preset not in ("mlp", "transformer"):
        return {}, frozenset(), ""
    of_one_layer = [leaf for leaf in leaves if "S" not in (layouts.own[leaf[0]] or "")]
    single = {path for path, _ in of_one_layer}
    named = outputs_by_name(path for path, _ in leaves) if preset == "mlp" else frozenset()
    shapes = {path: tuple(leaf.shape) for path, leaf in leaves}
    layers = DenseLayers.of(shapes, layouts.of_one, named, preset == "mlp")
    unread = layers.unread() if layers else frozenset()
    beside_a_head = unread - layers.in_blocks() if layers else frozenset()
    in_heads = dict.fromkeys(filter(_stands_in_a_head, unread), Reason.IN_HEAD)
    if preset == "transformer":
        last = {last_unread_dense(leaves, layouts.of_one)} & single
        heads = frozenset() if names_a_head(leaves) else frozenset(last)
        heads |= {path for path in unread if _makes_entries_of_embedding(path, layers, leaves)}
        heads = in_heads | dict.fromkeys(heads, Reason.LAST_DENSE)
        return heads, (beside_a_head & single) - heads.keys(), ""
    decoded = any(map(is_of_decoder, named))
    circular = layers.circular() & single if layers and not decoded else frozenset()
    heads = dict.fromkeys(circular, Reason.CIRCULAR) | dict.fromkeys(named, Reason.NAMED_OUTPUT)
    heads |= in_heads
    if names_a_head(leaves):
        return heads, beside_a_head - heads.keys(), ""
    last = frozenset({last_dense(of_one_layer or leaves)} - {""})
    found = unread - named if heads or unread else last
    alike = frozenset().union(*map(layers.at_the_same_place, found)) if layers else frozenset()
    heads = dict.fromkeys(alike - named, Reason.LIKE_LAST_DENSE) | heads
    heads |= dict.fromkeys(found, Reason.LAST_DENSE)
    if found != last:
        read = {path for path in last if layers and _is_hidden(path, layers, found, named)}
        return heads, last - read - heads.keys(), ""
    one_list = len({without_numbers(path) for path in layers.outputs} if layers else last) < 2
    by_path = "" if unread or one_list else "".join(last)
    return heads, frozenset(), by_path


def _stands_in_a_head(path: str) -> bool:
    """Whether a layer stands in a module that is called a head."""
    return any(kind_of(key) == "head" for key in module_and_name(path)[0])


def _makes_entries_of_embedding(path: str, layers: DenseLayers | None, leaves: Leaves) -> bool:
    """Whether a layer has the transposed shape of an embedding, whose entries it then predicts."""
    return layers is not None and any(
        kind_of(other) == "embedding"
        and tuple(leaf.shape) == (layers.outputs[path], layers.inputs[path])
        for other, leaf in leaves
    )


def _is_hidden(
    path: str, layers: DenseLayers, heads: frozenset[str], named: frozenset[str]
) -> bool:
    """Whether a layer is hidden beside heads: one reads it, or any layer and a head has a name."""
    return bool(layers.readers(path) & heads) or (bool(named) and layers.is_read(path))


def on_heads(maybe: Sequence[str], by_path: str) -> str:
    """A sentence on layers that may be the last of a network; "" if there are none.

    Args:
        maybe: The paths of layers that are placed and may be a head.
        by_path: The path of a layer that is Euclidean because it is the last by its path, or "".
    """
    if by_path:
        return (
            f"{by_path!r} is taken for the last layer and stays Euclidean, because it is the last "
            "by its path. If another layer gives the output of the network, place this one and "
            "leave the other Euclidean by rules."
        )
    if not maybe:
        return ""
    return (
        f"{listed(maybe, 3)} may give the output of the network, which needs its length: if so, "
        f"leave it Euclidean by a rule, such as ({maybe[0]!r}, None)."
    )


def last_dense(leaves: Leaves) -> str:
    """The path of the last dense weight in natural order; "" if a head is named, or none is dense.

    Example:
        >>> import jax.numpy as jnp
        >>> last_dense([(f"Dense_{i}/kernel", jnp.ones((4, 4))) for i in range(11)])
        'Dense_10/kernel'
    """
    paths = [path for path, _ in leaves]
    dense = [path for path, leaf in leaves if len(leaf.shape) == 2 and is_dense(path, paths)]
    if names_a_head(leaves) or not dense:
        return ""
    return max(dense, key=natural_order)


def last_unread_dense(leaves: Leaves, layout: str | None) -> str:
    """The path of the last of several dense weights, if no other layer can read its output.

    The last is that in natural order among those with the fewest keys. No layer can read its output
    if no axis of another layer, embeddings aside, is as long; or if it stands outside of blocks and
    turns features back into the entries of an embedding. Otherwise it cannot be told from a hidden
    layer, and the result is "".

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
    inputs, outputs = (dense[last].shape[letters.index(letter)] for letter in "IO")
    layer = layer_among(dense)
    in_blocks = any(path.count("/") > depth for path in dense)
    entries_of_embedding = in_blocks and any(
        kind_of(path) == "embedding" and tuple(leaf.shape) == (outputs, inputs)
        for path, leaf in leaves
    )
    unread = _layers_with(leaves, layer)[outputs] == {layer(last)}
    return last if unread or entries_of_embedding else ""


def _layers_with(leaves: Leaves, layer: Callable[[str], Block]) -> dict[int, set[Block]]:
    """By size, the layers that have an axis so long, embeddings aside."""
    found: dict[int, set[Block]] = {}
    for path, leaf in leaves:
        if kind_of(path) not in ("embedding", "token"):
            for size in leaf.shape:
                found.setdefault(size, set()).add(layer(path))
    return found


def names_a_head(leaves: Leaves) -> bool:
    """Whether a path says that a leaf is a head."""
    return any(kind_of(path) == "head" for path, _ in leaves)
