"""What a step of Path-SGD costs, next to one of SGD on the same network."""

import random
import statistics
import time
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

import fgsgd_jax as fg

BATCH_SIZE = 100
CLASSES = 10


class PathCost(NamedTuple):
    """The cost on one network.

    Attributes:
        network: What it is.
        ratio: The median over the rounds of the time of a Path-SGD step over that of an SGD step.
        sgd: Median time of an SGD step in seconds.
        path_sgd: The same of a Path-SGD step.
    """

    network: str
    ratio: float
    sgd: float
    path_sgd: float


def dense(params, x):
    *hidden, last = params
    for layer in hidden:
        x = jax.nn.relu(x @ layer["kernel"] + layer["bias"])
    return x @ last["kernel"] + last["bias"]


def convolutional(params, x):
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


def measure(name: str, rounds: int = 11, batch_size: int = BATCH_SIZE) -> PathCost:
    """Times whole training steps, gradient included, both kinds in turn in one process.

    Args:
        name: One of `NETWORKS`.
        rounds: How often each is timed, in a new order each round.
        batch_size: Examples in a step.
    """
    apply_fn, start, shape = NETWORKS[name]
    params = start()
    x = jax.random.normal(jax.random.key(1), (batch_size, *shape))
    labels = jnp.arange(batch_size) % CLASSES
    rate = 1e-6  # the weights stay where they are, whatever the optimizer
    steps = {
        "sgd": _step(optax.sgd(rate), apply_fn, params, x, labels),
        "path_sgd": _step(fg.path_sgd(rate, apply_fn, shape), apply_fn, params, x, labels),
    }
    times: dict[str, list[float]] = {kind: [] for kind in steps}
    order = list(steps)
    for _ in range(rounds):
        random.shuffle(order)
        for kind in order:
            started = time.perf_counter()
            steps[kind]()
            times[kind].append(time.perf_counter() - started)
    pairs = zip(times["path_sgd"], times["sgd"], strict=True)
    return PathCost(
        name,
        statistics.median(path / sgd for path, sgd in pairs),
        statistics.median(times["sgd"]),
        statistics.median(times["path_sgd"]),
    )


def _step(tx: optax.GradientTransformation, apply_fn, params, x, labels) -> Callable[[], None]:
    """A warm training step that feeds its own weights back."""

    def loss_of(params):
        logits = apply_fn(params, x)
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

    def step(params, state):
        updates, state = tx.update(jax.grad(loss_of)(params), state, params)
        return optax.apply_updates(params, updates), state

    jitted = jax.jit(step, donate_argnums=(0, 1))
    carried = [jax.tree.map(jnp.copy, params), tx.init(params)]

    def once() -> None:
        carried[:] = jax.block_until_ready(jitted(*carried))

    once()
    return once
