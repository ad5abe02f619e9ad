"""`report`: the diagnostics of a network as a table, and as a figure."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from fgsgd_jax._text import aligned
from fgsgd_jax.diagnostics._diagnosis import Diagnosis, diagnose
from fgsgd_jax.spec import Collection


@dataclasses.dataclass(frozen=True, repr=False)
class Report:
    """Diagnostics to look at. `print` shows a table, `draw` a figure.

    Attributes:
        weights: By path, what `diagnose` found.
    """

    weights: Mapping[str, Diagnosis]

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
        """In which weights norms of groups, which the bounds multiply, exceed 1."""
        remarks = []
        for name in ("frobenius", "spectral"):
            norms = {
                path: np.asarray(getattr(one.norms, name)) for path, one in self.weights.items()
            }
            above = {path: norm for path, norm in norms.items() if np.any(norm > 1)}
            some = ", ".join(
                f"{path} ({np.sum(norm > 1)} of {norm.size} groups, up to {norm.max():.3g})"
                for path, norm in above.items()
            )
            remarks.append(f"{name.title()} norms of groups above 1: {some or 'none'}.")
        return remarks

    def draw(self, path: Any = None) -> Any:
        """Draws norms, g, τ and angles, weight by weight.

        Args:
            path: Where to save the figure; None does not save it.

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
        places = np.arange(len(self.weights))
        for axis, column in zip(axes, panels, strict=True):
            values = [np.ravel(column.numbers(one)) for one in self.weights.values()]
            for place, numbers in zip(places, values, strict=True):
                low, middle, high = np.quantile(numbers, (0, 0.5, 1))
                axis.plot((low, high), (place, place), color="#8fb4d9", linewidth=5)
                axis.plot(middle, place, color="#1f4e79", marker="|", markersize=12)
            smallest, largest = min(map(np.min, values)), max(map(np.max, values))
            if 0 < 20 * smallest < largest:  # of less than that a log axis labels too few numbers
                axis.set_xscale("log")
            if column.limit is not None:
                axis.axvline(column.limit, color="#b5541c", linestyle=":", linewidth=1)
            axis.set_title(column.title, fontsize=10)
            axis.grid(alpha=0.25)
            axis.spines[["top", "right"]].set_visible(False)
        axes[0].set_yticks(places, list(self.weights))
        axes[0].set_ylim(len(self.weights) - 0.5, -0.5)
        if path is not None:
            figure.savefig(path, dpi=150)
        return figure


@dataclasses.dataclass(frozen=True)
class _Column:
    """A number of a diagnosis: its head in the table, its title in the figure, what to mark."""

    name: str
    field: str
    title: str = ""
    drawn: bool = False
    limit: float | None = None
    largest: bool = False
    above: float | None = None

    def numbers(self, one: Diagnosis):
        found: Any = one
        for name in self.field.split("."):
            found = found if found is None else getattr(found, name)
        return found

    def show(self, numbers: np.ndarray) -> str:
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

    Numbers of a weight are shown as their range. It also says where norms of groups exceed 1, and
    so make the products in generalization bounds grow.

    Args:
        params: The tree the spec was built from.
        spec: The collection.
        **given: `gradients`, `updates`, `trace`, `feature_std`, `coordinates`, `rho`, `curvature`,
            as for `fgsgd_jax.diagnostics.diagnose`.

    Returns:
        A `Report`: `print` it, or `draw` it.

    Example:
        >>> import jax
        >>> import fgsgd_jax as fg
        >>> params = {"w": jax.random.normal(jax.random.key(0), (3, 3, 8, 4))}
        >>> spec = fg.collection(params, ("w", fg.pom("layer", fg.Sphere())), scale=0.25)
        >>> lines = str(report(fg.project(params, spec), spec)).splitlines()
        >>> lines[-2]  # ‖·‖_F = 0.25·√32
        'Frobenius norms of groups above 1: w (1 of 1 groups, up to 1.41).'
    """
    return Report(diagnose(params, spec, **given))
