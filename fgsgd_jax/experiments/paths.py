"""Reproduce the figures of the Path-SGD paper, at a size that fits the machine.

Figure 1: one hidden layer of 8, 16, 32, … units, trained to the end: the test error goes on falling
after the training error has reached 0. Figure 2: two hidden layers, SGD from a balanced and from an
unbalanced start (rescaled at random, so that both compute the same function). Figure 3: the same
with SGD, AdaGrad and Path-SGD: to Path-SGD both starts are one.

For each optimizer and start the rate is a power of ten, chosen by the loss on validation images.
The paper's own size is --units 4000. The run folder gets a CSV and a figure for each, and
summary.json.
"""

import argparse
from pathlib import Path

from fgsgd_jax.experiments import _terminal, data
from fgsgd_jax.experiments._terminal import UsageError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of this command to its parser."""
    whole = _terminal.whole_number
    images = parser.add_argument_group("data")
    images.add_argument(
        "--data",
        help="digits come with scikit-learn, the others from --data-dir (default: digits)",
        type=_terminal.one_of(data.NAMES),
        default="digits",
        metavar="|".join(data.NAMES),
    )
    images.add_argument(
        "--data-dir",
        help="where the data lie, in the forms that `train` reads; nothing is downloaded",
        type=Path,
        metavar="DIR",
    )
    images.add_argument(
        "--train-size",
        help="use only N of the training images (default: all)",
        type=whole(12),
        metavar="N",
    )
    images.add_argument(
        "--cache-dir", help="keep decoded pictures here for the next run", type=Path, metavar="DIR"
    )
    size = parser.add_argument_group("size")
    size.add_argument(
        "--figures",
        help="which figures, out of 1 2 3 (default: all)",
        type=_terminal.one_of("123"),
        nargs="+",
        default=["1", "2", "3"],
        metavar="N",
    )
    size.add_argument(
        "--units",
        help="units in each hidden layer of figures 2 and 3, and most units of figure 1 "
        "(default: 128; the paper: 4000)",
        type=whole(8),
        default=128,
        metavar="N",
    )
    size.add_argument(
        "--epochs",
        help="passes over the training images, in every run (default: 20)",
        type=whole(1),
        default=20,
        metavar="N",
    )
    size.add_argument(
        "--validation-epochs",
        help="passes for choosing a rate (default: 2)",
        type=whole(1),
        default=2,
        metavar="N",
    )
    size.add_argument(
        "--seeds",
        help="how often everything is repeated, with other weights and orders (default: 1)",
        type=whole(1),
        default=1,
        metavar="N",
    )
    size.add_argument(
        "--precision",
        help="of all numbers; in float64 equal curves stay equal, float32 is faster (default: "
        "float64)",
        type=_terminal.one_of(("float32", "float64")),
        default="float64",
        metavar="TYPE",
    )
    run = parser.add_argument_group("run")
    run.add_argument(
        "--run-dir",
        help="a new folder for the results (default: runs/paths-<data>-<time>)",
        type=Path,
        metavar="DIR",
    )
    run.add_argument("--quiet", help="print only the run folder", action="store_true")


def main(args: argparse.Namespace) -> int:
    """Trains what the figures need and draws them; returns the exit code."""
    data.require_folder(args.data, args.data_dir)
    run_dir = args.run_dir or _terminal.new_run_dir(f"paths-{args.data}")
    if _terminal.is_taken(run_dir):
        raise UsageError(f"{run_dir} exists; name another --run-dir.")
    # Imported only now, so that --help and mistakes answer at once.
    from fgsgd_jax.experiments import path_figures

    return path_figures.make(args, run_dir)
