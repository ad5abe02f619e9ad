"""The table of the paper: is a residual network better if its kernels are on manifolds?

A residual network with batch normalization on small images, He et al.'s schedule and augmentation.
The slices of the 3×3 kernels are on spheres, on Stiefel manifolds, or on spheres, oblique and
Stiefel manifolds in groups PI, PO or PIO; all other weights are Euclidean. The baseline is SGD with
momentum, whose rate and weight decay are tuned. Seeds and settings are trained together on one
device.

References:
    Ozay, *Fine-grained optimization of deep neural networks*, NeurIPS 2019, section 4. He, Zhang,
    Ren & Sun, *Deep residual learning for image recognition*, CVPR 2016 (network and schedule).
"""

import dataclasses
import statistics
from collections.abc import Sequence
from pathlib import Path

import jax

from fgsgd_jax.experiments.data import ImageData
from fgsgd_jax.experiments.run_folder import Row
from fgsgd_jax.experiments.study import figures
from fgsgd_jax.experiments.study.config import Paper
from fgsgd_jax.experiments.study.grid import Study
from fgsgd_jax.experiments.study.paper_probe import probe as probe
from fgsgd_jax.experiments.study.paper_training import (
    EUCLIDEAN_DECAY,
    EUCLIDEAN_RATE,
    MOMENTUM,
    Training,
)

SGD_RATES, SGD_DECAYS = (0.03, 0.1, 0.3), (1e-4, 5e-4)
RATES = (0.3, 1.0, 3.0, 10.0, 30.0, 100.0)  # of kernels on manifolds
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
    """The study on these images; `smoke` makes it small enough for a test."""
    if smoke:
        settings = SMOKE
    problem = _Problem(images, settings)
    return Study(
        name="paper-" + images.name,
        title=_title(problem.training, images, settings),
        cases=({"data": images.name},),
        methods={method: _grid(method, smoke=smoke) for method in settings.methods},
        run=lambda trial: problem.run([trial])[0],
        score="validation_error",
        results={
            "test_error": "test error",
            "validation_error": "validation error",
            "seconds": "seconds a run",
        },
        seeds=settings.seeds,
        tuning_seeds=1,
        draw=_draw,
        tuning={"epochs": settings.tuning_epochs},
        final={"epochs": settings.epochs},
        together=settings.together,
        run_together=problem.run,
    )


def _grid(method: str, *, smoke: bool) -> list[dict[str, float]]:
    """Six settings: three rates and two decays for SGD, six rates on manifolds."""
    if method == "SGD":
        grid = [{"learning_rate": rate, "decay": d} for rate in SGD_RATES for d in SGD_DECAYS]
    else:
        grid = [{"learning_rate": rate} for rate in RATES]
    return grid[1:3] if smoke else grid


def _title(training: Training, images: ImageData, settings: Paper) -> str:
    data = training.data
    schedule = {
        "steps": "rates fall to a tenth after 1/2 and again after 3/4 of the steps",
        "cosine": "rates fall along a cosine",
    }[settings.schedule]
    augmented = "shifted by up to 4 pixels and mirrored, " if data.augmented else ""
    return (
        f"{images.name}{f' ({settings.note})' if settings.note else ''}: {len(data.training[1])} "
        f"training, {len(data.validation[1])} validation and {len(data.test[1])} test images; "
        f"ResNet-{settings.depth} with batch normalization, width {settings.width:g}; "
        f"{settings.epochs} epochs ({settings.tuning_epochs} to choose settings) of batches of "
        f"{settings.batch_size}, {augmented}{schedule}; momentum {MOMENTUM}; beside kernels on "
        f"manifolds all weights are trained by SGD with rate {EUCLIDEAN_RATE} and decay "
        f"{EUCLIDEAN_DECAY:g}; {settings.features} features, {settings.together} runs at once on "
        f"{jax.devices()[0].device_kind}, seconds without compilation"
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
            decays=[trial.get("decay", 0.0) for trial in filled],
            epochs=trials[0]["epochs"],
        )
        return [{name: values[i] for name, values in results.items()} for i in range(len(trials))]


def _draw(rows: list[Row], path: Path) -> None:
    """Validation error of the shorter runs by rate, and test error of the longer runs by method."""
    figure, (panels,) = figures.panels(1, 2)
    colors = figures.colors(row["method"] for row in rows)
    least, most = (function(row["epochs"] for row in rows) for function in (min, max))
    for place, (method, color) in enumerate(colors.items()):
        of_method = [row for row in rows if row["method"] == method]
        errors: dict[float, list[float]] = {}
        for row in of_method:
            if row["epochs"] == least and row["validation_error"] is not None:
                errors.setdefault(row["learning_rate"], []).append(row["validation_error"])
        rates = sorted(errors)
        panels[0].plot(rates, [min(errors[r]) for r in rates], ".-", color=color, label=method)
        final = [row["test_error"] for row in of_method if row["epochs"] == most]
        final = [error for error in final if error is not None]
        panels[1].plot([place] * len(final), final, ".", color=color, label=method)
        if final:
            panels[1].plot(place, statistics.fmean(final), "_", color=color, markersize=16)
    panels[0].set_xscale("log")
    panels[0].set_xlabel("learning rate")
    panels[0].set_ylabel("error")
    panels[0].set_title(f"validation, {least} epochs, best decay", fontsize=10)
    panels[1].set_title(f"test, {most} epochs, chosen settings", fontsize=10)
    panels[1].set_xticks([])
    figures.save(figure, path)
