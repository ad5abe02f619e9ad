"""The networks, starting points, optimizers and training loop of the Path-SGD figures."""

import functools
from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp
import numpy as np
import optax

import fgsgd_jax as fg
from fgsgd_jax.experiments.path_figures.vectors import Vectors
from fgsgd_jax.experiments.run_folder import Row

BATCH_SIZE = 100  # as in the paper
EVALUATED = 10_000  # the most images of each set that are evaluated


def network(params, x):
    """Maps vectors `(number, inputs)` to logits by dense layers with ReLU between them."""
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
    """The same function as the balanced start, with its units rescaled at random."""
    key = jax.random.fold_in(jax.random.key(seed), 1)
    return fg.unbalance(key, balanced_start(seed, sizes, dtype))


STARTS = {"balanced": balanced_start, "unbalanced": unbalanced_start}

# Each optimizer up to its learning rate. Path-SGD has p = 2, as in the paper.
LINKS: dict[str, Callable] = {
    "SGD": lambda inputs, momentum: optax.identity(),
    "AdaGrad": lambda inputs, momentum: optax.scale_by_rss(initial_accumulator_value=0.0),
    "Path-SGD": lambda inputs, momentum: fg.scale_by_path(network, (inputs,)),
    "momentum": lambda inputs, momentum: optax.trace(momentum),
}


def train(
    optimizer: str,
    params,
    data: Vectors,
    epochs: int,
    seed: int,
    rate: Callable[[int], float],
    momentum: Callable[[int], float] = lambda epoch: 0.0,
) -> Iterator[tuple[Row, np.ndarray]]:
    """Trains, and yields the metrics after each epoch and the loss at each of its steps.

    The first row describes the start and has no steps. Training ends early if the loss is no longer
    finite.

    Args:
        optimizer: A key of `LINKS`.
        params: The start.
        data: The images.
        epochs: The number of passes over the training set.
        seed: The seed of the order of the images.
        rate: The learning rate as a function of the epoch, from 0.
        momentum: The momentum as a function of the epoch, from 0.
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


@functools.partial(jax.jit, static_argnums=0)
def _epoch(optimizer: str, params, state, images, labels, batches, rate, momentum):
    """One pass over batches, given as rows of indices; also returns the loss at each step."""
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
def _loss_and_error(params, images, labels):
    logits = network(params, images)
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
    return losses.mean(), jnp.mean(logits.argmax(-1) != labels)


def _row(epoch: int, params, data: Vectors) -> Row:
    row: Row = {"epoch": epoch}
    for name, images in data.images.items():
        loss, error = _loss_and_error(params, images[:EVALUATED], data.labels[name][:EVALUATED])
        row[f"{name}_loss"], row[f"{name}_error"] = float(loss), float(error)
    return row
