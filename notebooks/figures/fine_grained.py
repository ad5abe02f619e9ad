"""Draws `fine-grained.png`, the picture of the README: `python notebooks/figures/fine_grained.py`.

Left: the numbers of a kernel. Middle: the manifold and the group of each of its 3 × 3 slices, as
`fgsgd_jax.collection` draws them. Right: one step of `fgsgd` on a sphere, here in the plane.
"""

from pathlib import Path

import jax
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch

import fgsgd_jax as fg

INPUTS, OUTPUTS, GROUPS = 4, 8, 4
SYMBOLS = ("S", "Ob", "St")
COLORS = ("#8fb4d9", "#f0b27a", "#a3cfa0", "#c9b3dd")
INK, ACCENT = "#1f4e79", "#b5541c"


def draw_kernel(axis: Axes, kernel: np.ndarray) -> None:
    """The entries of the kernel, slice by slice."""
    for row in range(INPUTS):
        for column in range(OUTPUTS):
            extent = (column + 0.08, column + 0.92, row + 0.92, row + 0.08)
            axis.imshow(kernel[:, :, row, column], cmap="PuOr", vmin=-0.8, vmax=0.8, extent=extent)
    axis.set_title(f"a kernel: {INPUTS} × {OUTPUTS} slices of 3 × 3")
    axis.set_xlabel("output channels")


def draw_groups(axis: Axes, manifold_ids: np.ndarray, groups: np.ndarray) -> None:
    """The manifold of every slice as a symbol, its group as a color."""
    for (row, column), group in np.ndenumerate(groups):
        style = {"boxstyle": "round,pad=0.06,rounding_size=0.1", "facecolor": COLORS[group]}
        axis.add_patch(
            FancyBboxPatch((column + 0.16, row + 0.16), 0.68, 0.68, edgecolor="none", **style)
        )
        symbol = SYMBOLS[manifold_ids[row, column]]
        axis.text(column + 0.5, row + 0.52, symbol, ha="center", va="center", fontsize=11)
    axis.set_title(f"each on a manifold, in one of {GROUPS} groups")
    axis.set_xlabel("S sphere, Ob oblique, St Stiefel · one color, one group")


def draw_grid(axis: Axes) -> None:
    """What the two grids of slices share."""
    axis.set(xlim=(0, OUTPUTS), ylim=(INPUTS, 0), aspect="equal", xticks=[], yticks=[])
    axis.set_ylabel("input channels")
    axis.spines[:].set_visible(False)


def draw_step(axis: Axes) -> None:
    """One step on a circle: gradient, its tangent part, and the retraction."""
    arc = np.linspace(0.1, np.pi - 0.1, 200)
    axis.plot(np.cos(arc), np.sin(arc), color="0.6")
    point = np.array([np.cos(2.1), np.sin(2.1)])
    gradient = np.array([-0.75, -0.95])
    tangent = gradient - (point @ gradient) * point
    moved = point - 0.9 * tangent
    end = moved / np.linalg.norm(moved)
    for start, stop, color in (
        (point, point - gradient, "0.6"),
        (point, moved, INK),
        (moved, end, ACCENT),
    ):
        arrow = {"arrowstyle": "-|>", "color": color, "shrinkA": 0, "shrinkB": 0}
        axis.annotate("", stop, start, arrowprops=arrow)
    axis.plot(*point, "o", color=INK)
    axis.plot(*end, "o", color=ACCENT)
    for text, at, offset, color, align in (
        ("$x$", point, (-12, 2), INK, "right"),
        ("minus the gradient", point - gradient, (6, 0), "0.4", "left"),
        ("its tangent part,\ndivided by τ", moved, (8, 0), INK, "left"),
        ("retracted", end, (0, -16), ACCENT, "center"),
    ):
        axis.annotate(
            text, at, offset, textcoords="offset points", color=color, ha=align, va="center"
        )
    axis.set(xlim=(-1.1, 1.6), ylim=(0.2, 2), aspect="equal", xticks=[], yticks=[])
    axis.spines[:].set_visible(False)
    axis.set_title("the step of a slice")


def main() -> None:
    """Draws the figure and writes it beside this file."""
    params = {"kernel": jax.random.normal(jax.random.key(0), (3, 3, INPUTS, OUTPUTS))}
    manifolds = (fg.Sphere(), fg.Oblique(), fg.Stiefel())
    spec = fg.collection(params, ("kernel", fg.pom("PIO", manifolds, groups=GROUPS)))
    kernel = np.asarray(fg.project(params, spec)["kernel"])
    figure = Figure(figsize=(11, 2.7), layout="constrained")
    left, middle, right = figure.subplots(1, 3, width_ratios=(1, 1, 0.9))
    draw_kernel(left, kernel)
    draw_groups(
        middle, np.asarray(spec.manifold_ids()["kernel"]), np.asarray(spec.groups()["kernel"])
    )
    draw_grid(left)
    draw_grid(middle)
    draw_step(right)
    figure.savefig(Path(__file__).with_name("fine-grained.png"), dpi=130)


if __name__ == "__main__":
    main()
