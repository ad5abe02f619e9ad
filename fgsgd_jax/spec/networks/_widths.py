"""Where the width of a transformer says that outputs come before inputs, and no layout does.

An embedding is (entries, width) in every framework. A query, key or value, the first layer of a
feed-forward pair and the head read features of this width; the output of attention and the second
layer make them.
"""

from collections.abc import Mapping

from fgsgd_jax._text import natural_order
from fgsgd_jax.spec.networks._attention import Shape, beside, is_attention_output
from fgsgd_jax.spec.networks._kinds import kind_of
from fgsgd_jax.spec.networks._names import module_and_name, words_of
from fgsgd_jax.spec.networks._outputs import without_numbers

_FIRST = frozenset("up w1 w3 fc1 wi gate fc".split())
_SECOND = frozenset("down w2 fc2 wo".split())
_QUERIES = frozenset("q query wq qkv wqkv".split())


def outputs_seem_first(shapes: Mapping[str, Shape]) -> bool:
    """Whether weights have their outputs first by the width, and none has its inputs first.

    Args:
        shapes: The shapes of all leaves without stacked layers.

    Example:
        >>> outputs_seem_first({"embedding": (1000, 64), "head": (1000, 64)})
        True
        >>> outputs_seem_first({"embedding": (1000, 64), "head": (64, 1000)})
        False
    """
    width = _width(shapes)
    votes = {_has_outputs_first(path, shapes, width) for path in shapes} if width else set()
    return votes - {None} == {True}


def _width(shapes: Mapping[str, Shape]) -> int | None:
    """The width of embeddings, else of square weights of attention, else what a head shares."""
    widths = {
        its[-1]
        for path, its in shapes.items()
        if kind_of(path) == "embedding" and len(its) == 2 and its[0] > 1
    }
    if widths:
        return widths.pop() if len(widths) == 1 else None
    square = {
        its[0]
        for path, its in shapes.items()
        if kind_of(path) in ("query", "attention") and len(its) == 2 and its[0] == its[1]
    }
    if len(square) == 1:
        return square.pop()
    heads = [its for path, its in shapes.items() if kind_of(path) == "head" and len(its) == 2]
    others = [set(its) for path, its in shapes.items() if kind_of(path) != "head" and len(its) == 2]
    shared = {size for its in heads for size in its if any(size in other for other in others)}
    return shared.pop() if len(shared) == 1 else None


def _has_outputs_first(path: str, shapes: Mapping[str, Shape], width: int) -> bool | None:
    """Whether a matrix has its outputs first, if it reads or makes features of a width."""
    shape, kind = shapes[path], kind_of(path)
    if len(shape) != 2 or (shape[0] == width) == (shape[1] == width):
        return None
    is_output = is_attention_output(path, shapes)
    if kind in ("query", "head") and not is_output:
        of_context = kind == "query" and not _QUERIES & set(words_of(module_and_name(path)[1]))
        if of_context and shape[1] == width < shape[0]:
            return None  # keys and values may read another network, which is wider
        return shape[1] == width
    if is_output:
        return shape[0] == width
    place = _place_in_pair(path, shapes) if min(shape) == width else ""  # adapters are narrower
    return None if not place else shape[1 if place == "first" else 0] == width


def _place_in_pair(path: str, shapes: Mapping[str, Shape]) -> str:
    """Which layer of a feed-forward pair a weight is, if the other stands beside it.

    Names say so, or the numbers of two that are alike, as in `Dense_0` and `Dense_1`.
    """
    ordered = {"first": _FIRST, "second": _SECOND}
    places = {
        other: [place for place, names in ordered.items() if _is_called(other, names)]
        for other in (path, *beside(path, shapes))
        if len(shapes[other]) == 2
    }
    alike = [other for other in places if without_numbers(other) == without_numbers(path)]
    if len(alike) == 2 and kind_of(path) in ("dense", ""):
        return "first" if path == min(alike, key=natural_order) else "second"
    own = places.get(path, [])
    both = {place for found in places.values() for place in found}
    return own[0] if len(own) == 1 and len(both) == 2 else ""


def _is_called(path: str, names: frozenset[str]) -> bool:
    name = module_and_name(path)[1]
    return bool(names & {*words_of(name), name.lower().replace("_", "")})
