"""The arguments of `train`, and the run that they define."""

import argparse
from pathlib import Path

from fgsgd_jax.experiments import config, data, run_folder, shared_arguments
from fgsgd_jax.experiments.argument_types import (
    number_or,
    one_of,
    positive_number,
    real_number,
    sum_of,
    whole_number,
)
from fgsgd_jax.experiments.cli import UsageError
from fgsgd_jax.experiments.config import MANIFOLDS, OPTIMIZERS, SCHEMES, Config


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of this command to its parser."""
    _add_data(parser.add_argument_group("data"))
    method = parser.add_argument_group("network and optimizer")
    _add_optimizer(method)
    _add_rates(method)
    _add_rescaling(method)
    _add_rest(method)
    _add_run(parser.add_argument_group("run"))


def _add(group, flag: str, help: str, **settings) -> None:
    """Adds an argument for the field of `Config` with its name.

    Its default is shown in the help but suppressed in the result, so that the result contains only
    what the user gave: resuming compares only these values with the saved configuration.
    """
    default = getattr(Config, flag.removeprefix("--").replace("-", "_"), None)
    if default is not None:
        help = shared_arguments.with_default(help, default)
    group.add_argument(flag, default=argparse.SUPPRESS, help=help, **settings)


def _add_data(group) -> None:
    _add(
        group,
        "--data",
        "which images: digits come with scikit-learn (1,797 of 8×8, with a fixed stratified split "
        "into 1,500 for training and 297 for testing), the others from --data-dir; in training, "
        "all but digits are shifted by a few pixels, and fashion and cifar10 are also mirrored",
        type=one_of(data.NAMES),
        metavar="|".join(data.NAMES),
    )
    _add(
        group,
        "--data-dir",
        "the folder with the data: for mnist and fashion the four IDX files, gzipped or not; for "
        "cifar10 train/<class>/*.jpg and test/<class>/*.jpg (or png), or the binary batches; for "
        "each of them one npz file with x_train, y_train, x_test, y_test; nothing is downloaded",
        type=lambda text: str(Path(text).resolve()),
        metavar="DIR",
    )
    _add(
        group,
        "--train-size",
        "train on only N of the images, each class in proportion (default: all)",
        type=whole_number(1),
        metavar="N",
    )
    shared_arguments.add_cache_dir(group)


def _add_optimizer(group) -> None:
    _add(
        group,
        "--channels",
        "output channels of the 3×3 convolutions, one number for each",
        type=whole_number(1),
        nargs="+",
        metavar="N",
    )
    _add(
        group,
        "--optimizer",
        "sgd: no manifolds; fgsgd: fine-grained SGD, one step size for each group of kernels; "
        "rsgd: Riemannian SGD, without groups",
        type=one_of(OPTIMIZERS),
        metavar="|".join(OPTIMIZERS),
    )
    _add(
        group,
        "--scheme",
        "which kernels of a layer form a group: all of one input channel (PI), all of one output "
        "channel (PO), a random subset (PIO), all (layer), or each its own (kernel)",
        type=one_of(SCHEMES),
        metavar="|".join(SCHEMES),
    )
    _add(
        group,
        "--groups",
        "groups in each layer, for the scheme PIO (default: the library chooses)",
        type=whole_number(1),
        metavar="N",
    )
    _add(
        group,
        "--manifolds",
        "manifolds among which the kernels of each group are divided, joined by +, out of sphere "
        "(sp), oblique (ob), stiefel (st), euclidean (euc)",
        type=sum_of(MANIFOLDS),
        metavar="A+B",
    )


def _add_rates(group) -> None:
    rates = ", ".join(f"{rate:g} for {name}" for name, rate in config.LEARNING_RATES.items())
    _add(
        group,
        "--learning-rate",
        "the initial learning rate of the kernels on manifolds, or of all weights for sgd; after k "
        f"epochs it is divided by 1 + k/6 (default: {rates})",
        type=real_number(0),
        metavar="R",
    )
    _add(
        group,
        "--euclidean-learning-rate",
        "the initial learning rate of the weights on no manifold: normalization and dense layer",
        type=real_number(0),
        metavar="R",
    )


def _add_rescaling(group) -> None:
    _add(
        group,
        "--scale",
        "norm of the components of a kernel: none is 1; geometric is (fan-in + fan-out)^(-1/2); "
        "literal also counts the size of the feature map in the fan-out, as in the paper; or a "
        "number",
        type=number_or(config.SCALES),
        metavar="|".join(config.SCALES) + "|S",
    )
    _add(
        group,
        "--feature-batches",
        "after each epoch divide the scale by the standard deviation of the input features, "
        "measured on N batches; 0 keeps the scale fixed",
        type=whole_number(0),
        metavar="N",
    )
    _add(
        group,
        "--feature-std",
        "channel: a standard deviation for each input channel, as in the paper; kernel: one for "
        "the whole kernel, so that batch normalization cancels the effect on the features",
        type=one_of(config.FEATURE_STDS),
        metavar="|".join(config.FEATURE_STDS),
    )
    _add(
        group,
        "--min-std",
        "the smallest standard deviation to divide by; the paper requires 1",
        type=positive_number,
        metavar="D",
    )
    _add(
        group,
        "--coordinates",
        "the manifolds on which steps are taken: with unit components, with scaled components as "
        "in the paper, or with components of norm R",
        type=number_or(config.COORDINATES),
        metavar="|".join(config.COORDINATES) + "|R",
    )


def _add_rest(group) -> None:
    _add(group, "--momentum", "decay of the momentum", type=real_number(0, below=1), metavar="M")
    _add(
        group,
        "--weight-decay",
        "L2 weight decay of the weights on no manifold; it has no effect on the others",
        type=real_number(0),
        metavar="W",
    )
    _add(group, "--batch-size", "images in each step", type=whole_number(1), metavar="N")


def _add_run(group) -> None:
    _add(group, "--epochs", "passes over the training images", type=whole_number(1), metavar="N")
    _add(
        group,
        "--seed",
        "seed of the initial weights, the groups, and the order of the images",
        type=whole_number(0, below=2**63),
        metavar="N",
    )
    shared_arguments.add_results(
        group, "a new folder for the results (default: runs/<data>-<optimizer>-<time>)"
    )
    group.add_argument(
        "--resume",
        help="continue the run in this folder with its configuration; --epochs may be larger",
        type=Path,
        metavar="DIR",
    )


def chosen_run(args: argparse.Namespace) -> tuple[Config, Path, str | None]:
    """The configuration, the folder, and for a resumed run the digest of its data.

    Raises:
        UsageError: If the arguments contradict each other, or the folder cannot be used.
    """
    given = {name: value for name, value in vars(args).items() if name in config.FIELDS}
    if "channels" in given:
        given["channels"] = tuple(given["channels"])  # argparse makes a list
    if args.resume:
        if args.run_dir:
            raise UsageError("--resume continues in the folder of that run; omit --run-dir.")
        settings, digest = config.resumed(args.resume, given)
        return settings, args.resume, digest
    settings = config.configured(given)
    run_dir = args.run_dir or run_folder.new_run_dir(f"{settings.data}-{settings.optimizer}")
    if run_dir.is_file():
        raise UsageError(f"{run_dir} is a file; give another --run-dir.")
    if run_folder.is_taken(run_dir):
        raise UsageError(
            f"{run_dir} exists; give another --run-dir, or continue that run with --resume "
            f"{run_dir}."
        )
    return settings, run_dir, None
