"""The settings of all sections, and the arguments that set them."""

import argparse
import dataclasses
import os
from pathlib import Path

from fgsgd_jax.experiments.argument_types import one_of, whole_number
from fgsgd_jax.experiments.bench import arguments
from fgsgd_jax.experiments.bench.settings import Settings
from fgsgd_jax.experiments.cli import UsageError
from fgsgd_jax.experiments.shared_arguments import add_number

SECTIONS = {
    "updates": "fgsgd_jax.experiments.bench.updates",
    "compilation": ".compilation",
    "verbs": ".verbs",
    "accuracy": ".accuracy",
    "matrices": ".matrices",
    "share": ".share",
    "growth": ".growth",
    "peers": ".peers",
    "paths": ".path_sgd",
}
"""The modules that measure, by the name of their section."""

RESULTS = Path(__file__).with_name("RESULTS.md")
PICTURES = (".png", ".pdf", ".svg")


@dataclasses.dataclass(frozen=True, kw_only=True)
class BenchmarkSettings(Settings):
    """What to measure, with the defaults of the program. `--help` explains each field."""

    components: int = 10_000_000
    steps: int = 1000
    peer_python: Path | None = None
    figure: Path | None = None


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of the program to its parser."""
    parser.add_argument(
        "--sections",
        help=f"what to measure, out of {', '.join(SECTIONS)} (default: all)",
        type=one_of(SECTIONS),
        nargs="+",
        default=list(SECTIONS),
        metavar="SECTION",
    )
    arguments.add_updates(parser.add_argument_group("updates"))
    size = parser.add_argument_group("size")
    arguments.add_size(
        size, "multiply the numbers of channels of networks, and the sides of large matrices, by F"
    )
    for flag, help in (
        ("--components", "verbs, growth, peers: at most N components at once"),
        ("--steps", "matrices: the number of steps before orthonormality is measured"),
    ):
        default = getattr(BenchmarkSettings, flag.removeprefix("--"))
        add_number(size, flag, help, default, whole_number(1))
    parser.add_argument(
        "--peer-python",
        help="peers: the Python interpreter that has torch and other peers (default: this one)",
        type=Path,
        metavar="PATH",
    )
    results = parser.add_argument_group("results")
    results.add_argument(
        "--figure", help="growth: draw the figure to this file", type=Path, metavar="PATH"
    )
    arguments.add_json(results)
    results.add_argument(
        "--results",
        help="also write the tables to this Markdown file, one block for each section; blocks of "
        "sections that are not measured stay as they are (without PATH: tests/benchmarks/"
        "RESULTS.md)",
        type=Path,
        nargs="?",
        const=RESULTS,
        metavar="PATH",
    )


def chosen(args: argparse.Namespace) -> BenchmarkSettings:
    """The settings that the arguments define.

    Raises:
        UsageError: If a file cannot be written, or arguments contradict each other.
    """
    for flag in ("json", "figure", "results"):
        arguments.require_writable(f"--{flag}", getattr(args, flag))
    if args.figure and args.figure.suffix not in PICTURES:
        raise UsageError(f"--figure {args.figure} is none of {', '.join(PICTURES)}.")
    if args.figure and "growth" not in args.sections:
        raise UsageError(f"--figure {args.figure} is drawn by growth; name it in --sections, too.")
    if args.peer_python and not os.access(args.peer_python, os.X_OK):
        raise UsageError(f"--peer-python {args.peer_python} is not a program that can be run.")
    fields = dataclasses.fields(BenchmarkSettings)
    return BenchmarkSettings(**{field.name: getattr(args, field.name) for field in fields})
