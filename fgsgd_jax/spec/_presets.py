"""Presets: which weights of the usual networks go where, as data.

A preset is a list of placements. Each names a kind of leaf and asks for a cut, a manifold and a
scale; leaves of other kinds stay Euclidean. What a leaf is follows from its path and its number of
axes, and that layers are stacked from the layout alone.
"""

import math
import re
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import jax

from fgsgd_jax._text import did_you_mean
from fgsgd_jax._trees import listed
from fgsgd_jax.geometry import Manifold, Oblique, Sphere, Stiefel
from fgsgd_jax.spec._blocks import normalized
from fgsgd_jax.spec._defaults import passed_over, without_geometry
from fgsgd_jax.spec._heads import Leaves, last_dense, unread_dense
from fgsgd_jax.spec._kinds import keys_of, kind_of
from fgsgd_jax.spec._layouts import DEFAULT, contradiction, letters_for, spatial
from fgsgd_jax.spec._reasons import Reason
from fgsgd_jax.spec._request import Pom, pom
from fgsgd_jax.spec._schemes import Scheme
from fgsgd_jax.spec._stacked import (
    Layouts,
    is_attention_output,
    seems_stacked,
    with_stack,
    without_stack,
)

# Keeps the variance of features where no normalization layer does, and is 1 where one does.
UNLESS_NORMALIZED = "variance, 1 with normalization"


class Placement(NamedTuple):
    """Where one kind of weight goes.

    Attributes:
        weight: The kind of weight, as in the table of `spec/README.md`.
        cuts: Its cut, a name or its axes, by number of axes without the stacked ones.
        scheme: The scheme of the groups.
        manifold: The manifold.
        scale: As `pom` takes it, or `UNLESS_NORMALIZED`.
    """

    weight: str
    cuts: dict[int, str]
    scheme: Scheme
    manifold: Manifold
    scale: Any


class Preset(NamedTuple):
    """The placements of a preset, and a learning rate of `fgsgd` to start from."""

    placements: tuple[Placement, ...]
    rate: float


_MATRIX, _CONVOLUTION = {2: "matrix"}, {3: "slice", 4: "slice", 5: "slice"}
_HEADS = {2: "matrix", 3: "in:rows heads:stack out:columns"}
_HEADS_FIRST = {
    3: "heads:stack in:rows out:columns",
    4: "qkv:stack heads:stack in:rows out:columns",
}
_OUTPUT = {2: "matrix", 3: "heads:rows in:rows out:columns"}
_GATED = {2: "matrix", 3: "gates:stack in:rows out:columns"}
_LINEAR = ("variance", 1.0)

# The rates are measured, see `tests/benchmarks/preset_rates.py` and the table of `spec/README.md`.
PRESETS: dict[str, Preset] = {
    "resnet": Preset(
        (
            Placement("convolution", _CONVOLUTION, "PO", Sphere(), UNLESS_NORMALIZED),
            Placement("1×1 convolution", {4: "filter"}, "PO", Sphere(), UNLESS_NORMALIZED),
        ),
        rate=1.0,
    ),
    "transformer": Preset(
        (
            Placement("query, key, value", _HEADS, "layer", Stiefel(), _LINEAR),
            Placement("query, key, value, heads first", _HEADS_FIRST, "layer", Stiefel(), _LINEAR),
            Placement("attention output", _OUTPUT, "layer", Stiefel(), _LINEAR),
            Placement("dense", _GATED, "layer", Oblique(), "variance"),
        ),
        rate=0.3,
    ),
    "mlp": Preset(
        (Placement("hidden dense", _MATRIX, "layer", Stiefel(), UNLESS_NORMALIZED),), rate=0.3
    ),
    "rnn": Preset((Placement("recurrent matrix", _MATRIX, "layer", Stiefel(), None),), rate=0.3),
}

# The last keys of the recurrent matrices of Flax (linen and NNX), Haiku and Equinox.
_RECURRENT = re.compile(
    r"(^|.*/)(h[ifgorzn]?|dense_h|weight_hh|w_h|hidden_to_hidden|vanilla_rnn\w*/linear_1)(/[^/]*)?"
)
# Haiku's LSTM has one weight for its input and its last output, stacked on the first axis.
_FUSED = re.compile(r"(^|.*/)lstm\w*/linear/w")


def checked_preset(preset: Any, default: Any) -> None:
    """Raises unless `preset` is None or a name, given without a default.

    Raises:
        ValueError: If there is no such preset, or a default besides.
    """
    if preset is None:
        return
    if preset not in PRESETS:
        raise ValueError(
            f"`preset` must be one of {', '.join(map(repr, PRESETS))}; got {preset!r}."
            + did_you_mean(preset, PRESETS)
        )
    if default != "by shape":
        raise ValueError(
            f"preset={preset!r} stands in place of a default; leave out default={default!r}, or "
            "write it as a last rule ('*', …)."
        )


def by_preset(
    preset: str,
    leaves: Leaves,
    layouts: Layouts,
    ruled: Mapping[str, Pom | str | None],
) -> list[Pom | str]:
    """What is asked for every leaf, or why it is Euclidean: by a rule, or else by a preset.

    Args:
        preset: The name of the preset.
        leaves: The pairs (path, leaf).
        layouts: The layout of every leaf.
        ruled: By path, what a rule asks for a leaf; None for leaves that match no rule.

    Raises:
        ValueError: If there is nothing to put on a manifold, or the preset has no cut for a weight.
    """
    layout = layouts.own
    inner = [
        (path, jax.ShapeDtypeStruct(without_stack(tuple(leaf.shape), layout[path]), leaf.dtype))
        for path, leaf in leaves
    ]
    of_one_layer = [(path, leaf) for path, leaf in inner if "S" not in (layout[path] or "")]
    last = ""
    if preset == "mlp":
        last = last_dense(of_one_layer)
    elif preset == "transformer":
        last = unread_dense(inner, layouts.of_one)
    placements = {placement.weight: placement for placement in PRESETS[preset].placements}

    def weight_of(path: str, leaf) -> str:
        weight = _weight_of(preset, path, leaf, layout[path], layout)
        return Reason.LAST_DENSE if path == last and weight in ("hidden dense", "dense") else weight

    weights = {path: weight_of(path, leaf) for path, leaf in leaves}
    kept = normalized(
        [(path, tuple(leaf.shape)) for path, leaf in inner],
        [path for path, weight in weights.items() if _is_followed(path, weight, placements)],
    )

    def asked(path: str, leaf) -> Pom | str:
        weight = weights[path]
        if weight not in placements:
            return weight
        shape = tuple(leaf.shape)
        return _request(placements[weight], path, shape, leaves, layouts, path in kept)

    requests = [ruled[path] or asked(path, leaf) for path, leaf in leaves]
    if not any(isinstance(request, Pom) for request in requests):
        fused = [path for path, _ in leaves if preset == "rnn" and _FUSED.fullmatch(path)]
        raise ValueError(
            f"preset={preset!r} finds no {' and no '.join(placements)} among the leaves "
            f"{listed(path for path, _ in leaves)}. "
            + (
                f"{listed(fused)} holds the input and the recurrent matrices in one weight, and a "
                "weight is on manifolds as a whole: take a cell that keeps them apart, such as "
                "haiku.GRU."
                if fused
                else "Name the weights in rules, or choose another preset."
            )
        )
    return requests


def _is_followed(path: str, weight: str, placements: Mapping[str, Placement]) -> bool:
    """Whether a weight uses up a normalization: it is placed, or any other convolution."""
    return weight in placements or kind_of(path) == "convolution"


def _weight_of(preset: str, path: str, leaf, layout: str | None, paths: Iterable[str]) -> str:
    """The weight of the preset that a leaf is, or why it is none."""
    shape, kind = without_stack(tuple(leaf.shape), layout), kind_of(path)
    why = without_geometry(leaf.dtype) or passed_over(path, shape)
    if why or math.prod(shape) == 0:
        return why or Reason.EMPTY
    unnamed = preset == "resnet" and _is_unnamed_convolution(leaf, kind, path, layout)
    if preset == "resnet" and (kind == "convolution" or unnamed):
        letters = letters_for(layout or DEFAULT, len(leaf.shape))
        sizes = [leaf.shape[letters.index(x)] for x in spatial(letters)] if letters else []
        return "1×1 convolution" if math.prod(sizes) == 1 else "convolution"
    if preset == "transformer":
        if kind == "query":
            einsum = "einsum" in path and len(shape) > 2
            return "query, key, value, heads first" if einsum else "query, key, value"
        if is_attention_output(path, paths):
            return "attention output"
        if kind in ("attention", "dense"):
            return "dense"
    if preset == "mlp" and kind in ("dense", "") and len(shape) == 2:
        return "hidden dense"
    if preset == "rnn" and _FUSED.fullmatch(path):
        return "input and recurrent matrices in one weight"
    if preset == "rnn" and _RECURRENT.fullmatch("/".join(keys_of(path))):
        small, large = sorted(shape[-2:])
        return "recurrent matrix" if large % small == 0 and large // small <= 4 else "not square"
    name = "attention" if kind == "query" else kind
    return f"{name} by its path" if name else f"not in the preset {preset!r}"


def _is_unnamed_convolution(leaf, kind: str, path: str, layout: str | None) -> bool:
    """Whether a residual network has a convolution here, such as a shortcut called `down`.

    Its four axes, without stacked ones, can be nothing else unless the path says so, or the shape
    speaks for another layout.
    """
    shape = tuple(leaf.shape)
    letters = letters_for(layout or DEFAULT, len(shape))
    known = layout is not None or keys_of(path)[-1] != "weight"
    return (
        kind in ("dense", "")
        and len(without_stack(shape, layout)) == 4
        and known
        and letters is not None
        and not contradiction(letters, shape, guessed=layout is None)
    )


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
    of_heads = placement.cuts in (_HEADS, _OUTPUT) and len(inner) == 3
    what = ""
    if cut is None:
        axes = " or ".join(map(str, placement.cuts))
        what = f"but the preset cuts weights called {placement.weight!r} by {axes} axes only"
    elif of_heads and "S" not in (layout or "") and seems_stacked(path, leaves):
        what = "and the leaves beside it look like stacked layers, so no axis of it may count heads"
    if cut is None or what:
        raise ValueError(
            f"{path!r} has shape {shape}, {what}. Give a rule for it that names its axes, or "
            "layout='S…' if layers are stacked."
        )
    if placement.weight == "recurrent matrix" and inner[0] != inner[1]:
        gates = max(inner) // min(inner)
        blocks = f"(gates={gates}:stack out:columns)"
        cut = f"in:rows {blocks}" if inner[0] < inner[1] else f"{blocks} in:rows"
    if ":" in cut:
        cut = with_stack(cut, layout)
    return pom(placement.scheme, placement.manifold, component=cut, scale=scale)
