"""Stacked layers: which leaves of a tree hold several layers, and which hold one.

A layout with S holds for the scanned layers of a network, not for its stem or its head. Number of
axes and path mostly say which is which. A query kernel of three axes may be (layers, in, out) or
(in, heads, size): there the bias and the other leaves of its block decide.
"""

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from fgsgd_jax.spec._layouts import letters_for
from fgsgd_jax.spec.networks._attention import is_attention_output, parts_of
from fgsgd_jax.spec.networks._blocks import Block, block_of, layer_of
from fgsgd_jax.spec.networks._keras import as_in_keras
from fgsgd_jax.spec.networks._kinds import kind_of
from fgsgd_jax.spec.networks._names import WEIGHT_NAMES, is_called_as_in_pytorch, keys_of
from fgsgd_jax.spec.networks._placements import InRules
from fgsgd_jax.spec.networks._readings import as_rules, readings
from fgsgd_jax.spec.networks._stack_axes import stack_sizes, without_stack
from fgsgd_jax.spec.networks._stack_counts import different_counts

Shape = tuple[int, ...]
Leaves = Sequence[tuple[str, Any]]

_NO_PRESET = InRules()
_NOT_OF_A_BLOCK = ("embedding", "router", "head", "expert", "token")


class Layouts(NamedTuple):
    """The layout of every leaf.

    Attributes:
        own: By path, the layout, without S for a leaf that is one layer.
        unclear: By path, what is unclear about a leaf that a layout with S may not hold for, and
            what to write.
        of_one: The layout given, without S.
        rules: How the rules that messages print are written.
    """

    own: dict[str, str | None]
    unclear: dict[str, str]
    of_one: str | None
    rules: InRules = _NO_PRESET

    def checked(self, path: str, shape: Shape) -> str | None:
        """The layout of a leaf.

        Raises:
            ValueError: If the leaf may be stacked or one layer, or the layout contradicts itself.
        """
        if path in self.unclear:
            raise ValueError(
                f"{path!r} has shape {shape}, and with layout={self.own[path]!r} "
                f"{self.unclear[path]}."
            )
        return self.own[path]


def own_layouts(leaves: Leaves, layout: str | None, rules: InRules = _NO_PRESET) -> Layouts:
    """The layout of every leaf: as given, or without S where a leaf is one layer.

    Example:
        >>> import jax.numpy as jnp
        >>> leaves = [("stem_conv/kernel", jnp.ones((3, 3, 1, 8)))]
        >>> leaves.append(("blocks/conv/kernel", jnp.ones((5, 3, 3, 8, 8))))
        >>> own_layouts(leaves, "SHWIO").own
        {'stem_conv/kernel': 'HWIO', 'blocks/conv/kernel': 'SHWIO'}
    """
    if layout is None or not re.fullmatch(r"S+[^S]+|[^S]+S+|S+[^S]+S+", layout):
        alone = {path: as_in_keras(path, tuple(leaf.shape), layout) for path, leaf in leaves}
        return Layouts(alone, {}, layout, rules)
    shapes = {path: tuple(leaf.shape) for path, leaf in leaves}
    one = layout.replace("S", "")
    stacked = {path: _is_stacked(path, shapes, layout) for path in shapes}
    own: dict[str, str | None] = {
        path: as_in_keras(path, shapes[path], one) if answer is False else layout
        for path, answer in stacked.items()
    }
    unclear = {
        path: _unclear(path, shapes, rules) for path, answer in stacked.items() if answer is None
    }
    certain = {path: shapes[path] for path, answer in stacked.items() if answer}
    return Layouts(own, unclear | different_counts(certain, layout), one, rules)


def _unclear(path: str, shapes: dict[str, Shape], written: InRules) -> str:
    """What is unclear about a leaf that may be stacked or one layer, for the end of a sentence."""
    found = readings(path, shapes[path], shapes, None)
    rules = f", such as {as_rules(path, shapes[path], found, written)}" if found else ""
    return f"it may be stacked layers or one layer: name its axes in a rule for it{rules}"


def seems_stacked(path: str, leaves: Leaves) -> bool:
    """Whether its bias and block say that an attention kernel of three axes is stacked layers."""
    shapes = {other: tuple(leaf.shape) for other, leaf in leaves}
    return len(shapes[path]) == 3 and bool(_by_neighbors(path, shapes, "SIO"))


def _is_stacked(path: str, shapes: dict[str, Shape], layout: str) -> bool | None:
    """Whether a leaf is stacked under a layout with S; None if that is unclear."""
    kind, axes, count = kind_of(path), len(shapes[path]), layout.count("S")
    if _may_be_a_scale(path, shapes, layout) or _is_a_vector_of_each(path, shapes, layout):
        return True
    possible = _axes_of_one(path, shapes, layout.replace("S", ""))
    may_be_one, may_be_stacked = axes in possible, axes - count in possible
    if not (may_be_one and may_be_stacked):
        return may_be_stacked or (not may_be_one and axes > count + 1)
    if kind == "query" and "einsum" in path:  # heads first: both readings are the same matrices
        return True
    if kind == "convolution" and axes == len(layout):
        return True
    answer = _by_neighbors(path, shapes, layout)
    return bool(answer) if kind == "convolution" and axes == len(layout) - count else answer


def _axes_of_one(path: str, paths: Iterable[str], one: str) -> set[int]:
    """The numbers of axes that one layer may have, by its path and the layout of one layer."""
    kind = kind_of(path)
    if kind == "convolution":
        return {3, 4, 5}
    if kind == "query":  # (heads, in, size) and (2, heads, in, size), or (in, heads, size)
        return {3, 4} if "einsum" in path else {2} if parts_of(path) else {2, 3}
    if is_attention_output(path, paths):
        return {3} if "einsum" in path else {2, 3}
    if kind in ("dense", ""):  # four axes under a layout with spatial axes: a shortcut, `down` say
        return {2, 4} if len(one) == 4 else {2}
    return {1} if kind in ("bias", "normalization") else {2}


def _is_a_vector_of_each(path: str, shapes: dict[str, Shape], layout: str) -> bool:
    """Whether a leaf is a vector for each stacked layer, such as `gain` beside stacked kernels."""
    shape, (parent, _, name) = shapes[path], path.rpartition("/")
    if name in WEIGHT_NAMES or len(shape) != 1 + layout.count("S"):
        return False
    beside = (its for other, its in shapes.items() if other.startswith(f"{parent}/"))
    return _is_shorter_than_one(shape, beside, layout)


def _may_be_a_scale(path: str, shapes: dict[str, Shape], layout: str) -> bool:
    """Whether a leaf `weight` of Equinox is the stacked scales of a normalization layer."""
    shape, block = shapes[path], block_of(layer_of(path))
    unnamed = kind_of(path) == "" and is_called_as_in_pytorch(path)
    if (
        not unnamed
        or len(shape) != 1 + layout.count("S")
        or _by_bias(path, shapes, layout) is False
    ):
        return False
    beside = (its for other, its in shapes.items() if block_of(layer_of(other)) == block)
    return _is_shorter_than_one(shape, beside, layout)


def _is_shorter_than_one(shape: Shape, others: Iterable[Shape], layout: str) -> bool:
    """Whether one of other shapes has more axes, and stacks as many layers."""
    sizes = stack_sizes(shape, layout)
    return any(len(its) > len(shape) and stack_sizes(its, layout) == sizes for its in others)


def _by_neighbors(path: str, shapes: dict[str, Shape], layout: str) -> bool | None:
    """What the nearest leaves say that say anything; None if they disagree, or none does.

    A convolution asks those of its own block alone: a stem stands beside blocks that are scanned.
    """
    by_bias = _by_bias(path, shapes, layout)
    if by_bias is not None:
        return by_bias
    layers = _own_layers(shapes)
    own = layers[path]
    block = block_of(own)
    while True:
        narrow = not block or kind_of(path) == "convolution"
        votes = {
            _vote(path, other, shapes, layout)
            for other in shapes
            if other != path
            and layers[other] != own
            and layers[other][: len(block)] == block
            and not (narrow and block_of(layers[other]) != block)
        } - {None}
        if votes or not block or kind_of(path) == "convolution":
            return votes.pop() if len(votes) == 1 else None
        block = block_of(block)


def _own_layers(shapes: dict[str, Shape]) -> dict[str, Block]:
    """By path, the layer of a leaf; a weight that shares its module is a layer of its own."""
    matrices = Counter(
        layer_of(path) for path, its in shapes.items() if len(its) > 1 and kind_of(path) != "bias"
    )

    def own(path: str) -> Block:
        layer, name = layer_of(path), keys_of(path)[-1]
        return layer if name in WEIGHT_NAMES or matrices[layer] < 2 else (*layer, name)

    return {path: own(path) for path in shapes}


def _by_bias(path: str, shapes: dict[str, Shape], layout: str) -> bool | None:
    """What the bias of the same layer says: (out,), (heads, size), or stacked (layers, out)."""
    shape = shapes[path]
    inner = letters_for(layout.replace("S", ""), 2 if kind_of(path) != "convolution" else 3) or ""
    outputs = without_stack(shape, layout)[0 if inner.startswith("O") else -1]
    first, last = stack_sizes(shape, layout)
    stacked, one = (*first, outputs, *last), shape[-2:]
    for other, its in shapes.items():
        if layer_of(other) != layer_of(path) or kind_of(other) != "bias":
            continue
        if len(its) == 1:
            return False
        is_stacked, is_one = its == stacked, kind_of(path) == "query" and its == one
        if is_stacked != is_one:
            return is_stacked
    return None


def _vote(path: str, other: str, shapes: dict[str, Shape], layout: str) -> bool | None:
    """Whether another leaf of the block says that this one is stacked; None if it says nothing."""
    shape, its, count = shapes[path], shapes[other], layout.count("S")
    kind = kind_of(other)
    same = stack_sizes(shape, layout) == stack_sizes(its, layout)
    if kind in _NOT_OF_A_BLOCK:
        return None
    if kind in ("bias", "normalization"):
        of_heads = kind_of("/".join(layer_of(other))) == "query"  # (heads, size), maybe
        stacked = same and len(its) == 1 + count and not of_heads
        return False if len(its) == 1 else True if stacked else None
    if kind_of(path) == "convolution":
        return None
    of_query, of_other = kind_of(path) == "query", kind == "query"
    if "einsum" in other:
        return None
    if (
        of_query != of_other
        and {len(shape), len(its)} == {3}
        and _are_one_layer(path, other, shapes)
    ):
        query, output = (shape, its) if of_query else (its, shape)
        return None if same and query[1:] == output[:2] else same
    if len(its) == 2 and kind in ("dense", "query", "attention"):
        return False
    if of_query and of_other and layer_of(path)[:-1] == layer_of(other)[:-1] and not same:
        return False  # of one layer, which may have fewer heads of keys
    if kind == "dense" and not is_attention_output(other, shapes):
        return True if same and len(its) == 2 + count else None
    return True if same and len(its) == 3 + count else None


def _are_one_layer(path: str, other: str, paths: Iterable[str]) -> bool:
    """Whether two weights stand in one attention layer, one of them as its output."""
    outputs = is_attention_output(path, paths) or is_attention_output(other, paths)
    return outputs and block_of(layer_of(path)) == block_of(layer_of(other))
