"""The head of a network whose path does not say so: the last layer, which no other reads."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from fgsgd_jax._text import natural_order
from fgsgd_jax._trees import listed
from fgsgd_jax.spec._layouts import DEFAULT, letters_for
from fgsgd_jax.spec._reasons import Reason
from fgsgd_jax.spec.networks._dense import is_dense
from fgsgd_jax.spec.networks._kinds import kind_of
from fgsgd_jax.spec.networks._modules import at_the_same_place, layer_among
from fgsgd_jax.spec.networks._names import module_and_name, words_of
from fgsgd_jax.spec.networks._outputs import is_of_decoder, outputs_by_name, without_numbers
from fgsgd_jax.spec.networks._readers import DenseLayers
from fgsgd_jax.spec.networks._stacked import Layouts

Leaves = Sequence[tuple[str, Any]]
Shape = tuple[int, ...]


class Heads(NamedTuple):
    """Which dense layers give the outputs of a network.

    Attributes:
        found: By path, why a layer is a head.
        maybe: The paths of layers that may be one, for a sentence.
        by_path: The path of a layer that is a head by its path alone, for a sentence; or "".
    """

    found: Mapping[str, Reason] = {}
    maybe: frozenset[str] = frozenset()
    by_path: str = ""


def dense_heads(preset: str, leaves: Leaves, layouts: Layouts) -> Heads:
    """The heads among the dense layers of a tree.

    Args:
        preset: The name of the preset; those of convolutions and recurrent layers have no heads.
        leaves: The pairs (path, leaf), without stacked layers.
        layouts: The layout of every leaf.
    """
    if preset == "transformer":
        return _heads_of_transformer(leaves, layouts)
    return _heads_of_dense_network(leaves, layouts) if preset == "mlp" else Heads()


def _heads_of_transformer(leaves: Leaves, layouts: Layouts) -> Heads:
    """What no layer reads is a head if a name or an embedding says so, and may be one otherwise.

    Without a name, the last layer is one as well, if no layer reads it.
    """
    layers = DenseLayers.of(leaves, layouts.of_one, frozenset(), ordered=False)
    single = {path for path, _ in _not_stacked(leaves, layouts)}
    unread = layers.unread()
    last = {last_unread_dense(leaves, layouts.of_one)} & single
    ends = set() if names_a_head(leaves) else last
    tables = _shapes_of_embeddings(leaves)  # whose entries a layer of the transposed shape predicts
    ends |= {path for path in unread if (layers.outputs[path], layers.inputs[path]) in tables}
    heads = _in_heads(unread) | dict.fromkeys(ends, Reason.LAST_DENSE)
    return Heads(heads, ((unread - layers.in_blocks()) & single) - heads.keys())


def _heads_of_dense_network(leaves: Leaves, layouts: Layouts) -> Heads:
    """All layers are heads that are named as outputs or that none reads, or else the last by path.

    Both ends of two modules that read each other count, unless one is called a decoder. So do
    layers at the place of a head in modules alike, as in the members of an ensemble, which may be
    stacked. Where others could read all layers, the last is a head by its path alone, which matters
    where there are several modules.
    """
    by_name = outputs_by_name(path for path, leaf in leaves if len(leaf.shape) == 2)
    layers = DenseLayers.of(leaves, layouts.of_one, by_name, ordered=True)
    named = by_name - layers.before(by_name)
    single = _not_stacked(leaves, layouts)
    unread = layers.unread()
    circular = frozenset() if any(map(is_of_decoder, named)) else layers.circular()
    heads: dict[str, Reason] = {
        path: Reason.CIRCULAR for path in circular & {path for path, _ in single}
    }
    heads |= dict.fromkeys(named, Reason.NAMED_OUTPUT) | _in_heads(unread)
    if names_a_head(leaves):
        return Heads(heads, unread - layers.in_blocks() - heads.keys())
    last = frozenset({last_dense(single or leaves)} - {""})
    found = unread - named if heads or unread else last
    alike = frozenset().union(*map(layers.at_the_same_place, found)) - named
    heads = dict.fromkeys(alike, Reason.LIKE_LAST_DENSE) | heads
    heads |= dict.fromkeys(found - last, Reason.UNREAD)
    heads |= dict.fromkeys(found & last, Reason.LAST_DENSE)
    parallel = layers.parallel() - heads.keys()
    if found != last:
        hidden = {path for path in last if _is_hidden(path, layers, found, named)}
        return Heads(heads, (last - hidden | parallel) - heads.keys())
    several = len(set(map(without_numbers, layers.outputs))) > 1
    return Heads(heads, parallel, "".join(last) if several and not unread else "")


def _not_stacked(leaves: Leaves, layouts: Layouts) -> Leaves:
    """The leaves without stacked layers."""
    return [leaf for leaf in leaves if "S" not in (layouts.own[leaf[0]] or "")]


def _in_heads(unread: Iterable[str]) -> dict[str, Reason]:
    """The layers that none reads in modules that are called a head."""
    inside = (
        path for path in unread if any(kind_of(key) == "head" for key in module_and_name(path)[0])
    )
    return dict.fromkeys(inside, Reason.IN_HEAD)


def _shapes_of_embeddings(leaves: Leaves) -> set[Shape]:
    return {tuple(leaf.shape) for path, leaf in leaves if kind_of(path) == "embedding"}


def _is_hidden(
    path: str, layers: DenseLayers, heads: frozenset[str], named: frozenset[str]
) -> bool:
    """Whether a layer is hidden beside heads: one reads it, or any layer and a head has a name."""
    if path not in layers.outputs:
        return False
    return bool(layers.readers(path) & heads) or (bool(named) and layers.is_read(path))


def on_heads(maybe: Sequence[str], by_path: str) -> str:
    """The sentences on layers that may be the last of a network; "" if there are none.

    Args:
        maybe: The paths of layers that are placed and may be a head.
        by_path: The path of a layer that is Euclidean because it is the last by its path, or "".
    """
    sentences = []
    if by_path:
        sentences.append(
            f"{by_path!r} is taken for the last layer and stays Euclidean, because it is the last "
            "by its path. If another layer gives the output of the network, place this one and "
            "leave the other Euclidean by rules."
        )
    if maybe:
        sentences.append(
            f"{listed(maybe, 3)} may give the output of the network, which needs its length: if "
            f"so, leave it Euclidean by a rule, such as ({maybe[0]!r}, None)."
        )
    return "\n".join(sentences)


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
    if no axis of another layer counts as many features, embeddings aside; or if it stands outside
    of blocks and turns features back into the entries of an embedding. One that stands before it in
    a list, or is called the input where it is called the output, reads the input of the network
    instead. A last layer that others can read cannot be told from a hidden one: the result is "".

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
    in_blocks = any(path.count("/") > depth for path in dense)
    embeddings = _shapes_of_embeddings(leaves)
    entries_of_embedding = in_blocks and (outputs, inputs) in embeddings
    is_width = any(outputs in shape[-1:] for shape in embeddings)
    repeated = any(
        dense[other].shape == dense[last].shape
        for other in at_the_same_place(last, dense)
        if other != last
    )
    layer = layer_among(dense)
    read = (repeated or is_width) or any(
        outputs in _sizes_of_features(path, tuple(leaf.shape))
        for path, leaf in leaves
        if layer(path) != layer(last) and not _is_input_before(path, last)
    )
    return "" if read and not entries_of_embedding else last


def _sizes_of_features(path: str, shape: Shape) -> set[int]:
    """The numbers of features that the axes of a leaf may count.

    Heads and their size are none; nobody has more of them than features.
    """
    kind = kind_of(path)
    if kind in ("embedding", "token", "bias"):
        return set()
    of_heads = len(shape) > 2 and kind in ("query", "attention")
    return {max(shape)} if of_heads else set(shape)


def _is_input_before(path: str, last: str) -> bool:
    """Whether a layer reads the input of the network, by its name or its place in a list."""
    (module, name), (other, its) = module_and_name(path), module_and_name(last)
    if module != other:
        return False
    before = without_numbers(path) == without_numbers(last)
    called = {"in", "input"} & set(words_of(name)) and {"out", "output"} & set(words_of(its))
    return before or bool(called)


def names_a_head(leaves: Leaves) -> bool:
    """Whether a path says that a leaf is a head."""
    return any(kind_of(path) == "head" for path, _ in leaves)
