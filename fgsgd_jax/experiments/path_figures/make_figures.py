"""Makes the figures asked for, and reports: summary.json and a table on the terminal."""

import dataclasses
from pathlib import Path
from typing import Any

import jax
import rich.box
import rich.console
import rich.table
from tqdm import tqdm

from fgsgd_jax.experiments.cli import deferred_interrupts
from fgsgd_jax.experiments.data import ImageData
from fgsgd_jax.experiments.path_figures import figure_1, figures_2_and_3
from fgsgd_jax.experiments.path_figures.config import PathFigures
from fgsgd_jax.experiments.path_figures.plan import Plan, Tick
from fgsgd_jax.experiments.path_figures.vectors import vectors
from fgsgd_jax.experiments.run_folder import SUMMARY_FILE, held, report_folder, write_json


def run(args: PathFigures, run_dir: Path) -> None:
    """Makes the figures asked for.

    Args:
        args: The arguments of the command.
        run_dir: The folder of the results.

    Raises:
        Interrupted: If Ctrl-C ended it.
        UsageError: If the folder cannot be written, or another process writes to it.
    """
    # Restored afterwards, because other code in this process may rely on its own precision.
    with held(run_dir), jax.enable_x64(args.precision == "float64"):
        _run(args, run_dir)


def _run(args: PathFigures, run_dir: Path) -> None:
    images = args.load()
    plan = Plan(
        args.data,
        tuple(sorted(set(args.figures))),
        args.epochs,
        args.validation_epochs,
        args.seeds,
        args.units,
        args.precision,
        run_dir,
    )
    summary: dict[str, Any] = {"settings": _settings(args)}
    saved = f"Interrupted; the results so far are in {run_dir}."
    with (
        deferred_interrupts(lambda: saved) as stop_if_interrupted,
        tqdm(total=plan.total_epochs, unit=" epochs", disable=args.quiet) as bar,
    ):

        def tick(what: str) -> None:
            bar.set_description(what, refresh=False)
            bar.update()
            stop_if_interrupted()

        _make(plan, images, tick, summary)
        stop_if_interrupted()
    if not args.quiet:
        _print(summary)
    report_folder(run_dir, quiet=args.quiet)


def _settings(args: PathFigures) -> dict[str, Any]:
    """The arguments that have a value, as JSON has them."""
    return {
        name: str(value) if isinstance(value, Path) else value
        for name, value in dataclasses.asdict(args).items()
        if value is not None
    }


def _make(plan: Plan, images: ImageData, tick: Tick, summary: dict[str, Any]) -> None:
    """Makes the figures, and writes the summary after each."""
    if "1" in plan.figures:
        small = vectors(images, plan.precision, small=True)
        summary["figure 1"] = figure_1.make(plan, small, tick)
        write_json(plan.folder / SUMMARY_FILE, summary)
    if plan.figures != ("1",):
        summary |= figures_2_and_3.make(plan, vectors(images, plan.precision), tick)
        write_json(plan.folder / SUMMARY_FILE, summary)


def _print(summary: dict[str, Any]) -> None:
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
