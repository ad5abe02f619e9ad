"""The placements of presets, as data: which weights of the usual networks go where.

A placement names a kind of weight and asks for a cut, a manifold and a scale.
"""

from typing import Any, NamedTuple

from fgsgd_jax.geometry import Manifold, Oblique, Sphere, Stiefel
from fgsgd_jax.spec._schemes import Scheme
from fgsgd_jax.spec.networks._fused import THREE, TWO
from fgsgd_jax.spec.networks._recurrent import RECURRENT

QUERY, OUTPUT_OF_ATTENTION, DENSE = "query, key, value", "attention output", "dense"
OUTPUTS_FIRST = "dense, gates before outputs"
"""A dense weight of three axes (gates, out, in)."""

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


_MATRIX, _FILTER = {2: "matrix"}, {3: "filter", 4: "filter", 5: "filter"}
HEADS = {2: "matrix", 3: "in:rows heads:stack out:columns"}
_HEADS_FIRST = {
    3: "heads:stack in:rows out:columns",
    4: "qkv:stack heads:stack in:rows out:columns",
}
_THREE = {
    2: "in:rows (qkv=3:stack out:columns)",
    3: "in:rows qkv:stack out:columns",
    4: "in:rows qkv:stack heads:stack out:columns",
}
_TWO = {axes: cut.replace("qkv=3", "kv=2").replace("qkv", "kv") for axes, cut in _THREE.items()}
OUTPUT = {2: "matrix", 3: "heads:rows in:rows out:columns"}
GATED = {2: "matrix", 3: "gates:stack in:rows out:columns"}
_GATED_OUTPUTS_FIRST = {3: "gates:stack out:columns in:rows"}
_LINEAR = ("variance", 1.0)

# The rates are measured, see `tests/benchmarks/preset_rates.py` and the table of `spec/README.md`.
# A norm per slice would cost accuracy where one per filter does not: `notebooks/studies`, `paper`.
PRESETS: dict[str, Preset] = {
    "resnet": Preset(
        (Placement("convolution", _FILTER, "PO", Sphere(), UNLESS_NORMALIZED),), rate=0.3
    ),
    "transformer": Preset(
        (
            Placement(QUERY, HEADS, "layer", Stiefel(), _LINEAR),
            Placement(THREE, _THREE, "layer", Stiefel(), _LINEAR),
            Placement(TWO, _TWO, "layer", Stiefel(), _LINEAR),
            Placement("query, key, value, heads first", _HEADS_FIRST, "layer", Stiefel(), _LINEAR),
            Placement(OUTPUT_OF_ATTENTION, OUTPUT, "layer", Stiefel(), _LINEAR),
            Placement(DENSE, GATED, "layer", Oblique(), "variance"),
            Placement(OUTPUTS_FIRST, _GATED_OUTPUTS_FIRST, "layer", Oblique(), "variance"),
        ),
        rate=0.3,
    ),
    "mlp": Preset(
        (Placement("hidden dense", _MATRIX, "layer", Stiefel(), UNLESS_NORMALIZED),), rate=0.3
    ),
    "rnn": Preset((Placement(RECURRENT, _MATRIX, "layer", Stiefel(), None),), rate=0.3),
}


class InRules(NamedTuple):
    """How the rules that messages print place a weight: as the preset would.

    Attributes:
        preset: The preset, or None.
        scaled: Whether `collection` is given a scale, which then holds for the rule as well.
    """

    preset: str | None = None
    scaled: bool = False

    def pom_of_convolution(self, layout: str, *, normalized: bool) -> str:
        """A pom with a layout of its own, for a convolution under the preset "resnet".

        Example:
            >>> print(InRules("resnet").pom_of_convolution("IOHW", normalized=True))
            fg.pom('PO', fg.Sphere(), component='filter', layout='IOHW')
            >>> print(InRules().pom_of_convolution("IOHW", normalized=True))
            fg.pom(…, layout='IOHW')
        """
        if self.preset != "resnet":
            return f"fg.pom(…, layout={layout!r})"
        ((_, cuts, scheme, manifold, _),) = PRESETS["resnet"].placements
        scale = "" if normalized or self.scaled else ", scale='variance'"
        filters = cuts[len("HWIO")]  # a named cut, the same for every number of axes
        return f"fg.pom({scheme!r}, fg.{manifold}, component={filters!r}, layout={layout!r}{scale})"

    def pom(self, component: str, weight: str, *, normalized: bool = False) -> str:
        """A pom with a cut of its own.

        Args:
            component: The cut as text.
            weight: The weight of the preset that it is for; a preset of one placement has no other.
            normalized: Whether a normalization layer keeps the features.

        Example:
            >>> print(InRules("transformer").pom("gates in:rows out:columns", "dense"))
            fg.pom('layer', fg.Oblique(), component='gates in:rows out:columns', scale='variance')
        """
        placements = PRESETS[self.preset].placements if self.preset else ()
        found = [its for its in placements if its.weight == weight or len(placements) == 1]
        if not found or self.preset == "resnet":  # whose filters are no matrices
            return f"fg.pom('layer', fg.Stiefel(), component={component!r})"
        scale = found[0].scale
        if scale == UNLESS_NORMALIZED:
            scale = None if normalized else "variance"
        written = "" if scale is None or self.scaled else f", scale={scale!r}"
        manifold = found[0].manifold
        return f"fg.pom({found[0].scheme!r}, fg.{manifold}, component={component!r}{written})"
