"""Scales: does re-scaling kernels on spheres lower the error, as it lowers the bounds?

A small convolutional network with its kernels at unit scale, at the scale γ of their shape, and at
γ/λ, where λ is the standard deviation of the input features, measured after every epoch; and plain
SGD. After training the generalization bounds of Table 1 are computed.

References:
    Ozay, *Fine-grained optimization of deep neural networks*, NeurIPS 2019, eq. 2 (the scales) and
    Table 1 (the bounds).
"""

import functools
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from fgsgd_jax.experiments import plots
from fgsgd_jax.experiments.data import ImageData
from fgsgd_jax.experiments.run_folder import Row
from fgsgd_jax.experiments.study import figures
from fgsgd_jax.experiments.study.grid import Study
from fgsgd_jax.experiments.study.trials import ERRORS, RATES, Trials, configuration, description
from fgsgd_jax.experiments.train.diagnostics import log_bounds
from fgsgd_jax.experiments.train.metrics import BOUNDS, KINDS

# SGD turns a kernel by about its rate times the gradient, FG-SGD by less than 0.42 times its rate.
SGD_SHARE = 0.05
BY_FEATURES = {"scale": "geometric", "feature_batches": 10}
METHODS: dict[str, dict[str, Any]] = {
    "SGD": {"optimizer": "sgd"},
    "unit scale": {},
    "geometric": {"scale": "geometric"},
    "literal": {"scale": "literal"},
    "λ of channels": BY_FEATURES,
    "λ of channels ≥ 1": BY_FEATURES | {"min_std": 1.0},
    "λ of kernels": BY_FEATURES | {"feature_std": "kernel"},
}
SMOKE = ("unit scale", "literal", "λ of kernels")


def study(images: ImageData, *, smoke: bool) -> Study:
    """The study on these images; `smoke` makes it small enough for a test."""
    base = configuration(images, smoke=smoke)

    @functools.cache
    def trials_of(method: str) -> Trials:
        return Trials(base, images, **METHODS[method])

    def run(trial: Row) -> Row:
        trials = trials_of(trial["method"])
        row, state = trials.run(trial["learning_rate"], trial["seed"])
        return row | log_bounds(trials.spec, state, trials.images)

    def grid(method: str) -> list[dict[str, float]]:
        share = SGD_SHARE if method == "SGD" else 1.0
        rates = [float(f"{share * rate:.6g}") for rate in RATES]
        return [{"learning_rate": rate} for rate in (rates[3:5] if smoke else rates)]

    bounds = {f"{kind}_{name}": f"{BOUNDS[name]}, {kind}" for kind in KINDS for name in BOUNDS}
    result = Study(
        name="scales-" + images.name,
        title=f"{description(base, images)}. SGD: no manifolds, one rate for all weights. Literal: "
        "γ with the sizes of feature maps, eq. 2. λ: for each input channel, at least 0.1 or at "
        "least 1, or for each kernel. Bounds: natural logarithms of the rows of Table 1, on groups "
        "and on layers",
        cases=[{}],
        methods={method: grid(method) for method in (SMOKE if smoke else METHODS)},
        run=run,
        score="validation_error",
        results=ERRORS | bounds,
        shown_as={**dict.fromkeys(ERRORS, "percent"), **dict.fromkeys(bounds, "mean")},
        seeds=2 if smoke else 10,
        tuning_seeds=1 if smoke else 3,
        draw=lambda rows, path: _draw(result, rows, path),
    )
    return result


def _draw(study: Study, rows: list[Row], path: Path) -> None:
    """Test errors beside the bounds, on groups and on layers; a line for each method."""
    study = study.finished(rows)
    figure = Figure(figsize=(11, 1.4 + 0.4 * len(study.methods)), layout="constrained")
    error, *of_kinds = figure.subplots(1, 1 + len(KINDS), sharey=True)
    places = np.arange(len(study.methods))
    chosen = [study.chosen(rows, {}, method) for method in study.methods]
    for place, found in zip(places, chosen, strict=True):
        errors = np.array([row["test_error"] for row in found], float) * 100
        apart = np.linspace(-0.25, 0.25, len(errors))  # for many errors are equal
        error.plot(errors, place + apart, ".", color=plots.LIGHT_BLUE)
        error.plot(errors.mean(), place, "|", color=plots.DARK_BLUE, markersize=14)
    for panel, kind in zip(of_kinds, KINDS, strict=True):
        for number, (name, label) in enumerate(BOUNDS.items()):
            logs = np.array([[row[f"{kind}_{name}"] for row in found] for found in chosen], float)
            color = figures.COLORS[number]
            panel.barh(places + (number - 1) / 4, logs.mean(1), 0.24, color=color, label=label)
        panel.axvline(0, color="0.4", linewidth=1)
        panel.set_xlabel(f"log of the bound, on {kind}")
    of_kinds[-1].legend(frameon=False, fontsize=8)
    error.set_xlabel("test error, %")
    error.set_yticks(places, list(study.methods))
    error.invert_yaxis()
    plots.save(figure, path)
