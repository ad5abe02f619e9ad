"""Train a convolutional network on small images, its kernels on manifolds.

The run folder gets config.json, metrics.csv (a row for each epoch), summary.json, the figures
curves.png, diagnostics.png and margins.png, and a checkpoint after each epoch. Data order is a
function of the seed and the epoch, so a resumed run gives bit for bit what the uninterrupted one
would have given on the same machine.
"""

import argparse
from pathlib import Path

from fgsgd_jax.experiments import _arguments, _terminal, config, data
from fgsgd_jax.experiments._terminal import UsageError
from fgsgd_jax.experiments.config import MANIFOLDS, OPTIMIZERS, SCHEMES, Config, spelled


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of this command to its parser."""

    def add(group, flag: str, help: str, **settings) -> None:
        # Suppressed, so that what the user gave stays apart from what `Config` fills in: resuming
        # compares only what was given.
        value = getattr(Config, flag.removeprefix("--").replace("-", "_"), None)
        default = "" if value is None else f" (default: {spelled(value)})"
        group.add_argument(flag, default=argparse.SUPPRESS, help=help + default, **settings)

    whole, real, one_of = _terminal.whole_number, _terminal.real_number, _terminal.one_of
    images = parser.add_argument_group("data")
    add(
        images,
        "--data",
        "which images: digits come with scikit-learn (1,797 of 8×8, a fixed split of 1,500 to "
        "train and 297 to test, each class its share), the others from --data-dir; all but digits "
        "are shifted by a few pixels in training, fashion and cifar10 mirrored, too",
        type=one_of(data.NAMES),
        metavar="|".join(data.NAMES),
    )
    add(
        images,
        "--data-dir",
        "where the data lie: for mnist and fashion the four IDX files, gzipped or not; for cifar10 "
        "train/<class>/*.jpg and test/<class>/*.jpg (or png), or the binary batches; for each of "
        "them one npz file with x_train, y_train, x_test, y_test; nothing is downloaded",
        type=lambda text: str(Path(text).resolve()),
        metavar="DIR",
    )
    add(
        images,
        "--train-size",
        "train on only N of the images, of every class its share (default: all)",
        type=whole(1),
        metavar="N",
    )
    _arguments.add_cache_dir(images)

    method = parser.add_argument_group("network and optimizer")
    rates = ", ".join(f"{rate:g} for {name}" for name, rate in config.LEARNING_RATES.items())
    add(
        method,
        "--channels",
        "output channels of the 3×3 convolutions, one number for each",
        type=whole(1),
        nargs="+",
        metavar="N",
    )
    add(
        method,
        "--optimizer",
        "sgd: no manifolds; fgsgd: fine-grained SGD, one step size for each group of kernels; "
        "rsgd: Riemannian SGD, every kernel by itself",
        type=one_of(OPTIMIZERS),
        metavar="|".join(OPTIMIZERS),
    )
    add(
        method,
        "--scheme",
        "which kernels of a layer form a group: those of one input channel, of one output channel, "
        "a random part of all, all, or each its own",
        type=one_of(SCHEMES),
        metavar="|".join(SCHEMES),
    )
    add(
        method,
        "--groups",
        "groups in each layer, for the scheme PIO (default: the library chooses)",
        type=whole(1),
        metavar="N",
    )
    add(
        method,
        "--manifolds",
        "manifolds dealt out to the kernels of each group, joined by +, out of sphere (sp), "
        "oblique (ob), stiefel (st), euclidean (euc)",
        type=_terminal.sum_of(MANIFOLDS),
        metavar="A+B",
    )
    add(
        method,
        "--learning-rate",
        "the first learning rate of the kernels on manifolds, or of all weights for sgd; after k "
        f"epochs it is divided by 1 + k/6 (default: {rates})",
        type=real(0),
        metavar="R",
    )
    add(
        method,
        "--euclidean-learning-rate",
        "the same for the weights on no manifold beside them: normalization and dense layer",
        type=real(0),
        metavar="R",
    )
    add(
        method,
        "--scale",
        "length of the kernels' components: none is 1; geometric is (fan-in + fan-out)^(-1/2); "
        "literal counts the size of the feature map into the fan-out, as the paper; or a number",
        type=_terminal.number_or(config.SCALES),
        metavar="|".join(config.SCALES) + "|S",
    )
    add(
        method,
        "--feature-batches",
        "after each epoch divide the scale by the standard deviation of the features that enter, "
        "measured on N batches; 0 leaves it",
        type=whole(0),
        metavar="N",
    )
    add(
        method,
        "--feature-std",
        "channel: a standard deviation for each input channel, as the paper; kernel: one for all "
        "of a kernel, so that batch normalization undoes what re-scaling does to the features",
        type=one_of(config.FEATURE_STDS),
        metavar="|".join(config.FEATURE_STDS),
    )
    add(
        method,
        "--min-std",
        "the least standard deviation to divide by; 1 as the paper wants it",
        type=_terminal.positive_number,
        metavar="D",
    )
    add(
        method,
        "--coordinates",
        "on which manifolds steps are taken: of unit components, of scaled ones as the paper, or "
        "of components of length R",
        type=_terminal.number_or(config.COORDINATES),
        metavar="|".join(config.COORDINATES) + "|R",
    )
    add(method, "--momentum", "momentum", type=real(0, below=1), metavar="M")
    add(
        method,
        "--weight-decay",
        "L2 weight decay of the weights on no manifold; on one it would do nothing",
        type=real(0),
        metavar="W",
    )
    add(method, "--batch-size", "images in a step", type=whole(1), metavar="N")

    run = parser.add_argument_group("run")
    add(run, "--epochs", "passes over the training images", type=whole(1), metavar="N")
    add(
        run,
        "--seed",
        "of the initial weights, the groups, and the order of the images",
        type=whole(0, below=2**63),
        metavar="N",
    )
    _arguments.add_results(
        run, "a new folder for the results (default: runs/<data>-<optimizer>-<time>)"
    )
    run.add_argument(
        "--resume",
        help="go on with the run in this folder, as it was configured; --epochs may be larger",
        type=Path,
        metavar="DIR",
    )


def main(args: argparse.Namespace) -> int:
    """Trains as the arguments say, and returns the exit code."""
    given = {name: value for name, value in vars(args).items() if name in config.FIELDS}
    if "channels" in given:
        given["channels"] = tuple(given["channels"])  # argparse makes it a list
    if args.resume:
        if args.run_dir:
            raise UsageError("--resume goes on in the folder of that run; leave --run-dir away.")
        settings, digest = config.resumed(args.resume, given)
        run_dir = args.resume
    else:
        settings, digest = config.configured(given), None
        run_dir = args.run_dir or _terminal.new_run_dir(f"{settings.data}-{settings.optimizer}")
        if run_dir.is_file():
            raise UsageError(f"{run_dir} is a file; name another --run-dir.")
        if _terminal.is_taken(run_dir):
            raise UsageError(
                f"{run_dir} exists; name another --run-dir, or go on with that run by --resume "
                f"{run_dir}."
            )
    # Imported only now, so that --help and mistakes answer at once.
    from fgsgd_jax.experiments import fit

    return fit.fit(settings, run_dir, digest=digest, cache_dir=args.cache_dir, quiet=args.quiet)
