"""The trials of a study: they are run in the order of its grid, and kept.

Results are kept in a file with one JSON object a line, the trial and its results, appended as soon
as they are known.
"""

import contextlib
import json
import math
import os
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from tqdm import tqdm

from fgsgd_jax.experiments.cli import UsageError
from fgsgd_jax.experiments.run_folder import Row
from fgsgd_jax.experiments.study.grid import Study, contains


def run(
    study: Study,
    path: Path,
    stop_if_interrupted: Callable[[], None],
    *,
    quiet: bool,
    seconds: float | None = None,
) -> list[Row]:
    """Runs the trials that are not done yet.

    Args:
        study: The study.
        path: The file of the rows.
        stop_if_interrupted: Called after every trial.
        quiet: Whether to hide the progress bar.
        seconds: After this time no trial is started; None sets no limit.

    Returns:
        The rows of all trials that are done.
    """
    kept = Rows(path)
    end = math.inf if seconds is None else time.monotonic() + seconds
    settings = sum(map(len, study.methods.values()))
    runs = settings * study.tuning_seeds + len(study.methods) * len(study.later_seeds)
    total = len(study.cases) * runs
    done = sum(
        len(study.rows_of(kept.rows, case, method))
        for case in study.cases
        for method in study.methods
    )
    with tqdm(total=total, initial=done, unit=" trials", disable=quiet) as bar:

        def run_all(trials: Iterable[Row]) -> None:
            missing = [trial for trial in trials if not kept.has(trial)]
            for first in range(0, len(missing), study.together):
                if time.monotonic() >= end:
                    raise _OutOfTime
                group = missing[first : first + study.together]
                bar.set_description(" ".join(str(value) for value in group[0].values()))
                for trial, results in zip(group, study.results_of(group), strict=True):
                    kept.append(trial | _as_json(results))
                stop_if_interrupted()
                bar.update(len(group))

        with contextlib.suppress(_OutOfTime):
            for case in study.cases:
                for method, grid in study.methods.items():
                    of_method = {**case, "method": method}
                    run_all(
                        of_method | {**study.tuning, **setting, "seed": seed}
                        for setting in grid
                        for seed in range(study.tuning_seeds)
                    )
                    best = {**study.final, **study.best(kept.rows, case, method)}
                    run_all(of_method | {**best, "seed": seed} for seed in study.later_seeds)
    return kept.rows


class _OutOfTime(Exception):
    """No trial may be started any more."""


class Rows:
    """The rows in a file; a line that was cut off while it was written is removed."""

    def __init__(self, path: Path):
        self.path = path
        text = _text(path)
        whole = text[: text.rfind("\n") + 1]
        if whole != text:
            path.write_text(whole, encoding="utf-8")
        self.rows: list[Row] = [
            self._row(line, number) for number, line in enumerate(whole.splitlines(), 1)
        ]

    def _row(self, line: str, number: int) -> Row:
        with contextlib.suppress(ValueError):
            row = json.loads(line)
            if isinstance(row, dict) and "method" in row:
                return row
        raise UsageError(
            f"Line {number} of {self.path} is damaged. Remove the line, and the same command "
            "repeats its trial."
        )

    def has(self, trial: Row) -> bool:
        """Whether the results of a trial are known."""
        return any(contains(row, trial) for row in self.rows)

    def append(self, row: Row) -> None:
        """Keeps a row, on the disk when this returns; raises `UsageError` if it cannot."""
        self.rows.append(row)
        try:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(row, ensure_ascii=False) + "\n")
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise UsageError(
                f"{self.path} cannot be written ({error.strerror}); make room, and the same "
                "command continues."
            ) from error


def _text(path: Path) -> str:
    """The text of the file, empty if there is none; bytes that are no text damage their line."""
    try:
        return path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""
    except OSError as error:
        raise UsageError(
            f"{path} cannot be read ({error.strerror}); give another --run-dir."
        ) from error


def _as_json(results: Row) -> Row:
    """Python numbers to six digits, None for what is not finite, which JSON cannot hold."""
    numbers = {name: float(value) for name, value in results.items()}
    return {
        name: float(f"{value:.6g}") if math.isfinite(value) else None
        for name, value in numbers.items()
    }
