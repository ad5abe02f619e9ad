"""The figures of a comparison: error over the learning rate, and error next to the bounds."""

import statistics
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from fgsgd_jax.experiments import plots
from fgsgd_jax.experiments.compare.variants import SCALES
from fgsgd_jax.experiments.plots import DARK_BLUE, LIGHT_BLUE, ORANGE
from fgsgd_jax.experiments.run_folder import Row
from fgsgd_jax.experiments.train.metrics import BOUNDS, KINDS

COLORS = (DARK_BLUE, ORANGE, "#5b8c5a")  # of scales, and of bounds


def deviation(values: list[float]) -> float | None:
    """The standard deviation; None for a single value."""
    return statistics.stdev(values) if len(values) > 1 else None


def draw_rates(path: Path, rows: list[Row], best: list[Row], title: str) -> None:
    """Draws validation error over learning rate: a panel for each variant, a line for each scale.

    Args:
        path: The file to write.
        rows: All trials.
        best: The best rate of each variant and scale.
        title: The title.
    """
    variants = list(dict.fromkeys(row["variant"] for row in best))
    figure = Figure(figsize=(4.2 * len(variants), 3.6), layout="constrained")
    figure.suptitle(title, fontsize=11)
    panels = figure.subplots(1, len(variants), sharey=True, squeeze=False)[0]
    for panel, variant in zip(panels, variants, strict=True):
        for scale, color in zip(SCALES, COLORS, strict=True):
            rates, means, deviations = _curve(rows, variant, scale)
            panel.errorbar(
                rates, means, deviations, color=color, marker=".", capsize=2, label=f"{scale:g} γ"
            )
        panel.set_xscale("log")
        panel.set_yscale("log")
        plots.label_log(panel.xaxis)
        panel.set_title(variant, fontsize=10)
        panel.set_xlabel("learning rate")
    panels[0].set_ylabel("validation error (%)")
    plots.label_log(panels[0].yaxis)
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, frameon=False, title="scale s", loc="outside right center")
    plots.save(figure, path)


def _curve(
    rows: list[Row], variant: str, scale: float
) -> tuple[list[float], list[float], list[float]]:
    """Rates, and mean and deviation of the validation error in percent at each of them."""
    by_rate: dict[float, list[float]] = {}
    for row in rows:
        if row["variant"] == variant and row["scale"] == scale:
            by_rate.setdefault(row["learning_rate"], []).append(100 * row["validation_error"])
    rates = sorted(by_rate)
    means = [statistics.fmean(by_rate[rate]) for rate in rates]
    return rates, means, [deviation(by_rate[rate]) or 0 for rate in rates]


def draw_bounds(path: Path, rows: list[Row], best: list[Row], title: str) -> None:
    """Draws the test errors next to the logarithms of the bounds, a line for each variant.

    Args:
        path: The file to write.
        rows: All trials.
        best: The best rate of each variant.
        title: The title.
    """
    figure = Figure(figsize=(11, 1.4 + 0.4 * len(best)), layout="constrained")
    figure.suptitle(title, fontsize=11)
    error, of_groups, of_layers = figure.subplots(1, 3, sharey=True)
    places = np.arange(len(best))
    for place, row in zip(places, best, strict=True):
        errors = [
            100 * trial["test_error"]
            for trial in rows
            if all(trial[name] == row[name] for name in ("variant", "scale", "learning_rate"))
        ]
        error.plot(errors, [place] * len(errors), "o", color=LIGHT_BLUE)
        error.plot(100 * row["test_error"], place, "|", color=DARK_BLUE, markersize=14)
    for panel, kind in zip((of_groups, of_layers), KINDS, strict=True):
        for offset, ((name, label), color) in enumerate(zip(BOUNDS.items(), COLORS, strict=True)):
            values = [row[f"{kind}_{name}"] for row in best]
            panel.barh(places + 0.25 * (offset - 1), values, 0.24, color=color, label=label)
        panel.axvline(0, color="0.4", linewidth=1)
        panel.set_xlabel(f"log of the bound, on {kind}")
    of_layers.legend(frameon=False, fontsize=8)
    error.set_xlabel("test error (%)")
    error.set_yticks(places, [row["variant"] for row in best])
    error.invert_yaxis()
    plots.save(figure, path)
