"""The figures of a training run: curves.png, diagnostics.png and margins.png."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from fgsgd_jax.experiments import plots
from fgsgd_jax.experiments.plots import DARK_BLUE, LIGHT_BLUE, ORANGE
from fgsgd_jax.experiments.run_folder import Row
from fgsgd_jax.experiments.train.metrics import BOUNDS, KINDS

CURVES_FILE, DIAGNOSTICS_FILE, MARGINS_FILE = "curves.png", "diagnostics.png", "margins.png"

# The panels of diagnostics.png: axis label, scale of the axis, columns by their label.
PANELS: tuple[tuple[str, str, dict[str, str]], ...] = (
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
    ("largest angle of a step (rad)", "log", {"angle": "angle"}),
    (
        "log of the bound",
        "linear",
        {f"{kind}, {BOUNDS[name]}": f"{kind}_{name}" for kind in KINDS for name in BOUNDS},
    ),
)
SERIES_COLORS = 2 * (DARK_BLUE, LIGHT_BLUE, ORANGE)


def draw_curves(path: Path, rows: Sequence[Row], title: str) -> None:
    """Draws loss, error and drift over the epochs; no drift if no weight is on a manifold."""
    on_manifolds = rows[0]["drift"] is not None
    panels = 3 if on_manifolds else 2
    figure = Figure(figsize=(4.2 * panels, 3.6), layout="constrained")
    figure.suptitle(title, fontsize=11)
    axes = figure.subplots(1, panels)
    for panel, quantity, factor, label in (
        (axes[0], "loss", 1, "cross-entropy loss"),
        (axes[1], "error", 100, "classification error (%)"),
    ):
        for half, color in (("train", LIGHT_BLUE), ("test", DARK_BLUE)):
            values = [factor * row[f"{half}_{quantity}"] for row in rows]
            panel.plot(_epochs(rows), values, color=color, marker=".", linewidth=1.8, label=half)
        panel.set_ylabel(label)
        panel.legend(frameon=False)
    axes[0].set_yscale("log")
    plots.label_log(axes[0].yaxis)
    axes[1].set_ylim(bottom=0)
    if on_manifolds:
        _draw_drift(axes[2], rows)
    _label_epochs(figure, len(rows))
    plots.save(figure, path)


def _draw_drift(panel: Axes, rows: Sequence[Row]) -> None:
    resolution = float(np.finfo(np.float32).eps)
    # A logarithmic axis has no zero: a drift of 0 is drawn at a tenth of the resolution.
    drift = [max(row["drift"], resolution / 10) for row in rows]
    panel.semilogy(_epochs(rows), drift, color=ORANGE, marker=".", linewidth=1.8)
    panel.axhline(resolution, color="0.6", linestyle=":", linewidth=1)
    panel.annotate(
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
    panel.set_ylim(resolution / 20, max(100 * resolution, 3 * max(drift)))
    panel.set_ylabel("drift: largest distance from a manifold")


def draw_diagnostics(path: Path, rows: Sequence[Row], title: str) -> None:
    """Draws norms, normalizer, angles and bounds over the epochs."""
    figure = Figure(figsize=(4.2 * len(PANELS), 4.1), layout="constrained")
    figure.suptitle(title, fontsize=11)
    for panel, (label, scale, series) in zip(figure.subplots(1, len(PANELS)), PANELS, strict=True):
        _draw_series(panel, rows, series)
        if "norm" in label:
            panel.axhline(1, color="0.6", linestyle=":", linewidth=1, label="1")
            panel.set_ylim(bottom=0)
        numbers = [number for line in panel.lines for number in np.ravel(line.get_ydata())]
        # Within less than about a decade, a logarithmic axis has too few labels.
        if scale == "log" and numbers and 0 < 20 * min(numbers) < max(numbers):
            panel.set_yscale("log")
            plots.label_log(panel.yaxis)
        panel.set_ylabel(label)
        if len(series) > 1 and panel.lines:
            below = {"loc": "upper center", "bbox_to_anchor": (0.5, -0.18)}
            panel.legend(frameon=False, fontsize=8, handlelength=3, ncols=2, **below)
    _label_epochs(figure, len(rows))
    plots.save(figure, path)


def _draw_series(panel: Axes, rows: Sequence[Row], series: Mapping[str, str]) -> None:
    """Draws the columns that have a value in every row; columns of layers are dashed."""
    for (name, column), color in zip(series.items(), SERIES_COLORS, strict=False):
        values = [row[column] for row in rows if row.get(column) is not None]
        if len(values) == len(rows):
            line = "--" if name.startswith("layer") else "-"
            panel.plot(
                _epochs(rows), values, line, color=color, marker=".", linewidth=1.6, label=name
            )


def draw_margins(path: Path, margins: np.ndarray, title: str) -> None:
    """Draws the distribution of the normalized margins of the training images."""
    figure = Figure(figsize=(6.4, 3.6), layout="constrained")
    figure.suptitle(title, fontsize=10)
    panel = figure.subplots()
    finite = margins[np.isfinite(margins)]
    if len(finite):
        # Equal margins need a range too, which rounding must not close.
        low, high = float(finite.min()), float(finite.max())
        width = max(high - low, 1e-3 * max(abs(low), abs(high)), 1e-30)
        middle = low / 2 + high / 2
        around = (middle - width / 2, middle + width / 2)
        panel.hist(finite, bins=40, range=around, density=True, color=LIGHT_BLUE)
    if len(finite) < len(margins):  # of images that vanish when they are normalized
        panel.set_title(f"without {len(margins) - len(finite)} that are not finite", fontsize=8)
    panel.axvline(0, color="0.4", linewidth=1)
    panel.set_xlabel("normalized margin of a training image (Bartlett et al., 2017)")
    panel.set_ylabel("density")
    plots.save(figure, path)


def _epochs(rows: Sequence[Row]) -> list[int]:
    return [row["epoch"] for row in rows]


def _label_epochs(figure: Figure, epochs: int) -> None:
    """Gives all panels the same axis over epochs."""
    for panel in figure.axes:
        plots.label_epochs(panel)
        panel.set_xlim(0.5, epochs + 0.5)
