"""The arguments of `bench`. The benchmark program in the repository's tests shares most of them."""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fgsgd_jax.experiments.argument_types import one_of, real_number, sum_of, whole_number
from fgsgd_jax.experiments.bench.networks import NETWORKS
from fgsgd_jax.experiments.bench.settings import MOMENTUM, Settings
from fgsgd_jax.experiments.cli import UsageError
from fgsgd_jax.experiments.config import MANIFOLDS, SCHEMES, spelled
from fgsgd_jax.experiments.shared_arguments import add_number

# Sections that this command once had, and that are now only in the repository.
MOVED = ("accuracy", "compilation", "growth", "matrices", "paths", "peers", "share", "verbs")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of this command to its parser."""
    parser.add_argument(
        "--sections",
        help="what to measure; updates is the only section (default: updates)",
        type=_section,
        nargs="+",
        default=["updates"],
        metavar="SECTION",
    )
    add_updates(parser)
    add_size(parser)
    add_json(parser)


def _section(text: str) -> str:
    if text.lower() in MOVED:
        raise argparse.ArgumentTypeError(
            f"{text!r} was given, but this command measures updates only; in a clone of the "
            f"repository, run python -m tests.benchmarks --sections {text.lower()}"
        )
    return one_of(("updates",))(text)


def add_updates(group: Any) -> None:
    """Adds the choice of networks and optimizers.

    Args:
        group: An argument parser, or a group of one.
    """
    _add_several(
        group,
        "--networks",
        f"whose weights, out of {', '.join(NETWORKS)}",
        one_of(NETWORKS),
        "NETWORK",
    )
    _add_several(
        group,
        "--manifolds",
        "sets of manifolds for FG-SGD, each joined by +, out of sphere (sp), oblique (ob), stiefel "
        "(st), euclidean (euc)",
        sum_of(MANIFOLDS),
        "A+B",
    )
    _add_several(
        group,
        "--schemes",
        f"schemes for FG-SGD, out of {', '.join(SCHEMES)}",
        one_of(SCHEMES),
        "SCHEME",
    )
    group.add_argument(
        "--momentum",
        help=f"the schemes for which FG-SGD also runs with momentum {MOMENTUM}: none, one (PO, or "
        "else the first of --schemes), or all (default: one)",
        type=one_of(("none", "one", "all")),
        default=Settings.momentum,
        metavar="none|one|all",
    )


def _add_several(
    group: Any, flag: str, help: str, type: Callable[[str], Any], metavar: str
) -> None:
    default = getattr(Settings, flag.removeprefix("--"))
    shown = " ".join(name if isinstance(name, str) else spelled(name) for name in default)
    group.add_argument(
        flag,
        help=f"{help} (default: {shown})",
        type=type,
        nargs="+",
        default=default,
        metavar=metavar,
    )


def add_size(group: Any, width_help: str = "multiply the numbers of channels by F") -> None:
    """Adds the size of networks and the number of rounds.

    Args:
        group: An argument parser, or a group of one.
        width_help: The help text of --width.
    """
    add_number(group, "--width", width_help, Settings.width, real_number(1 / 64), "F")
    add_number(
        group, "--rounds", "how often each contestant is timed", Settings.rounds, whole_number(1)
    )


def add_json(group: Any) -> None:
    """Adds the file for all figures.

    Args:
        group: An argument parser, or a group of one.
    """
    group.add_argument(
        "--json", help="also write the figures to this file", type=Path, metavar="PATH"
    )


def require_writable(flag: str, path: Path | None) -> None:
    """Raises `UsageError` if a file is given that is a folder, or whose folder does not exist."""
    if path and (path.is_dir() or not path.absolute().parent.is_dir()):
        raise UsageError(f"{flag} {path} is not a file in a folder that exists.")
