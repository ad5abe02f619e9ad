"""The training runs of the Path-SGD figures: small networks, many optimizers, one loop."""

import dataclasses
import functools
from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp
import numpy as np
import optax

import fgsgd_jax as fg
from fgsgd_jax.experiments.data import ImageData, stratified_order
from fgsgd_jax.experiments.report import Row

BATCH_SIZE = 100  # the paper's
SIDE = 10  # of the images of figure 1: 100 pixels
EVALUATED = 10_000  # of each set of images, most


@dataclasses.dataclass(frozen=True)
class Vectors:
    """Images as normalized vectors, with their labels, by set: train, validation, test."""

    images: dict[str, jax.Array]
    labels: dict[str, jax.Array]
    classes: int

    @property
    def inputs(self) -> int:
        return self.images["train"].shape[1]


def vectors(data: ImageData, dtype: str, *, small: bool = False) -> Vectors:
    """The images of a data set, a sixth of the training images held out for validation.

    Args:
        data: The images.
        dtype: The dtype of the numbers.
        small: Whether to average them to gray images of 100 pixels, as figure 1 does.
    """
    order = stratified_order(data.train_labels)
    held_out = len(order) // (5 if data.name == "cifar10" else 6)  # 10,000, as in the paper
    train, validation = order[held_out:], order[:held_out]
    parts = {
        "train": (data.train_images[train], data.train_labels[train]),
        "validation": (data.train_images[validation], data.train_labels[validation]),
        "test": (data.test_images, data.test_labels),
    }
    flat = {name: _flat(images, small) for name, (images, _) in parts.items()}
    mean, deviation = flat["train"].mean(), flat["train"].std()
    return Vectors(
        {name: jnp.asarray((part - mean) / deviation, dtype) for name, part in flat.items()},
        {name: jnp.asarray(labels) for name, (_, labels) in parts.items()},
        data.classes,
    )


def _flat(images: np.ndarray, small: bool) -> np.ndarray:
    images = images.astype(np.float32)
    if small:
        images = images.mean(-1, keepdims=True)
        rows, columns = (_averages(size) for size in images.shape[1:3])
        images = np.einsum("ir,nrcd,jc->nijd", rows, images, columns)
    return images.reshape(len(images), -1)


def _averages(size: int) -> np.ndarray:
    """The matrix that averages `size` pixels to `SIDE`, each over the stretch it covers."""
    if size <= SIDE:
        return np.eye(size, dtype=np.float32)
    edges = np.linspace(0, size, SIDE + 1)
    pixels = np.arange(size)
    covered = np.minimum(edges[1:, None], pixels + 1) - np.maximum(edges[:-1, None], pixels)
    return (np.clip(covered, 0, None) * SIDE / size).astype(np.float32)


# --- the network ---------------------------------------------------------------------------------


def network(params, x):
    """Dense layers with ReLU between; outputs are logits."""
    *hidden, last = params
    for layer in hidden:
        x = jax.nn.relu(x @ layer["kernel"] + layer["bias"])
    return x @ last["kernel"] + last["bias"]


def balanced_start(seed: int, sizes: list[int], dtype: str):
    """Normal weights of standard deviation 1/√fan-in, biases 0."""
    keys = jax.random.split(jax.random.key(seed), len(sizes) - 1)
    return [
        {
            "kernel": jax.random.normal(key, (inputs, outputs), dtype) / np.sqrt(inputs),
            "bias": jnp.zeros(outputs, dtype),
        }
        for key, inputs, outputs in zip(keys, sizes, sizes[1:], strict=False)
    ]


def unbalanced_start(seed: int, sizes: list[int], dtype: str):
    """The same function, its units rescaled at random."""
    key = jax.random.fold_in(jax.random.key(seed), 1)
    return fg.unbalance(key, balanced_start(seed, sizes, dtype))


STARTS = {"balanced": balanced_start, "unbalanced": unbalanced_start}

# What an optimizer does before the learning rate. Path-SGD with p = 2, as in the paper.
LINKS: dict[str, Callable] = {
    "SGD": lambda inputs, momentum: optax.identity(),
    "AdaGrad": lambda inputs, momentum: optax.scale_by_rss(initial_accumulator_value=0.0),
    "Path-SGD": lambda inputs, momentum: fg.scale_by_path(network, (inputs,)),
    "momentum": lambda inputs, momentum: optax.trace(momentum),
}


# --- training ------------------------------------------------------------------------------------


@functools.partial(jax.jit, static_argnums=0)
def _epoch(optimizer: str, params, state, images, labels, batches, rate, momentum):
    """One pass over the batches, given as rows of indices; also the loss at each step."""
    link = LINKS[optimizer](images.shape[1], momentum)

    def loss_of(params, batch):
        logits = network(params, images[batch])
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels[batch]).mean()

    def step(carry, batch):
        params, state = carry
        loss, gradient = jax.value_and_grad(loss_of)(params, batch)
        updates, state = link.update(gradient, state, params)
        params = jax.tree.map(lambda w, u: w - rate.astype(w.dtype) * u, params, updates)
        return (params, state), loss

    (params, state), losses = jax.lax.scan(step, (params, state), batches)
    return params, state, losses


@jax.jit
def _evaluated(params, images, labels):
    logits = network(params, images)
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
    return losses.mean(), jnp.mean(logits.argmax(-1) != labels)


def train(
    optimizer: str,
    params,
    data: Vectors,
    epochs: int,
    seed: int,
    rate: Callable[[int], float],
    momentum: Callable[[int], float] = lambda epoch: 0.0,
) -> Iterator[tuple[Row, np.ndarray]]:
    """Trains, and yields after each epoch its metrics and the losses at its steps.

    The first row is that of the start. It ends early where the loss is no number any more.
    """
    yield _row(0, params, data), np.zeros(0)
    number = len(data.labels["train"])
    size = min(BATCH_SIZE, number)
    state = LINKS[optimizer](data.inputs, 0.0).init(params)
    for epoch in range(1, epochs + 1):
        order = np.random.default_rng((seed, epoch)).permutation(number)
        batches = order[: number // size * size].reshape(-1, size)
        params, state, losses = _epoch(
            optimizer,
            params,
            state,
            data.images["train"],
            data.labels["train"],
            batches,
            jnp.asarray(rate(epoch - 1)),
            jnp.asarray(momentum(epoch - 1)),
        )
        yield _row(epoch, params, data), np.asarray(losses)
        if not np.isfinite(losses).all():
            return


def _row(epoch: int, params, data: Vectors) -> Row:
    row: Row = {"epoch": epoch}
    for name, images in data.images.items():
        loss, error = _evaluated(params, images[:EVALUATED], data.labels[name][:EVALUATED])
        row[f"{name}_loss"], row[f"{name}_error"] = float(loss), float(error)
    return row
