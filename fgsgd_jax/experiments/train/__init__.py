"""Train a convolutional network on small images, with its kernels on manifolds.

The run folder gets config.json, metrics.csv (a row for each epoch), summary.json, the figures
curves.png, diagnostics.png and margins.png, and a checkpoint after each epoch. The order of the
images is a function of the seed and the epoch, so a resumed run gives bit for bit the results of an
uninterrupted one on the same machine.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from fgsgd_jax.experiments import run_folder
from fgsgd_jax.experiments.cli import UsageError
from fgsgd_jax.experiments.train import saved_config
from fgsgd_jax.experiments.train.config import FIELDS, Config, Folder, flag, require_consistent

CONFIG, FOLDER = Config(), Folder()


def main(
    *,
    config: Config = CONFIG,
    folder: Folder = FOLDER,
    words: Annotated[Sequence[str], Parameter(parse=False)] = (),
) -> None:
    """Trains, or resumes training.

    Args:
        config: The run; for a resumed one, what was given now.
        folder: Where its results are.
        words: The words of the command line, which tell what was given from what is a default.

    Raises:
        UsageError: If the arguments contradict each other, or the folder cannot be used.
    """
    flags = {word.partition("=")[0].replace("_", "-") for word in words}
    given = [name for name in FIELDS if flag(name) in flags]
    if folder.resume and folder.run_dir:
        raise UsageError("--resume continues in the folder of that run; omit --run-dir.")
    saved = saved_config.load(folder.resume) if folder.resume else None
    if folder.resume and saved:
        config = saved_config.continued(saved, folder.resume, config, given)
    require_consistent(config, given)
    run_dir = folder.resume or _new_folder(folder, config)
    # A slow import: delayed so that --help and mistakes get their answer at once.
    from fgsgd_jax.experiments.train import loop

    with run_folder.held(run_dir):
        loop.run(config, run_dir, saved=saved, cache_dir=folder.cache_dir, quiet=folder.quiet)


def _new_folder(folder: Folder, config: Config) -> Path:
    run_dir = folder.run_dir or run_folder.new_run_dir(f"{config.data}-{config.optimizer}")
    if run_dir.is_file():
        raise UsageError(f"{run_dir} is a file; give another --run-dir.")
    if run_folder.is_taken(run_dir):
        raise UsageError(
            f"{run_dir} exists; give another --run-dir, or continue that run with --resume "
            f"{run_dir}."
        )
    return run_dir
