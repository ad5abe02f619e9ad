"""The common style of all figures: colors, axes over epochs, logarithmic axes, saving."""

from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter

from fgsgd_jax.experiments.files import replacing

DARK_BLUE, LIGHT_BLUE, ORANGE = "#1f4e79", "#8fb4d9", "#b5541c"


def label_log(axis: Axis) -> None:
    """Labels a logarithmic axis with plain numbers, and with enough of them to read values."""
    low, high = axis.get_view_interval()
    if high < 8 * low:
        axis.set_major_locator(MaxNLocator(nbins=5))
    elif high < 200 * low:
        axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.set_major_formatter("{x:g}")
    axis.set_minor_formatter(NullFormatter())


def label_epochs(panel: Axes) -> None:
    """Labels the horizontal axis as epochs, with ticks at whole numbers."""
    panel.set_xlabel("epoch")
    panel.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))


def save(figure: Figure, path: Path) -> None:
    """Writes a figure with a faint grid and without the top and right spines."""
    for panel in figure.axes:
        panel.grid(alpha=0.25)
        panel.spines[["top", "right"]].set_visible(False)
    with replacing(path) as unfinished:
        figure.savefig(unfinished, dpi=150)
