"""The arguments of `study`."""

import dataclasses
from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import Parameter

from fgsgd_jax.experiments.arguments import (
    DATA,
    RUN,
    Count,
    Images,
    Positive,
    heading,
    one_of,
    read_by,
    whole,
)
from fgsgd_jax.experiments.study.resnet import CONVOLUTIONS, Convolution

STUDIES = (
    "batch-normalized",
    "bounds",
    "classical",
    "convergence",
    "coordinates",
    "copying",
    "depth",
    "depth-convolutional",
    "language",
    "paper",
    "permuted",
    "rates",
    "robustness",
    "scales",
    "streaming",
)
"""The studies; each is a module of this package (`_` for `-`) with a function `study`."""

StudyName = Annotated[Literal[STUDIES], one_of(STUDIES)]  # pyright: ignore


@Parameter(name="*")
@dataclasses.dataclass(frozen=True, kw_only=True)
class Arguments(Images):
    """What a study is run with. The text under each field is its help on the command line."""

    train_size: Annotated[int | None, whole(100), DATA] = None
    """use only this many of the training images, including those held out for validation (default:
    all)"""

    delays: Annotated[tuple[Count, ...], DATA] = (100,)
    """delays of the copying memory, in steps; no other study uses them"""

    smoke: Annotated[bool, RUN] = False
    """run a small version of the study, to see whether everything works"""

    run_dir: Annotated[Path | None, RUN] = None
    """the folder of the results (default: `runs/study-<name>`, with the data if it has some)"""

    seconds: Annotated[Positive | None, RUN] = None
    """start no trials after this many seconds; the same command continues (default: no limit)"""


PAPER = heading("Paper")
METHODS = (
    "SGD",
    "sphere-PO",
    "three-PIO",
    "stiefel-PO",
    "three-PI",
    "three-PO",
    "three-kernel",
    "sphere-filter",
    "sphere-euclidean-0.03",
    "sphere-euclidean-0.3",
    "SGD-unit-start",
    "sphere-no-momentum",
    "sphere-no-tau",
    "sphere-variance",
    "SGD-weight-normalized",
    "SGD-soft-orthogonal",
)
"""The methods of the study `paper`; `paper_methods` says what each is."""


def _depth(word: str) -> int:
    depth = int(word)
    if depth < 8 or depth % 6 != 2:
        raise ValueError
    return depth


@Parameter(name="*")
@dataclasses.dataclass(frozen=True, kw_only=True)
class Paper:
    """The arguments of the study `paper`; no other study uses them."""

    depth: Annotated[int, read_by(_depth, "one of 8, 14, 20, …, 6n + 2"), PAPER] = 20
    """layers of the residual network, 6n + 2"""

    width: Annotated[Positive, PAPER] = 1.0
    """multiplies the channels of the network, 16, 32 and 64"""

    shrink: Annotated[Count, PAPER] = 1
    """averages blocks of this many by this many pixels, so that a step is shorter"""

    methods: Annotated[tuple[Annotated[str, one_of(METHODS)], ...], PAPER] = METHODS[:6]
    """the methods, the first of which the others are compared with; three are sphere, oblique and
    Stiefel, in groups (PI, PO, PIO) or each slice with a normalizer of its own; the next seven
    change one thing in sphere-PO or SGD; the last two have no constraints but what replaces them"""

    sgd_decays: Annotated[tuple[Positive, ...], PAPER] = (1e-4, 5e-4)
    """the weight decays that SGD is tried with, at three rates each; all other methods have as many
    settings as three rates and two decays or penalties"""

    epochs: Annotated[Count, PAPER] = 30
    """epochs of the final runs"""

    tuning_epochs: Annotated[Count, PAPER] = 10
    """epochs of the runs that choose rates and decays"""

    seeds: Annotated[Count, PAPER] = 6
    """seeds of the final runs"""

    batch_size: Annotated[Count, PAPER] = 128
    """images in each step of each run"""

    together: Annotated[Count, PAPER] = 6
    """runs that are trained at once"""

    convolution: Annotated[Convolution, one_of(CONVOLUTIONS), PAPER] = "dense"
    """how the convolutions of these runs are computed: as one dense convolution with zeros between
    the runs, as products of matrices of patches, by a map over the runs, or as one grouped
    convolution; they differ in speed only"""

    features: Annotated[Literal["bfloat16", "float32"], one_of(("bfloat16", "float32")), PAPER] = (
        "bfloat16"
    )
    """the dtype of features; weights and statistics are float32"""

    schedule: Annotated[Literal["steps", "cosine"], one_of(("steps", "cosine")), PAPER] = "steps"
    """how rates fall: to a tenth after 1/2 and again after 3/4 of the steps, or along a cosine"""

    note: Annotated[str, PAPER] = ""
    """what the caption of the table should say besides, such as how the images were made"""

    probe: Annotated[bool, PAPER] = False
    """only measure how long a step takes with every way to compute convolutions"""

    def given(self) -> dict[str, Any]:
        """The arguments that differ from their defaults, by name."""
        values = dataclasses.asdict(self).items()
        return {name: value for name, value in values if value != getattr(Paper, name)}
