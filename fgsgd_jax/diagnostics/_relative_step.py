"""`relative_step`: how long an update is beside its weight, for any optimizer."""

from typing import Any

import jax
import jax.numpy as jnp

from fgsgd_jax import linalg
from fgsgd_jax._arrays import checked_array
from fgsgd_jax._trees import leaves_with_paths


def relative_step(updates: Any, params: Any) -> dict[str, jax.Array]:
    """‖update‖/‖weight‖ (Frobenius) of every leaf, by path.

    Euclidean leaves have one too, and no spec is needed, so optimizers on manifolds and others can
    be compared. On manifolds that fix the norm it is what a relative step of `on_manifold` sets,
    but for the chord of the last retraction.

    Args:
        updates: What an optimizer returned, to be added to `params`.
        params: The parameters before the update.

    Returns:
        A scalar for every leaf of `updates`. For a weight of norm 0 it is infinite, or 0 if it does
        not move.

    Raises:
        TypeError: If a leaf is no array of real numbers.
        ValueError: If `params` has no leaf of the same path and shape.

    Example:
        >>> import jax.numpy as jnp
        >>> params = {"w": jnp.array([3.0, 4.0]), "b": jnp.zeros(2)}
        >>> updates = {"w": jnp.array([0.0, -0.5]), "b": jnp.zeros(2)}
        >>> {path: round(float(step), 4) for path, step in relative_step(updates, params).items()}
        {'b': 0.0, 'w': 0.1}
    """
    weights = {path: _array("weight", path, leaf) for path, leaf in leaves_with_paths(params)}
    steps = {}
    for path, leaf in leaves_with_paths(updates):
        update = _array("update", path, leaf)
        if path not in weights or weights[path].shape != update.shape:
            found = f"of shape {weights[path].shape}" if path in weights else "missing"
            raise ValueError(
                f"The update of {path!r} has shape {update.shape}, but its weight is {found} in "
                "params. Give the parameters to which these updates are added."
            )
        length, size = _norm(update), _norm(weights[path])
        steps[path] = jnp.where(length == 0, 0, length / size)
    return steps


def _array(name: str, path: str, leaf: Any) -> jax.Array:
    return checked_array(f"The {name}{f' of {path!r}' if path else ''}", leaf)


def _norm(leaf: jax.Array) -> jax.Array:
    """‖leaf‖, without overflow of the squares."""
    return linalg.norm(linalg.in_working_dtype(leaf).reshape(-1, 1))
