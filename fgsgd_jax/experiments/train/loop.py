"""The training loop: runs the epochs, saves a checkpoint after each, and stops on Ctrl-C."""

import math
import shlex
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from tqdm import tqdm

from fgsgd_jax.experiments import data
from fgsgd_jax.experiments.cli import UsageError, deferred_interrupts
from fgsgd_jax.experiments.run_folder import Row, write_rows
from fgsgd_jax.experiments.train import (
    checkpoints,
    diagnostics,
    report,
    saved_config,
    setup,
    steps,
)
from fgsgd_jax.experiments.train.config import Config
from fgsgd_jax.experiments.train.metrics import METRICS, METRICS_FILE, has_rows, read_metrics
from fgsgd_jax.experiments.train.saved_config import Saved
from fgsgd_jax.experiments.train.setup import Training
from fgsgd_jax.experiments.train.steps import TrainState


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
        print(
            f"note: {run_dir} was begun with {', '.join(changed)}; it may end differently than "
            "without an interruption.",
            file=sys.stderr,
        )
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
                checkpoints.save(manager, 0, training.state)
            done, state = checkpoints.restore(manager, training.state)
            rows = read_metrics(run_dir / METRICS_FILE, done)
            if _is_complete(run_dir, done, settings):
                return
            if saved.config != settings:
                saved_config.save(run_dir, saved._replace(config=settings))
            stop_if_interrupted()
            for row, after in _epochs(settings, training, done, state, stop_if_interrupted, quiet):
                state = after
                rows.append(row)
                # Before the checkpoint: resuming drops a row without a checkpoint.
                write_rows(run_dir / METRICS_FILE, rows, METRICS)
                checkpoints.save(manager, row["epoch"], state)
                stop_if_interrupted()
            report.write(run_dir, settings, training, state, rows, quiet=quiet)
            stop_if_interrupted()


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


def _epochs(
    settings: Config,
    training: Training,
    done: int,
    state: TrainState,
    stop_if_interrupted: Callable[[], None],
    quiet: bool,
) -> Iterator[tuple[Row, TrainState]]:
    """Trains epoch after epoch, and yields the metrics of each and the state after it.

    Args:
        settings: The run.
        training: What was prepared for it.
        done: The number of epochs trained before.
        state: The state after them.
        stop_if_interrupted: Called between steps.
        quiet: Whether to hide the progress bar.

    Raises:
        UsageError: If the loss is no longer finite.
    """
    if done == settings.epochs:
        return
    per_epoch = setup.steps_per_epoch(settings, training.images)
    with tqdm(
        total=settings.epochs * per_epoch, initial=done * per_epoch, unit=" steps", disable=quiet
    ) as bar:
        bar.set_description("compiling the training step")
        _compile(settings, training, state)
        stop_if_interrupted()
        after = "compiling the evaluation"  # several seconds, in the first epoch only
        for epoch in range(done + 1, settings.epochs + 1):
            name = f"epoch {epoch}/{settings.epochs}"
            bar.set_description(name)
            trained = _train_epoch(settings, training, state, epoch, stop_if_interrupted, bar)
            bar.set_description(f"{name}, {after}")
            after = "evaluating"
            state = training.rescale(trained.state, epoch)
            yield _metrics(settings, training, epoch, trained, state), state


def _compile(settings: Config, training: Training, state: TrainState) -> None:
    """Runs one step and discards it, so that no timed step includes the compilation."""
    pixels, labels = next(data.batches(training.images, settings.batch_size, settings.seed, 0))
    jax.block_until_ready(training.step(state, pixels, labels))


class _Epoch(NamedTuple):
    """One pass over the training images.

    Attributes:
        state: The state after the last step.
        before: The state before the last step.
        gradient: The gradient of the last step.
        loss: The mean loss over the steps.
        error: The fraction of errors over the steps.
        seconds: The median time of a step.
    """

    state: TrainState
    before: TrainState
    gradient: Any
    loss: float
    error: float
    seconds: float


def _train_epoch(
    settings: Config,
    training: Training,
    state: TrainState,
    epoch: int,
    stop_if_interrupted: Callable[[], None],
    bar: tqdm,
) -> _Epoch:
    loss, errors, seconds = 0.0, 0, []
    before, gradient = state, None
    for pixels, labels in data.batches(training.images, settings.batch_size, settings.seed, epoch):
        started = time.perf_counter()
        before = state
        state, batch_loss, batch_errors, gradient = training.step(before, pixels, labels)
        loss += float(batch_loss)  # waits for the result, so this is the time of the whole step
        seconds.append(time.perf_counter() - started)
        if not math.isfinite(loss):
            raise UsageError(
                f"The loss is {float(batch_loss)} in epoch {epoch}; give a smaller "
                f"--learning-rate than {settings.learning_rate}."
            )
        errors += int(batch_errors)
        seen = len(seconds) * settings.batch_size
        bar.set_postfix_str(
            f"loss {loss / len(seconds):.4f}, error {errors / seen:.2%}", refresh=False
        )
        bar.update()
        stop_if_interrupted()
    return _Epoch(
        state,
        before,
        gradient,
        loss / len(seconds),
        errors / (len(seconds) * settings.batch_size),
        statistics.median(seconds),
    )


def _metrics(
    settings: Config, training: Training, epoch: int, trained: _Epoch, state: TrainState
) -> Row:
    """The row of `metrics.csv` for an epoch.

    Args:
        settings: The run.
        training: What was prepared for it.
        epoch: The number of the epoch, from 1.
        trained: The epoch.
        state: The state after it, re-scaled.
    """
    images, spec = training.images, training.spec
    logits = training.outputs(trained.state, images.test_images)
    test_loss, test_error = steps.loss_and_error(logits, images.test_labels)
    last_step = epoch * setup.steps_per_epoch(settings, images) - 1
    row: Row = {
        "epoch": epoch,
        "train_loss": trained.loss,
        "train_error": trained.error,
        "test_loss": test_loss,
        "test_error": test_error,
        "drift": diagnostics.drift(spec, state),
        "seconds_per_step": trained.seconds,
        "learning_rate": jnp.asarray(training.learning_rate(last_step)).item(),
    }
    if spec is not None:
        row |= diagnostics.of_step(
            settings, spec, trained.before, trained.state, trained.gradient, images
        )
    return row
