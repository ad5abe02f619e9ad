"""The variants that are compared, and the trials that each of them needs."""

import dataclasses
from collections.abc import Sequence
from typing import Any

# SGD turns a kernel by about its rate times the gradient, FG-SGD by less than 0.42 times its rate.
SGD_SHARE = 0.05
RADIUS = 0.05  # of a typical kernel scaled by geometry: (9·16 + 9·32)^−½

KEY = ("variant", "scale", "learning_rate", "seed")
"""The columns that identify a trial."""

SCALES = (10.0, 1.0, 0.1)


@dataclasses.dataclass(frozen=True)
class Variant:
    """One way of re-scaling.

    Attributes:
        name: Its name in tables and figures.
        changes: The fields of `Config` in which it differs.
        unit: The unit of its learning rates.
        scales: Multiples of the scale at which it is trained.
    """

    name: str
    changes: dict[str, Any]
    unit: float = 1.0
    scales: tuple[float, ...] = (1.0,)

    def trials(self, rates: Sequence[float], seeds: int) -> list[tuple[float, float, int]]:
        """The scale, learning rate and seed of every trial."""
        # The radius of literally scaled steps is the scale itself, so their rates follow it.
        follows_scale = self.name == "scaled"
        return [
            (scale, float(f"{rate * self.unit * (scale if follows_scale else 1):.6g}"), seed)
            for scale in self.scales
            for rate in rates
            for seed in range(seeds)
        ]


_BY_FEATURES = {"scale": "geometric", "feature_batches": 10}

ABLATIONS: dict[str, tuple[Variant, ...]] = {
    "coordinates": (
        Variant("unit", {"scale": "geometric", "coordinates": "unit"}, scales=SCALES),
        Variant("scaled", {"scale": "geometric", "coordinates": "scaled"}, RADIUS, SCALES),
        Variant(f"radius {RADIUS}", {"scale": "geometric", "coordinates": RADIUS}, RADIUS, SCALES),
    ),
    "scale": (
        Variant("SGD", {"optimizer": "sgd"}, SGD_SHARE),
        Variant("unit scale", {}),
        Variant("geometric", {"scale": "geometric"}),
        Variant("literal", {"scale": "literal"}),
        Variant("λ of channels", _BY_FEATURES),
        Variant("λ of channels ≥ 1", _BY_FEATURES | {"min_std": 1.0}),
        Variant("λ of kernels", _BY_FEATURES | {"feature_std": "kernel"}),
    ),
}
