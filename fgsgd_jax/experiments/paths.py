"""Reproduce the figures of the Path-SGD paper, at a size that fits the machine.

Figure 1: one hidden layer of 8, 16, 32, … units, trained to the end: the test error goes on falling
after the training error has reached 0. Figure 2: two hidden layers, SGD from a balanced and from an
unbalanced start (rescaled at random, so that both compute the same function). Figure 3: the same
with SGD, AdaGrad and Path-SGD: to Path-SGD both starts are one.

For each optimizer and start the rate is a power of ten, chosen by the loss on validation images.
The paper's own size is --units 4000. The run folder gets a CSV and a figure for each, summary.json,
and first_epoch.csv, the steps of figure 3.
"""

import argparse

from fgsgd_jax.experiments import _arguments, _terminal, data
from fgsgd_jax.experiments._terminal import UsageError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of this command to its parser."""
    whole = _terminal.whole_number
    _arguments.add_images(parser.add_argument_group("data"), fewest=12)
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
    _arguments.add_results(
        parser.add_argument_group("run"),
        "a new folder for the results (default: runs/paths-<data>-<time>)",
    )


def main(args: argparse.Namespace) -> int:
    """Trains what the figures need and draws them; returns the exit code."""
    data.require_folder(args.data, args.data_dir)
    run_dir = args.run_dir or _terminal.new_run_dir(f"paths-{args.data}")
    if _terminal.is_taken(run_dir):
        raise UsageError(f"{run_dir} exists; name another --run-dir.")
    # Imported only now, so that --help and mistakes answer at once.
    from fgsgd_jax.experiments import path_figures

    return path_figures.make(args, run_dir)
