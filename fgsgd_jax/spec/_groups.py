"""Norms of groups: from one number per component to one per group, and back."""

import jax
import jax.numpy as jnp
from jax import lax

from fgsgd_jax import _xla_cpu, linalg
from fgsgd_jax.spec._schemes import summed_axes

# Ids of drawn groups are always in range: no bounds check, no wrapping of negative ids.
IN_RANGE = "promise_in_bounds"


def group_norms(leaf_spec, squares: jax.Array, groups: jax.Array | None) -> jax.Array:
    """The norm of every group (Theorem 1, eq. 6), from the squared norms of its components.

    Args:
        leaf_spec: The leaf spec of the weight.
        squares: ⟨v, v⟩ of every component, `(*lanes)`.
        groups: The group of every component, for groups that are drawn at random.

    Returns:
        `(groups,)` for drawn groups, else an array that broadcasts against the components.
    """
    if groups is None:
        axes = summed_axes(leaf_spec.scheme, leaf_spec.component)
        return linalg.safe_sqrt(jnp.sum(squares, axis=axes, keepdims=True))
    sums = jnp.zeros(leaf_spec.stacked * leaf_spec.groups, squares.dtype)
    if jax.device_count() > 1:  # a flat array would be gathered on every device
        sums = sums.at[groups].add(squares, mode=IN_RANGE, wrap_negative_indices=False)
        return linalg.safe_sqrt(sums)
    # Windows of one number each: for other forms of a scatter XLA copies the numbers first.
    windows = lax.ScatterDimensionNumbers((1,), (), (0,))
    ids, numbers = (jnp.reshape(array, (-1, 1)) for array in (groups, squares))
    return linalg.safe_sqrt(lax.scatter_add(sums, ids, numbers, windows, mode=IN_RANGE))


def per_component(numbers: jax.Array, groups: jax.Array | None) -> jax.Array:
    """One number per group, as an array that broadcasts against the components."""
    if groups is None:
        return numbers
    # Materialized, or XLA's CPU compiler computes the number of a group once per component and
    # looks it up once per entry.
    made = _xla_cpu.materialize(lambda: numbers, groups)
    return _xla_cpu.materialize(
        lambda: made.at[groups].get(mode=IN_RANGE, wrap_negative_indices=False), groups
    )
