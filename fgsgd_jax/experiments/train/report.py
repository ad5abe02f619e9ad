"""The report after training: the figures, summary.json, and a table on the terminal."""

import json
import statistics
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import rich.box
import rich.console
import rich.table
from PIL import Image

from fgsgd_jax.experiments.run_folder import SUMMARY_FILE, Row, report_folder, write_json
from fgsgd_jax.experiments.train import diagnostics, figures, setup
from fgsgd_jax.experiments.train.config import Config
from fgsgd_jax.experiments.train.setup import Training
from fgsgd_jax.experiments.train.steps import TrainState


def write(
    run_dir: Path,
    settings: Config,
    training: Training,
    state: TrainState,
    rows: list[Row],
    *,
    quiet: bool,
) -> None:
    """Writes figures and summary to the run folder, and prints the summary unless `quiet`.

    Args:
        run_dir: The folder of the run.
        settings: The run.
        training: What was prepared for it.
        state: The state after the last epoch.
        rows: The metrics of all epochs.
        quiet: Whether to print only the path of the run folder.
    """
    title = str(settings)
    figures.draw_curves(run_dir / figures.CURVES_FILE, rows, title)
    if training.spec is not None:
        figures.draw_diagnostics(run_dir / figures.DIAGNOSTICS_FILE, rows, title)
        margins = diagnostics.normalized_margins(
            training.spec, training.outputs, state, training.images
        )
        figures.draw_margins(run_dir / figures.MARGINS_FILE, margins, title)
    summary = _summary(settings, training, rows)
    write_json(run_dir / SUMMARY_FILE, summary)  # last: it says that the report is whole
    if not quiet:
        _print_table(summary, title)
    report_folder(run_dir, quiet=quiet)


def is_whole(run_dir: Path, settings: Config) -> bool:
    """Whether `write` has ended for a run of this length, and its files are still whole."""
    names = [figures.CURVES_FILE]
    if settings.optimizer != "sgd":
        names += [figures.DIAGNOSTICS_FILE, figures.MARGINS_FILE]
    try:
        reported = dict(json.loads((run_dir / SUMMARY_FILE).read_text(encoding="utf-8"))).get(
            "epochs"
        )
    except (OSError, ValueError, TypeError):
        return False
    return reported == settings.epochs and all(_is_picture(run_dir / name) for name in names)


def _is_picture(path: Path) -> bool:
    """Whether the file is a whole picture."""
    try:
        with Image.open(path) as picture:
            picture.verify()  # every check sum, to the end of the file
    except (OSError, SyntaxError, ValueError):
        return False
    return True


def _summary(settings: Config, training: Training, rows: list[Row]) -> Row:
    last = rows[-1]
    spec = training.spec
    leaf_specs = [] if spec is None else [leaf_spec for _, leaf_spec in spec.on_manifolds()]
    return {
        "epochs": last["epoch"],
        "steps": last["epoch"] * setup.steps_per_epoch(settings, training.images),
        "train_loss": last["train_loss"],
        "train_error": last["train_error"],
        "test_loss": last["test_loss"],
        "test_error": last["test_error"],
        "drift": last["drift"],
        "seconds_per_step": statistics.median(row["seconds_per_step"] for row in rows),
        "parameters": sum(leaf.size for leaf in jax.tree.leaves(training.state.params)),
        "components": sum(sum(leaf_spec.counts()) for leaf_spec in leaf_specs),
        "groups": sum(leaf_spec.groups * leaf_spec.stacked for leaf_spec in leaf_specs),
    }


def _print_table(summary: Mapping[str, Any], title: str) -> None:
    table = rich.table.Table(box=rich.box.SIMPLE_HEAD, title=title, title_style="bold")
    table.add_column("after training")
    table.add_column("", justify="right")
    table.add_row("train error (mean over the last epoch)", f"{summary['train_error']:.2%}")
    table.add_row("test error", f"{summary['test_error']:.2%}", style="bold")
    table.add_row("train loss", f"{summary['train_loss']:.4f}")
    table.add_row("test loss", f"{summary['test_loss']:.4f}")
    if summary["drift"] is not None:
        table.add_row("drift from the manifolds", f"{summary['drift']:.1e}")
    table.add_row("time per step (median)", f"{1e3 * summary['seconds_per_step']:.2f} ms")
    table.add_row("parameters", f"{summary['parameters']:,}")
    if summary["components"]:
        table.add_row("components on manifolds", f"{summary['components']:,}")
        table.add_row("groups", f"{summary['groups']:,}")
    rich.console.Console().print(table)
