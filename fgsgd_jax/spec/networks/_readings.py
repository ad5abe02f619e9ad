"""Readings of a weight: what its axes may be, and the cut of each reading, for messages.

A rule that is printed is copied and believed. So where nobody knows the axes of a weight, a message
has every reading that its shape, its bias and the layout allow, not one of them.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from fgsgd_jax.spec._layouts import DEFAULT, letters_for
from fgsgd_jax.spec._spelling import spelled
from fgsgd_jax.spec.networks._attention import (
    Shape,
    beside,
    is_attention_output,
    is_in_attention,
    queries_beside,
)
from fgsgd_jax.spec.networks._blocks import layer_of
from fgsgd_jax.spec.networks._kinds import kind_of
from fgsgd_jax.spec.networks._placements import DENSE, OUTPUT_OF_ATTENTION, QUERY, InRules
from fgsgd_jax.spec.networks._stack_axes import with_stack, without_stack


class Reading(NamedTuple):
    """What the axes of a weight may be, such as "(in, heads, size)", and its cut as text."""

    axes: str
    cut: str
    weight: str = QUERY  # of the preset "transformer"

    def stacks_layers(self) -> bool:
        """Whether an axis may count layers."""
        return "layers" in self.axes


_SECOND = Reading("(in, heads, size)", "in:rows heads:stack out:columns")
_SECOND_OF_LAYERS = Reading("(in, layers, out)", "in:rows layers out:columns")
_SECOND_OF_LAYERS_OUTPUTS_FIRST = Reading("(out, layers, in)", "out:columns layers in:rows")
_FIRST = Reading("(heads or layers, in, out)", "heads:stack in:rows out:columns")
_SUMMED = Reading("(heads, size, out)", "heads:rows size:rows out:columns", OUTPUT_OF_ATTENTION)
_LAYERS = Reading("(layers, in, out)", "layers in:rows out:columns", OUTPUT_OF_ATTENTION)
_GATES_FIRST = Reading("(gates or layers, in, out)", "gates:stack in:rows out:columns", DENSE)
_GATES_SECOND = Reading(
    "(in, gates, heads or layers, out)", "in:rows gates:stack out:columns", DENSE
)
_GATED = {
    "gates out in": "gates:stack out:columns in:rows",
    "gates in out": "gates:stack in:rows out:columns",
}
_QUERIES_OF_LAYERS = [
    Reading("(layers, in, heads, size)", "layers in:rows heads:stack out:columns"),
    Reading("(in, layers, heads, size)", "in:rows layers heads:stack out:columns"),
    Reading("(layers, heads, in, size)", "layers heads:stack in:rows out:columns"),
]
_OUTPUTS_OF_LAYERS = [
    Reading("(layers, heads, size, out)", "layers heads:rows size:rows out:columns"),
    Reading("(heads, layers, size, out)", "heads:rows layers size:rows out:columns"),
]
_IN_OUT, _OUT_IN = ("in out", "in:rows out:columns"), ("out in", "out:columns in:rows")
_OUTPUTS_FIRST = "heads:stack out:columns in:rows"
_OUTPUTS_OF_ATTENTION_FIRST = [
    Reading("(layers, out, in)", "layers out:columns in:rows", OUTPUT_OF_ATTENTION),
    Reading("(heads, out, size)", "heads:rows out:columns size:rows", OUTPUT_OF_ATTENTION),
]


def readings(
    path: str, shape: Shape, shapes: Mapping[str, Shape], layout: str | None
) -> Sequence[Reading]:
    """The readings of a weight of attention or a dense layer, the likeliest first.

    Args:
        path: The path of the weight.
        shape: Its shape, stacked layers included.
        shapes: The shapes of all leaves.
        layout: The layout of the weight, or None.

    Returns:
        The readings that cut matrices; none of a weight of more than four axes.

    Example:
        >>> [reading.axes for reading in readings("h/wk", (8, 64, 16), {}, None)]
        ['(heads or layers, in, out)']
        >>> [reading.axes for reading in readings("h/wk", (64, 8, 16), {}, None)]
        ['(in, heads, size)', '(heads or layers, in, out)']
    """
    found = _candidates(path, shape, shapes, layout)
    return [its for its in found if min(spelled(its.cut).points_shape(shape)[:2]) > 1]


def _candidates(
    path: str, shape: Shape, shapes: Mapping[str, Shape], layout: str | None
) -> Sequence[Reading]:
    """The readings of a weight, also those whose components are vectors."""
    one = layout.replace("S", "") if layout else None
    outputs_first = (letters_for(one or DEFAULT, 2) or "").startswith("O")
    if len(without_stack(shape, layout)) == 2:
        axes, cut = _OUT_IN if outputs_first else _IN_OUT
        return [_stacked(axes, cut, layout, _weight(path, shapes))]
    if outputs_first and is_attention_output(path, shapes):
        return _OUTPUTS_OF_ATTENTION_FIRST if len(shape) == 3 else []
    if outputs_first:
        of_weight = Reading("(heads or layers, out, in)", _OUTPUTS_FIRST, _weight(path, shapes))
        return [of_weight] if len(shape) == 3 else []
    if kind_of(path) == "query":
        return _of_queries(path, shape, shapes)
    if is_attention_output(path, shapes):
        return _of_outputs(path, shape, shapes)
    if len(shape) != 3:
        return []
    gates = [_GATES_FIRST, _GATES_SECOND]
    return [*(gates if shape[0] < shape[1] else gates[::-1]), _SUMMED]


def readings_of_gates(layout: str | None) -> Sequence[Reading]:
    """The readings of a weight whose first axis counts gates, under a layout or None."""
    return [_stacked(axes, cut, layout, DENSE) for axes, cut in _GATED.items()]


def readings_of_matrices(layout: str | None) -> Sequence[Reading]:
    """Both readings of a dense weight of two axes, under a layout or None."""
    return [_stacked(axes, cut, layout, DENSE) for axes, cut in (_IN_OUT, _OUT_IN)]


def _stacked(axes: str, cut: str, layout: str | None, weight: str) -> Reading:
    """A reading with the axes that a layout stacks."""
    names = with_stack(axes, layout).replace("stack", "layers").split()
    return Reading(f"({', '.join(names)})", with_stack(cut, layout), weight)


def as_rules(
    path: str,
    shape: Shape,
    found: Sequence[Reading],
    rules: InRules,
    *,
    normalized: bool = False,
) -> str:
    """What to write in a rule: a whole one, and what all other readings change in it.

    Args:
        path: The path of the weight.
        shape: Its shape, stacked layers included.
        found: Its readings, the likeliest first.
        rules: How rules are written.
        normalized: Whether a normalization layer keeps its features.

    Example:
        >>> print(as_rules("gate", (2, 64, 256), [_GATES_FIRST], InRules()))
        ('gate', fg.pom('layer', fg.Stiefel(), component='gates:stack in:rows out:columns'))
    """
    poms = [rules.pom(its.cut, its.weight, normalized=normalized) for its in found]
    alike = [rules.pom(its.cut, found[0].weight, normalized=normalized) for its in found]
    texts = [
        f"component={its.cut!r}" if pom == as_first else pom
        for its, pom, as_first in zip(found, poms, alike, strict=True)
    ]
    texts[0] = f"({path!r}, {poms[0]})"
    if len(found) == 1:
        return texts[0]
    names = [f"{shape} is", *["it is"] * (len(found) - 1)]
    cases = zip(texts, names, found, strict=True)
    return ", or ".join(f"{text} if {name} {its.axes}" for text, name, its in cases)


def of_layers(shape: Shape, found: Sequence[Reading]) -> Sequence[Reading]:
    """Those of the readings of an attention weight of three axes whose leaves are stacked layers.

    Nobody has more layers than features, so the second axis counts none that is longer than the
    first.
    """
    if len(shape) != 3:
        return found
    outputs_first = any("out:columns in:rows" in its.cut for its in found)
    second = _SECOND_OF_LAYERS_OUTPUTS_FIRST if outputs_first else _SECOND_OF_LAYERS
    first = [its for its in found if its.stacks_layers() and its.cut != second.cut]
    return [*first, second] if shape[0] >= shape[1] else first


def _weight(path: str, shapes: Mapping[str, Shape]) -> str:
    """The weight of the preset "transformer" that a leaf would be by its path."""
    if kind_of(path) in ("query", "attention") or is_in_attention(path):
        return QUERY
    return OUTPUT_OF_ATTENTION if is_attention_output(path, shapes) else DENSE


def _of_queries(path: str, shape: Shape, shapes: Mapping[str, Shape]) -> Sequence[Reading]:
    """The readings of queries, keys and values; nobody has more heads than features."""
    if len(shape) != 3:
        of_layers = _QUERIES_OF_LAYERS if len(shape) == 4 else []
        return [its for its in of_layers if _has_fewer_heads_than_inputs(its, shape)]
    biases = {
        shapes[other]
        for other in {*beside(path, shapes), *_of_layer(path, shapes)}
        if kind_of(other) == "bias" and len(shapes[other]) == 2
    }
    second, first = shape[1:] in biases, (shape[0], shape[2]) in biases
    if second != first:
        return [_SECOND] if second else [_FIRST]
    return [_FIRST] if shape[0] < shape[1] else [_SECOND, _FIRST]


def _of_outputs(path: str, shape: Shape, shapes: Mapping[str, Shape]) -> Sequence[Reading]:
    """The readings of outputs of attention, whose heads are those of the queries beside them."""
    if len(shape) != 4:
        second = [_SECOND_OF_LAYERS] if shape[0] >= shape[1] else []
        return [_SUMMED, _LAYERS, *second] if len(shape) == 3 else []
    heads = {its[-2:] for its in queries_beside(path, shapes)}
    layers_first, layers_second = shape[1:3] in heads, (shape[0], shape[2]) in heads
    if layers_first != layers_second:
        return _OUTPUTS_OF_LAYERS[:1] if layers_first else _OUTPUTS_OF_LAYERS[1:]
    return _OUTPUTS_OF_LAYERS


def _has_fewer_heads_than_inputs(reading: Reading, shape: Shape) -> bool:
    sizes = dict(zip(reading.axes.strip("()").split(", "), shape, strict=True))
    return sizes["heads"] <= sizes["in"]


def _of_layer(path: str, shapes: Mapping[str, Shape]) -> list[str]:
    return [other for other in shapes if other != path and layer_of(other) == layer_of(path)]
