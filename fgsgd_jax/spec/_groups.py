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
    return linalg.safe_sqrt(group_sums(leaf_spec, squares, groups))


def group_sums(leaf_spec, squares: jax.Array, groups: Groups | None) -> jax.Array:
    """The sum over every group, before the square root."""
    if groups is None:
        axes = summed_axes(leaf_spec.scheme, leaf_spec.component)
        return jnp.sum(squares, axis=axes, keepdims=True)
    # Without the barrier XLA computes the squares again, at random places, to look them up.
    squares = lax.optimization_barrier(squares)
    elsewhere = _sums_by_scatter if jax.device_count() > 1 else _sums_by_lookup
    return lax.platform_dependent(squares, groups, tpu=_sums_by_comparison, default=elsewhere)


def _sums_by_lookup(squares: jax.Array, groups: Groups) -> jax.Array:
    """The sum over every group. A scatter adds by atomics on a GPU, in another order every time."""
    of_members = (
        squares.ravel()
        .at[groups.members]
        .get(mode="fill", fill_value=0, wrap_negative_indices=False)
    )
    return jnp.sum(of_members, axis=0)


def _sums_by_scatter(squares: jax.Array, groups: Groups) -> jax.Array:
    """The same over several devices, every one of which would look up the squares of all."""
    sums = jnp.zeros(groups.members.shape[1], squares.dtype)
    return sums.at[groups.ids].add(squares, mode=IN_RANGE, wrap_negative_indices=False)


def _sums_by_comparison(squares: jax.Array, groups: Groups) -> jax.Array:
    """The same on TPUs, where looking up and scattering single numbers is slow."""
    lanes = tuple(range(1, squares.ndim + 1))
    return jnp.sum(jnp.where(_belongs(groups), squares, 0), axis=lanes)


def _belongs(groups: Groups) -> jax.Array:
    """Whether a component belongs to a group, `(groups, *lanes)`; fused, and nowhere stored."""
    count = groups.members.shape[1]
    return groups.ids == jnp.arange(count).reshape(-1, *(1,) * groups.ids.ndim)


def per_component(numbers: jax.Array, groups: Groups | None) -> jax.Array:
    """One number per group, as an array that broadcasts against the components."""
    if groups is None:
        return numbers
    return lax.platform_dependent(numbers, groups, tpu=_looked_up_by_comparison, default=_looked_up)


def _looked_up(numbers: jax.Array, groups: Groups) -> jax.Array:
    # Materialized, or XLA's CPU compiler computes the number of a group once per component and
    # looks it up once per entry.
    made = _xla_cpu.materialize(lambda: numbers, groups.ids)
    return _xla_cpu.materialize(
        lambda: made.at[groups.ids].get(mode=IN_RANGE, wrap_negative_indices=False), groups.ids
    )


def _looked_up_by_comparison(numbers: jax.Array, groups: Groups) -> jax.Array:
    numbers = numbers.reshape(-1, *(1,) * groups.ids.ndim)
    return jnp.sum(jnp.where(_belongs(groups), numbers, 0), axis=0)
