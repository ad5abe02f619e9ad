"""The figures of the Path-SGD paper: which runs they need, their CSVs and drawings."""

import dataclasses
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
import rich.box
import rich.console
import rich.table
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from tqdm import tqdm

from fgsgd_jax.experiments import data, path_runs, report
from fgsgd_jax.experiments._terminal import deferred_interrupts, make_run_dir
from fgsgd_jax.experiments.path_runs import STARTS, Vectors
from fgsgd_jax.experiments.report import Row

SMALLEST = 8  # units in figure 1, doubled up to --units
EXPONENTS = range(6)  # rates 10^0 to 10^-5
OPTIMIZERS = ("SGD", "AdaGrad", "Path-SGD")
COLORS = {"SGD": "#1f4e79", "AdaGrad": "#b5541c", "Path-SGD": "#3a7d44"}


@dataclasses.dataclass(frozen=True)
class Plan:
    """What is asked for, and what ticks while it is done."""

    epochs: int
    validation_epochs: int
    seeds: int
    units: int
    precision: str
    folder: Path
    tick: Callable[[str], None]


def make(args, run_dir: Path) -> int:
    """Makes the figures asked for, and returns the exit code."""
    # Left as it was found: other work in this process may count on its own precision.
    with jax.enable_x64(args.precision == "float64"):
        return _make(args, run_dir)


def _make(args, run_dir: Path) -> int:
    images = data.load(
        args.data,
        args.data_dir,
        train_size=args.train_size,
        cache_dir=args.cache_dir,
        quiet=args.quiet,
    )
    make_run_dir(run_dir)
    settings = {
        name: str(value) if isinstance(value, Path) else value
        for name, value in vars(args).items()
        if value is not None
    }
    summary: dict[str, Any] = {"settings": settings}
    figures = sorted(set(args.figures))
    with (
        deferred_interrupts() as stop_if_interrupted,
        tqdm(total=_epochs(args, figures), unit=" epochs", disable=args.quiet) as bar,
    ):

        def tick(what: str) -> None:
            bar.set_description(what, refresh=False)
            bar.update()
            stop_if_interrupted()

        plan = Plan(
            args.epochs,
            args.validation_epochs,
            args.seeds,
            args.units,
            args.precision,
            run_dir,
            tick,
        )
        try:
            if "1" in figures:
                small = path_runs.vectors(images, args.precision, small=True)
                summary["figure 1"] = figure_1(plan, small, args.data)
                report.write_json(run_dir / report.SUMMARY_FILE, summary)
            if figures != ["1"]:
                full = path_runs.vectors(images, args.precision)
                summary |= figures_2_and_3(plan, full, args.data, figures)
                report.write_json(run_dir / report.SUMMARY_FILE, summary)
        except KeyboardInterrupt:
            print(f"Interrupted; what was done is in {run_dir}.", file=sys.stderr)
            return 130
    if not args.quiet:
        _print(summary)
    print(run_dir if args.quiet else f"Results are in {run_dir}")
    return 0


def _epochs(args, figures: list[str]) -> int:
    """How many epochs all runs have together, at most."""
    first = len(_widths(args.units)) * args.epochs if "1" in figures else 0
    optimizers = len(OPTIMIZERS) if "3" in figures else 1
    runs = 0 if figures == ["1"] else 2 * optimizers
    each = args.epochs + len(EXPONENTS) * args.validation_epochs
    return args.seeds * (first + runs * each)


# --- figure 1 ------------------------------------------------------------------------------------


def _widths(most: int) -> list[int]:
    widths = [SMALLEST]
    while 2 * widths[-1] <= most:
        widths.append(2 * widths[-1])
    return widths


def figure_1(plan: Plan, images: Vectors, name: str) -> Row:
    """Errors over the number of hidden units, trained by SGD with momentum as in the paper."""
    rows: list[Row] = []
    for seed in range(plan.seeds):
        for units in _widths(plan.units):
            sizes = [images.inputs, units, images.classes]
            runs = path_runs.train(
                "momentum",
                path_runs.balanced_start(seed, sizes, plan.precision),
                images,
                plan.epochs,
                seed,
                rate=lambda epoch: 0.1 * 0.99**epoch,
                momentum=lambda epoch: min(0.9, 0.5 + 0.02 * epoch),
            )
            history = list(_ticking(plan, f"figure 1, {units} units", runs))
            best = min(history, key=lambda row: row["validation_error"])
            rows.append(
                {
                    "units": units,
                    "seed": seed,
                    "train_error": history[-1]["train_error"],
                    "test_error_at_the_end": history[-1]["test_error"],
                    "test_error_stopped_early": best["test_error"],
                    "epoch_stopped_early": best["epoch"],
                }
            )
            report.write_rows(plan.folder / "figure1.csv", rows, list(rows[0]))
    draw_figure_1(plan.folder / "figure1.png", rows, f"{name}, one hidden layer")
    widest = [row for row in rows if row["units"] == max(_widths(plan.units))]
    fitting = [row["units"] for row in rows if row["train_error"] == 0]
    return {
        "units that reach training error 0": min(fitting) if fitting else None,
        "units at most": widest[0]["units"],
        "test error there": float(np.mean([row["test_error_at_the_end"] for row in widest])),
    }


def _ticking(plan: Plan, what: str, runs: Iterator) -> Iterator[Row]:
    for row, _ in runs:
        if row["epoch"]:
            plan.tick(what)
        yield row


def draw_figure_1(path: Path, rows: list[Row], title: str) -> None:
    """Draws errors over units, means over the seeds."""
    figure, (panel,) = _panels(1, title)
    widths = sorted({row["units"] for row in rows})
    for quantity, label, style in (
        ("train_error", "training", {"color": "0.5", "linestyle": "--"}),
        ("test_error_at_the_end", "test, at the end", {"color": "#1f4e79"}),
        ("test_error_stopped_early", "test, stopped early", {"color": "#b5541c"}),
    ):
        values = [
            100 * np.mean([row[quantity] for row in rows if row["units"] == units])
            for units in widths
        ]
        panel.plot(widths, values, marker=".", label=label, **style)
    panel.set_xscale("log", base=2)
    panel.set_xticks(widths, [str(units) for units in widths])
    panel.set_ylim(bottom=0)
    panel.set_xlabel("hidden units")
    panel.set_ylabel("classification error (%)")
    panel.legend(frameon=False)
    report.save(figure, path)


# --- figures 2 and 3 -----------------------------------------------------------------------------


def figures_2_and_3(plan: Plan, images: Vectors, name: str, figures: list[str]) -> dict[str, Row]:
    """Learning curves from balanced and unbalanced starts; figure 2 has those of SGD alone."""
    sizes = [images.inputs, plan.units, plan.units, images.classes]
    rows: list[Row] = []
    steps: list[Row] = []
    for seed in range(plan.seeds):
        for optimizer in OPTIMIZERS if "3" in figures else ("SGD",):
            for start, start_of in STARTS.items():
                params = start_of(seed, sizes, plan.precision)
                rate = _chosen_rate(plan, optimizer, start, params, images, seed)
                about = {"optimizer": optimizer, "start": start, "seed": seed, "rate": rate}
                runs = path_runs.train(
                    optimizer, params, images, plan.epochs, seed, lambda _, rate=rate: rate
                )
                for row, losses in runs:
                    if row["epoch"]:
                        plan.tick(f"{optimizer}, {start}")
                    rows.append(about | row)
                    if row["epoch"] == 1:
                        steps += [
                            about | {"step": step, "loss": float(loss)}
                            for step, loss in enumerate(losses)
                        ]
                for number in figures:
                    if number != "1":
                        chosen = [r for r in rows if number == "3" or r["optimizer"] == "SGD"]
                        if chosen:
                            report.write_rows(
                                plan.folder / f"figure{number}.csv", chosen, list(chosen[0])
                            )
                report.write_rows(plan.folder / "first_epoch.csv", steps, list(steps[0]))
    layers = f"{name}, two hidden layers of {plan.units} units"
    summary: dict[str, Row] = {}
    if "2" in figures:
        draw_figure_2(plan.folder / "figure2.png", rows, f"SGD: {layers}")
        summary["figure 2"] = _last_losses(rows, ("SGD",))
    if "3" in figures:
        draw_figure_3(plan.folder / "figure3.png", rows, layers)
        difference = largest_difference(steps, "Path-SGD")
        summary["figure 3"] = {
            "largest relative difference of Path-SGD's loss, steps of epoch 1": difference,
            "the same, epochs": largest_difference(rows, "Path-SGD"),
            **_last_losses(rows, OPTIMIZERS),
        }
    return summary


def _chosen_rate(plan: Plan, optimizer: str, start: str, params, images: Vectors, seed) -> float:
    """The power of ten with the least loss on validation images."""
    losses = {}
    for exponent in EXPONENTS:
        rate = 10.0**-exponent
        runs = path_runs.train(
            optimizer, params, images, plan.validation_epochs, seed, lambda _, rate=rate: rate
        )
        last = list(_ticking(plan, f"rate of {optimizer}, {start}", runs))[-1]["validation_loss"]
        losses[rate] = last if np.isfinite(last) else np.inf
    return min(losses, key=lambda rate: losses[rate])


def largest_difference(rows: list[Row], optimizer: str) -> float:
    """The largest relative difference of the training loss from the two starts.

    At single steps it is that of the batch; at epochs that of the training images. In float32 it
    is rounding, amplified where rates are high: on digits at rate 1 the curves part by 5e-4 within
    4 epochs, as they do if the first layer starts one unit of rounding larger (7e-4), and by
    nothing at all if units are rescaled by powers of two.
    """
    curves = []
    for start in STARTS:
        chosen = [r for r in rows if r["optimizer"] == optimizer and r["start"] == start]
        curves.append(np.array([row.get("loss", row.get("train_loss")) for row in chosen]))
    return float(np.max(np.abs(curves[0] / curves[1] - 1)))


def _last_losses(rows: list[Row], optimizers) -> Row:
    losses = {}
    for optimizer in optimizers:
        for start in STARTS:
            chosen = [r for r in rows if r["optimizer"] == optimizer and r["start"] == start]
            last = [r for r in chosen if r["epoch"] == max(row["epoch"] for row in chosen)]
            losses[f"training loss of {optimizer}, {start} (rate {last[0]['rate']:g})"] = float(
                np.mean([row["train_loss"] for row in last])
            )
    return losses


def draw_figure_2(path: Path, rows: list[Row], title: str) -> None:
    figure, (panel,) = _panels(1, title)
    _draw_curves(panel, rows, "train_loss", 1, ("SGD",))
    panel.set_ylabel("training cross-entropy")
    panel.set_yscale("log")
    report.label_log(panel.yaxis)
    panel.legend(frameon=False)
    report.save(figure, path)


def draw_figure_3(path: Path, rows: list[Row], title: str) -> None:
    figure, panels = _panels(3, title)
    for panel, quantity, factor, label in zip(
        panels,
        ("train_loss", "train_error", "test_error"),
        (1, 100, 100),
        ("training cross-entropy", "training error (%)", "test error (%)"),
        strict=True,
    ):
        _draw_curves(panel, rows, quantity, factor, OPTIMIZERS)
        panel.set_ylabel(label)
        if factor == 100:
            panel.set_ylim(0, 100)
    panels[0].set_yscale("log")
    report.label_log(panels[0].yaxis)
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, frameon=False, ncols=3, loc="outside lower center")
    report.save(figure, path)


def _draw_curves(panel, rows: list[Row], quantity: str, factor: float, optimizers) -> None:
    """Means over the seeds: balanced drawn through, unbalanced dashed."""
    for optimizer in optimizers:
        for start in STARTS:
            chosen = [r for r in rows if r["optimizer"] == optimizer and r["start"] == start]
            epochs = sorted({row["epoch"] for row in chosen})
            values = [
                factor * np.mean([row[quantity] for row in chosen if row["epoch"] == epoch])
                for epoch in epochs
            ]
            # Path-SGD's two curves lie on each other: a wide light one below a dashed one.
            is_first = start == "balanced"
            panel.plot(
                epochs,
                values,
                color=COLORS[optimizer],
                linestyle="-" if is_first else (0, (2, 1.5)),
                linewidth=3.5 if is_first else 1.8,
                alpha=0.45 if is_first else 1,
                label=f"{optimizer}, {start}",
            )
    panel.set_xlabel("epoch")
    panel.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))


def _panels(number: int, title: str):
    width = 4.2 * number if number > 1 else 5.2
    figure = Figure(figsize=(width, 4.1 if number > 1 else 3.8), layout="constrained")
    figure.suptitle(title, fontsize=11)
    return figure, np.atleast_1d(figure.subplots(1, number))


def _print(summary: dict) -> None:
    table = rich.table.Table(box=rich.box.SIMPLE_HEAD)
    table.add_column("")
    table.add_column("", justify="right")
    for figure, rows in summary.items():
        if figure == "settings":
            continue
        table.add_row(f"[bold]{figure}", "")
        for name, value in rows.items():
            shown = f"{value:.3g}" if isinstance(value, float) else str(value)
            table.add_row(f"  {name}", "none" if value is None else shown)
    rich.console.Console().print(table)
