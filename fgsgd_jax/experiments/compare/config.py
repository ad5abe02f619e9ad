"""The arguments of `compare`."""

import dataclasses
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from fgsgd_jax.experiments.arguments import (
    DATA,
    METHOD,
    RUN,
    Count,
    Images,
    Manifolds,
    Positive,
    SchemeName,
    one_of,
    whole,
)
from fgsgd_jax.experiments.train.config import Config


@Parameter(name="*")
@dataclasses.dataclass(frozen=True, kw_only=True)
class Comparison(Images):
    """A comparison. The text under each field is its help on the command line."""

    ablate: Annotated[Literal["coordinates", "scale"], one_of(("coordinates", "scale")), METHOD]
    """what to vary"""

    train_size: Annotated[int | None, whole(20), DATA] = None
    """use only this many of the training images, including those held out for validation (default:
    all)"""

    test_size: Annotated[int | None, whole(1), DATA] = None
    """use only this many test images, the first ones (default: all)"""

    channels: Annotated[tuple[Count, ...], METHOD] = (16, 32, 32)
    """output channels of the 3×3 convolutions"""

    scheme: Annotated[SchemeName, METHOD] = "PO"
    """which kernels form a group"""

    manifolds: Annotated[Manifolds, METHOD] = ("sphere",)
    """manifolds of each group, joined by +"""

    learning_rates: Annotated[tuple[Positive, ...], METHOD] = (0.03, 0.1, 0.3, 1.0, 3.0)
    """the learning rates to choose from, in units of the radius of the manifolds on which steps are
    taken; plain SGD uses a twentieth of them"""

    seeds: Annotated[Count, RUN] = 3
    """seeds for each variant and rate"""

    epochs: Annotated[Count, RUN] = 8
    """epochs of each trial"""

    run_dir: Annotated[Path | None, RUN] = None
    """the folder of the results (default: `runs/compare-<ablation>-<data>`)"""

    def settings(self) -> Config:
        """The configuration that all trials share."""
        return Config(
            data=self.data,
            data_dir=str(self.data_dir.resolve()) if self.data_dir else None,
            train_size=self.train_size,
            channels=self.channels,
            scheme=self.scheme,
            manifolds=self.manifolds,
            epochs=self.epochs,
        )
