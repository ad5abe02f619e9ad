"""Contradictions of a layout with S: weights of one module that would hold different layers.

MaxText scans layers on axis 1. Read as (layers, in, out), a weight (64, 6, 256) has 64 layers and
(256, 6, 64) beside it 256, and every cut is along the wrong axes.
"""

from collections.abc import Iterable, Mapping

from fgsgd_jax.spec.networks._attention import is_attention_output
from fgsgd_jax.spec.networks._kinds import kind_of
from fgsgd_jax.spec.networks._names import module_and_name, words_of
from fgsgd_jax.spec.networks._stack_axes import Shape, stack_sizes, without_stack

_OTHER_STACKS = ("embedding", "router", "head", "expert", "bias", "normalization", "token")
_KEYS_AND_VALUES = {"k", "v", "kv", "wk", "wv", "wkv", "key", "value"}


def different_counts(shapes: Mapping[str, Shape], layout: str) -> dict[str, str]:
    """By path, the sentence on a weight whose module holds different numbers of layers.

    If the layout is wrong in a module, it is in the module around it, whose layers are scanned
    together.

    Args:
        shapes: By path, the shapes of the leaves that are stacked.
        layout: Their layout.

    Returns:
        What contradicts itself, and what to write, for the end of a sentence.

    Example:
        >>> shapes = {"mlp/wi/kernel": (64, 6, 256), "mlp/wo/kernel": (256, 6, 64)}
        >>> print(different_counts(shapes, "SIO")["mlp/wi/kernel"])  # doctest: +ELLIPSIS
        it holds 64 layers, but 'mlp/wo/kernel', of shape (256, 6, 64), holds 256. If axis ...
    """
    modules: dict[tuple[str, ...], list[str]] = {}
    for path in shapes:
        modules.setdefault(module_and_name(path)[0], []).append(path)
    found: dict[str, str] = {}
    for module, paths in modules.items():
        counting = [path for path in paths if _counts_layers(path, shapes[path], layout)]
        by_count = {stack_sizes(shapes[path], layout): path for path in counting}
        if len(by_count) < 2:
            continue
        one, other, *_ = by_count.values()
        around = module[:-1] or module
        for path in shapes:
            if module_and_name(path)[0][: len(around)] == around:
                found.setdefault(path, _sentence(path, one, other, counting, shapes, layout))
    return found


def _counts_layers(path: str, shape: Shape, layout: str) -> bool:
    """Whether the stacked axis of a weight counts layers, if the layout is right.

    The einsums of Gemma stack heads, of which keys and values may have fewer than queries.
    """
    named = words_of(module_and_name(path)[1])
    return (
        len(without_stack(shape, layout)) > 1
        and kind_of(path) not in _OTHER_STACKS
        and "einsum" not in path
        and not (kind_of(path) == "query" and _KEYS_AND_VALUES & set(named))
    )


def _sentence(
    path: str, one: str, other: str, beside: list[str], shapes: Mapping[str, Shape], layout: str
) -> str:
    """What contradicts itself about a weight, and what to write, for the end of a sentence."""

    def layers(of: str) -> int:
        return sum(sum(sizes) for sizes in stack_sizes(shapes[of], layout))

    other = one if path == other else other
    if layers(path) == layers(other):
        other = one if layers(one) != layers(path) else other
    holds = (
        f"it holds {layers(path)} layers, but {other!r}, of shape {shapes[other]}, holds "
        f"{layers(other)}"
    )
    alike = [
        axis
        for axis in range(min(len(shapes[path]) for path in beside))
        if len({shapes[path][axis] for path in beside}) == 1
    ]
    axis = alike[0] if len(alike) == 1 else None
    where = "another axis stacks" if axis is None else f"axis {axis} stacks"
    outputs_first = layout.index("O") < layout.index("I")
    cut = _cut(path, len(shapes[path]), axis, shapes, outputs_first=outputs_first)
    example = f", such as component={cut!r}" if cut else ""
    return (
        f"{holds}. If {where} layers, name the axes in rules{example}; if the layout is right, "
        "give it in the poms of rules"
    )


def _cut(
    path: str, axes: int, axis: int | None, paths: Iterable[str], *, outputs_first: bool
) -> str:
    """The cut of a weight whose layers are stacked on an axis, as text; "" if it is not known."""
    if axis is None or kind_of(path) == "convolution" or (outputs_first and axes != 3):
        return ""
    if outputs_first:
        words = ["out:columns", "in:rows"]
    elif axes == 4 and kind_of(path) == "query":
        words = ["in:rows", "heads:stack", "out:columns"]
    elif axes == 4 and is_attention_output(path, paths):
        words = ["heads:rows", "size:rows", "out:columns"]
    elif axes == 3:
        words = ["in:rows", "out:columns"]
    else:
        return ""
    return " ".join([*words[:axis], "layers", *words[axis:]])
