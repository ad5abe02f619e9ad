"""Training a small network in one compiled program, for studies with hundreds of runs."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

Loss = Callable[[Any, jax.Array, jax.Array], jax.Array]
"""`(params, inputs, labels) -> scalar`."""


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
) -> Any:
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

    Returns:
        The parameters after the last step.
    """
    steps = len(inputs) // batch_size

    def step(carried, batch):
        params, state = carried
        gradient = jax.grad(loss)(params, inputs[batch], labels[batch])
        updates, state = tx.update(gradient, state, params)
        return (optax.apply_updates(params, updates), state), None

    def epoch(carried, key):
        order = jax.random.permutation(key, len(inputs))[: steps * batch_size]
        return jax.lax.scan(step, carried, order.reshape(steps, batch_size))

    (params, _), _ = jax.lax.scan(epoch, (params, tx.init(params)), jax.random.split(key, epochs))
    return params


def to_zero(rate: Any, steps: int) -> optax.Schedule:
    """The learning rate of all methods: constant for a half of the steps, then linearly to 0."""
    return lambda count: rate * jnp.clip(2 - 2 * count / steps, 0, 1)
