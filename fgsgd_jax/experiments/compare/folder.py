"""The folder of a comparison: its settings, and the trials that are already done."""

import csv
import dataclasses
import json
from pathlib import Path

from fgsgd_jax.experiments.cli import UsageError
from fgsgd_jax.experiments.files import read_fingerprinted, write_fingerprinted
from fgsgd_jax.experiments.run_folder import Row, is_taken, make_run_dir
from fgsgd_jax.experiments.train.config import Config

TRIALS_FILE, SETTINGS_FILE = "trials.csv", "config.json"


def open_folder(run_dir: Path, ablate: str, settings: Config, digest: str) -> None:
    """Creates the folder, or checks that it belongs to the same comparison.

    Args:
        run_dir: The folder.
        ablate: What is varied.
        settings: The configuration that all trials share.
        digest: The digest of the data.

    Raises:
        UsageError: If the folder holds something else.
    """
    content = json.loads(
        json.dumps({"ablate": ablate, "digest": digest} | dataclasses.asdict(settings))
    )
    path, remedy = run_dir / SETTINGS_FILE, "give another --run-dir"
    if path.exists():
        if read_fingerprinted(path, "the comparison", remedy) != content:
            raise UsageError(
                f"{run_dir} holds trials of other settings or images; give another --run-dir."
            )
        return
    if is_taken(run_dir):
        raise UsageError(
            f"{run_dir} exists and is not the folder of a comparison; give another --run-dir."
        )
    make_run_dir(run_dir)
    write_fingerprinted(path, content)


def read_trials(path: Path) -> list[Row]:
    """The rows of all trials done so far; none if the file does not exist."""
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return [
            {
                name: cell if name == "variant" else int(cell) if name == "seed" else float(cell)
                for name, cell in cells.items()
                if cell
            }
            for cells in csv.DictReader(file)
        ]
