"""The epochs of a training run: the steps of each, and its row of `metrics.csv`."""

import math
import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from tqdm import tqdm

from fgsgd_jax.experiments import data
from fgsgd_jax.experiments.cli import UsageError
from fgsgd_jax.experiments.run_folder import Row
from fgsgd_jax.experiments.train import diagnostics, setup, steps
from fgsgd_jax.experiments.train.config import Config
from fgsgd_jax.experiments.train.setup import Training
from fgsgd_jax.experiments.train.steps import TrainState


def run(
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
