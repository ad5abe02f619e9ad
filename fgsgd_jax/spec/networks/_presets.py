"""Presets: what the placements of a preset ask for the leaves of a tree.

Leaves that are none of the weights of the preset stay Euclidean. What a leaf is follows from its
path and its number of axes, and that layers are stacked from the layout alone.
"""

from collections.abc import Mapping
from typing import Any

from fgsgd_jax._text import did_you_mean
from fgsgd_jax.spec._layouts import DEFAULT, letters_for
from fgsgd_jax.spec._request import Pom, pom
from fgsgd_jax.spec.networks._doubts import on_unsaid
from fgsgd_jax.spec.networks._heads import Leaves, on_heads
from fgsgd_jax.spec.networks._names import is_called_as_in_pytorch
from fgsgd_jax.spec.networks._nothing_placed import nothing_placed, require_nested, unreadable
from fgsgd_jax.spec.networks._placements import (
    GATED,
    HEADS,
    OUTPUT,
    PRESETS,
    UNLESS_NORMALIZED,
    Placement,
)
from fgsgd_jax.spec.networks._preset_tree import PresetTree
from fgsgd_jax.spec.networks._recurrent import RECURRENT, cut_by_gates
from fgsgd_jax.spec.networks._stack_axes import outputs_first, with_stack, without_stack
from fgsgd_jax.spec.networks._stacked import Layouts, seems_stacked

# What people may call the networks of the presets.
OTHER_NAMES = {"cnn": "resnet", "vit": "transformer", "gpt": "transformer", "lstm": "rnn"}


def checked_preset(preset: Any, default: Any) -> None:
    """Raises unless `preset` is None or a name, given without a default.

    Raises:
        ValueError: If there is no such preset, or a default besides.
    """
    if preset is None:
        return
    if not isinstance(preset, str) or preset not in PRESETS:
        raise ValueError(
            f"`preset` must be one of {', '.join(map(repr, PRESETS))}; got {preset!r}."
            + did_you_mean(OTHER_NAMES.get(str(preset).lower(), preset), PRESETS)
        )
    if not (isinstance(default, str) and default == "by shape"):
        raise ValueError(
            f"preset={preset!r} stands in place of a default; leave out default={default!r}, or "
            "write it as a last rule ('*', …)."
        )


def by_preset(
    preset: str,
    leaves: Leaves,
    layouts: Layouts,
    ruled: Mapping[str, Pom | str | None],
) -> tuple[list[Pom | str], str]:
    """What is asked for every leaf, or why it is Euclidean: by a rule, or else by a preset.

    Args:
        preset: The name of the preset.
        leaves: The pairs (path, leaf).
        layouts: The layout of every leaf.
        ruled: By path, what a rule asks for a leaf; None for leaves that match no rule.

    Returns:
        What is asked, and a sentence on what may be wrong with it, or "".

    Raises:
        ValueError: If there is nothing to put on a manifold, the preset has no cut for a weight, or
            the tree is flat.
    """
    require_nested(preset, [path for path, _ in leaves])
    by_rules = {
        path: request.layout
        for path, request in ruled.items()
        if isinstance(request, Pom) and request.layout
    }
    tree = PresetTree(preset, leaves, layouts, by_rules)
    weights, heads = tree.weights_and_heads()
    kept = tree.normalized(tree.followed(weights))
    unruled = {path: weight for path, weight in weights.items() if not ruled[path]}
    unsaid = on_unsaid(unruled, tree.whole, layouts)

    def asked(path: str) -> Pom | str:
        placement = tree.placements.get(weights[path])
        if placement is None:
            return weights[path]
        return _request(placement, path, tree.whole[path], leaves, layouts, path in kept)

    requests = [ruled[path] or asked(path) for path, _ in leaves]
    if not any(isinstance(request, Pom) for request in requests):
        reasons = dict(zip(tree.shapes, requests, strict=True))
        raise ValueError(
            nothing_placed(preset, tree.placements, reasons, tree.shapes, layouts, unsaid)
        )
    doubted = [path for path in unruled if path in heads.maybe]
    sentences = [on_heads(doubted, heads.by_path), unsaid, *tree.sentences(weights, unruled, kept)]
    return requests, "\n".join(filter(None, sentences))


def _request(
    placement: Placement,
    path: str,
    shape: tuple[int, ...],
    leaves: Leaves,
    layouts: Layouts,
    is_normalized: bool,
) -> Pom:
    """The pom of a placement for a leaf."""
    layout = layouts.checked(path, shape)
    scale, inner = placement.scale, without_stack(shape, layout)
    if scale == UNLESS_NORMALIZED:
        scale = None if is_normalized else "variance"
    cut = placement.cuts.get(len(inner))
    of_heads = placement.cuts in (HEADS, OUTPUT) and len(inner) == 3
    if cut is None:
        axes = " or ".join(map(str, placement.cuts))
        what = f"but the preset cuts weights called {placement.weight!r} by {axes} axes only"
        raise ValueError(unreadable(path, what, leaves, layouts))
    if of_heads and "S" not in (layout or "") and seems_stacked(path, leaves):
        axes = "(heads, size, out)" if placement.cuts is OUTPUT else "(in, heads, size)"
        what = f"and the leaves beside it look like stacked layers, so its axes are not {axes}"
        raise ValueError(unreadable(path, what, leaves, layouts, stacked_layers=True))
    inputs_first = not (letters_for(layouts.of_one or DEFAULT, 2) or "").startswith("O")
    if placement.weight == RECURRENT and inner[0] != inner[1]:
        cut = cut_by_gates(inner)
    elif placement.weight == RECURRENT and layout is None and is_called_as_in_pytorch(path):
        cut = "out:columns in:rows"
    elif not inputs_first and ("(" in cut or placement.cuts is GATED):
        cut = outputs_first(cut) if ":" in cut else cut
    if ":" in cut:
        cut = with_stack(cut, layout)
    return pom(placement.scheme, placement.manifold, component=cut, scale=scale)
