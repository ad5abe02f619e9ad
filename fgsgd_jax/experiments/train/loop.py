"""A training run in its folder: begun or resumed, saved after each epoch, stopped by Ctrl-C."""

import shlex
from pathlib import Path

from fgsgd_jax.experiments import data
from fgsgd_jax.experiments.cli import UsageError, deferred_interrupts, note
from fgsgd_jax.experiments.run_folder import write_rows
from fgsgd_jax.experiments.train import (
    checkpoints,
    epochs,
    report,
    saved_config,
    setup,
)
from fgsgd_jax.experiments.train.config import Config
from fgsgd_jax.experiments.train.metrics import METRICS, METRICS_FILE, has_rows, read_metrics
from fgsgd_jax.experiments.train.saved_config import Saved


def run(
    settings: Config,
    run_dir: Path,
    *,
    saved: Saved | None = None,
    cache_dir: Path | None = None,
    quiet: bool = False,
) -> None:
    """Trains, or resumes training, and reports.

    Args:
        settings: The run.
        run_dir: Its folder; a new run needs one that is empty or does not exist.
        saved: What a resumed run was begun with; None starts a new run.
        cache_dir: The folder where decoded pictures are cached.
        quiet: Whether to print only the path of the run folder.

    Raises:
        Interrupted: If Ctrl-C ended the run.
        UsageError: If the run cannot be made or continued.
    """
    if saved and (changed := saved_config.changed_versions(saved)):
        note(
            f"{run_dir} was begun with {', '.join(changed)}; it may end differently than without "
            "an interruption."
        )
    if saved:
        saved_config.repair(run_dir, saved)
    setup.require_optimizer(settings)  # before the data, which may take minutes
    images = _load(settings, run_dir, saved, cache_dir, quiet)
    training = setup.prepare(settings, images)
    if training.spec is not None and not quiet:
        print(training.spec, end="\n\n")
    with deferred_interrupts(lambda: _what_is_saved(run_dir, settings)) as stop_if_interrupted:
        if saved is None:
            saved = saved_config.begun(settings, images.digest())
            saved_config.save(run_dir, saved)  # first: from here on, --resume continues the run
        with checkpoints.open_folder(run_dir) as manager:
            if manager.latest_step() is None and not has_rows(run_dir / METRICS_FILE):
                write_rows(run_dir / METRICS_FILE, [], METRICS)
                checkpoints.save(manager, 0, training.state, _files(run_dir, saved))
            done, state = checkpoints.restore(manager, training.state)
            copy = checkpoints.copy_of(run_dir, METRICS_FILE)
            rows = read_metrics(run_dir / METRICS_FILE, done, copy)
            if _is_complete(run_dir, done, settings):
                return
            if saved.config != settings:
                saved = saved._replace(config=settings)
                saved_config.save(run_dir, saved)
            stop_if_interrupted()
            trained = epochs.run(settings, training, done, state, stop_if_interrupted, quiet)
            for row, state in trained:
                rows.append(row)
                # Before the checkpoint: resuming drops a row without a checkpoint.
                write_rows(run_dir / METRICS_FILE, rows, METRICS)
                checkpoints.save(manager, row["epoch"], state, _files(run_dir, saved))
                stop_if_interrupted()
            report.write(run_dir, settings, training, state, rows, quiet=quiet)
            stop_if_interrupted()


def _files(run_dir: Path, saved: Saved) -> dict[str, str]:
    """The texts of the files of which a checkpoint has copies."""
    metrics = (run_dir / METRICS_FILE).read_bytes().decode()
    return {saved_config.FILE: saved_config.text(saved), METRICS_FILE: metrics}


def _what_is_saved(run_dir: Path, settings: Config) -> str:
    return (
        f"Interrupted; {checkpoints.last_epoch(run_dir)} of {settings.epochs} epochs are saved. "
        f"Continue with: python -m fgsgd_jax train --resume {shlex.quote(str(run_dir))}"
    )


def _load(
    settings: Config, run_dir: Path, saved: Saved | None, cache_dir: Path | None, quiet: bool
) -> data.ImageData:
    """The images of a run; a resumed run must get the images it was trained on."""
    images = data.load(
        settings.data,
        Path(settings.data_dir) if settings.data_dir else None,
        train_size=settings.train_size,
        cache_dir=cache_dir,
        quiet=quiet,
    )
    if saved and saved.data_digest != images.digest():
        raise UsageError(
            f"{run_dir} was trained on other images than those in {settings.data_dir}; give the "
            "--data-dir of that run, or start a new one."
        )
    return images


def _is_complete(run_dir: Path, done: int, settings: Config) -> bool:
    """Whether all epochs are trained and reported; if so, prints that nothing is left to do.

    Raises:
        UsageError: If more epochs are trained than asked for.
    """
    if done > settings.epochs:
        raise UsageError(
            f"{run_dir} has {done} epochs already, more than --epochs {settings.epochs}; give a "
            "larger number, or omit --epochs."
        )
    if done < settings.epochs or not report.is_whole(run_dir, settings):
        return False
    print(f"{run_dir}: {done} of {done} epochs are done; to train more, give a larger --epochs.")
    return True
