"""A tree under a preset: which weight of the preset every leaf is, and what stays open."""

import dataclasses
import functools
from collections.abc import Iterable, Iterator, Mapping

import jax

from fgsgd_jax.spec._reasons import AXES_UNSAID, Reason
from fgsgd_jax.spec.networks._blocks import doubtful_normalizations, normalized
from fgsgd_jax.spec.networks._doubts import on_circular, on_normalizations, on_transposed
from fgsgd_jax.spec.networks._fused import OUTPUTS_MAY_COME_FIRST
from fgsgd_jax.spec.networks._heads import Heads, Leaves, dense_heads
from fgsgd_jax.spec.networks._kinds import kind_of
from fgsgd_jax.spec.networks._last_convolutions import last_convolutions
from fgsgd_jax.spec.networks._placements import (
    HEADS,
    OUTPUT,
    PRESETS,
    UNLESS_NORMALIZED,
    Placement,
)
from fgsgd_jax.spec.networks._stack_axes import Shape, without_stack
from fgsgd_jax.spec.networks._stacked import Layouts, seems_stacked
from fgsgd_jax.spec.networks._weights import counts_heads_elsewhere, weight_of
from fgsgd_jax.spec.networks._widths import outputs_seem_first

_MAY_BE_HEADS = ("convolution", "dense", "hidden dense")


@dataclasses.dataclass(frozen=True)
class PresetTree:
    """The leaves of a tree under a preset.

    Attributes:
        preset: The name of the preset.
        leaves: The pairs (path, leaf).
        layouts: The layout of every leaf.
        ruled: By path, the layouts that rules give.
    """

    preset: str
    leaves: Leaves
    layouts: Layouts
    ruled: Mapping[str, str]

    @functools.cached_property
    def whole(self) -> dict[str, Shape]:
        """By path, the shapes, stacked layers included."""
        return {path: tuple(leaf.shape) for path, leaf in self.leaves}

    @functools.cached_property
    def shapes(self) -> dict[str, Shape]:
        """By path, the shapes without stacked layers."""
        return {
            path: without_stack(its, self.layouts.own[path]) for path, its in self.whole.items()
        }

    @functools.cached_property
    def placements(self) -> dict[str, Placement]:
        """The placements of the preset by the weights that they are for."""
        return {placement.weight: placement for placement in PRESETS[self.preset].placements}

    def weights_and_heads(self) -> tuple[dict[str, str], Heads]:
        """By path, the weight of the preset that a leaf is, or why it is none; and what was found.

        Of the heads those count that the preset would place otherwise.
        """
        weights = self._weights_by_themselves()
        heads = self._heads(weights)
        may_be = {path for path, weight in weights.items() if weight in _MAY_BE_HEADS}
        found = {path: why for path, why in heads.found.items() if path in may_be}
        maybe = (heads.maybe & may_be) - found.keys()
        return weights | found, Heads(found, frozenset(maybe), heads.by_path)

    def _weights_by_themselves(self) -> dict[str, str]:
        """By path, the weight that a leaf is if it is no head, or why it is none."""
        own, shapes, of_one = self.layouts.own, self.shapes, self.layouts.of_one
        weights = {
            path: weight_of(self.preset, path, leaf, own[path], shapes)
            for path, leaf in self.leaves
        }
        by_width = self.preset == "transformer" and of_one is None and outputs_seem_first(shapes)
        swapped = by_width or OUTPUTS_MAY_COME_FIRST in weights.values()

        def checked(path: str, weight: str) -> str:
            if weight not in self.placements:
                return weight
            if swapped and _is_read_by_default(shapes[path], own[path]):
                return OUTPUTS_MAY_COME_FIRST
            of_heads = self.placements[weight].cuts in (HEADS, OUTPUT)
            if of_heads and counts_heads_elsewhere(path, shapes, of_one):
                stacked = "S" not in (own[path] or "") and seems_stacked(path, self.leaves)
                return weight if stacked else Reason.HEADS_ELSEWHERE
            return weight

        return {path: checked(path, weight) for path, weight in weights.items()}

    def _heads(self, weights: Mapping[str, str]) -> Heads:
        """The layers that give the outputs of the network, placed by the preset or not."""
        inner = [
            (path, jax.ShapeDtypeStruct(self.shapes[path], leaf.dtype))
            for path, leaf in self.leaves
            if weights[path] != Reason.OWN_PARAMETER or self.preset == "resnet"
        ]
        if self.preset != "resnet":
            return dense_heads(self.preset, inner, self.layouts)
        convolutions = [
            path
            for path, weight in weights.items()
            if weight in self.placements
            or path in self.ruled
            or (weight == Reason.ONE_LONG_AXIS and len(self.shapes[path]) > 2)
        ]
        layouts = {
            path: given.replace("S", "") if given else given
            for path, given in {**self.layouts.own, **self.ruled}.items()
        }
        found, maybe = last_convolutions(inner, convolutions, layouts)
        return Heads(dict.fromkeys(found, Reason.LAST_CONVOLUTION), maybe)

    def followed(self, weights: Mapping[str, str]) -> list[str]:
        """The weights that a normalization may follow: also of convolutions that are not placed."""
        return [
            path
            for path in weights
            if weights[path] in self.placements or kind_of(path) == "convolution"
        ]

    def normalized(self, weights: Iterable[str]) -> frozenset[str]:
        """Those of some weights whose features a normalization layer keeps."""
        return normalized(list(self.shapes.items()), list(weights))

    def sentences(
        self, weights: Mapping[str, str], unruled: Mapping[str, str], kept: frozenset[str]
    ) -> Iterator[str]:
        """The sentences on what names and shapes leave open, "" for those that do not apply."""
        followed, sizes = self.followed(weights), list(self.shapes.items())
        circular = [path for path in weights if weights[path] == Reason.CIRCULAR]
        transposed = [path for path in weights if weights[path] in AXES_UNSAID]
        for sentence, more in ((on_circular, circular), (on_transposed, transposed)):
            if more:
                with_more = self.normalized([*followed, *more])
                yield sentence(unruled, self.whole, self.layouts, with_more)
        if any(its.scale == UNLESS_NORMALIZED for its in self.placements.values()):
            yield on_normalizations(doubtful_normalizations(sizes), sizes, followed, kept)


def _is_read_by_default(shape: tuple[int, ...], layout: str | None) -> bool:
    """Whether a matrix would be cut otherwise if its outputs came first, and no layout says so."""
    return layout is None and len(shape) == 2 and shape[0] != shape[1]
