"""The folder in which a run leaves its results, and the files that every command writes there."""

import csv
import itertools
import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fgsgd_jax.experiments.cli import UsageError

SUMMARY_FILE = "summary.json"

Row = dict[str, Any]
"""One row of a table: values by column name."""


def is_taken(folder: Path) -> bool:
    """Whether a new run cannot use this folder: it is a file, or not empty."""
    return folder.exists() and (not folder.is_dir() or any(folder.iterdir()))


def new_run_dir(name: str) -> Path:
    """An unused folder `runs/<name>-<time>`, numbered if two runs start within one second."""
    stamped = f"{name}-{time.strftime('%Y%m%d-%H%M%S')}"
    endings = itertools.chain([""], (f"-{number}" for number in itertools.count(2)))
    folders = (Path("runs") / (stamped + ending) for ending in endings)
    return next(folder for folder in folders if not folder.exists())


def make_run_dir(folder: Path) -> None:
    """Creates the folder of a run, or raises `UsageError` if that is impossible."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"{folder} cannot be made ({error}); give another --run-dir.") from error


def write_rows(path: Path, rows: Sequence[Row], columns: Sequence[str]) -> None:
    """Writes all rows as CSV to a temporary name and renames, so that no reader sees half a row."""
    unfinished = path.with_suffix(".tmp")
    with unfinished.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        writer.writerows([row.get(name) for name in columns] for row in rows)
    unfinished.replace(path)


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Writes a mapping as indented JSON."""
    path.write_text(json.dumps(content, indent=2) + "\n")


def report_folder(folder: Path, *, quiet: bool) -> None:
    """Prints where the results are; only the path if `quiet`, for use in scripts."""
    print(folder if quiet else f"Results are in {folder}")
