"""`scale_by_learning_rate`: Optax's link, for chains that can be fused."""

import jax
import jax.numpy as jnp
import optax

from fgsgd_jax._numbers import checked_schedule
from fgsgd_jax.spec import Collection, map_leaves
from fgsgd_jax.transforms._link import Link


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


def _as_float(gradient: jax.Array) -> jax.Array:
    whole = not jnp.issubdtype(gradient.dtype, jnp.inexact)
    return gradient.astype(float) if whole else gradient
