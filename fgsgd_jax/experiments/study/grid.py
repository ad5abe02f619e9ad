"""The grid of a study: which trials are run, in which order, and how they are kept.

A trial is a mapping of names to numbers and strings: its case (such as a depth), its method, the
settings of the method (such as a learning rate), and its seed. Results are kept in a file with one
JSON object a line, the trial and its results, appended as soon as they are known.
"""

import contextlib
import dataclasses
import json
import math
import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from tqdm import tqdm

from fgsgd_jax.experiments.cli import UsageError
from fgsgd_jax.experiments.run_folder import Row

Settings = Mapping[str, float]
"""The hyperparameters of a method, by name."""


@dataclasses.dataclass(frozen=True)
class Study:
    """A problem, the methods that are compared on it, and what is measured.

    Attributes:
        name: The name of the study.
        title: What is trained on which data, for the caption of the table.
        cases: What all methods are trained on, one mapping of names to values for each case.
        methods: By method, the settings to choose from. All methods have equally many, except those
            that have nothing to tune, `[{}]`.
        run: Trains one trial, and returns its results.
        score: The result by which settings are chosen, the lower the better; of validation data.
        results: By result, its label in the table.
        seeds: How many seeds the chosen settings are trained from.
        tuning_seeds: How many seeds all settings are trained from.
        draw: Draws all rows as the figure with this path.
        across_settings: By label in the table, a number computed from all rows of one method on
            one case, such as a range of learning rates.
        remarks: What stands below the table, in Markdown, from the study with the methods that are
            done, and their rows.
        tuning: What trials have besides while settings are chosen, such as a number of epochs.
        final: What trials with the chosen settings have instead. If it differs from `tuning`, the
            chosen settings are trained from all seeds, and only these trials are reported.
        shown_as: By result, how the table shows it if not as mean ± deviation: "percent" multiplies
            both by 100, "mean" leaves out the deviation.
        device: What the trials are run on, for the caption.
        together: How many trials of one method are given to `run_together` at once.
        run_together: Trains several trials of one method, in the place of `run`.
    """

    name: str
    title: str
    cases: Sequence[Mapping[str, Any]]
    methods: Mapping[str, Sequence[Settings]]
    run: Callable[[Row], Row]
    score: str
    results: Mapping[str, str]
    seeds: int
    tuning_seeds: int
    draw: Callable[[list[Row], Path], None]
    across_settings: Mapping[str, Callable[[list[Row]], float]] = dataclasses.field(
        default_factory=dict
    )
    remarks: Callable[["Study", list[Row]], str] | None = None
    tuning: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    final: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    shown_as: Mapping[str, Literal["percent", "mean"]] = dataclasses.field(default_factory=dict)
    device: str = ""
    together: int = 1
    run_together: Callable[[Sequence[Row]], Sequence[Row]] | None = None

    @property
    def default_folder(self) -> Path:
        """Where the results go by default."""
        return Path(f"runs/study-{self.name}")

    def __post_init__(self):
        counts = {name: len(grid) for name, grid in self.methods.items() if grid != [{}]}
        if len(set(counts.values())) > 1:
            raise ValueError(f"All methods of a study have equally many settings, not {counts}.")

    @property
    def tried(self) -> int:
        """How many settings of every method are tried."""
        return max(map(len, self.methods.values()))

    @property
    def later_seeds(self) -> range:
        """The seeds from which the chosen settings are trained when they are known."""
        return range(self.tuning_seeds if self.tuning == self.final else 0, self.seeds)

    def results_of(self, trials: Sequence[Row]) -> Sequence[Row]:
        """Runs trials of one method."""
        return self.run_together(trials) if self.run_together else list(map(self.run, trials))

    def rows_of(self, rows: Iterable[Row], case: Mapping[str, Any], method: str) -> list[Row]:
        """The rows of one method on one case."""
        return [row for row in rows if contains(row, {**case, "method": method})]

    def best(self, rows: Iterable[Row], case: Mapping[str, Any], method: str) -> Settings:
        """The settings of a method with the lowest mean score over the tuning seeds.

        A trial that diverged has a score of infinity, and so have its settings.
        """
        rows = [
            row
            for row in self.rows_of(rows, {**case, **self.tuning}, method)
            if row["seed"] < self.tuning_seeds
        ]

        def mean_score(settings: Settings) -> float:
            scores = [row[self.score] for row in rows if contains(row, settings)]
            return sum(scores) / len(scores) if None not in scores else math.inf

        return min(self.methods[method], key=mean_score)

    def chosen(self, rows: Iterable[Row], case: Mapping[str, Any], method: str) -> list[Row]:
        """The rows of a method with its best settings, in the order of the seeds."""
        rows = list(rows)
        best = self.best(rows, case, method)
        of_method = self.rows_of(rows, {**case, **self.final}, method)
        found = [row for row in of_method if contains(row, best)]
        return sorted(found, key=lambda row: row["seed"])

    def finished(self, rows: Iterable[Row]) -> "Study":
        """The same study with those methods whose trials are all known."""
        rows = list(rows)

        def is_finished(case: Mapping[str, Any], method: str) -> bool:
            tuned = self.rows_of(rows, {**case, **self.tuning}, method)
            if len(tuned) < len(self.methods[method]) * self.tuning_seeds:
                return False
            return len(self.chosen(rows, case, method)) == self.seeds

        methods = {
            method: settings
            for method, settings in self.methods.items()
            if all(is_finished(case, method) for case in self.cases)
        }
        return dataclasses.replace(self, methods=methods)


def contains(row: Mapping[str, Any], part: Mapping[str, Any]) -> bool:
    """Whether a row has all these values."""
    return all(row.get(name) == value for name, value in part.items())


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
        text = path.read_text() if path.exists() else ""
        whole = text[: text.rfind("\n") + 1]
        if whole != text:
            path.write_text(whole)
        self.rows: list[Row] = [
            self._row(line, number) for number, line in enumerate(whole.splitlines(), 1)
        ]

    def _row(self, line: str, number: int) -> Row:
        try:
            return json.loads(line)
        except ValueError:
            raise UsageError(
                f"Line {number} of {self.path} is damaged. Remove the line, and the same command "
                "repeats its trial."
            ) from None

    def has(self, trial: Row) -> bool:
        """Whether the results of a trial are known."""
        return any(contains(row, trial) for row in self.rows)

    def append(self, row: Row) -> None:
        """Keeps a row, on the disk when this returns."""
        self.rows.append(row)
        with self.path.open("a") as file:
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
            file.flush()
            os.fsync(file.fileno())


def _as_json(results: Row) -> Row:
    """Python numbers to six digits, None for what is not finite, which JSON cannot hold."""
    numbers = {name: float(value) for name, value in results.items()}
    return {
        name: float(f"{value:.6g}") if math.isfinite(value) else None
        for name, value in numbers.items()
    }
