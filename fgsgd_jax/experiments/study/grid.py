"""The grid of a study: its cases, methods and settings, and which settings are the best.

A trial is a mapping of names to numbers and strings: its case (such as a depth), its method, the
settings of the method (such as a learning rate), and its seed. `running` runs the trials.
"""

import dataclasses
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

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
