"""`report`: the diagnostics of a network as a table and as a figure."""

import dataclasses
import inspect
from collections.abc import Mapping
from typing import Any

import numpy as np

from fgsgd_jax._text import aligned, did_you_mean
from fgsgd_jax.diagnostics._diagnosis import Diagnosis, diagnose, require_diagnoses
from fgsgd_jax.spec import Collection


@dataclasses.dataclass(frozen=True, repr=False)
class Report:
    """The diagnostics of the weights of a network: `print` shows a table, `draw` a figure.

    The report on the laws of a manifold or optimizer is another class, `fgsgd_jax.checks.Report`.

    Attributes:
        weights: The result of `diagnose`, by path.
    """

    weights: Mapping[str, Diagnosis]

    def __post_init__(self):
        require_diagnoses("Report", self.weights)

    def __str__(self) -> str:
        if not self.weights:
            return "No weight is on a manifold."
        columns = [column for column in _COLUMNS if self._has(column)]
        header = ("weight", *(column.name for column in columns))
        rows = [header] + [
            (path, *(column.show(np.asarray(column.numbers(one))) for column in columns))
            for path, one in self.weights.items()
        ]
        return "\n".join([*aligned(rows), "", *self._remarks()])

    __repr__ = __str__

    def _has(self, column: "_Column") -> bool:
        return all(column.numbers(one) is not None for one in self.weights.values())

    def _remarks(self) -> list[str]:
        """The weights in which norms of groups exceed 1: the bounds multiply these norms."""
        remarks = []
        for name in ("frobenius", "spectral"):
            norms = {
                path: np.asarray(getattr(one.norms, name)) for path, one in self.weights.items()
            }
            above = {path: norm for path, norm in norms.items() if np.any(norm > 1)}
            places = ", ".join(
                f"{path} ({np.sum(norm > 1)} of {norm.size} groups, up to {norm.max():.3g})"
                for path, norm in above.items()
            )
            remarks.append(f"{name.title()} norms of groups above 1: {places or 'none'}.")
        return remarks

    def draw(self, path: Any = None) -> Any:
        """Draws the norms, g, τ and angles of every weight: their range and their median.

        Args:
            path: The file in which to save the figure; None does not save it.

        Returns:
            The `matplotlib.figure.Figure`.

        Raises:
            ImportError: If matplotlib is not installed.
        """
        try:
            from matplotlib.figure import Figure
        except ImportError as error:
            raise ImportError(
                'Drawing a report needs matplotlib: pip install "fgsgd_jax[train]".'
            ) from error
        panels = [column for column in _COLUMNS if column.drawn and self._has(column)]
        figure = Figure(
            figsize=(3.2 * len(panels) + 1, 1.2 + 0.35 * len(self.weights)), layout="constrained"
        )
        axes = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
        for axis, column in zip(axes, panels, strict=True):
            column.draw(axis, [np.ravel(column.numbers(one)) for one in self.weights.values()])
        axes[0].set_yticks(range(len(self.weights)), list(self.weights))
        axes[0].set_ylim(len(self.weights) - 0.5, -0.5)
        if path is not None:
            figure.savefig(path, dpi=150)
        return figure


@dataclasses.dataclass(frozen=True)
class _Column:
    """A field of a diagnosis, as a column of the table and a panel of the figure.

    Attributes:
        name: The header in the table.
        field: The name of the field; dots separate the names of nested fields.
        title: The title in the figure.
        drawn: Whether the figure shows it.
        limit: Where the figure draws a vertical line.
        largest: Whether the table shows the largest number only, not the range.
        above: If given, the table shows the share of numbers above it.
    """

    name: str
    field: str
    title: str = ""
    drawn: bool = False
    limit: float | None = None
    largest: bool = False
    above: float | None = None

    def numbers(self, one: Diagnosis) -> Any:
        """The numbers of a weight; None if they were not measured."""
        value: Any = one
        for name in self.field.split("."):
            value = None if value is None else getattr(value, name)
        return value

    def draw(self, axis: Any, values: list[np.ndarray]) -> None:
        """Draws the range and the median of the numbers of every weight."""
        for place, numbers in enumerate(values):
            low, median, high = np.quantile(numbers, (0, 0.5, 1))
            axis.plot((low, high), (place, place), color="#8fb4d9", linewidth=5)
            axis.plot(median, place, color="#1f4e79", marker="|", markersize=12)
        smallest, largest = min(map(np.min, values)), max(map(np.max, values))
        if 0 < 20 * smallest < largest:  # over a narrower range a log axis has too few labels
            axis.set_xscale("log")
        if self.limit is not None:
            axis.axvline(self.limit, color="#b5541c", linestyle=":", linewidth=1)
        axis.set_title(self.title, fontsize=10)
        axis.grid(alpha=0.25)
        axis.spines[["top", "right"]].set_visible(False)

    def show(self, numbers: np.ndarray) -> str:
        """The cell of the table for the numbers of one weight."""
        if self.above is not None:
            return f"{np.mean(numbers > self.above):.0%}"
        low, high = f"{numbers.min():.3g}", f"{numbers.max():.3g}"
        return high if self.largest or low == high else f"{low} to {high}"


_COLUMNS = (
    _Column("drift", "drift", largest=True),
    _Column("scale s", "scale"),
    _Column("λ", "feature_std"),
    _Column("group ‖·‖_F", "norms.frobenius", "Frobenius norm of groups", True, 1),
    _Column("group ‖·‖₂", "norms.spectral", "spectral norm of groups", True, 1),
    _Column("layer ‖·‖₂", "layer_norms.spectral", largest=True),
    _Column("normal", "normal", largest=True),
    _Column("g", "gradient_norm", "g, gradient norm of groups", True),
    _Column("τ", "tau", "τ of groups", True, 1),
    _Column("τ > 1", "tau", above=1),
    _Column("angle", "angle", "angle of components (rad)", True),
)


def report(params: Any, spec: Collection, **given: Any) -> Report:
    """A report on the weights on manifolds: drift, scales, norms, g, τ and angles.

    The numbers of a weight are shown as their range. The report also lists where norms of groups
    exceed 1, which makes the products in generalization bounds grow. This function is
    `fgsgd_jax.report`.

    Args:
        params: The tree from which the spec was built.
        spec: Their spec.
        **given: `gradients`, `updates`, `trace`, `feature_std`, `coordinates`, `rho` and
            `curvature`, as for `fgsgd_jax.diagnostics.diagnose`.

    Returns:
        A `fgsgd_jax.diagnostics.Report`, to `print` or to `draw`.

    Raises:
        TypeError: If an argument has another name.
        ValueError: If the trees do not match the spec.

    Example:
        >>> import jax
        >>> import fgsgd_jax as fg
        >>> params = {"w": jax.random.normal(jax.random.key(0), (3, 3, 8, 4))}
        >>> spec = fg.collection(params, ("w", fg.pom("layer", fg.Sphere())), scale=0.25)
        >>> lines = str(report(fg.project(params, spec), spec)).splitlines()
        >>> lines[-2]  # ‖·‖_F = 0.25·√32
        'Frobenius norms of groups above 1: w (1 of 1 groups, up to 1.41).'
    """
    names = [*inspect.signature(diagnose).parameters][2:]
    for name in given:
        if name not in names:
            raise TypeError(
                f"report has no argument {name!r}; it takes {', '.join(names)}."
                f"{did_you_mean(name, names)}"
            )
    return Report(diagnose(params, spec, **given))
