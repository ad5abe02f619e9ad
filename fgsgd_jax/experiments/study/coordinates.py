"""Coordinates: on which manifolds should steps be taken, so that one rate is good at every scale?

The kernels of a small convolutional network are on spheres of the geometric scale γ, or of ten
times or a tenth of it. Batch normalization removes the scale from what the network computes, so the
best learning rate should not depend on it. Steps are taken on unit spheres, on the scaled spheres
as in the paper, or on spheres of one radius whatever the scale is.

References:
    Ozay, *Fine-grained optimization of deep neural networks*, NeurIPS 2019, eq. 2 (the scale).
"""

import functools
import statistics
from pathlib import Path
from typing import Any

from fgsgd_jax.experiments import plots
from fgsgd_jax.experiments.data import ImageData
from fgsgd_jax.experiments.run_folder import Row
from fgsgd_jax.experiments.study import figures
from fgsgd_jax.experiments.study.grid import Study
from fgsgd_jax.experiments.study.trials import ERRORS, RATES, Trials, configuration, description

RADIUS = 0.05  # of a typical kernel at the scale γ: (9·16 + 9·32)^−½
SCALES = (10.0, 1.0, 0.1)
METHODS: dict[str, Any] = {"unit": "unit", "scaled": "scaled", f"radius {RADIUS}": RADIUS}


def study(images: ImageData, *, smoke: bool) -> Study:
    """The study on these images; `smoke` makes it small enough for a test."""
    base = configuration(images, smoke=smoke, scale="geometric")

    @functools.cache
    def trials_of(method: str) -> Trials:
        return Trials(base, images, coordinates=METHODS[method])

    def run(trial: Row) -> Row:
        rate = learning_rate(trial["method"], trial["scale"], trial["rate_over_radius"])
        row, _ = trials_of(trial["method"]).run(rate, trial["seed"], trial["scale"])
        return row | {"learning_rate": rate}

    methods = list(METHODS)[:2] if smoke else METHODS
    settings = [{"rate_over_radius": rate} for rate in (RATES[3:5] if smoke else RATES)]
    result = Study(
        name="coordinates-" + images.name,
        title=f"{description(base, images)}. Scale: in units of γ. Rates are tried in units of the "
        "radius of the spheres on which steps are taken; the learning rate is the product",
        cases=[{"scale": scale} for scale in SCALES],
        methods={method: settings for method in methods},
        run=run,
        score="validation_error",
        results=ERRORS | {"learning_rate": "learning rate"},
        shown_as={**dict.fromkeys(ERRORS, "percent"), "learning_rate": "mean"},
        seeds=2 if smoke else 10,
        tuning_seeds=1 if smoke else 3,
        draw=lambda rows, path: _draw(result, rows, path),
        remarks=moved_rates,
    )
    return result


def learning_rate(method: str, scale: float, rate_over_radius: float) -> float:
    """The learning rate; the radius of steps on scaled spheres follows the scale."""
    radius = {"unit": 1.0, "scaled": scale * RADIUS}.get(method, RADIUS)
    return float(f"{rate_over_radius * radius:.6g}")


def moved_rates(study: Study, rows: list[Row]) -> str:
    """By what factor the best learning rate of every method moves with the scale."""
    factors = []
    for method in study.methods:
        rates = [study.chosen(rows, case, method)[0]["learning_rate"] for case in study.cases]
        factors.append(f"{method} {max(rates) / min(rates):.3g}")
    return (
        "The largest of the best learning rates of all scales over the smallest: "
        f"{', '.join(factors)}."
    )


def _draw(study: Study, rows: list[Row], path: Path) -> None:
    """Validation error over the learning rate, a panel for each method, a curve for each scale."""
    study = study.finished(rows)
    figure, (panels,) = figures.panels(1, len(study.methods))
    colors = figures.colors(f"{case['scale']:g} γ" for case in study.cases)
    for panel, method in zip(panels, study.methods, strict=True):
        for case, (label, color) in zip(study.cases, colors.items(), strict=True):
            errors: dict[float, list[float]] = {}
            for row in study.rows_of(rows, case, method):
                if row["seed"] < study.tuning_seeds and row["validation_error"] is not None:
                    found = errors.setdefault(row["learning_rate"], [])
                    found.append(100 * row["validation_error"])
            means = [statistics.fmean(found) for found in errors.values()]
            panel.plot(list(errors), means, ".-", color=color, label=label)
        panel.set_xscale("log")
        panel.set_yscale("log")
        plots.label_log(panel.xaxis)
        panel.set_title(method, fontsize=10)
        panel.set_xlabel("learning rate")
    panels[0].set_ylabel("validation error, %")
    plots.label_log(panels[0].yaxis)
    figures.save(figure, path)
