"""What `on_manifold` asks of the optimizer it wraps, and how it reaches into its state."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax

from fgsgd_jax import linalg
from fgsgd_jax._numbers import require_number_or_schedule
from fgsgd_jax._text import shown
from fgsgd_jax._trees import leaves_with_paths, listed
from fgsgd_jax.spec import Collection
from fgsgd_jax.transforms import LEAVES_MANIFOLDS, are_known, require_transformation


def map_fields(state: Any, names: Sequence[str], function: Callable) -> Any:
    """The state with a function applied to its fields of the given names."""

    def is_named(node):
        return any(name in getattr(node, "_fields", ()) for name in names)

    def renewed(node):
        if not is_named(node):
            return node
        present = [name for name in names if name in node._fields]
        return node._replace(**{name: function(getattr(node, name)) for name in present})

    return jax.tree.map(renewed, state, is_leaf=is_named)


def check_arguments(tx, spec: Collection, relative_step) -> None:
    """Raises unless the arguments of `on_manifold` are of the right types and fit the spec."""
    require_transformation(tx)
    if relative_step is None:
        return
    require_number_or_schedule("relative_step", relative_step)
    free = [path for path, leaf_spec in spec.on_manifolds() if not leaf_spec.fixes_norm]
    if free:
        raise ValueError(
            f"A relative_step needs manifolds that fix the norm of a component, but {listed(free)} "
            "may change theirs. Leave relative_step out, or choose other manifolds for them."
        )


def checked_names(transport: Any) -> tuple[str, ...]:
    """The names of momentum that is transported, one or several.

    Raises:
        TypeError: If they are no names.
    """
    names = (transport,) if isinstance(transport, str) else transport
    if not isinstance(names, (tuple, list)) or not all(isinstance(name, str) for name in names):
        raise TypeError(
            "`transport` has the names of momentum in the states of the optimizer, such as "
            f"('mu',), got {shown(transport)}."
        )
    return tuple(names)


def require_supported(inner: Any, momentum: Sequence[str]) -> None:
    """Raises for optimizers whose own averages leave the manifolds, and for unknown fields."""

    def is_average(node):
        return isinstance(node, optax.contrib.ScheduleFreeState)

    if any(map(is_average, jax.tree.leaves(inner, is_leaf=is_average))):
        raise ValueError(LEAVES_MANIFOLDS)
    for name in momentum:
        found: list[Any] = []
        map_fields(inner, (name,), found.append)
        if not found:
            raise ValueError(
                f"`transport` names the momentum {name!r}, but no state of this optimizer has such "
                "a field. Adam and Muon have 'mu', SGD with momentum has 'trace'."
            )


def require_no_decay(tx, inner: Any, weights: Any, spec: Collection) -> None:
    """Raises if a zero gradient changes the length of weights whose norm is fixed.

    Where values are known: not inside a jitted function. Two updates show the decay of a schedule
    that starts from 0, or of every second step.
    """
    fixed = {path for path, leaf_spec in spec.on_manifolds() if leaf_spec.fixes_norm}
    leaves = dict(leaves_with_paths(weights))
    if not are_known(weights):
        return
    try:
        zero = jax.tree.map(jnp.zeros_like, weights)
        _, inner = tx.update(zero, inner, weights)
        steps, _ = tx.update(zero, inner, weights)
    except TypeError:  # it needs further arguments, such as the loss
        return
    decayed = [
        path
        for path, step in leaves_with_paths(steps)
        if path in fixed
        and bool(jnp.vdot(step, leaves[path]) < 0)
        and _parallel(step, leaves[path])
    ]
    if decayed:
        raise ValueError(
            f"This optimizer shrinks {listed(decayed)}, whose norm is fixed, also without a "
            "gradient: there, weight decay only shortens the steps. Give it without weight decay "
            "(optax.adam for optax.adamw), or with the mask spec.euclidean_mask for its weight "
            "decay; one that shrinks weights by itself, such as optax.fromage, fits no fixed norm."
        )


def _parallel(u: jax.Array, v: jax.Array) -> bool:
    u, v = (jnp.ravel(linalg.in_working_dtype(array)) for array in (u, v))
    return bool(jnp.abs(jnp.vdot(u, v)) >= 0.99 * jnp.linalg.norm(u) * jnp.linalg.norm(v))
