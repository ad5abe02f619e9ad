"""The training step and the evaluation of the network, as pure functions of the training state."""

import itertools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from scipy.special import logsumexp

import fgsgd_jax as fg
import fgsgd_jax.nnx as fg_nnx
from fgsgd_jax.experiments.data import ImageData, batches

EVALUATION_BATCH = 1000


class TrainState(NamedTuple):
    """Everything that training changes, and so everything that a checkpoint holds.

    Attributes:
        params: The weights, an `nnx.State` of `nnx.Param`.
        statistics: The running averages of batch normalization, an `nnx.State`.
        optimizer: The state of the optimizer.
    """

    params: Any
    statistics: Any
    optimizer: optax.OptState


TrainStep = Callable[[TrainState, Any, Any], tuple[TrainState, jax.Array, jax.Array, Any]]
"""`(state, images, labels) -> (state, mean loss, number of errors, gradient)`."""

Outputs = Callable[[TrainState, np.ndarray], np.ndarray]
"""`(state, images) -> logits` of shape `(number, classes)`."""


def train_step(
    graph: nnx.GraphDef, optimizer: optax.GradientTransformation, data: ImageData
) -> TrainStep:
    """The compiled training step of a network with this optimizer."""
    normalized = normalization(data)

    @jax.jit
    def step(state, images, labels):
        def loss_of(params):
            # The copy lets batch normalization write its averages into arrays of this trace.
            model = nnx.merge(graph, params, state.statistics, copy=True)
            logits = model(normalized(images), training=True)
            losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
            return losses.mean(), (logits, nnx.state(model, nnx.BatchStat))

        (loss, (logits, statistics)), gradient = jax.value_and_grad(loss_of, has_aux=True)(
            state.params
        )
        updates, optimizer_state = optimizer.update(gradient, state.optimizer, state.params)
        params = optax.apply_updates(state.params, updates)
        errors = jnp.sum(logits.argmax(-1) != labels)
        return TrainState(params, statistics, optimizer_state), loss, errors, gradient

    return step


def outputs(graph: nnx.GraphDef, data: ImageData) -> Outputs:
    """The compiled evaluation of a network, for any number of images."""
    normalized = normalization(data)

    @jax.jit
    def logits_of_batch(state, images):
        model = nnx.merge(graph, state.params, state.statistics)
        return model(normalized(images), training=False)

    def logits_of(state, images):
        size = min(len(images), EVALUATION_BATCH)
        # Padded to whole batches with copies of the first image: one shape, one compilation.
        index = np.arange(-(-len(images) // size) * size)
        index[index >= len(images)] = 0
        starts = range(0, len(index), size)
        parts = [logits_of_batch(state, images[index[k : k + size]]) for k in starts]
        return np.concatenate(parts)[: len(images)]

    return logits_of


def loss_and_error(logits: np.ndarray, labels: np.ndarray) -> tuple[float, float]:
    """The mean cross-entropy and the fraction of errors."""
    losses = logsumexp(logits, axis=-1) - logits[np.arange(len(labels)), labels]
    return float(losses.mean(dtype=np.float64)), float(np.mean(logits.argmax(-1) != labels))


def feature_statistics(
    graph: nnx.GraphDef, data: ImageData, spec: fg.Collection, count: int, batch_size: int
) -> Callable[[TrainState, int, int], dict[str, jax.Array]]:
    """The function `(state, seed, epoch) -> feature_std` of the kernels on manifolds.

    It measures the first `count` training batches of an epoch, using the running averages of batch
    normalization.
    """
    normalized = normalization(data)

    def measure(state, seed, epoch):
        model = nnx.merge(graph, state.params, state.statistics)
        first = itertools.islice(batches(data, batch_size, seed, epoch), count)
        images = (normalized(pixels) for pixels, _ in first)
        return fg_nnx.feature_std(model, images, spec=spec, training=False)

    return measure


def normalization(data: ImageData) -> Callable[[Any], jax.Array]:
    """The function that shifts and scales images to mean 0 and deviation 1 on the training set."""
    mean, deviation = data.statistics()
    return lambda images: (jnp.asarray(images, jnp.float32) - mean) / deviation
