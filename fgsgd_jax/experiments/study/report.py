"""Runs a study in its folder, and writes its table and figure."""

import dataclasses
import json
from pathlib import Path

from fgsgd_jax.experiments.cli import UsageError, deferred_interrupts
from fgsgd_jax.experiments.files import write_json, write_text
from fgsgd_jax.experiments.run_folder import held, is_taken, report_folder
from fgsgd_jax.experiments.study import running, table
from fgsgd_jax.experiments.study.grid import Study

STUDY_FILE, TRIALS_FILE = "study.json", "trials.jsonl"
TABLE_FILE, FIGURE_FILE = "table.md", "figure.png"


def run(study: Study, run_dir: Path, *, seconds: float | None = None, quiet: bool = False) -> None:
    """Runs what is missing of a study, and reports on all of it.

    Args:
        study: The study.
        run_dir: Its folder.
        seconds: After this time no trial is started; the table then has the methods that are done.
        quiet: Whether to print only the path of the folder.

    Raises:
        UsageError: If the folder holds something else or is damaged, if another process writes to
            it, or if it holds trials of another device and some are missing.
        Interrupted: If Ctrl-C ended it.
    """
    with held(run_dir):
        _run(study, run_dir, seconds, quiet)


def _run(study: Study, run_dir: Path, seconds: float | None, quiet: bool) -> None:
    study = _open_folder(study, run_dir)

    def what_is_saved() -> str:
        return (
            f"Interrupted; the trials that are done are in {run_dir}. The same command continues "
            "from there."
        )

    with deferred_interrupts(what_is_saved) as stop_if_interrupted:
        rows = running.run(
            study, run_dir / TRIALS_FILE, stop_if_interrupted, quiet=quiet, seconds=seconds
        )
        finished = study.finished(rows)
        if not finished.methods:
            raise UsageError(
                f"After {seconds:g} seconds no method is finished; the trials that are done are in "
                f"{run_dir}. The same command continues from there."
            )
        rows = [row for row in rows if row["method"] in finished.methods]
        text = table.markdown(finished, rows)
        write_text(run_dir / TABLE_FILE, text)
        study.draw(rows, run_dir / FIGURE_FILE)
        stop_if_interrupted()
    if not quiet:
        print(text)
    report_folder(run_dir, quiet=quiet)


def _open_folder(study: Study, run_dir: Path) -> Study:
    """Begins the folder, or checks that it belongs to the study; the study with its device."""
    path, content = run_dir / STUDY_FILE, {"study": study.name, "data": study.title}
    if path.exists():
        try:
            stored = dict(json.loads(path.read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError) as error:
            raise UsageError(f"{path} is damaged ({error}); give another --run-dir.") from error
        device = stored.pop("device", "")
        if stored != content:
            raise UsageError(
                f"{run_dir} holds another study, or this one with other data; give another "
                "--run-dir."
            )
        rows = running.Rows(run_dir / TRIALS_FILE).rows
        if device != study.device and study.finished(rows).methods != study.methods:
            raise UsageError(
                f"The trials in {run_dir} are not complete, and ran on another device "
                f"({device or 'unknown'}) than this ({study.device}), so that their times could "
                "not be compared; continue there, or give another --run-dir."
            )
        return dataclasses.replace(study, device=device)
    if is_taken(run_dir):
        raise UsageError(
            f"{run_dir} exists and is not the folder of a study; give another --run-dir."
        )
    write_json(path, content | ({"device": study.device} if study.device else {}))
    return study
