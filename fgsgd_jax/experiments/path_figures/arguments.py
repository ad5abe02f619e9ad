"""The arguments of `paths`."""

import argparse

from fgsgd_jax.experiments import shared_arguments
from fgsgd_jax.experiments.argument_types import one_of, whole_number
from fgsgd_jax.experiments.shared_arguments import add_number


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of this command to its parser."""
    shared_arguments.add_images(parser.add_argument_group("data"), fewest=12)
    size = parser.add_argument_group("size")
    size.add_argument(
        "--figures",
        help="which figures, out of 1 2 3 (default: all)",
        type=one_of("123"),
        nargs="+",
        default=["1", "2", "3"],
        metavar="N",
    )
    add_number(
        size,
        "--units",
        "units in each hidden layer of figures 2 and 3, and the most units of figure 1; 4000 in "
        "the paper",
        128,
        whole_number(8),
    )
    add_number(
        size, "--epochs", "passes over the training images in every run", 20, whole_number(1)
    )
    add_number(
        size, "--validation-epochs", "passes for choosing a learning rate", 2, whole_number(1)
    )
    add_number(
        size,
        "--seeds",
        "how often everything is repeated, with other weights and another order of the images",
        1,
        whole_number(1),
    )
    add_number(
        size,
        "--precision",
        "float64 keeps equal curves equal, float32 is faster",
        "float64",
        one_of(("float32", "float64")),
        "TYPE",
    )
    shared_arguments.add_results(
        parser.add_argument_group("run"),
        "a new folder for the results (default: runs/paths-<data>-<time>)",
    )
