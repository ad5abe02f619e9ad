"""Arguments that commands share."""

from pathlib import Path
from typing import Any

from fgsgd_jax.experiments import data
from fgsgd_jax.experiments._terminal import one_of, whole_number


def add_images(group: Any, fewest: int) -> None:
    """Adds which images to take, and from where.

    Args:
        group: An argument parser, or a group of one.
        fewest: The fewest training images the command can do with.
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
        help="where the data lie, in the forms that `train` reads; nothing is downloaded",
        type=Path,
        metavar="DIR",
    )
    group.add_argument(
        "--train-size",
        help="use only N of the training images, those for validation among them (default: all)",
        type=whole_number(fewest),
        metavar="N",
    )
    add_cache_dir(group)


def add_cache_dir(group: Any) -> None:
    """Adds where decoded pictures are kept."""
    group.add_argument(
        "--cache-dir",
        help="keep decoded pictures here for the next run (default: decode each time)",
        type=Path,
        metavar="DIR",
    )


def add_results(group: Any, what: str) -> None:
    """Adds where the results go, and whether nothing else is printed.

    Args:
        group: An argument parser, or a group of one.
        what: The help of the folder.
    """
    group.add_argument("--run-dir", help=what, type=Path, metavar="DIR")
    group.add_argument("--quiet", help="print only the run folder", action="store_true")
