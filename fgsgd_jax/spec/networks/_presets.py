"""Presets: what the placements of a preset ask for the leaves of a tree.

Leaves that are none of the weights of the preset stay Euclidean. What a leaf is follows from its
path and its number of axes, and that layers are stacked from the layout alone.
"""

from collections.abc import Mapping
from typing import Any

import jax

from fgsgd_jax._text import did_you_mean
from fgsgd_jax.spec._layouts import DEFAULT, letters_for
from fgsgd_jax.spec._reasons import AXES_UNSAID, Reason
from fgsgd_jax.spec._request import Pom, pom
from fgsgd_jax.spec.networks._blocks import doubtful_normalizations, normalized
from fgsgd_jax.spec.networks._doubts import on_circular, on_normalizations, on_transposed, on_unsaid
from fgsgd_jax.spec.networks._fused import OUTPUTS_MAY_COME_FIRST
from fgsgd_jax.spec.networks._heads import Heads, Leaves, dense_heads, on_heads
from fgsgd_jax.spec.networks._kinds import kind_of
from fgsgd_jax.spec.networks._last_convolutions import last_convolutions
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
from fgsgd_jax.spec.networks._recurrent import RECURRENT, cut_by_gates
from fgsgd_jax.spec.networks._stack_axes import outputs_first, with_stack, without_stack
from fgsgd_jax.spec.networks._stacked import Layouts, seems_stacked
from fgsgd_jax.spec.networks._weights import counts_heads_elsewhere, weight_of
from fgsgd_jax.spec.networks._widths import outputs_seem_first

# What people may call the networks of the presets.
OTHER_NAMES = {"cnn": "resnet", "vit": "transformer", "gpt": "transformer", "lstm": "rnn"}


_MAY_BE_HEADS = ("convolution", "dense", "hidden dense")


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
    layout = layouts.own
    shapes = {path: without_stack(tuple(leaf.shape), layout[path]) for path, leaf in leaves}
    inner = [(path, jax.ShapeDtypeStruct(shapes[path], leaf.dtype)) for path, leaf in leaves]
    placements = {placement.weight: placement for placement in PRESETS[preset].placements}
    weights = {path: weight_of(preset, path, leaf, layout[path], shapes) for path, leaf in leaves}
    by_width = preset == "transformer" and layouts.of_one is None and outputs_seem_first(shapes)
    if by_width or OUTPUTS_MAY_COME_FIRST in weights.values():  # then those of all matrices may
        weights |= {
            path: OUTPUTS_MAY_COME_FIRST
            for path, weight in weights.items()
            if weight in placements and _is_read_by_default(shapes[path], layout[path])
        }
    weights |= {
        path: Reason.HEADS_ELSEWHERE
        for path, weight in weights.items()
        if weight in placements
        and placements[weight].cuts in (HEADS, OUTPUT)
        and counts_heads_elsewhere(path, shapes, layouts.of_one)
        and not ("S" not in (layout[path] or "") and seems_stacked(path, leaves))
    }
    if preset == "resnet":
        convolutions = [path for path, weight in weights.items() if weight in placements]
        found, maybe = last_convolutions(inner, convolutions, layouts.of_one)
        heads = Heads(dict.fromkeys(found, Reason.LAST_CONVOLUTION), maybe)
    else:
        layers = [leaf for leaf in inner if weights[leaf[0]] != Reason.OWN_PARAMETER]
        heads = dense_heads(preset, layers, layouts)
    may_be_heads = {path for path, weight in weights.items() if weight in _MAY_BE_HEADS}
    weights |= {path: why for path, why in heads.found.items() if path in may_be_heads}
    doubtful = [path for path in weights if path in (heads.maybe & may_be_heads)]
    # Convolutions that are not placed use up a normalization as well.
    followed = [path for path in weights if weights[path] in placements or _convolves(path)]
    sizes = list(shapes.items())
    kept = normalized(sizes, followed)
    unruled = {path: weight for path, weight in weights.items() if not ruled[path]}
    whole = {path: tuple(leaf.shape) for path, leaf in leaves}
    unsaid = on_unsaid(unruled, whole, layouts)
    doubted = [path for path in doubtful if path in unruled and path not in heads.found]
    sentences = [on_heads(doubted, heads.by_path), unsaid]
    circular = [path for path in weights if weights[path] == Reason.CIRCULAR]
    sentences.append(on_circular(unruled, whole, layouts, normalized(sizes, followed + circular)))
    transposed = [path for path in weights if weights[path] in AXES_UNSAID]
    also = normalized(sizes, [*followed, *transposed])
    sentences.append(on_transposed(unruled, whole, layouts, also))
    if any(placement.scale == UNLESS_NORMALIZED for placement in placements.values()):
        sentences.append(on_normalizations(doubtful_normalizations(sizes), sizes, followed, kept))

    def asked(path: str, leaf) -> Pom | str:
        weight = weights[path]
        if weight not in placements:
            return weight
        shape = tuple(leaf.shape)
        return _request(placements[weight], path, shape, leaves, layouts, path in kept)

    requests = [ruled[path] or asked(path, leaf) for path, leaf in leaves]
    if not any(isinstance(request, Pom) for request in requests):
        reasons = dict(zip(shapes, requests, strict=True))
        raise ValueError(nothing_placed(preset, placements, reasons, shapes, layouts, unsaid))
    return requests, "\n".join(filter(None, sentences))


def _convolves(path: str) -> bool:
    return kind_of(path) == "convolution"


def _is_read_by_default(shape: tuple[int, ...], layout: str | None) -> bool:
    """Whether a matrix would be cut otherwise if its outputs came first, and no layout says so."""
    return layout is None and len(shape) == 2 and shape[0] != shape[1]


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
