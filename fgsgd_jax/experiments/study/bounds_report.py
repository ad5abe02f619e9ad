"""The report of the study `bounds`: rank correlations of bounds with the gap, and the figure."""

import statistics
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import kendalltau

from fgsgd_jax.experiments.run_folder import Row
from fgsgd_jax.experiments.study import figures
from fgsgd_jax.experiments.study.grid import Study

BOUNDS = {
    "neyshabur_2015": "Neyshabur 2015",
    "bartlett_2017": "Bartlett 2017",
    "neyshabur_2018": "Neyshabur 2018",
}


def correlations(study: Study, rows: list[Row]) -> str:
    """Kendall's τ of every bound with the gap, as a table in Markdown."""
    means = {
        (tuple(case.values()), method): _means(study.chosen(rows, case, method))
        for case in study.cases
        for method in study.methods
    }
    cases = [tuple(case.values()) for case in study.cases]

    def correlation(name: str, keys: Iterable) -> float:
        chosen = [means[key] for key in keys if means[key][name] is not None]
        if len(chosen) < 2:
            return float("nan")
        gaps, values = ([mean[column] for mean in chosen] for column in ("gap", name))
        tau: Any = kendalltau(gaps, values)
        return float(tau.statistic)

    def average(taus: Iterable[float]) -> str:
        known = [tau for tau in taus if tau == tau]
        return f"{statistics.fmean(known):.2f}" if known else "–"

    lines = [["bound", "cases of one method", "methods on one case", "all"], ["---"] * 4]
    for name, label in BOUNDS.items():
        of_methods = (correlation(name, [(c, m) for c in cases]) for m in study.methods)
        of_cases = (correlation(name, [(c, m) for m in study.methods]) for c in cases)
        taus = of_methods, of_cases, [correlation(name, means)]
        lines.append([label, *map(average, taus)])
    table = "\n".join("| " + " | ".join(line) + " |" for line in lines)
    return (
        "Kendall's τ between a bound and the gap, of means over seeds: over the cases of one "
        "method (mean over methods), over the methods on one case (mean over cases), and over "
        "both. 1 is the same order, 0 none. Networks with a median margin below 0 have no bound."
        f"\n\n{table}"
    )


def _means(rows: Sequence[Row]) -> dict[str, float | None]:
    values: Any = {name: [row.get(name) for row in rows] for name in ("gap", *BOUNDS)}
    return {
        name: None if None in found else statistics.fmean(found) for name, found in values.items()
    }


def draw(study: Study, rows: list[Row], path: Path) -> None:
    """The gap over every bound, a point for every case and method."""
    figure, (panels,) = figures.panels(1, len(BOUNDS))
    for method, color in figures.colors(study.methods).items():
        found = [_means(study.chosen(rows, case, method)) for case in study.cases]
        for panel, name in zip(panels, BOUNDS, strict=True):
            points: Any = [(mean[name], mean["gap"]) for mean in found if mean[name] is not None]
            panel.plot(*np.array(points, float).reshape(-1, 2).T, ".", color=color, label=method)
    for panel, label in zip(panels, BOUNDS.values(), strict=True):
        panel.set_xlabel(f"log₁₀ of the bound over the margin, {label}")
    panels[0].set_ylabel("generalization gap")
    figures.save(figure, path)
