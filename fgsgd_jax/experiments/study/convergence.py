"""Convergence: from how many random starts is a global minimum reached, and what does τ change?

Three small networks on Gaussian inputs, with targets from a network of the same shape whose first
weights are on the manifold, so that the lowest loss is 0 with and without the constraint. All
methods start from the same weights and see all samples in every step. In a fourth case steps see
batches of samples with noise, so that gradients are random and do not vanish at the minimum: there
eq. (4) of the paper, rates whose squares have a finite sum, lets the gradient norm go to 0.
"""

import functools
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from fgsgd_jax.experiments import plots
from fgsgd_jax.experiments.data import ImageData
from fgsgd_jax.experiments.run_folder import Row
from fgsgd_jax.experiments.study import figures
from fgsgd_jax.experiments.study.convergence_problems import (
    BATCH,
    LEFT,
    NETWORKS,
    NOISE,
    RATES_FALL,
    SAMPLES,
    courses,
)
from fgsgd_jax.experiments.study.grid import Study

STARTS = 20
STAGES = (20, 250)  # the gradient norm is measured 20 times, 250 steps apart
REACHED = 1e-8  # a loss below it is a global minimum
ALL, BATCHES = "all samples", "noisy batches"
METHODS = (
    "fgsgd",
    "fgsgd, ρ = π√n",
    "fgsgd, ρ travelled",
    "fgsgd, eq. (4)",
    "rsgd",
    "rsgd, eq. (4)",
    "SGD",
)


def study(images: ImageData | None, *, smoke: bool) -> Study:
    """The study, which needs no images; `smoke` makes it small enough for a test."""
    del images
    stages = (2, 25) if smoke else STAGES
    cases = [{"network": name, "steps on": ALL} for name in NETWORKS]
    cases.append({"network": "leaky ReLU", "steps on": BATCHES})
    methods = _methods()
    if smoke:
        cases, methods = cases[-2:-1], {"fgsgd": methods["fgsgd"][:1]}
    return Study(
        name="convergence",
        title=f"Two layers, {SAMPLES} Gaussian samples with targets from a network of the same "
        f"shape, {stages[0] * stages[1]:,} steps on all samples, or on batches of {BATCH} with "
        f"noise of {NOISE:g} in the targets. The first layer is on a Stiefel manifold (linear) or "
        f"on spheres, n in a group. Rates are constant, or fall as 1/(1 + t/{RATES_FALL}) (eq. 4). "
        f"Every seed has {STARTS} networks and starts. Reached: the share with a loss below "
        f"{REACHED:g}. Gradient: log10 of its Riemannian norm on all samples (with SGD at the "
        "nearest weights on the manifolds). Left: the share whose loss was once "
        f"{LEFT} times that of the start, or not finite. Steady: the largest rate tried at which, "
        f"and below which, no start left. Rates that were not chosen have {STARTS} starts",
        cases=cases,
        methods=methods,
        run=functools.partial(_run, stages=stages),
        score="log_loss",
        results={
            "reached": "reached",
            "log_loss": "mean of log10 of the loss",
            "gradient": "gradient",
            "left": "left",
        },
        across_settings={"steady": steady},
        seeds=2 if smoke else 5,
        tuning_seeds=1,
        draw=_draw,
    )


def _methods() -> dict[str, list[dict[str, float]]]:
    """Seven rates for each method."""
    rates = (0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0)
    return {name: [{"learning_rate": rate} for rate in rates] for name in METHODS}


def _run(trial: Row, *, stages: tuple[int, int]) -> Row:
    keys = jax.random.split(jax.random.key(trial["seed"]), STARTS)
    course = courses(
        trial["network"], trial["steps on"] == BATCHES, trial["method"], stages, keys,
        trial["learning_rate"],
    )  # fmt: skip
    # Where the loss is not finite, the number that stands for the worst.
    logs = jnp.log10(jnp.nan_to_num(course.loss, nan=1e12, posinf=1e12) + 1e-12)
    gradients = jnp.log10(course.gradients + 1e-12).mean(0)
    return {
        "reached": jnp.mean(course.loss < REACHED),
        "log_loss": jnp.minimum(logs, 12).mean(),
        "gradient": gradients[-1],
        "left": jnp.mean(course.left),
    } | {f"gradient_{stages[1] * (index + 1)}": norm for index, norm in enumerate(gradients)}


def steady(rows: Sequence[Row]) -> float:
    """The largest rate at which, and below which, no start left; 0 if there is none."""
    lowest = min((row["learning_rate"] for row in rows if row["left"] > 0), default=float("inf"))
    kept = [row["learning_rate"] for row in rows if row["learning_rate"] < lowest]
    return max(kept, default=0.0)


# --- the figure -------------------------------------------------------------------------------


def _draw(rows: list[Row], path: Path) -> None:
    """By rate, the share of starts at a minimum and that left; the gradient norm over the steps."""
    cases = list(dict.fromkeys((row["network"], row["steps on"]) for row in rows))
    colors = figures.colors(row["method"] for row in rows)
    figure, panels = figures.panels(2, len(cases), sharey=False)
    for (above, below), case in zip(panels.T, cases, strict=True):
        for method, color in colors.items():
            key = (*case, method)
            of_method = [r for r in rows if (r["network"], r["steps on"], r["method"]) == key]
            style: dict[str, Any] = {"color": color, "label": method}
            if case[1] == BATCHES:
                above.plot(*_gradients(of_method), **style)
            else:
                above.plot(*_by_rate(of_method, "reached"), ".-", **style)
            below.plot(*_by_rate(of_method, "left"), ".-", **style)
        above.set_title(", ".join(case), fontsize=10)
        below.set(xlabel="learning rate", xscale="log", ylim=(-0.05, 1.05))
        if case[1] == BATCHES:
            above.set(xlabel="steps", ylabel="gradient norm", yscale="log")
            plots.label_log(above.yaxis)
        else:
            above.set(xscale="log", ylim=(-0.05, 1.05))
    panels[0, 0].set_ylabel("share of starts at a global minimum")
    panels[1, 0].set_ylabel("share of starts that left")
    figures.save(figure, path)


def _by_rate(rows: Sequence[Row], name: str) -> tuple[list[float], list[float]]:
    """The rates, and the mean of a result at each of them."""
    rates = sorted({row["learning_rate"] for row in rows})
    of_rate = ([row[name] for row in rows if row["learning_rate"] == rate] for rate in rates)
    return rates, list(map(statistics.fmean, of_rate))


def _gradients(rows: Sequence[Row]) -> tuple[list[int], list[float]]:
    """The steps, and the gradient norm after them at the chosen rate, which has all seeds."""
    last = max(row["seed"] for row in rows)
    rate = next(row["learning_rate"] for row in rows if row["seed"] == last)
    chosen = [row for row in rows if row["learning_rate"] == rate]
    steps = [
        int(name.removeprefix("gradient_")) for name in rows[0] if name.startswith("gradient_")
    ]
    return steps, [statistics.fmean(10 ** r[f"gradient_{s}"] for r in chosen) for s in steps]
