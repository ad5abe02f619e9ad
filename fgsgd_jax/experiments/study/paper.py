"""The table of the paper: is a residual network better if its kernels are on manifolds?

A residual network with batch normalization on small images, He et al.'s schedule and augmentation.
The slices of the 3×3 kernels are on spheres, on Stiefel manifolds, or on spheres, oblique and
Stiefel manifolds in groups PI, PO or PIO; all other weights are Euclidean. The baseline is SGD with
momentum, whose rate and weight decay are tuned. Seeds and settings are trained together on one
device. Further methods change one thing in SGD or in the method on spheres, to find out what makes
the difference between them, or stand for what is done in the place of constraints: weight
normalization, and a penalty on kernels that are not orthogonal. The deeper networks of the paper,
ResNet-32 and -44 (`--depth 32`, `--depth 44`), need nothing else, only more time on a GPU.

References:
    Ozay, *Fine-grained optimization of deep neural networks*, NeurIPS 2019, section 4. He, Zhang,
    Ren & Sun, *Deep residual learning for image recognition*, CVPR 2016 (network and schedule).
"""

import dataclasses
import statistics
from collections.abc import Sequence
from pathlib import Path

import jax
from matplotlib.figure import Figure

from fgsgd_jax.experiments import plots
from fgsgd_jax.experiments.data import ImageData
from fgsgd_jax.experiments.run_folder import Row
from fgsgd_jax.experiments.study import figures
from fgsgd_jax.experiments.study.config import Paper
from fgsgd_jax.experiments.study.grid import Study
from fgsgd_jax.experiments.study.paper_methods import EUCLIDEAN_DECAY, METHODS, MOMENTUM, Method
from fgsgd_jax.experiments.study.paper_probe import probe as probe
from fgsgd_jax.experiments.study.paper_training import Training

SGD_RATES, PENALTIES = (0.03, 0.1, 0.3), (1e-3, 1e-2)
SMOKE = Paper(
    depth=8,
    width=0.25,
    methods=("SGD", "sphere-PO"),
    epochs=2,
    tuning_epochs=1,
    seeds=2,
    together=2,
    batch_size=32,
    convolution="grouped",
    features="float32",
)


def study(images: ImageData, *, smoke: bool, settings: Paper) -> Study:
    """The study on these images; `smoke` makes it small enough for a test, except what is given."""
    if smoke:
        settings = dataclasses.replace(SMOKE, **settings.given())
    problem = _Problem(images, settings)
    result = Study(
        name="paper-" + images.name,
        title=_title(problem.training, images, settings),
        cases=({"data": images.name},),
        methods={
            method: _grid(method, settings.sgd_decays, smoke=smoke) for method in settings.methods
        },
        run=lambda trial: problem.run([trial])[0],
        score="validation_error",
        results={
            "test_error": "test error, %",
            "validation_error": "validation error, %",
            "seconds": "seconds a run",
        },
        shown_as={"test_error": "percent", "validation_error": "percent", "seconds": "mean"},
        device=jax.devices()[0].device_kind,
        seeds=settings.seeds,
        tuning_seeds=1,
        draw=lambda rows, path: _draw(result, rows, path),
        tuning={"epochs": settings.tuning_epochs},
        final={"epochs": settings.epochs},
        together=settings.together,
        run_together=problem.run,
    )
    return result


def _grid(method: str, decays: Sequence[float], *, smoke: bool) -> list[dict[str, float]]:
    """Three rates and some decays or penalties, usually two, for SGD; six rates on manifolds."""
    name = METHODS[method].second
    if METHODS[method].scheme:
        grid = [{"learning_rate": rate} for rate in METHODS[method].rates]
    else:
        values = PENALTIES if name == "penalty" else decays
        grid = [{"learning_rate": rate, name: value} for rate in SGD_RATES for value in values]
    return grid[1:3] if smoke else grid


def _title(training: Training, images: ImageData, settings: Paper) -> str:
    data = training.data
    schedule = {
        "steps": "rates fall to a tenth after 1/2 and again after 3/4 of the steps",
        "cosine": "rates fall along a cosine",
    }[settings.schedule]
    augmented = f"shifted by up to {data.shift} pixels and mirrored, " if data.shift else ""
    shrunken = f", averaged over {settings.shrink}×{settings.shrink} pixels" * (settings.shrink > 1)
    divided = f", those of {settings.together} runs at once divided by {settings.together}"
    return (
        f"{images.name}{f' ({settings.note})' if settings.note else ''}{shrunken}: "
        f"{len(data.training[1])} training, {len(data.validation[1])} validation and "
        f"{len(data.test[1])} test images; ResNet-{settings.depth} with batch normalization, width "
        f"{settings.width:g}; {settings.epochs} epochs ({settings.tuning_epochs} to choose "
        f"settings) of batches of {settings.batch_size}, {augmented}{schedule}; momentum "
        f"{MOMENTUM}; beside kernels on manifolds all weights are trained by SGD with rate "
        f"{Method.euclidean_rate} and decay {EUCLIDEAN_DECAY:g}, unless the method says otherwise; "
        f"{settings.features} features; seconds of a run are without compilation"
        f"{divided * (settings.together > 1)}"
    )


@dataclasses.dataclass(frozen=True)
class _Problem:
    """The training of trials, several at once."""

    images: dataclasses.InitVar[ImageData]
    settings: Paper
    training: Training = dataclasses.field(init=False)

    def __post_init__(self, images: ImageData):
        object.__setattr__(self, "training", Training(images, self.settings))

    def run(self, trials: Sequence[Row]) -> list[Row]:
        """Trains and measures; if the trials are fewer than are trained at once, the last twice."""
        filled = [*trials, *[trials[-1]] * (self.settings.together - len(trials))]
        results = self.training.run(
            trials[0]["method"],
            seeds=[trial["seed"] for trial in filled],
            rates=[trial["learning_rate"] for trial in filled],
            decays=[trial.get(METHODS[trial["method"]].second, 0.0) for trial in filled],
            epochs=trials[0]["epochs"],
        )
        return [{name: values[i] for name, values in results.items()} for i in range(len(trials))]


def _draw(study: Study, rows: list[Row], path: Path) -> None:
    """Validation error by rate while settings are chosen, and test error with those chosen."""
    study = study.finished(rows)
    (case,) = study.cases
    colors = figures.colors(study.methods)
    figure = Figure(figsize=(10, 2.2 + 0.25 * len(colors)), layout="constrained")
    tuning, final = figure.subplots(1, 2)
    for place, (method, color) in enumerate(colors.items()):
        marker, line = (".", "-") if place < len(figures.COLORS) else ("x", "--")
        errors: dict[float, list[float]] = {}
        for row in study.rows_of(rows, {**case, **study.tuning}, method):
            if row["seed"] < study.tuning_seeds and row["validation_error"] is not None:
                errors.setdefault(row["learning_rate"], []).append(100 * row["validation_error"])
        rates = sorted(errors)
        tuning.plot(rates, [min(errors[r]) for r in rates], marker + line, color=color)
        chosen = [row["test_error"] for row in study.chosen(rows, case, method)]
        found = [100 * error for error in chosen if error is not None]
        final.plot(found, [place] * len(found), marker, color=color)
        if found:
            final.plot(statistics.fmean(found), place, "|", color=color, markersize=16)
    tuning.set_xscale("log")
    plots.label_log(tuning.xaxis)
    tuning.set(xlabel="learning rate", ylabel="validation error, %")
    tuning.set_title(f"{study.tuning['epochs']} epochs, the better decay or penalty", fontsize=10)
    final.set(xlabel="test error, %", yticks=range(len(colors)), yticklabels=list(colors))
    final.set_title(f"{study.final['epochs']} epochs, chosen settings", fontsize=10)
    final.invert_yaxis()
    for label, color in zip(final.get_yticklabels(), colors.values(), strict=True):
        label.set_color(color)
    plots.save(figure, path)
