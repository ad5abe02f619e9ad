"""Runs a study in its folder, and writes its table and figure."""

import sys
from pathlib import Path

from fgsgd_jax.experiments.cli import deferred_interrupts
from fgsgd_jax.experiments.run_folder import make_run_dir, report_folder
from fgsgd_jax.experiments.study import grid, table
from fgsgd_jax.experiments.study.grid import Study

TRIALS_FILE, TABLE_FILE, FIGURE_FILE = "trials.jsonl", "table.md", "figure.png"


def run(study: Study, run_dir: Path, *, quiet: bool = False) -> int:
    """Runs what is missing of a study, and reports on all of it.

    Args:
        study: The study.
        run_dir: Its folder.
        quiet: Whether to print only the path of the folder.

    Returns:
        The exit code: 0, or 130 if Ctrl-C ended it.
    """
    make_run_dir(run_dir)
    try:
        with deferred_interrupts() as stop_if_interrupted:
            rows = grid.run(study, run_dir / TRIALS_FILE, stop_if_interrupted, quiet)
    except KeyboardInterrupt:
        print(
            f"Interrupted; the trials that are done are in {run_dir}. The same command continues "
            "from there.",
            file=sys.stderr,
        )
        return 130
    text = table.markdown(study, rows)
    (run_dir / TABLE_FILE).write_text(text)
    study.draw(rows, run_dir / FIGURE_FILE)
    if not quiet:
        print(text)
    report_folder(run_dir, quiet=quiet)
    return 0
