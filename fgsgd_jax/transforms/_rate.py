"""`scale_by_learning_rate`: Optax's link, for chains that can be fused."""

import jax
import jax.numpy as jnp
import optax

from fgsgd_jax.transforms._link import Link


def scale_by_learning_rate(learning_rate: optax.ScalarOrSchedule) -> Link:
    """Multiplies by minus the learning rate, as `optax.scale_by_learning_rate` does.

    Gradients of whole numbers become floats first: in their dtype a rate below 1 would be 0.
    """
    plain = optax.scale_by_learning_rate(learning_rate)

    def update_fn(updates, state, params=None, **extra_args):
        del extra_args
        updates = jax.tree.map(_as_float, updates)
        return plain.update(updates, state, params)

    return Link.of(plain.init, update_fn, learning_rate=learning_rate)


def _as_float(gradient: jax.Array) -> jax.Array:
    whole = not jnp.issubdtype(gradient.dtype, jnp.inexact)
    return gradient.astype(float) if whole else gradient
