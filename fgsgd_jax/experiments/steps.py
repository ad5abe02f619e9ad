"""One step of training and one pass of evaluation, as pure functions of the state."""

import itertools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

import fgsgd_jax.nnx as fg_nnx
from fgsgd_jax.experiments.data import ImageData
from fgsgd_jax.experiments.data import batches as data_batches
from fgsgd_jax.poms import Collection

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


TrainStep = Callable[[TrainState, Any, Any], tuple[TrainState, jax.Array, jax.Array]]
Evaluate = Callable[[TrainState, np.ndarray, np.ndarray], tuple[float, float]]


def train_step(
    graph: nnx.GraphDef, optimizer: optax.GradientTransformation, data: ImageData
) -> TrainStep:
    """The jitted function `(state, images, labels) -> (state, mean loss, number of errors)`."""
    normalized = _normalization(data)

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
        return TrainState(params, statistics, optimizer_state), loss, errors

    return step


def evaluation(graph: nnx.GraphDef, data: ImageData) -> Evaluate:
    """The function `(state, images, labels) -> (mean loss, fraction of errors)`, for any number."""
    normalized = _normalization(data)

    @jax.jit
    def sums(state, images, labels, counted):
        model = nnx.merge(graph, state.params, state.statistics)
        logits = model(normalized(images), training=False)
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
        return jnp.sum(losses * counted), jnp.sum((logits.argmax(-1) != labels) * counted)

    def evaluate(state, images, labels):
        size = min(len(labels), EVALUATION_BATCH)
        # Filled up to whole batches of one shape, with copies that do not count: one compilation.
        index = np.arange(-(-len(labels) // size) * size)
        counted = index < len(labels)
        index[~counted] = 0
        loss = errors = 0.0
        for start in range(0, len(index), size):
            part = slice(start, start + size)
            chosen = index[part]
            batch_loss, batch_errors = sums(state, images[chosen], labels[chosen], counted[part])
            loss += float(batch_loss)
            errors += float(batch_errors)
        return loss / len(labels), errors / len(labels)

    return evaluate


def feature_statistics(
    graph: nnx.GraphDef, data: ImageData, spec: Collection, batches: int, batch_size: int
) -> Callable[[TrainState, int, int], dict[str, jax.Array]]:
    """The function `(state, seed, epoch) -> feature_std` of the kernels on manifolds.

    Measured on the first training batches of an epoch, with the averages of batch normalization.
    """
    normalized = _normalization(data)

    def measure(state, seed, epoch):
        model = nnx.merge(graph, state.params, state.statistics)
        some = itertools.islice(data_batches(data, batch_size, seed, epoch), batches)
        images = (normalized(pixels) for pixels, _ in some)
        return fg_nnx.feature_std(model, images, spec=spec, training=False)

    return measure


def _normalization(data: ImageData) -> Callable[[Any], jax.Array]:
    mean, deviation = data.statistics()
    return lambda images: (jnp.asarray(images, jnp.float32) - mean) / deviation
