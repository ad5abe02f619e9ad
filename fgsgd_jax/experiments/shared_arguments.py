"""Command-line arguments that several commands share."""

import argparse
from pathlib import Path
from typing import Any

from fgsgd_jax.experiments import data
from fgsgd_jax.experiments.argument_types import one_of, whole_number
from fgsgd_jax.experiments.config import spelled


def with_default(help: str, default: Any) -> str:
    """The help text of an argument, with its default written as on the command line."""
    return f"{help} (default: {spelled(default)})"


def add_images(group: Any, fewest: int) -> None:
    """Adds the choice of images, and the folder they are read from.

    Args:
        group: An argument parser, or a group of one.
        fewest: The smallest number of training images that the command accepts.
    """
    group.add_argument(
        "--data",
        help="digits come with scikit-learn, the others from --data-dir (default: digits)",
        type=one_of(data.NAMES),
        default="digits",
        metavar="|".join(data.NAMES),
    )
    group.add_argument(
        "--data-dir",
        help="the folder with the data, in a format that `train` reads; nothing is downloaded",
        type=Path,
        metavar="DIR",
    )
    group.add_argument(
        "--train-size",
        help="use only N of the training images, including those held out for validation "
        "(default: all)",
        type=whole_number(fewest),
        metavar="N",
    )
    add_cache_dir(group)


def load_images(args: argparse.Namespace) -> data.ImageData:
    """Loads what the arguments of `add_images` and `add_results` choose."""
    return data.load(
        args.data,
        args.data_dir,
        train_size=args.train_size,
        cache_dir=args.cache_dir,
        quiet=args.quiet,
    )


def add_cache_dir(group: Any) -> None:
    """Adds the folder in which decoded pictures are cached."""
    group.add_argument(
        "--cache-dir",
        help="cache decoded pictures here for later runs (default: decode every time)",
        type=Path,
        metavar="DIR",
    )


def add_results(group: Any, folder_help: str) -> None:
    """Adds the folder of the results, and the switch that silences everything else.

    Args:
        group: An argument parser, or a group of one.
        folder_help: The help text of the folder.
    """
    group.add_argument("--run-dir", help=folder_help, type=Path, metavar="DIR")
    group.add_argument("--quiet", help="print only the path of the run folder", action="store_true")


def add_number(
    group: Any, flag: str, help: str, default: Any, type: Any, metavar: str = "N"
) -> None:
    """Adds an argument with one value, whose help ends with its default."""
    group.add_argument(
        flag, help=with_default(help, default), type=type, default=default, metavar=metavar
    )
