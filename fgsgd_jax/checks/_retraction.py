"""`check_retraction`: the order of a retraction."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fgsgd_jax._keys import require_key
from fgsgd_jax._numbers import require_count, require_not_negative
from fgsgd_jax.checks import _points
from fgsgd_jax.checks._report import Law, Report
from fgsgd_jax.checks._sample import require_manifold
from fgsgd_jax.checks._slope import LENGTHS, slope
from fgsgd_jax.geometry import Manifold


def check_retraction(
    manifold: Manifold,
    key: jax.Array,
    *,
    shape: Any = (4, 3),
    order: int = 1,
    tolerance: float = 0.1,
) -> Report:
    """Measures the order of a retraction against `exp`, in float64.

    The error ‖R(x, tv) − exp(x, tv)‖ is computed at 101 lengths t from 1e-8 to 1. On a log-log plot
    its slope is 2 for a retraction, 3 for a second-order retraction.

    Args:
        manifold: A manifold with an `exp`.
        key: A PRNG key.
        shape: The shape of one point, or for a `Product` a tuple of shapes.
        order: The order that the retraction should have, at least.
        tolerance: By how much the slope may fall short of `order + 1`.

    Returns:
        A report of one law: by how much the slope falls short of `order + 1`. A retraction that
        equals `exp` up to round-off has no slope and passes.

    Raises:
        TypeError: If the manifold is a class, or not a `Manifold`, or the key is no key of JAX.
        ValueError: If it has no `exp`.

    Example:
        >>> import jax
        >>> from fgsgd_jax import Sphere
        >>> check_retraction(Sphere(), jax.random.key(0), order=2).passed
        True
    """
    require_manifold(manifold)
    require_key(key)
    shape = _points.checked_shape(shape)
    require_count("order", order, lowest=1)
    require_not_negative("tolerance", tolerance)
    if not hasattr(manifold, "exp"):
        raise ValueError(
            f"check_retraction compares `retract` with `exp`, which {manifold!r} does not have. "
            "Define `exp`, or check `retract` with check_manifold."
        )
    with jax.enable_x64(True):
        errors = np.asarray(_errors(manifold, shape, jnp.asarray(LENGTHS), key))
    name = f"error of retract has slope {order + 1}"
    if np.all(errors <= 1e-12):
        return Report([Law(f"{name} (it is exp)", 0.0, tolerance)])
    return Report([Law(name, order + 1 - slope(errors), tolerance)])


@functools.partial(jax.jit, static_argnums=(0, 1))
def _errors(manifold: Any, shape: Any, lengths: jax.Array, key: jax.Array) -> jax.Array:
    """The error of the retraction at every length."""
    point_key, vector_key = jax.random.split(key)
    x = manifold.random(point_key, shape, lengths.dtype)
    v = _points.unit_tangent(manifold, vector_key, x)

    def error(t):
        step = _points.scale(t, v)
        return _points.difference(manifold.retract(x, step), manifold.exp(x, step))

    return jax.vmap(error)(lengths)
