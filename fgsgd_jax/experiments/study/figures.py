"""What the figures of the studies share: panels, one legend, one color for each method."""

import itertools
import statistics
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from fgsgd_jax.experiments import plots
from fgsgd_jax.experiments.run_folder import Row
from fgsgd_jax.experiments.study.grid import Study, contains

COLORS = (
    plots.ORANGE,
    plots.LIGHT_BLUE,
    "#5b8c5a",
    plots.DARK_BLUE,
    "#8c6bb1",
    "#c9a227",
    "0.6",
    "0.2",
    "#d5739d",
    "#7b5b3a",
    "#2a9d8f",
    "#b0b34f",
)


def colors(names: Iterable[str]) -> dict[str, str]:
    """A color for every name, in the order of the names; after the last color the first again."""
    return dict(zip(dict.fromkeys(names), itertools.cycle(COLORS), strict=False))


def panels(rows: int, columns: int, *, sharey: bool = True) -> tuple[Figure, Any]:
    """A figure with space for a legend, and its panels, an array `(rows, columns)`."""
    figure = Figure(figsize=(4 * columns + 2.2, 3.2 * rows + 0.4), layout="constrained")
    return figure, figure.subplots(rows, columns, sharey=sharey, squeeze=False)


def save(figure: Figure, path: Path) -> None:
    """Writes a figure with the legend of its last panel beside the panels."""
    handles, labels = figure.axes[-1].get_legend_handles_labels()
    figure.legend(handles, labels, frameon=False, loc="outside right center")
    plots.save(figure, path)


def best_by_rate(
    study: Study, rows: Iterable[Row], case: Mapping[str, Any], method: str, rate: str
) -> dict[float, float]:
    """By rate, the lowest mean validation error among the settings of a method with this rate.

    Args:
        study: The study.
        rows: Its trials.
        case: One of its cases.
        method: One of its methods.
        rate: The name of the rate among the settings.
    """
    of_method = study.rows_of(rows, case, method)
    tuning = [row for row in of_method if row["seed"] < study.tuning_seeds]
    best: dict[float, float] = {}
    for settings in study.methods[method]:
        errors = [row["validation_error"] for row in tuning if contains(row, settings)]
        best[settings[rate]] = min(best.get(settings[rate], 1.0), statistics.fmean(errors))
    return dict(sorted(best.items()))


def draw_rates(
    study: Study, rows: list[Row], path: Path, *, rate: str, largest: float | None = None
) -> None:
    """Draws the validation error over the rate, and the test error of every method.

    Args:
        study: A study of one case, whose settings have a `rate`.
        rows: Its trials.
        path: The file of the figure.
        rate: What the rate is of, as a label.
        largest: The end of the axis of validation errors, which then starts at 0.
    """
    study = study.finished(rows)
    (case,) = study.cases
    figure, ((over_rate, of_methods),) = panels(1, 2, sharey=False)
    for place, (method, color) in enumerate(colors(study.methods).items()):
        best = best_by_rate(study, rows, case, method, "rate")
        over_rate.plot(list(best), list(best.values()), ".-", color=color)
        errors = [row["test_error"] for row in study.chosen(rows, case, method)]
        of_methods.errorbar(
            place, statistics.fmean(errors), statistics.stdev(errors), fmt="o", color=color,
            label=method,
        )  # fmt: skip
    over_rate.set(xscale="log", xlabel=rate, ylabel="validation error")
    if largest is not None:
        over_rate.set_ylim(0, largest)
    of_methods.set(ylabel="test error", ylim=(0, None), xticks=[])
    save(figure, path)
