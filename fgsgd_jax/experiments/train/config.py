"""The configuration of a training run: its arguments, and which of them contradict each other."""

import dataclasses
from collections.abc import Collection
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from fgsgd_jax.experiments import data as image_data
from fgsgd_jax.experiments.arguments import (
    DATA,
    METHOD,
    POSITIVE,
    RUN,
    Count,
    DataName,
    Manifolds,
    SchemeName,
    number_or,
    one_of,
    read_by,
    real,
    whole,
)
from fgsgd_jax.experiments.cli import UsageError, spelled

# The default rates, chosen on validation sets of digits and MNIST (two to six seeds, rates a factor
# of about 2 apart). A step of fgsgd turns a kernel by at most 0.42 times its rate, whatever the
# gradient; nothing limits the dense layer, which needs a twentieth of that rate. The rate of
# riemannian-adam is the best of 0.01, 0.03 and 0.1 for one seed on digits; those of manifold-muon
# and adam-h have a usual size and are not tuned.
LEARNING_RATES = {
    "sgd": 0.05,
    "fgsgd": 1.0,
    "rsgd": 1.0,
    "riemannian-adam": 0.1,
    "manifold-muon": 0.03,
    "adam-h": 0.03,
}
Optimizer = Literal["sgd", "fgsgd", "rsgd", "riemannian-adam", "manifold-muon", "adam-h"]


@Parameter(name="*")
@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    """A training run. The text under each field is its help on the command line."""

    data: Annotated[DataName, DATA] = "digits"
    """which images: digits come with scikit-learn (1,797 of 8×8, with a fixed stratified split into
    1,500 for training and 297 for testing), the others from --data-dir; in training, all but digits
    are shifted by a few pixels, and fashion and cifar10 are also mirrored"""

    data_dir: Annotated[
        str | None, read_by(lambda word: str(Path(word).resolve()), "a folder"), DATA
    ] = None
    """the folder with the data: for mnist and fashion the four IDX files, gzipped or not; for
    cifar10 `train/<class>/*.jpg` and `test/<class>/*.jpg` (or png), or the binary batches; for each
    of them one npz file with `x_train`, `y_train`, `x_test`, `y_test`; nothing is downloaded"""

    train_size: Annotated[int | None, whole(1), DATA] = None
    """train on only this many of the images, each class in proportion (default: all)"""

    channels: Annotated[tuple[Count, ...], METHOD] = (32, 64, 64)
    """output channels of the 3×3 convolutions, one number for each"""

    optimizer: Annotated[Optimizer, one_of(LEARNING_RATES), METHOD] = "fgsgd"
    """sgd: no manifolds; fgsgd: fine-grained SGD, one step size for each group of kernels; rsgd:
    Riemannian SGD, without groups; riemannian-adam: Adam with one second moment for each kernel;
    manifold-muon: steepest descent in the spectral norm; adam-h: Adam, whose steps get the length
    of the learning rate and are projected onto the manifolds"""

    scheme: Annotated[SchemeName, METHOD] = "PIO"
    """which kernels of a layer form a group: all of one input channel (PI), all of one output
    channel (PO), a random subset (PIO), all (layer), or each its own (kernel)"""

    groups: Annotated[int | None, whole(1), METHOD] = None
    """groups in each layer, for the scheme PIO (default: the library chooses)"""

    manifolds: Annotated[Manifolds, METHOD] = ("sphere", "oblique", "stiefel")
    """manifolds among which the kernels of each group are divided, joined by +, out of sphere (sp),
    oblique (ob), stiefel (st), euclidean (euc)"""

    learning_rate: Annotated[float, real(0), METHOD] = None  # pyright: ignore[reportAssignmentType]
    """the initial learning rate of the kernels on manifolds, or of all weights for sgd; after k
    epochs it is divided by 1 + k/6 (default: 0.05 for sgd, 1 for fgsgd and rsgd, 0.1 for
    riemannian-adam, 0.03 for manifold-muon and adam-h)"""

    euclidean_learning_rate: Annotated[float, real(0), METHOD] = 0.05
    """the initial learning rate of the weights on no manifold: normalization and dense layer"""

    scale: Annotated[
        Literal["none", "geometric", "literal"] | float,
        number_or(("none", "geometric", "literal")),
        METHOD,
    ] = "none"
    """norm of the components of a kernel: none is 1; geometric is (fan-in + fan-out)^(-1/2);
    literal also counts the size of the feature map in the fan-out, as in the paper; or a number"""

    feature_batches: Annotated[int, whole(0), METHOD] = 0
    """after each epoch divide the scale by the standard deviation of the input features, measured
    on this many batches; 0 keeps the scale fixed"""

    feature_std: Annotated[Literal["channel", "kernel"], one_of(("channel", "kernel")), METHOD] = (
        "channel"
    )
    """channel: a standard deviation for each input channel, as in the paper; kernel: one for the
    whole kernel, so that batch normalization cancels the effect on the features"""

    min_std: Annotated[float, POSITIVE, METHOD] = 0.1
    """the smallest standard deviation to divide by; the paper requires 1"""

    coordinates: Annotated[
        Literal["unit", "scaled"] | float, number_or(("unit", "scaled")), METHOD
    ] = "unit"
    """the manifolds on which steps are taken: with unit components, with scaled components as in
    the paper, or with components of this norm"""

    momentum: Annotated[float, real(0, below=1), METHOD] = 0.9
    """decay of the momentum; for Adam, of its first moment"""

    weight_decay: Annotated[float, real(0), METHOD] = 0.0
    """L2 weight decay of the weights on no manifold; it has no effect on the others"""

    batch_size: Annotated[Count, METHOD] = 50
    """images in each step"""

    epochs: Annotated[Count, RUN] = 20
    """passes over the training images"""

    seed: Annotated[int, whole(0, below=2**63), RUN] = 0
    """seed of the initial weights, the groups, and the order of the images"""

    def __post_init__(self):
        if self.learning_rate is None:
            object.__setattr__(self, "learning_rate", LEARNING_RATES[self.optimizer])

    def __str__(self) -> str:
        manifolds = f" {self.scheme} {'+'.join(self.manifolds)}" if self.optimizer != "sgd" else ""
        scale = "" if self.scale == "none" else f" · scale {spelled(self.scale)}"
        if self.feature_batches:
            scale += " by features" + " of kernels" * (self.feature_std == "kernel")
        return f"{self.data} · {self.optimizer}{manifolds}{scale} · seed {self.seed}"


@Parameter(name="*")
@dataclasses.dataclass(frozen=True, kw_only=True)
class Folder:
    """Where a run leaves its results, and what it prints."""

    cache_dir: Annotated[Path | None, DATA] = None
    """cache decoded pictures here for later runs (default: decode every time)"""

    run_dir: Annotated[Path | None, RUN] = None
    """a new folder for the results (default: `runs/<data>-<optimizer>-<time>`)"""

    resume: Annotated[Path | None, RUN] = None
    """continue the run in this folder with its configuration; --epochs may be larger"""

    quiet: Annotated[bool, RUN] = False
    """print only the path of the run folder"""


FIELDS = tuple(field.name for field in dataclasses.fields(Config))

_RESCALING = ("scale", "feature_batches", "feature_std", "min_std", "coordinates")


def flag(name: str) -> str:
    """The argument that sets a field."""
    return "--" + name.replace("_", "-")


def require_consistent(config: Config, given: Collection[str] = ()) -> None:
    """Raises `UsageError` if arguments contradict each other.

    Args:
        config: The run.
        given: The fields that were given, not left at their defaults.
    """
    image_data.require_folder(config.data, config.data_dir)
    for name in ("scheme", "groups", "manifolds", "euclidean_learning_rate", *_RESCALING):
        if config.optimizer == "sgd" and name in given:
            raise UsageError(f"{flag(name)} has no use with --optimizer sgd; omit it.")
    if config.optimizer in ("manifold-muon", "adam-h") and "coordinates" in given:
        raise UsageError(
            f"--coordinates has no use with --optimizer {config.optimizer}, whose steps are always "
            "taken with unit components; omit it."
        )
    if config.scale == "none" and config.feature_batches:
        raise UsageError(
            "--feature-batches re-scales the kernels, but --scale none keeps them at unit scale; "
            "give --scale geometric, or omit --feature-batches."
        )
    for name in ("feature_std", "min_std"):
        if name in given and not config.feature_batches:
            raise UsageError(
                f"{flag(name)} says how features re-scale the kernels, but --feature-batches 0 "
                f"measures no features; give --feature-batches 10, or omit {flag(name)}."
            )
    if config.groups is not None and config.scheme != "PIO":
        raise UsageError(
            f"--groups is for --scheme PIO; the groups of --scheme {config.scheme} follow from the "
            "channels."
        )
