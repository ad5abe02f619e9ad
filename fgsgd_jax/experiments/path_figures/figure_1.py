"""Figure 1: errors over the number of hidden units, trained by SGD with momentum."""

from pathlib import Path

import numpy as np

from fgsgd_jax.experiments import plots
from fgsgd_jax.experiments.path_figures import training
from fgsgd_jax.experiments.path_figures.drawing import new_figure
from fgsgd_jax.experiments.path_figures.plan import Plan, Tick, rows_of
from fgsgd_jax.experiments.path_figures.vectors import Vectors
from fgsgd_jax.experiments.plots import DARK_BLUE, ORANGE
from fgsgd_jax.experiments.run_folder import Row, write_rows


def make(plan: Plan, images: Vectors, tick: Tick) -> Row:
    """Trains all widths, and writes figure1.csv and figure1.png.

    Args:
        plan: What was asked for.
        images: The images, averaged to 10×10 pixels.
        tick: Called after each epoch.

    Returns:
        The summary of the figure.
    """
    rows: list[Row] = []
    for seed in range(plan.seeds):
        for units in plan.widths:
            rows.append(_train(plan, images, seed, units, tick))
            write_rows(plan.folder / "figure1.csv", rows, list(rows[0]))
    draw(plan.folder / "figure1.png", rows, f"{plan.name}, one hidden layer")
    widest = [row for row in rows if row["units"] == max(plan.widths)]
    fitting = [row["units"] for row in rows if row["train_error"] == 0]
    return {
        "units that reach training error 0": min(fitting) if fitting else None,
        "units at most": widest[0]["units"],
        "test error there": float(np.mean([row["test_error_at_the_end"] for row in widest])),
    }


def _train(plan: Plan, images: Vectors, seed: int, units: int, tick: Tick) -> Row:
    """The errors of one width, at the end and at the epoch with the best validation error."""
    sizes = [images.inputs, units, images.classes]
    runs = training.train(
        "momentum",
        training.balanced_start(seed, sizes, plan.precision),
        images,
        plan.epochs,
        seed,
        rate=lambda epoch: 0.1 * 0.99**epoch,
        momentum=lambda epoch: min(0.9, 0.5 + 0.02 * epoch),
    )
    history = rows_of(tick, f"figure 1, {units} units", runs)
    best = min(history, key=lambda row: row["validation_error"])
    return {
        "units": units,
        "seed": seed,
        "train_error": history[-1]["train_error"],
        "test_error_at_the_end": history[-1]["test_error"],
        "test_error_stopped_early": best["test_error"],
        "epoch_stopped_early": best["epoch"],
    }


def draw(path: Path, rows: list[Row], title: str) -> None:
    """Draws the errors over the number of units, as means over the seeds."""
    figure, (panel,) = new_figure(1, title)
    widths = sorted({row["units"] for row in rows})
    for quantity, label, style in (
        ("train_error", "training", {"color": "0.5", "linestyle": "--"}),
        ("test_error_at_the_end", "test, at the end", {"color": DARK_BLUE}),
        ("test_error_stopped_early", "test, stopped early", {"color": ORANGE}),
    ):
        values = [
            100 * np.mean([row[quantity] for row in rows if row["units"] == units])
            for units in widths
        ]
        panel.plot(widths, values, marker=".", label=label, **style)
    panel.set_xscale("log", base=2)
    panel.set_xticks(widths, [str(units) for units in widths])
    panel.set_ylim(bottom=0)
    panel.set_xlabel("hidden units")
    panel.set_ylabel("classification error (%)")
    panel.legend(frameon=False)
    plots.save(figure, path)
