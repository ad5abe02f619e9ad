"""One step of training and one pass of evaluation, as pure functions of the state."""

import itertools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from scipy.special import logsumexp

import fgsgd_jax.nnx as fg_nnx
from fgsgd_jax.experiments.data import ImageData
from fgsgd_jax.experiments.data import batches as data_batches
from fgsgd_jax.spec import Collection

EVALUATION_BATCH = 1000


class TrainState(NamedTuple):
    """All that training changes, and so all that a checkpoint holds.

    Attributes:
        params: The weights, an `nnx.State` of `nnx.Param`.
        statistics: The running averages of batch normalization, an `nnx.State`.
        optimizer: The state of the optimizer.
    """

    params: Any
    statistics: Any
    optimizer: optax.OptState


TrainStep = Callable[[TrainState, Any, Any], tuple[TrainState, jax.Array, jax.Array, Any]]
Outputs = Callable[[TrainState, np.ndarray], np.ndarray]


def train_step(
    graph: nnx.GraphDef, optimizer: optax.GradientTransformation, data: ImageData
) -> TrainStep:
    """The jitted `(state, images, labels) -> (state, mean loss, number of errors, gradient)`."""
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
    """The function `(state, images) -> logits`, for any number of images."""
    normalized = normalization(data)

    @jax.jit
    def logits(state, images):
        model = nnx.merge(graph, state.params, state.statistics)
        return model(normalized(images), training=False)

    def every(state, images):
        size = min(len(images), EVALUATION_BATCH)
        # Filled up to whole batches of one shape, with copies that are dropped: one compilation.
        index = np.arange(-(-len(images) // size) * size)
        index[index >= len(images)] = 0
        parts = [logits(state, images[index[k : k + size]]) for k in range(0, len(index), size)]
        return np.concatenate(parts)[: len(images)]

    return every


def loss_and_error(logits: np.ndarray, labels: np.ndarray) -> tuple[float, float]:
    """The mean cross-entropy and the fraction of errors."""
    losses = logsumexp(logits, axis=-1) - logits[np.arange(len(labels)), labels]
    return float(losses.mean(dtype=np.float64)), float(np.mean(logits.argmax(-1) != labels))


def feature_statistics(
    graph: nnx.GraphDef, data: ImageData, spec: Collection, batches: int, batch_size: int
) -> Callable[[TrainState, int, int], dict[str, jax.Array]]:
    """The function `(state, seed, epoch) -> feature_std` of the kernels on manifolds.

    Measured on the first training batches of an epoch, with the averages of batch normalization.
    """
    normalized = normalization(data)

    def measure(state, seed, epoch):
        model = nnx.merge(graph, state.params, state.statistics)
        some = itertools.islice(data_batches(data, batch_size, seed, epoch), batches)
        images = (normalized(pixels) for pixels, _ in some)
        return fg_nnx.feature_std(model, images, spec=spec, training=False)

    return measure


def normalization(data: ImageData) -> Callable[[Any], jax.Array]:
    """The function that gives images the mean 0 and deviation 1 of the training images."""
    mean, deviation = data.statistics()
    return lambda images: (jnp.asarray(images, jnp.float32) - mean) / deviation
