"""The settings of all sections, and the arguments that set them."""

import dataclasses
import os
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from fgsgd_jax.experiments.arguments import Count, one_of
from fgsgd_jax.experiments.bench.config import RESULTS as RESULTS_GROUP
from fgsgd_jax.experiments.bench.config import SIZE, UPDATES, Settings, require_writable
from fgsgd_jax.experiments.cli import UsageError

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


@Parameter(name="*")
@dataclasses.dataclass(frozen=True, kw_only=True)
class BenchmarkSettings(Settings):
    """What to measure. The text under each field is its help on the command line."""

    components: Annotated[Count, SIZE] = 10_000_000
    """verbs, growth, peers: at most this many components at once"""

    steps: Annotated[Count, SIZE] = 1000
    """matrices: the number of steps before orthonormality is measured"""

    peer_python: Annotated[Path | None, SIZE] = None
    """peers: the Python interpreter that has torch and other peers (default: this one)"""

    figure: Annotated[Path | None, RESULTS_GROUP] = None
    """growth: draw the figure to this file"""


@Parameter(name="*")
@dataclasses.dataclass(frozen=True, kw_only=True)
class Program:
    """What the program does besides the settings of its sections."""

    sections: Annotated[tuple[Annotated[str, one_of(SECTIONS)], ...], UPDATES] = tuple(SECTIONS)
    """what to measure"""

    json: Annotated[Path | None, RESULTS_GROUP] = None
    """also write the figures to this file"""

    results: Annotated[
        tuple[Path, ...] | None, RESULTS_GROUP, Parameter(consume_multiple=(0, 1))
    ] = None
    """also write the tables to this Markdown file, one block for each section; blocks of sections
    that are not measured stay as they are (without PATH: tests/benchmarks/RESULTS.md)"""

    @property
    def results_file(self) -> Path | None:
        """The Markdown file; None writes none."""
        return None if self.results is None else (*self.results, RESULTS)[0]


def require_consistent(settings: BenchmarkSettings, program: Program) -> None:
    """Raises `UsageError` if a file cannot be written, or arguments contradict each other."""
    for flag, path in (
        ("--json", program.json),
        ("--figure", settings.figure),
        ("--results", program.results_file),
    ):
        require_writable(flag, path)
    if settings.figure and settings.figure.suffix not in PICTURES:
        raise UsageError(f"--figure {settings.figure} is none of {', '.join(PICTURES)}.")
    if settings.figure and "growth" not in program.sections:
        raise UsageError(
            f"--figure {settings.figure} is drawn by growth; name it in --sections, too."
        )
    if settings.peer_python and not os.access(settings.peer_python, os.X_OK):
        raise UsageError(f"--peer-python {settings.peer_python} is not a program that can be run.")
