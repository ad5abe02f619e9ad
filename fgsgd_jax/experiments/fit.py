"""The training loop: from a configuration to a run folder, and on from a checkpoint."""

import functools
import math
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from tqdm import tqdm

import fgsgd_jax as fg
import fgsgd_jax.nnx as fg_nnx
from fgsgd_jax.experiments import checkpoints, config, data, models, report, steps
from fgsgd_jax.experiments._terminal import UsageError, deferred_interrupts, make_run_dir
from fgsgd_jax.experiments.config import Config
from fgsgd_jax.experiments.insights import diagnosed, normalized_margins
from fgsgd_jax.experiments.report import Row
from fgsgd_jax.experiments.steps import TrainState
from fgsgd_jax.spec import Collection

# After so many epochs the rate is half of what it was: learning_rate / (1 + epochs / 6). On a
# validation part of digits (four to six seeds; 3, 6 and 10 tried) that was within noise of a
# cosine. Unlike a cosine it does not depend on how long the run will be, so a run that is resumed
# for more epochs is the run that was longer from the start.
RATE_HALVES_AFTER = 6


class Training(NamedTuple):
    """What a configuration and its data become. Only the state changes from here on.

    Attributes:
        images: The data.
        spec: Which weights live on which manifolds; None for plain SGD.
        learning_rate: The learning rate at a step.
        step: One step of training.
        outputs: The logits of any images.
        rescaled: The state re-scaled by the features of an epoch, where that is asked for.
        state: The state before the first step.
    """

    images: data.ImageData
    spec: Collection | None
    learning_rate: optax.Schedule
    step: steps.TrainStep
    outputs: steps.Outputs
    rescaled: Callable[[TrainState, int], TrainState]
    state: TrainState


def fit(
    settings: Config,
    run_dir: Path,
    *,
    digest: str | None = None,
    cache_dir: Path | None = None,
    quiet: bool = False,
) -> int:
    """Trains, or goes on training, and reports.

    Args:
        settings: The run.
        run_dir: Its folder, empty or not there yet unless the run is resumed.
        digest: The fingerprint of the data of a run that is resumed; None starts a new one.
        cache_dir: Where decoded pictures are kept for the next run.
        quiet: Whether to print nothing but the run folder.

    Returns:
        The exit code: 0, or 130 if Ctrl-C ended it.
    """
    images = data.load(
        settings.data,
        Path(settings.data_dir) if settings.data_dir else None,
        train_size=settings.train_size,
        cache_dir=cache_dir,
        quiet=quiet,
    )
    if digest not in (None, images.digest()):
        raise UsageError(
            f"{run_dir} was trained on other images than those in {settings.data_dir}; give the "
            "--data-dir of that run, or start a new one."
        )
    training = prepared(settings, images)
    if training.spec is not None and not quiet:
        print(training.spec, end="\n\n")
    with deferred_interrupts() as stop_if_interrupted:
        if digest is None:
            make_run_dir(run_dir)
        metrics = run_dir / report.METRICS_FILE
        with checkpoints.open_folder(run_dir) as manager:
            if digest is None:
                checkpoints.save(manager, 0, training.state)
                report.write_rows(metrics, [], report.METRICS)
            done, state = checkpoints.restore(manager, training.state)
            rows = report.read_metrics(metrics, done)
            finished = (run_dir / report.SUMMARY_FILE).exists()
            if done > settings.epochs:
                raise UsageError(
                    f"{run_dir} has {done} epochs already, more than --epochs {settings.epochs}; "
                    "give a larger number, or leave --epochs away."
                )
            if done == settings.epochs and finished:
                print(
                    f"{run_dir}: {done} of {done} epochs are done; to go on, give --epochs a "
                    "larger number."
                )
                return 0
            config.save(run_dir, settings, images.digest())
            try:
                for row, after in epochs(
                    settings, training, done, state, stop_if_interrupted, quiet
                ):
                    # The row first: one without its checkpoint is dropped when the run is resumed.
                    state = after
                    rows.append(row)
                    report.write_rows(metrics, rows, report.METRICS)
                    checkpoints.save(manager, row["epoch"], after)
            except KeyboardInterrupt:
                print(
                    f"Interrupted; {manager.latest_step()} of {settings.epochs} epochs are saved. "
                    f"Go on with: python -m fgsgd_jax train --resume {run_dir}",
                    file=sys.stderr,
                )
                return 130
    summary = _summary(settings, training, rows)
    report.write_json(run_dir / report.SUMMARY_FILE, summary)
    report.draw_curves(run_dir / report.CURVES_FILE, rows, str(settings))
    if training.spec is not None:
        report.draw_diagnostics(run_dir / report.DIAGNOSTICS_FILE, rows, str(settings))
        margins = normalized_margins(training.spec, training.outputs, state, images)
        report.draw_margins(run_dir / report.MARGINS_FILE, margins, str(settings))
    if not quiet:
        report.print_table(summary, str(settings))
    print(run_dir if quiet else f"Results are in {run_dir}")
    return 0


def prepared(settings: Config, images: data.ImageData, wrapped: Callable | None = None) -> Training:
    """The network, its manifolds and its optimizer, before the first step.

    Args:
        settings: The run.
        images: Its data.
        wrapped: Makes the optimizer from a function of the first learning rate, and that rate; by
            default calls the function.

    Raises:
        UsageError: If the manifolds or groups asked for do not fit the network.
    """
    if settings.batch_size > len(images.train_labels):
        raise UsageError(
            f"--batch-size {settings.batch_size} is more than the {len(images.train_labels)} "
            "training images; give a smaller number."
        )
    model = network(settings, images, settings.seed)
    graph, params, averages = nnx.split(model, nnx.Param, nnx.BatchStat)
    half_life = RATE_HALVES_AFTER * steps_per_epoch(settings, images)
    schedule = functools.partial(fg.robbins_monro, transition_steps=half_life)
    spec = None if settings.optimizer == "sgd" else spec_of(settings, model, images)
    if spec is not None:
        params = fg.project(params, spec)
    beside = schedule(settings.euclidean_learning_rate)

    def of_rate(learning_rate):
        return _optimizer(settings, spec, schedule(learning_rate), beside)

    rate = settings.learning_rate
    optimizer = of_rate(rate) if wrapped is None else wrapped(of_rate, rate)
    return Training(
        images,
        spec,
        schedule(rate),
        steps.train_step(graph, optimizer, images),
        steps.outputs(graph, images),
        _rescaling(settings, graph, images, spec),
        TrainState(params, averages, optimizer.init(params)),
    )


def network(settings: Config, images: data.ImageData, seed: int) -> models.CNN:
    """The network for these images, with fresh weights."""
    shape = images.train_images.shape[1:]
    return models.CNN(settings.channels, shape, images.classes, rngs=nnx.Rngs(seed))


def spec_of(settings: Config, model: models.CNN, images: data.ImageData) -> Collection:
    """The convolution kernels on the manifolds asked for, all else Euclidean.

    Raises:
        UsageError: If the manifolds or groups do not fit the network.
    """
    manifolds = tuple(getattr(fg, name.title())() for name in settings.manifolds)
    map_sizes = None
    if settings.scale == "literal":
        one = jax.ShapeDtypeStruct((1, *images.train_images.shape[1:]), jnp.float32)
        map_sizes = fg_nnx.feature_map_sizes(model, one, training=False)
    try:
        return fg.collection(
            nnx.state(model, nnx.Param),
            ("conv*/kernel", fg.pom(settings.scheme, manifolds, groups=settings.groups)),
            default=None,
            scale={"none": None, "literal": "geometric"}.get(str(settings.scale), settings.scale),
            feature_map_sizes=map_sizes,
            seed=settings.seed,
        )
    except ValueError as error:  # the library's sentence says what does not fit
        raise UsageError(str(error)) from error


def _rescaling(
    settings: Config, graph: nnx.GraphDef, images: data.ImageData, spec: Collection | None
) -> Callable[[TrainState, int], TrainState]:
    if spec is None or not settings.feature_batches:
        return lambda state, epoch: state
    measure = steps.feature_statistics(
        graph, images, spec, settings.feature_batches, settings.batch_size
    )

    def rescaled(state, epoch):
        stds = measure(state, settings.seed, epoch)
        optimizer = fg.set_feature_std(
            state.optimizer,
            stds,
            min_std=settings.min_std,
            pooled=settings.feature_std == "kernel",
        )
        return state._replace(optimizer=optimizer)

    return rescaled


def _optimizer(
    settings: Config,
    spec: Collection | None,
    learning_rate: optax.Schedule,
    euclidean_learning_rate: optax.Schedule,
) -> optax.GradientTransformation:
    """The optimizer asked for on the manifolds, and plain SGD beside them."""

    def plain(rate):
        decay = optax.add_decayed_weights(settings.weight_decay)
        return optax.chain(decay, optax.sgd(rate, settings.momentum))

    if spec is None:
        return plain(learning_rate)
    optimizer = {"fgsgd": fg.fgsgd, "rsgd": fg.rsgd}[settings.optimizer]
    return optimizer(
        learning_rate,
        spec,
        momentum=settings.momentum,
        coordinates=settings.coordinates,
        euclidean=plain(euclidean_learning_rate),
    )


def steps_per_epoch(settings: Config, images: data.ImageData) -> int:
    """Whole batches only: one shape, one compilation."""
    return len(images.train_labels) // settings.batch_size


def epochs(
    settings: Config,
    training: Training,
    done: int,
    state: TrainState,
    stop_if_interrupted: Callable[[], None],
    quiet: bool,
) -> Iterator[tuple[Row, TrainState]]:
    """Trains epoch after epoch, and yields each one's metrics and the state after it.

    Args:
        settings: The run.
        training: What was prepared for it.
        done: The epochs trained before.
        state: The state after them.
        stop_if_interrupted: Called between steps.
        quiet: Whether to show no progress.

    Raises:
        UsageError: If the loss is no number any more.
    """
    images = training.images
    per_epoch = steps_per_epoch(settings, images)
    _compile(settings, training, state)
    with tqdm(
        total=settings.epochs * per_epoch, initial=done * per_epoch, unit=" steps", disable=quiet
    ) as bar:
        for epoch in range(done + 1, settings.epochs + 1):
            bar.set_description(f"epoch {epoch}/{settings.epochs}")
            loss, wrong, seconds = 0.0, 0, []
            for pixels, labels in data.batches(images, settings.batch_size, settings.seed, epoch):
                started = time.perf_counter()
                before = state
                state, batch_loss, batch_wrong, gradient = training.step(before, pixels, labels)
                loss += float(batch_loss)  # waits for the step, so the time is its whole time
                seconds.append(time.perf_counter() - started)
                if not math.isfinite(loss):
                    raise UsageError(
                        f"The loss is {float(batch_loss)} in epoch {epoch}; give a smaller "
                        f"--learning-rate than {settings.learning_rate}."
                    )
                wrong += int(batch_wrong)
                seen = len(seconds) * settings.batch_size
                bar.set_postfix_str(
                    f"loss {loss / len(seconds):.4f}, error {wrong / seen:.2%}", refresh=False
                )
                bar.update()
                stop_if_interrupted()
            logits = training.outputs(state, images.test_images)
            test_loss, test_error = steps.loss_and_error(logits, images.test_labels)
            insight = {}
            if training.spec is not None:
                insight = diagnosed(settings, training.spec, before, state, gradient, images)
            state = training.rescaled(state, epoch)
            yield (
                {
                    "epoch": epoch,
                    "train_loss": loss / per_epoch,
                    "train_error": wrong / (per_epoch * settings.batch_size),
                    "test_loss": test_loss,
                    "test_error": test_error,
                    "drift": _drift(training.spec, state),
                    "seconds_per_step": statistics.median(seconds),
                    "learning_rate": jnp.asarray(
                        training.learning_rate(epoch * per_epoch - 1)
                    ).item(),
                }
                | insight,
                state,
            )


def _compile(settings: Config, training: Training, state: TrainState) -> None:
    """Runs a step and forgets it, so that no step that counts has to wait for the compiler."""
    pixels, labels = next(data.batches(training.images, settings.batch_size, settings.seed, 0))
    jax.block_until_ready(training.step(state, pixels, labels))


def _drift(spec: Collection | None, state: TrainState) -> float | None:
    """The largest residual of any component; None where nothing is on a manifold."""
    if spec is None:
        return None
    feature_std = fg.get_feature_std(state.optimizer)
    distances = fg.residual(state.params, spec, feature_std=feature_std)
    return max(float(distance) for distance in distances.values())


def _summary(settings: Config, training: Training, rows: list[Row]) -> Row:
    last = rows[-1]
    layers = [] if training.spec is None else [layer for _, layer in training.spec.on_manifolds()]
    return {
        "epochs": last["epoch"],
        "steps": last["epoch"] * steps_per_epoch(settings, training.images),
        "train_loss": last["train_loss"],
        "train_error": last["train_error"],
        "test_loss": last["test_loss"],
        "test_error": last["test_error"],
        "drift": last["drift"],
        "seconds_per_step": statistics.median(row["seconds_per_step"] for row in rows),
        "parameters": sum(leaf.size for leaf in jax.tree.leaves(training.state.params)),
        "components": sum(sum(layer.counts()) for layer in layers),
        "groups": sum(layer.groups * layer.stacked for layer in layers),
    }
