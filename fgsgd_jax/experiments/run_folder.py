"""The folder in which a run leaves its results, and the files that every command writes there."""

import contextlib
import csv
import itertools
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from fgsgd_jax.experiments.cli import UsageError
from fgsgd_jax.experiments.files import UNFINISHED, replacing
from fgsgd_jax.experiments.files import write_json as write_json

SUMMARY_FILE = "summary.json"
LOCK_FILE = f"{UNFINISHED}lock"  # what a killed program leaves of it does not make a folder taken

Row = dict[str, Any]
"""One row of a table: values by column name."""


def is_taken(folder: Path) -> bool:
    """Whether a new run cannot use this folder: it is a file, or holds a finished file."""
    if not folder.is_dir():
        return folder.exists()
    return any(not path.name.startswith(UNFINISHED) for path in folder.iterdir())


def new_run_dir(name: str) -> Path:
    """An unused folder `runs/<name>-<time>`, numbered if two runs start within one second."""
    stamped = f"{name}-{time.strftime('%Y%m%d-%H%M%S')}"
    endings = itertools.chain([""], (f"-{number}" for number in itertools.count(2)))
    folders = (Path("runs") / (stamped + ending) for ending in endings)
    return next(folder for folder in folders if not folder.exists())


@contextlib.contextmanager
def held(folder: Path) -> Iterator[None]:
    """Creates the folder of a run, and keeps other processes from writing there meanwhile.

    The operating system ends the lock of a program that is killed. A folder that was created and
    got no file is removed.

    Raises:
        UsageError: If another process holds the folder, or it cannot be created or written.
    """
    # Delayed, so that a command line without the `train` extra can say what is missing.
    from filelock import FileLock, Timeout

    is_new = not folder.exists()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"{folder} cannot be made ({error}); give another --run-dir.") from error
    path = folder / LOCK_FILE
    lock = FileLock(path)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise UsageError(
            f"Another process is writing its results to {folder}; wait until it has ended, or give "
            "another folder."
        ) from None
    except OSError as error:
        raise UsageError(f"{path} cannot be locked ({error}); give another --run-dir.") from error
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            path.unlink()  # before the release, after which it may be the lock of another process
        lock.release()
        if is_new:
            with contextlib.suppress(OSError):  # it holds files
                folder.rmdir()


def write_rows(path: Path, rows: Sequence[Row], columns: Sequence[str]) -> None:
    """Writes all rows as CSV."""
    with replacing(path) as unfinished, unfinished.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        writer.writerows([row.get(name) for name in columns] for row in rows)


def report_folder(folder: Path, *, quiet: bool) -> None:
    """Prints where the results are; only the path if `quiet`, for use in scripts."""
    print(folder if quiet else f"Results are in {folder}")
