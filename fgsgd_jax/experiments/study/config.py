"""The arguments of `study`."""

import dataclasses
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from fgsgd_jax.experiments.arguments import DATA, RUN, Count, Images, one_of, whole

STUDIES = ("classical", "convergence", "copying", "depth", "rates", "robustness", "streaming")
"""The studies; each is a module of this package with a function `study`."""

StudyName = Annotated[Literal[STUDIES], one_of(STUDIES)]  # pyright: ignore


@Parameter(name="*")
@dataclasses.dataclass(frozen=True, kw_only=True)
class Arguments(Images):
    """What a study is run with. The text under each field is its help on the command line."""

    train_size: Annotated[int | None, whole(100), DATA] = None
    """use only this many of the training images, including those held out for validation (default:
    all)"""

    delays: Annotated[tuple[Count, ...], DATA] = (100,)
    """delays of the copying memory, in steps; no other study uses them"""

    smoke: Annotated[bool, RUN] = False
    """run a small version of the study, to see whether everything works"""

    run_dir: Annotated[Path | None, RUN] = None
    """the folder of the results (default: `runs/study-<name>`, with the data if it has some)"""
