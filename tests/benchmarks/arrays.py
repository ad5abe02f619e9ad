"""Arrays and shapes that several sections measure."""

import jax
import jax.numpy as jnp
import numpy as np


def channels_of(components: int) -> tuple[int, int]:
    """Input and output channels of a kernel with about this number of components."""
    side = max(1, round(components**0.5))
    return side, max(1, round(components / side))


def random_array(shape: tuple[int, ...], seed: int) -> jax.Array:
    """Standard normal numbers in float32."""
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape, np.float32))
