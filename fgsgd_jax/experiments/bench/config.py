"""The settings of the benchmark of whole updates, and the constants of all benchmarks."""

import dataclasses
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from fgsgd_jax.experiments.arguments import (
    Count,
    SchemeName,
    SeveralManifolds,
    heading,
    one_of,
    read_by,
    real,
)
from fgsgd_jax.experiments.bench.networks import NETWORKS
from fgsgd_jax.experiments.cli import UsageError
from fgsgd_jax.experiments.mistakes import closest

MOMENTUM = 0.9
RATE = 1e-3

UPDATES, SIZE, RESULTS = map(heading, ("Updates", "Size", "Results"))

# Sections that this command once had, and that are now only in the repository.
MOVED = ("accuracy", "compilation", "growth", "matrices", "paths", "peers", "share", "verbs")


@Parameter(name="*")
@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """What to measure. The text under each field is its help on the command line."""

    networks: Annotated[tuple[Annotated[str, one_of(NETWORKS)], ...], UPDATES] = ("resnet18-3x3",)
    """whose weights, out of resnet18-3x3, resnet18, resnet50, vit-s, wrn-28-10"""

    manifolds: Annotated[SeveralManifolds, UPDATES] = (
        ("sphere",),
        ("oblique",),
        ("stiefel",),
        ("sphere", "oblique", "stiefel"),
    )
    """sets of manifolds for FG-SGD, each joined by +, out of sphere (sp), oblique (ob), stiefel
    (st), euclidean (euc)"""

    schemes: Annotated[tuple[SchemeName, ...], UPDATES] = ("PI", "PO", "PIO")
    """schemes for FG-SGD"""

    momentum: Annotated[Literal["none", "one", "all"], one_of(("none", "one", "all")), UPDATES] = (
        "one"
    )
    """the schemes for which FG-SGD also runs with momentum 0.9: none, one (PO, or else the first of
    --schemes), or all"""

    width: Annotated[float, real(1 / 64), SIZE] = 1.0
    """multiply the numbers of channels of networks, and the sides of large matrices"""

    rounds: Annotated[Count, SIZE] = 11
    """how often each contestant is timed"""


def _section(word: str) -> str:
    if word.lower() in MOVED:
        raise UsageError(
            f"--sections must be updates; got {word!r}. In a clone of the repository, run "
            f"python -m tests.benchmarks --sections {word.lower()}."
        )
    return {"updates": "updates"}[word.lower()]


@Parameter(name="*")
@dataclasses.dataclass(frozen=True, kw_only=True)
class Bench(Settings):
    """The settings of the command, and where it writes."""

    sections: Annotated[
        tuple[
            Annotated[
                str,
                read_by(_section, "updates", lambda word: closest(word, ("updates",))),
            ],
            ...,
        ],
        UPDATES,
    ] = ("updates",)
    """what to measure; updates is the only section"""

    json: Annotated[Path | None, RESULTS] = None
    """also write the figures to this file"""


def require_writable(flag: str, path: Path | None) -> None:
    """Raises `UsageError` if a file is given that is a folder, or whose folder does not exist."""
    if path and (path.is_dir() or not path.absolute().parent.is_dir()):
        raise UsageError(f"{flag} {path} is not a file in a folder that exists.")
