"""How much of a whole training step the update takes.

A ResNet-20 on random images of 32×32, batch 128; what is in the pictures costs nothing. The share
is the time of the update alone over that of the whole step it is part of, both timed in turn.
Beside it stands what measuring the features of all kernels adds to an epoch of CIFAR-10.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import rich.table
from flax import nnx

import fgsgd_jax as fg
import fgsgd_jax.nnx as fg_nnx
from fgsgd_jax.experiments import models
from fgsgd_jax.experiments.bench import _timing, report
from fgsgd_jax.experiments.bench._settings import (
    MOMENTUM,
    RATE,
    Settings,
    manifolds_named,
    random_array,
    start_on,
    update_of,
)
from fgsgd_jax.experiments.config import spelled

BATCH_SIZE = 128
CLASSES = 10
FEATURE_BATCHES = 10
EPOCH = 50_000  # images


def measure(settings: Settings) -> dict[str, Any]:
    """Times whole steps and updates alone."""
    batch_size = max(2, round(BATCH_SIZE * min(settings.width, 1)))
    model = models.ResNet20(CLASSES, width=settings.width, rngs=nnx.Rngs(0))
    graph, params, statistics = nnx.split(model, nnx.Param, nnx.BatchStat)
    images = random_array((batch_size, 32, 32, 3), 0)
    labels = jnp.arange(batch_size) % CLASSES

    def gradient_of(params, statistics, images, labels):
        def loss_of(params):
            # The copy lets batch normalization write its averages into arrays of this trace.
            model = nnx.merge(graph, params, statistics, copy=True)
            logits = model(images, training=True)
            losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
            return losses.mean(), nnx.state(model, nnx.BatchStat)

        return jax.grad(loss_of, has_aux=True)(params)

    gradient, _ = jax.jit(gradient_of)(params, statistics, images, labels)
    cases = {f"optax.sgd, momentum {MOMENTUM}": (optax.sgd(RATE, momentum=MOMENTUM), params)}
    for names in dict.fromkeys(settings.manifolds):
        request = fg.pom("PO", manifolds_named(names))
        spec = fg.collection(params, ("*conv*/kernel", request), default=None)
        start = start_on(spec, params)
        for decay in (None, MOMENTUM):
            label = f"fgsgd PO, {spelled(names)}" + (f", momentum {decay}" if decay else "")
            cases[label] = fg.fgsgd(RATE, spec, momentum=decay), start

    def whole_step(tx):
        def step(params, state, statistics, images, labels):
            gradient, statistics = gradient_of(params, statistics, images, labels)
            params, state = update_of(tx)(params, state, gradient)
            return params, state, statistics

        return step

    clocks = {}
    with _timing.progress(len(cases), "share") as bar:
        for label, (tx, start) in cases.items():
            state = tx.init(start)
            step = _timing.Fed(whole_step(tx), (start, state, statistics), images, labels)
            update = _timing.Fed(update_of(tx), (start, state), gradient)
            clocks[f"step: {label}"] = _timing.clock(step)
            clocks[f"update: {label}"] = _timing.clock(update)
            bar.update()
    merged = nnx.merge(graph, params, statistics)
    clocks["features"] = _timing.clock(lambda: fg_nnx.feature_std(merged, images, training=False))
    seconds = _timing.in_turn(clocks, settings.rounds)
    rows = []
    for label in cases:
        update, step = seconds[f"update: {label}"], seconds[f"step: {label}"]
        share = _timing.ratio_of(update, step)
        rows.append(
            {
                "label": label,
                "share": share.ratio,
                "share_quartiles": [share.low, share.high],
                "update_seconds": float(np.median(update)),
                "step_seconds": float(np.median(step)),
            }
        )
    return {
        "weights": sum(leaf.size for leaf in jax.tree.leaves(params)),
        "batch_size": batch_size,
        "rows": rows,
        "features": _of_features(seconds["features"], seconds[f"step: {label}"], batch_size),
    }


def _of_features(measured: np.ndarray, step: np.ndarray, batch_size: int) -> dict[str, Any]:
    """What measuring adds to an epoch, from the times of one batch and of one step."""
    steps = EPOCH // batch_size
    share = _timing.ratio_of(FEATURE_BATCHES * measured, steps * step)
    return {
        "batches": FEATURE_BATCHES,
        "steps": steps,
        "seconds": float(np.median(measured)),
        "share": share.ratio,
        "share_quartiles": [share.low, share.high],
    }


def tables(content: dict[str, Any]) -> list[str | rich.table.Table]:
    """The figures for people to read."""
    columns: report.Columns = [
        ("update", lambda row: row["label"]),
        ("share", lambda row: f"{row['share']:.2%}"),
        ("middle half", lambda row: "–".join(f"{one:.2%}" for one in row["share_quartiles"])),
        ("update alone", lambda row: report.duration(row["update_seconds"])),
        ("whole step", lambda row: report.duration(row["step_seconds"])),
    ]
    title = (
        f"share of the update in a step of a ResNet-20, {content['weights']:,} weights, batch "
        f"{content['batch_size']}"
    )
    features = content["features"]
    return [
        report.table(title, columns, {"": content["rows"]}),
        f"Features of all kernels on {features['batches']} batches: {features['share']:.2%} of an "
        f"epoch of {features['steps']:,} steps ({report.duration(features['seconds'])} a batch)",
    ]
