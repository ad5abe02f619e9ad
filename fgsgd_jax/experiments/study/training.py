"""Images for a study, and the training of a small network in one compiled program."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from fgsgd_jax.experiments.data import ImageData

Loss = Callable[[Any, jax.Array, jax.Array], jax.Array]
"""`(params, inputs, labels) -> scalar`."""


class Split(NamedTuple):
    """Inputs and labels `(number, …)` for each purpose."""

    train: tuple[jax.Array, jax.Array]
    validation: tuple[jax.Array, jax.Array]
    test: tuple[jax.Array, jax.Array]


def split(images: ImageData, form: Callable[[np.ndarray], jax.Array] | None = None) -> Split:
    """The images, of which the last fifth of those for training is held out for validation.

    The images for training are in a random order of their classes.

    Args:
        images: The images.
        form: Makes inputs of pixels; by default they are standardized.
    """
    mean, deviation = images.statistics()
    form = form or (lambda pixels: (jnp.asarray(pixels, jnp.float32) - mean) / deviation)
    inputs, labels = form(images.train_images), jnp.asarray(images.train_labels)
    held_out = len(labels) // 5
    return Split(
        (inputs[:-held_out], labels[:-held_out]),
        (inputs[-held_out:], labels[-held_out:]),
        (form(images.test_images), jnp.asarray(images.test_labels)),
    )


def fit(
    loss: Loss,
    tx: optax.GradientTransformation,
    params: Any,
    inputs: jax.Array,
    labels: jax.Array,
    key: jax.Array,
    *,
    epochs: int,
    batch_size: int,
    measure: Callable[[Any], Any] = lambda state: (),
) -> tuple[Any, Any]:
    """Trains on shuffled batches; to be called inside a jitted function.

    Args:
        loss: The loss of a batch.
        tx: The optimizer.
        params: The initial parameters.
        inputs: The training inputs, `(number, …)`.
        labels: The labels, `(number,)`.
        key: The key of the shuffling.
        epochs: How often all inputs are used.
        batch_size: How many inputs a step uses.
        measure: What to keep of the state of the optimizer after every step.

    Returns:
        The parameters after the last step, and what was measured, `(epochs, steps, …)`.
    """
    steps = len(inputs) // batch_size

    def step(carried, batch):
        params, state = carried
        gradient = jax.grad(loss)(params, inputs[batch], labels[batch])
        updates, state = tx.update(gradient, state, params)
        return (optax.apply_updates(params, updates), state), measure(state)

    def epoch(carried, key):
        order = jax.random.permutation(key, len(inputs))[: steps * batch_size]
        return jax.lax.scan(step, carried, order.reshape(steps, batch_size))

    start = params, tx.init(params)
    (params, _), measured = jax.lax.scan(epoch, start, jax.random.split(key, epochs))
    return params, measured


def to_zero(rate: Any, steps: int) -> optax.Schedule:
    """The learning rate of all methods: constant for a half of the steps, then linearly to 0."""
    return lambda count: rate * jnp.clip(2 - 2 * count / steps, 0, 1)
