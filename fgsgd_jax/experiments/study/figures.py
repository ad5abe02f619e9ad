"""What the figures of the studies share: panels in a row, one legend, one color for each method."""

import itertools
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from fgsgd_jax.experiments import plots

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
