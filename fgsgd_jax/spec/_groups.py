"""Norms of groups: from one number per component to one per group, and back."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from fgsgd_jax import _xla_cpu, linalg
from fgsgd_jax.spec._schemes import summed_axes

# Ids of drawn groups are always in range: no bounds check, no wrapping of negative ids.
IN_RANGE = "promise_in_bounds"


class Groups(NamedTuple):
    """The drawn groups of one weight.

    Attributes:
        ids: The group of every component, int32 `(*lanes)`, counted over all stacked layers.
        members: The components of every group, int32 `(components in a group, groups)`. The sizes
            of groups differ by at most one; the last place of a smaller group holds the number of
            all components, which is out of range.
    """

    ids: jax.Array
    members: jax.Array


def drawn_groups(leaf_spec) -> Groups | None:
    """The groups of a weight under PIO, None for other schemes."""
    ids = leaf_spec.draw().groups
    return None if ids is None else Groups(jnp.asarray(ids), jnp.asarray(group_members(leaf_spec)))


@functools.lru_cache(maxsize=256)
def group_members(leaf_spec) -> np.ndarray:
    """The components of every drawn group, as in `Groups`."""
    ids = leaf_spec.draw().groups.ravel()
    order = np.argsort(ids, kind="stable")
    counts = np.bincount(ids, minlength=leaf_spec.stacked * leaf_spec.groups)
    place = np.arange(len(order)) - np.repeat(np.cumsum(counts) - counts, counts)
    table = np.full((counts.max(), len(counts)), len(order), np.int32)
    table[place, ids[order]] = order
    return table


def group_norms(leaf_spec, squares: jax.Array, groups: Groups | None) -> jax.Array:
    """The norm of every group (Theorem 1, eq. 6), from the squared norms of its components.

    Args:
        leaf_spec: The leaf spec of the weight.
        squares: ⟨v, v⟩ of every component, `(*lanes)`.
        groups: The groups, if they are drawn at random.

    Returns:
        `(groups,)` for drawn groups, else an array that broadcasts against the components.
    """
    if groups is None:
        axes = summed_axes(leaf_spec.scheme, leaf_spec.component)
        return linalg.safe_sqrt(jnp.sum(squares, axis=axes, keepdims=True))
    if jax.device_count() > 1:  # looked up by index, the squares would be gathered on every device
        sums = jnp.zeros(leaf_spec.stacked * leaf_spec.groups, squares.dtype)
        sums = sums.at[groups.ids].add(squares, mode=IN_RANGE, wrap_negative_indices=False)
        return linalg.safe_sqrt(sums)
    # A scatter would add by atomics on a GPU, in another order at every run. Without the barrier
    # XLA computes the squares again, at random places, where they are looked up.
    squares = lax.optimization_barrier(squares)
    of_members = (
        squares.ravel()
        .at[groups.members]
        .get(mode="fill", fill_value=0, wrap_negative_indices=False)
    )
    return linalg.safe_sqrt(jnp.sum(of_members, axis=0))


def per_component(numbers: jax.Array, groups: Groups | None) -> jax.Array:
    """One number per group, as an array that broadcasts against the components."""
    if groups is None:
        return numbers
    # Materialized, or XLA's CPU compiler computes the number of a group once per component and
    # looks it up once per entry.
    made = _xla_cpu.materialize(lambda: numbers, groups.ids)
    return _xla_cpu.materialize(
        lambda: made.at[groups.ids].get(mode=IN_RANGE, wrap_negative_indices=False), groups.ids
    )
