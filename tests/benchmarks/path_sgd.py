"""The cost of a step of Path-SGD, compared with one of SGD on the same network and batch."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import fgsgd_jax as fg
from fgsgd_jax.experiments.bench import formatting, timing
from fgsgd_jax.experiments.bench.config import Settings
from fgsgd_jax.experiments.bench.sections import Tables
from fgsgd_jax.experiments.path_figures.training import network as dense

BATCH_SIZE = 100
CLASSES = 10
RATE = 1e-6  # so small that the weights hardly change


def convolutional(params, x):
    """Maps images to logits by 3×3 convolutions, ReLU, 2×2 maximum pooling, and a dense layer."""
    *hidden, last = params
    for layer in hidden:
        x = jax.lax.conv_general_dilated(
            x, layer["kernel"], (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
        x = jax.nn.relu(x + layer["bias"])
        number, rows, columns, channels = x.shape
        x = x.reshape(number, rows // 2, 2, columns // 2, 2, channels).max((2, 4))
    return x.reshape(len(x), -1) @ last["kernel"] + last["bias"]


def _layers(*shapes: tuple[int, ...]):
    keys = jax.random.split(jax.random.key(0), len(shapes))
    return [
        {
            "kernel": jax.random.normal(key, shape) / jnp.prod(jnp.array(shape[:-1])) ** 0.5,
            "bias": jnp.zeros(shape[-1]),
        }
        for key, shape in zip(keys, shapes, strict=True)
    ]


NETWORKS: dict[str, tuple[Callable, Callable, tuple[int, ...]]] = {
    "dense 784-512-512-10": (
        dense, lambda: _layers((784, 512), (512, 512), (512, 10)), (784,)
    ),
    "dense 784-4000-4000-10, the paper's": (
        dense, lambda: _layers((784, 4000), (4000, 4000), (4000, 10)), (784,)
    ),
    "convolutional, 32×32×3": (
        convolutional,
        lambda: _layers((3, 3, 3, 32), (3, 3, 32, 64), (3, 3, 64, 64), (1024, 10)),
        (32, 32, 3),
    ),
}  # fmt: skip


def measure(settings: Settings) -> list[dict[str, Any]]:
    """Times whole training steps, gradient included, on each of the networks."""
    with timing.progress(len(NETWORKS), "paths") as bar:
        rows = []
        for name in NETWORKS:
            rows.append(measure_one(name, settings.rounds))
            bar.update()
        return rows


def measure_one(name: str, rounds: int, batch_size: int = BATCH_SIZE) -> dict[str, Any]:
    """Times steps of SGD and Path-SGD in turn.

    Args:
        name: A key of `NETWORKS`.
        rounds: How often each step is timed.
        batch_size: Images in a batch.
    """
    apply_fn, start, shape = NETWORKS[name]
    params = start()
    x = jax.random.normal(jax.random.key(1), (batch_size, *shape))
    labels = jnp.arange(batch_size) % CLASSES
    optimizers = {"sgd": optax.sgd(RATE), "path_sgd": fg.path_sgd(RATE, apply_fn, shape)}
    steps = {
        kind: timing.Iterated(_step(tx, apply_fn), (params, tx.init(params)), x, labels)
        for kind, tx in optimizers.items()
    }
    clocks = {kind: timing.clock(step) for kind, step in steps.items()}
    seconds = timing.in_turn(clocks, rounds)
    ratio = timing.ratio_of(seconds["path_sgd"], seconds["sgd"])
    return {
        "network": name,
        "batch_size": batch_size,
        "ratio": ratio.ratio,
        "ratio_quartiles": [ratio.low, ratio.high],
        **{f"{kind}_seconds": float(np.median(taken)) for kind, taken in seconds.items()},
    }


def _step(tx: optax.GradientTransformation, apply_fn) -> Callable[..., tuple]:
    def step(params, state, x, labels):
        def loss_of(params):
            logits = apply_fn(params, x)
            return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

        updates, state = tx.update(jax.grad(loss_of)(params), state, params)
        return optax.apply_updates(params, updates), state

    return step


def tables(content: list[dict[str, Any]]) -> Tables:
    """The figures for people to read."""
    columns: formatting.Columns = [
        ("network", lambda row: row["network"]),
        *formatting.ratio_columns(),
        ("SGD", lambda row: formatting.duration(row["sgd_seconds"])),
        ("Path-SGD", lambda row: formatting.duration(row["path_sgd_seconds"])),
    ]
    title = f"time of a step of Path-SGD / time of one of SGD, batch {content[0]['batch_size']}"
    return [formatting.table(title, columns, {"": content})]
