"""Drawing that the figures of the Path-SGD paper share, and figures 2 and 3 from their rows."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from fgsgd_jax.experiments import plots
from fgsgd_jax.experiments.path_figures.plan import OPTIMIZERS
from fgsgd_jax.experiments.path_figures.training import STARTS
from fgsgd_jax.experiments.plots import DARK_BLUE, ORANGE
from fgsgd_jax.experiments.run_folder import Row

COLORS = {"SGD": DARK_BLUE, "AdaGrad": ORANGE, "Path-SGD": "#3a7d44"}


def new_figure(panels: int, title: str):
    """A figure and an array of its panels, side by side."""
    size = (4.2 * panels, 4.1) if panels > 1 else (5.2, 3.8)
    figure = Figure(figsize=size, layout="constrained")
    figure.suptitle(title, fontsize=11)
    return figure, np.atleast_1d(figure.subplots(1, panels))


def draw_figure_2(path: Path, rows: list[Row], title: str) -> None:
    """Draws the training loss of SGD from both starts."""
    figure, (panel,) = new_figure(1, title)
    _draw_curves(panel, rows, "train_loss", 1, ("SGD",))
    panel.set_ylabel("training cross-entropy")
    panel.set_yscale("log")
    plots.label_log(panel.yaxis)
    panel.legend(frameon=False)
    plots.save(figure, path)


def draw_figure_3(path: Path, rows: list[Row], title: str) -> None:
    """Draws training loss, training error and test error of all optimizers from both starts."""
    figure, panels = new_figure(3, title)
    for panel, quantity, factor, label in zip(
        panels,
        ("train_loss", "train_error", "test_error"),
        (1, 100, 100),
        ("training cross-entropy", "training error (%)", "test error (%)"),
        strict=True,
    ):
        _draw_curves(panel, rows, quantity, factor, OPTIMIZERS)
        panel.set_ylabel(label)
        if factor == 100:
            panel.set_ylim(0, 100)
    panels[0].set_yscale("log")
    plots.label_log(panels[0].yaxis)
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, frameon=False, ncols=3, loc="outside lower center")
    plots.save(figure, path)


def _draw_curves(
    panel, rows: list[Row], quantity: str, factor: float, optimizers: Sequence[str]
) -> None:
    """Draws means over the seeds: balanced starts as wide light lines, unbalanced ones dashed."""
    for optimizer in optimizers:
        for start in STARTS:
            chosen = [r for r in rows if r["optimizer"] == optimizer and r["start"] == start]
            epochs = sorted({row["epoch"] for row in chosen})
            values = [
                factor * np.mean([row[quantity] for row in chosen if row["epoch"] == epoch])
                for epoch in epochs
            ]
            # Both lines stay visible where they coincide, as with Path-SGD.
            is_balanced = start == "balanced"
            panel.plot(
                epochs,
                values,
                color=COLORS[optimizer],
                linestyle="-" if is_balanced else (0, (2, 1.5)),
                linewidth=3.5 if is_balanced else 1.8,
                alpha=0.45 if is_balanced else 1,
                label=f"{optimizer}, {start}",
            )
    plots.label_epochs(panel)
