"""`scale_by_learning_rate`: Optax's link, for chains that can be fused."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import optax

from fgsgd_jax.spec import Collection, map_leaves
from fgsgd_jax.transforms._link import Link, known_values


def scale_by_learning_rate(
    learning_rate: optax.ScalarOrSchedule, spec: Collection, euclidean_share: float = 1.0
) -> Link:
    """Multiplies by minus the learning rate, as `optax.scale_by_learning_rate` does.

    Gradients of whole numbers become floats first: in their dtype a rate below 1 would be 0.

    Args:
        learning_rate: The rate of leaves on manifolds, a number or schedule.
        spec: The spec of the parameters.
        euclidean_share: The rate of Euclidean leaves, as a share of `learning_rate`.
    """
    learning_rate = checked_schedule("learning_rate", learning_rate)
    plain = optax.scale_by_learning_rate(learning_rate)

    def update_fn(updates, state, params=None, **extra_args):
        del extra_args
        updates = jax.tree.map(_as_float, updates)
        steps, state = plain.update(updates, state, params)
        steps = map_leaves(
            spec, lambda path, leaf_spec, step: step, lambda step: euclidean_share * step, steps
        )
        return steps, state

    return Link.of(
        plain.init, update_fn, learning_rate=learning_rate, euclidean_share=euclidean_share
    )


def checked_schedule(name: str, number: Any) -> Any:
    """A schedule that raises where its value is known and negative or not finite.

    Args:
        name: The name of the argument, for the message.
        number: A schedule, or a number, which is returned as it is.
    """
    if not callable(number):
        return number

    @functools.wraps(number)
    def schedule(count):
        value = number(count)
        known = known_values(value)
        if known is not None and not (0 <= known.min() and known.max() < float("inf")):
            steps = known_values(count)  # None for a constant inside a compiled function
            raise ValueError(
                f"{name} must be a finite number of at least 0, but the schedule gives "
                f"{known.min():g}{'' if steps is None else f' after {steps} steps'}. Give one "
                "that stays finite and ends at 0, such as optax.linear_schedule(0.1, 0.0, 1000)."
            )
        return value

    return schedule


def _as_float(gradient: jax.Array) -> jax.Array:
    whole = not jnp.issubdtype(gradient.dtype, jnp.inexact)
    return gradient.astype(float) if whole else gradient
