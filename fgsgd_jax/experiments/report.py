"""What a run leaves behind: metrics, a summary, a figure, and a table on the terminal."""

import csv
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import rich.box
import rich.console
import rich.table
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter

from fgsgd_jax import bounds
from fgsgd_jax.experiments._terminal import UsageError

METRICS_FILE, SUMMARY_FILE, CURVES_FILE = "metrics.csv", "summary.json", "curves.png"
DIAGNOSTICS_FILE, MARGINS_FILE = "diagnostics.png", "margins.png"

BOUNDS = {name: name.replace("_", " ").title() for name in bounds.Bounds._fields[:3]}
KINDS = bounds.NetworkBounds._fields
BOUND_COLUMNS = tuple(f"{kind}_{name}" for kind in KINDS for name in BOUNDS)
INSIGHTS = (
    "group_frobenius",
    "group_spectral",
    "layer_frobenius",
    "layer_spectral",
    "smallest_scale",
    "largest_scale",
    "normal",
    "gradient_norm",
    "tau",
    "normalized_share",
    "angle",
    *BOUND_COLUMNS,
)
METRICS = (
    "epoch",
    "train_loss",
    "train_error",
    "test_loss",
    "test_error",
    "drift",
    "seconds_per_step",
    "learning_rate",
    *INSIGHTS,
)
"""The columns of `metrics.csv`. Errors are fractions; training loss and error are means over the
epoch, while the weights changed. Insights, of the last step of the epoch, are the largest of all
weights on manifolds, in the words of `fgsgd_jax.diagnostics`, and the logarithms of the bounds of
Table 1, on groups and on whole layers; like `drift` they are empty where nothing is on a manifold.
"""

Row = dict[str, Any]
Panels = tuple[tuple[str, str, dict[str, str]], ...]
SERIES_COLORS = ("#1f4e79", "#8fb4d9", "#b5541c", "#1f4e79", "#8fb4d9", "#b5541c")
TRAIN_COLOR, TEST_COLOR, DRIFT_COLOR = "#8fb4d9", "#1f4e79", "#b5541c"


def write_rows(path: Path, rows: Sequence[Row], columns: Sequence[str]) -> None:
    """Writes all rows, under another name first: who reads the file sees whole rows."""
    unfinished = path.with_suffix(".tmp")
    with unfinished.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        writer.writerows([row.get(name) for name in columns] for row in rows)
    unfinished.replace(path)


def read_metrics(path: Path, epochs: int) -> list[Row]:
    """Reads the rows of the first `epochs` epochs; later ones have no checkpoint."""
    try:
        with path.open(newline="") as file:
            rows = [_row(cells) for cells in csv.DictReader(file)][:epochs]
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise UsageError(f"{path} is not readable ({error}); start a new run.") from error
    if [row["epoch"] for row in rows] != list(range(1, epochs + 1)):
        raise UsageError(f"{path} lacks some of the {epochs} epochs trained; start a new run.")
    return rows


def _row(cells: Mapping[str, str]) -> Row:
    row: Row = {name: float(cells[name]) if cells[name] else None for name in METRICS}
    row["epoch"] = int(cells["epoch"])
    return row


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n")


def print_table(summary: Mapping[str, Any], title: str) -> None:
    """Prints the summary of a run for people to read."""
    table = rich.table.Table(box=rich.box.SIMPLE_HEAD, title=title, title_style="bold")
    table.add_column("after training")
    table.add_column("", justify="right")
    table.add_row("train error (mean over the last epoch)", f"{summary['train_error']:.2%}")
    table.add_row("test error", f"{summary['test_error']:.2%}", style="bold")
    table.add_row("train loss", f"{summary['train_loss']:.4f}")
    table.add_row("test loss", f"{summary['test_loss']:.4f}")
    if summary["drift"] is not None:
        table.add_row("drift from the manifolds", f"{summary['drift']:.1e}")
    table.add_row("time per step (median)", f"{1e3 * summary['seconds_per_step']:.2f} ms")
    table.add_row("parameters", f"{summary['parameters']:,}")
    if summary["components"]:
        table.add_row("component weights on manifolds", f"{summary['components']:,}")
        table.add_row("groups", f"{summary['groups']:,}")
    rich.console.Console().print(table)


def draw_diagnostics(path: Path, rows: Sequence[Row], title: str) -> None:
    """Draws norms, normalizer, angles and bounds over the epochs."""
    panels: Panels = (
        (
            "largest norm",
            "linear",
            {
                "group, Frobenius": "group_frobenius",
                "group, spectral": "group_spectral",
                "layer, spectral": "layer_spectral",
            },
        ),
        ("largest of the groups", "log", {"gradient norm g": "gradient_norm", "τ": "tau"}),
        (
            "largest angle of a step (rad)",
            "log",
            {"angle": "angle"},
        ),
        (
            "log of the bound",
            "linear",
            {f"{kind}, {BOUNDS[name]}": f"{kind}_{name}" for kind in KINDS for name in BOUNDS},
        ),
    )
    figure = Figure(figsize=(4.2 * len(panels), 4.1), layout="constrained")
    figure.suptitle(title, fontsize=11)
    epochs = [row["epoch"] for row in rows]
    for panel, (label, scale, series) in zip(figure.subplots(1, len(panels)), panels, strict=True):
        for (name, column), color in zip(series.items(), SERIES_COLORS, strict=False):
            values = [row.get(column) for row in rows]
            if None in values:
                continue
            line = "--" if name.startswith("layer") else "-"
            panel.plot(epochs, values, line, color=color, marker=".", linewidth=1.6, label=name)
        if "norm" in label:
            panel.axhline(1, color="0.6", linestyle=":", linewidth=1, label="1")
            panel.set_ylim(bottom=0)
        numbers = [number for line in panel.lines for number in np.ravel(line.get_ydata())]
        # Of less than a power of ten a log axis labels too few numbers.
        if scale == "log" and numbers and 0 < 20 * min(numbers) < max(numbers):
            panel.set_yscale("log")
            label_log(panel.yaxis)
        panel.set_ylabel(label)
        if len(series) > 1 and panel.lines:
            below = {"loc": "upper center", "bbox_to_anchor": (0.5, -0.18)}
            panel.legend(frameon=False, fontsize=8, handlelength=3, ncols=2, **below)
    _over_epochs(figure, len(rows))
    save(figure, path)


def draw_margins(path: Path, margins: np.ndarray, title: str) -> None:
    """Draws the distribution of the normalized margins of the training images."""
    figure = Figure(figsize=(6.4, 3.6), layout="constrained")
    figure.suptitle(title, fontsize=10)
    panel = figure.subplots()
    panel.hist(margins, bins=40, density=True, color=TRAIN_COLOR)
    panel.axvline(0, color="0.4", linewidth=1)
    panel.set_xlabel("normalized margin of a training image (Bartlett et al., 2017)")
    panel.set_ylabel("density")
    save(figure, path)


def _over_epochs(figure: Figure, epochs: int) -> None:
    """Axes over epochs, all alike."""
    for panel in figure.axes:
        panel.set_xlabel("epoch")
        panel.set_xlim(0.5, epochs + 0.5)
        panel.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))


def label_log(axis: Axis) -> None:
    """Labels a log axis with plain numbers, and with enough of them to read it by."""
    low, high = axis.get_view_interval()
    if high < 8 * low:
        axis.set_major_locator(MaxNLocator(nbins=5))
    elif high < 200 * low:
        axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.set_major_formatter("{x:g}")
    axis.set_minor_formatter(NullFormatter())


def save(figure: Figure, path: Path) -> None:
    """Writes a figure, its panels with a faint grid and without the box around them."""
    for panel in figure.axes:
        panel.grid(alpha=0.25)
        panel.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=150)


def draw_curves(path: Path, rows: Sequence[Row], title: str) -> None:
    """Draws loss, error and drift over the epochs."""
    on_manifolds = rows[0]["drift"] is not None
    panels = 3 if on_manifolds else 2
    figure = Figure(figsize=(4.2 * panels, 3.6), layout="constrained")
    figure.suptitle(title, fontsize=11)
    axes = figure.subplots(1, panels)
    epochs = [row["epoch"] for row in rows]
    for panel, quantity, factor, label in (
        (axes[0], "loss", 1, "cross-entropy loss"),
        (axes[1], "error", 100, "classification error (%)"),
    ):
        for half, color in (("train", TRAIN_COLOR), ("test", TEST_COLOR)):
            values = [factor * row[f"{half}_{quantity}"] for row in rows]
            panel.plot(epochs, values, color=color, marker=".", linewidth=1.8, label=half)
        panel.set_ylabel(label)
        panel.legend(frameon=False)
    axes[0].set_yscale("log")
    label_log(axes[0].yaxis)
    axes[1].set_ylim(bottom=0)
    if on_manifolds:
        resolution = float(np.finfo(np.float32).eps)
        # A log axis has no zero; a drift of exactly 0 is drawn at a tenth of an ulp.
        drift = [max(row["drift"], resolution / 10) for row in rows]
        axes[2].semilogy(epochs, drift, color=DRIFT_COLOR, marker=".", linewidth=1.8)
        axes[2].axhline(resolution, color="0.6", linestyle=":", linewidth=1)
        axes[2].annotate(
            "float32 resolution",
            (1, resolution),
            xycoords=("axes fraction", "data"),
            xytext=(-2, -3),
            textcoords="offset points",
            ha="right",
            va="top",
            fontsize=8,
            color="0.4",
        )
        axes[2].set_ylim(resolution / 20, max(100 * resolution, 3 * max(drift)))
        axes[2].set_ylabel("drift: largest distance from a manifold")
    _over_epochs(figure, len(rows))
    save(figure, path)
