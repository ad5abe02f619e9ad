"""Figures 2 and 3: learning curves from balanced and unbalanced starts; figure 2 shows SGD only."""

from collections.abc import Sequence

import numpy as np

from fgsgd_jax.experiments.path_figures import drawing, training
from fgsgd_jax.experiments.path_figures.plan import (
    EXPONENTS,
    OPTIMIZERS,
    Plan,
    Tick,
    rows_of,
    ticking,
)
from fgsgd_jax.experiments.path_figures.training import STARTS
from fgsgd_jax.experiments.path_figures.vectors import Vectors
from fgsgd_jax.experiments.run_folder import Row, write_rows


def make(plan: Plan, images: Vectors, tick: Tick) -> dict[str, Row]:
    """Trains all optimizers from both starts, and writes tables and drawings.

    Args:
        plan: What was asked for.
        images: The images.
        tick: Called after each epoch.

    Returns:
        The summary of each figure.
    """
    sizes = [images.inputs, plan.units, plan.units, images.classes]
    rows: list[Row] = []
    steps: list[Row] = []
    for seed in range(plan.seeds):
        for optimizer in plan.optimizers:
            for start, start_of in STARTS.items():
                params = start_of(seed, sizes, plan.precision)
                new_rows, new_steps = _train(plan, images, seed, optimizer, start, params, tick)
                rows += new_rows
                steps += new_steps
                _write(plan, rows, steps)
    layers = f"{plan.name}, two hidden layers of {plan.units} units"
    summary: dict[str, Row] = {}
    if "2" in plan.figures:
        drawing.draw_figure_2(plan.folder / "figure2.png", rows, f"SGD: {layers}")
        summary["figure 2"] = _last_losses(rows, ("SGD",))
    if "3" in plan.figures:
        drawing.draw_figure_3(plan.folder / "figure3.png", rows, layers)
        difference = largest_difference(steps, "Path-SGD")
        summary["figure 3"] = {
            "largest relative difference of Path-SGD's loss, steps of epoch 1": difference,
            "the same, epochs": largest_difference(rows, "Path-SGD"),
            **_last_losses(rows, OPTIMIZERS),
        }
    return summary


def _train(
    plan: Plan, images: Vectors, seed: int, optimizer: str, start: str, params, tick: Tick
) -> tuple[list[Row], list[Row]]:
    """Trains with the best rate; returns a row for each epoch, and for each step of the first."""
    rate = _best_rate(plan, optimizer, start, params, images, seed, tick)
    run = {"optimizer": optimizer, "start": start, "seed": seed, "rate": rate}
    runs = training.train(optimizer, params, images, plan.epochs, seed, lambda _: rate)
    rows, steps = [], []
    for row, losses in ticking(tick, f"{optimizer}, {start}", runs):
        rows.append(run | row)
        if row["epoch"] == 1:
            steps = [run | {"step": step, "loss": float(loss)} for step, loss in enumerate(losses)]
    return rows, steps


def _best_rate(
    plan: Plan, optimizer: str, start: str, params, images: Vectors, seed: int, tick: Tick
) -> float:
    """The power of ten with the lowest loss on validation images."""
    losses = {}
    for exponent in EXPONENTS:
        rate = 10.0**-exponent
        runs = training.train(
            optimizer, params, images, plan.validation_epochs, seed, lambda _, rate=rate: rate
        )
        last = rows_of(tick, f"rate of {optimizer}, {start}", runs)[-1]["validation_loss"]
        losses[rate] = last if np.isfinite(last) else np.inf
    return min(losses, key=lambda rate: losses[rate])


def _write(plan: Plan, rows: list[Row], steps: list[Row]) -> None:
    """Writes the tables of all runs so far."""
    for number in set(plan.figures) & {"2", "3"}:
        chosen = [row for row in rows if number == "3" or row["optimizer"] == "SGD"]
        write_rows(plan.folder / f"figure{number}.csv", chosen, list(chosen[0]))
    write_rows(plan.folder / "first_epoch.csv", steps, list(steps[0]))


def largest_difference(rows: list[Row], optimizer: str) -> float:
    """The largest relative difference of the training loss between the two starts.

    Rows of steps have the losses of batches, rows of epochs the losses of the training set. In
    float32 the difference is rounding, amplified at high rates: on digits at rate 1 the curves
    differ by 5e-4 within 4 epochs. They differ as much (7e-4) if the first layer is larger by one
    unit of rounding, and not at all if units are rescaled by powers of two.

    Args:
        rows: Rows of epochs or of steps.
        optimizer: The name of the optimizer.
    """
    curves = []
    for start in STARTS:
        chosen = [r for r in rows if r["optimizer"] == optimizer and r["start"] == start]
        curves.append(np.array([row.get("loss", row.get("train_loss")) for row in chosen]))
    return float(np.max(np.abs(curves[0] / curves[1] - 1)))


def _last_losses(rows: list[Row], optimizers: Sequence[str]) -> Row:
    """The training losses after the last epoch, as means over the seeds."""
    losses = {}
    for optimizer in optimizers:
        for start in STARTS:
            chosen = [r for r in rows if r["optimizer"] == optimizer and r["start"] == start]
            last = [r for r in chosen if r["epoch"] == max(row["epoch"] for row in chosen)]
            losses[f"training loss of {optimizer}, {start} (rate {last[0]['rate']:g})"] = float(
                np.mean([row["train_loss"] for row in last])
            )
    return losses
