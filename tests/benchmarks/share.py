"""The share of the update in a whole training step.

The network is a ResNet-20 on random images of 32×32, batch 128; the content of the images does not
change the time. The share is the time of the update alone over the time of the whole step that
contains it, timed in turn. A further line shows what measuring the features of all kernels adds to
an epoch of CIFAR-10.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

import fgsgd_jax as fg
import fgsgd_jax.nnx as fg_nnx
from fgsgd_jax.experiments.bench import formatting, timing
from fgsgd_jax.experiments.bench.config import MOMENTUM, RATE, Settings
from fgsgd_jax.experiments.bench.sections import Tables
from fgsgd_jax.experiments.bench.weights import manifolds_named, start_on, update_of
from fgsgd_jax.experiments.cli import spelled

from . import resnet20
from .arrays import random_array

BATCH_SIZE = 128
CLASSES = 10
FEATURE_BATCHES = 10
EPOCH = 50_000  # images


class Network(NamedTuple):
    """The network and the batch it is trained on."""

    graph: nnx.GraphDef
    params: Any
    statistics: Any
    images: jax.Array
    labels: jax.Array


def measure(settings: Settings) -> dict[str, Any]:
    """Times whole steps, updates alone, and the measurement of features."""
    batch_size = max(2, round(BATCH_SIZE * min(settings.width, 1)))
    model = resnet20.ResNet20(CLASSES, width=settings.width, rngs=nnx.Rngs(0))
    images = random_array((batch_size, 32, 32, 3), 0)
    labels = jnp.arange(batch_size) % CLASSES
    graph, params, statistics = nnx.split(model, nnx.Param, nnx.BatchStat)
    network = Network(graph, params, statistics, images, labels)
    optimizers = _optimizers(params, settings.manifolds)
    clocks = _clocks(network, optimizers)
    merged = nnx.merge(graph, params, statistics)
    clocks["features"] = timing.clock(lambda: fg_nnx.feature_std(merged, images, training=False))
    seconds = timing.in_turn(clocks, settings.rounds)
    last_step = seconds[f"step: {list(optimizers)[-1]}"]
    return {
        "weights": sum(leaf.size for leaf in jax.tree.leaves(params)),
        "batch_size": batch_size,
        "rows": [_row(label, seconds) for label in optimizers],
        "features": _features(seconds["features"], last_step, batch_size),
    }


def _optimizers(
    params: Any, manifolds: tuple[tuple[str, ...], ...]
) -> dict[str, tuple[optax.GradientTransformation, Any]]:
    """The optimizers by label, each with the weights it starts from."""
    cases: dict[str, tuple[optax.GradientTransformation, Any]] = {
        f"optax.sgd, momentum {MOMENTUM}": (optax.sgd(RATE, momentum=MOMENTUM), params)
    }
    for names in dict.fromkeys(manifolds):
        request = fg.pom("PO", manifolds_named(names))
        spec = fg.collection(params, ("*conv*/kernel", request), default=None)
        start = start_on(spec, params)
        for decay in (None, MOMENTUM):
            label = f"fgsgd PO, {spelled(names)}" + (f", momentum {decay}" if decay else "")
            cases[label] = fg.fgsgd(RATE, spec, momentum=decay), start
    return cases


def _clocks(
    network: Network, optimizers: dict[str, tuple[optax.GradientTransformation, Any]]
) -> dict[str, timing.Clock]:
    """The clocks of the whole step and of the update alone, for every optimizer."""
    gradient_of = _gradient_of(network.graph)
    gradient, _ = jax.jit(gradient_of)(*network[1:])

    def step_of(tx: optax.GradientTransformation) -> Callable[..., tuple]:
        def step(params, state, statistics, images, labels):
            gradient, statistics = gradient_of(params, statistics, images, labels)
            params, state = update_of(tx)(params, state, gradient)
            return params, state, statistics

        return step

    clocks = {}
    with timing.progress(len(optimizers), "share") as bar:
        for label, (tx, start) in optimizers.items():
            state = tx.init(start)
            carried = (start, state, network.statistics)
            step = timing.Iterated(step_of(tx), carried, network.images, network.labels)
            update = timing.Iterated(update_of(tx), (start, state), gradient)
            clocks[f"step: {label}"] = timing.clock(step)
            clocks[f"update: {label}"] = timing.clock(update)
            bar.update()
    return clocks


def _gradient_of(graph: nnx.GraphDef) -> Callable[..., tuple]:
    """The function `(params, statistics, images, labels) -> (gradient, statistics)`."""

    def gradient_of(params, statistics, images, labels):
        def loss_of(params):
            # The copy lets batch normalization write its averages into arrays of this trace.
            model = nnx.merge(graph, params, statistics, copy=True)
            logits = model(images, training=True)
            losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
            return losses.mean(), nnx.state(model, nnx.BatchStat)

        return jax.grad(loss_of, has_aux=True)(params)

    return gradient_of


def _row(label: str, seconds: dict[str, np.ndarray]) -> dict[str, Any]:
    update, step = seconds[f"update: {label}"], seconds[f"step: {label}"]
    share = timing.ratio_of(update, step)
    return {
        "label": label,
        "share": share.ratio,
        "share_quartiles": [share.low, share.high],
        "update_seconds": float(np.median(update)),
        "step_seconds": float(np.median(step)),
    }


def _features(measured: np.ndarray, step: np.ndarray, batch_size: int) -> dict[str, Any]:
    """What measuring features adds to an epoch, from the times of one batch and of one step."""
    steps = EPOCH // batch_size
    share = timing.ratio_of(FEATURE_BATCHES * measured, steps * step)
    return {
        "batches": FEATURE_BATCHES,
        "steps": steps,
        "seconds": float(np.median(measured)),
        "share": share.ratio,
        "share_quartiles": [share.low, share.high],
    }


def tables(content: dict[str, Any]) -> Tables:
    """The figures for people to read."""
    columns: formatting.Columns = [
        ("update", lambda row: row["label"]),
        ("share", lambda row: f"{row['share']:.2%}"),
        ("middle half", lambda row: "–".join(f"{one:.2%}" for one in row["share_quartiles"])),
        ("update alone", lambda row: formatting.duration(row["update_seconds"])),
        ("whole step", lambda row: formatting.duration(row["step_seconds"])),
    ]
    title = (
        f"share of the update in a step of a ResNet-20, {content['weights']:,} weights, batch "
        f"{content['batch_size']}"
    )
    features = content["features"]
    return [
        formatting.table(title, columns, {"": content["rows"]}),
        f"Features of all kernels on {features['batches']} batches: {features['share']:.2%} of an "
        f"epoch of {features['steps']:,} steps "
        f"({formatting.duration(features['seconds'])} for each batch)",
    ]
