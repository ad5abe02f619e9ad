"""A check of keys of random generators."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fgsgd_jax._text import shown


def require_key(key: Any) -> None:
    """Raises a TypeError unless an argument is one key of JAX.

    Keys of `jax.random.PRNGKey`, of the older kind, are uint32 arrays of one axis.
    """
    dtype = getattr(key, "dtype", None)
    typed = dtype is not None and jnp.issubdtype(dtype, jax.dtypes.prng_key)
    older = isinstance(key, (jax.Array, np.ndarray)) and key.dtype == np.uint32
    if (typed or older) and key.ndim == (0 if typed else 1):
        return
    given = f"keys of shape {key.shape}" if typed else shown(key)
    seed = key if type(key) is int else 0
    raise TypeError(f"`key` must be one key, such as jax.random.key({seed}), got {given}.")
