"""The arguments of `paths`."""

import dataclasses
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from fgsgd_jax.experiments.arguments import DATA, RUN, Count, Images, one_of, whole


@Parameter(name="*")
@dataclasses.dataclass(frozen=True, kw_only=True)
class PathFigures(Images):
    """The figures to make, and their size. The text under each field is its help."""

    train_size: Annotated[int | None, whole(12), DATA] = None
    """use only this many of the training images, including those held out for validation (default:
    all)"""

    figures: Annotated[tuple[Annotated[Literal["1", "2", "3"], one_of("123")], ...], RUN] = (
        "1",
        "2",
        "3",
    )
    """which figures"""

    units: Annotated[int, whole(8), RUN] = 128
    """units in each hidden layer of figures 2 and 3, and the most units of figure 1; 4000 in the
    paper"""

    epochs: Annotated[Count, RUN] = 20
    """passes over the training images in every run"""

    validation_epochs: Annotated[Count, RUN] = 2
    """passes for choosing a learning rate"""

    seeds: Annotated[Count, RUN] = 1
    """how often everything is repeated, with other weights and another order of the images"""

    precision: Annotated[Literal["float32", "float64"], one_of(("float32", "float64")), RUN] = (
        "float64"
    )
    """float64 keeps equal curves equal, float32 is faster"""

    run_dir: Annotated[Path | None, RUN] = None
    """a new folder for the results (default: `runs/paths-<data>-<time>`)"""
