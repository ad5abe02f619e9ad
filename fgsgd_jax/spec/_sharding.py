"""Sharding: weights keep theirs, and points that are multiplied are split by rows.

xᵀx needs every pair of columns. If columns are split over devices, XLA gathers all of them on every
device; if rows are, it adds up one small product per device. Moving from one split to the other is
a single exchange (an all-to-all), in which no device holds more than its share.

Which axis is split is not known when a function is traced, only when it is partitioned. So the
functions below state, in the terms of the partitioner (Shardy), how the splits of their arguments
and results belong together. On one device they do nothing.
"""

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.custom_batching import custom_vmap
from jax.experimental.custom_partitioning import custom_partitioning
from jax.sharding import AxisType, NamedSharding, PartitionSpec, auto_axes, get_abstract_mesh

from fgsgd_jax import linalg
from fgsgd_jax.geometry import Stiefel

# Manifolds whose steps multiply columns with each other, as in xᵀx. The other retractions of
# Stiefel go column by column, which would be an exchange per column if rows were split.
MULTIPLY_COLUMNS = (Stiefel(retraction="polar"),)


def on_automatic_axes(function: Callable, first, *rest, replicated: bool = False) -> Any:
    """`function(first, *rest)`, sharded like `first` or replicated, also under Explicit axes.

    Under Explicit axes JAX refuses to choose a sharding for reshapes, scatters and products over
    sharded axes. The choice is left to the compiler, as it is under Auto axes.
    """
    sharding = jax.typeof(first).sharding
    if AxisType.Explicit not in sharding.mesh.axis_types:
        return function(first, *rest)
    if get_abstract_mesh().empty:
        raise ValueError(
            f"A weight is sharded as {sharding.spec} over a mesh with Explicit axes "
            f"{sharding.mesh.axis_names}, but no mesh is set. Call jax.set_mesh(mesh) first, or "
            "use Auto axes."
        )
    result = NamedSharding(sharding.mesh, PartitionSpec()) if replicated else sharding
    return auto_axes(function, out_sharding=result)(first, *rest)  # pyright: ignore[reportCallIssue]


def keeps_sharding(verb: Callable) -> Callable:
    """A function of a leaf spec and arrays whose result is sharded like the first array."""

    @functools.wraps(verb)
    def wrapped(leaf_spec, first, *rest, **static):
        def call(*arrays):
            return verb(leaf_spec, *arrays, **static)

        return on_automatic_axes(call, first, *rest)

    return wrapped


def split_by_rows(verb: Callable) -> Callable:
    """A function of a leaf spec and arrays whose points are split by rows if it multiplies columns.

    The function is called with the points in place of the weight and a leaf spec to match, so that
    the points are put together, and split as the weight is, only at the end.
    """

    @functools.wraps(verb)
    def wrapped(leaf_spec, weight, *rest, **static):
        if not _multiplies_columns(leaf_spec):
            return verb(leaf_spec, weight, *rest, **static)
        component = leaf_spec.component
        points = component.to_points(weight)

        def cut(array):
            like_weight = np.shape(array) == leaf_spec.shape
            return by_rows(component.to_points(array)) if like_weight else array

        def join(array):
            if array.shape != points.shape:
                return array
            # Placed as points first: rows on several devices are not an axis of the weight.
            joined = component.from_points(placed_like(array, points), leaf_spec.shape)
            return placed_like(joined, weight)

        result = verb(leaf_spec.of_points(), *jax.tree.map(cut, (weight, *rest)), **static)
        return jax.tree.map(join, result)

    return wrapped


def _multiplies_columns(leaf_spec) -> bool:
    """Whether products of points would gather a weight that is split by columns.

    Small points lie in many lanes, which are split instead; of wide points rows are multiplied.
    """
    rows, columns = leaf_spec.points_shape[:2]
    return (
        any(manifold in MULTIPLY_COLUMNS for manifold in leaf_spec.manifolds)
        and rows >= columns
        and rows * columns > linalg.UNROLLED_SIZE
        and math.gcd(rows, columns) > 1
        and is_partitioned()
    )


def is_partitioned() -> bool:
    """Whether a partitioner decides how arrays are split.

    Not on one device, and not inside `jax.shard_map`, where every device has arrays of its own. The
    rules below are Shardy's; the older partitioner, which can still be switched on, has others.
    """
    return (
        jax.device_count() > 1
        and AxisType.Manual not in get_abstract_mesh().axis_types
        and getattr(jax.config, "jax_use_shardy_partitioner", True)
    )


def by_rows(points: jax.Array) -> jax.Array:
    """The points, split by rows over the devices that rows or columns are split over.

    Points split both ways stay split by rows, and their columns are gathered. Columns split over a
    number of devices that does not divide the rows are gathered as well.

    Args:
        points: Matrices `(rows, columns, *lanes)`.
    """
    # The first passes a split of columns on to rows. If rows are split as well, the partitioner
    # cannot decide between the two, and the second decides for rows.
    return _rows_like(_moved_to_rows(points, points), points)


def placed_like(array: jax.Array, other: jax.Array) -> jax.Array:
    """The array, split like another of its shape."""
    return _placed_like(array, other)


def _identity(rule: Callable[[tuple[int, ...], dict], tuple[str, dict]]) -> Callable:
    """A function of two arrays of one shape that returns the first, placed as a rule says.

    Args:
        rule: Given the shape of the arrays and the sizes of the axes of the mesh by name, the
            factors of both arguments and the result in the notation of `custom_partitioning`, and
            the sizes of those that need one.
    """
    placed = custom_partitioning(lambda points, other: points)

    def sharding_rule(mesh, arguments, results):
        return rule(tuple(results[0].shape), dict(mesh.shape))

    def partition(mesh, arguments, result):
        shardings = (result.sharding, arguments[1].sharding)
        return mesh, lambda points, other: points, result.sharding, shardings

    # Not decoded: a sharding over a part of a mesh axis has no name, and is only passed on.
    placed.def_partition(partition, sharding_rule=sharding_rule, decode_shardings=False)

    # The partitioner has no rules for these two, and needs none to compute the same.
    mapped = custom_vmap(lambda points, other: placed(points, other))
    mapped.def_vmap(lambda size, batched, points, other: (points, batched[0]))
    differentiable = jax.custom_jvp(lambda points, other: mapped(points, other))
    differentiable.defjvp(lambda primals, tangents: (differentiable(*primals), tangents[0]))
    return differentiable


def _named(letter: str, axes: int) -> str:
    """Names of factors, each a whole axis."""
    return " ".join(f"{letter}{axis}" for axis in range(axes))


def _like_other(shape: tuple[int, ...], mesh: dict) -> tuple[str, dict]:
    """The result is split like the second argument."""
    own, other = _named("own", len(shape)), _named("other", len(shape))
    return f"{own}, {other} -> {other}", {}


def _rows_like_other(shape: tuple[int, ...], mesh: dict) -> tuple[str, dict]:
    """Rows of the result are split like those of both arguments, columns are not."""
    lanes = _named("lane", len(shape) - 2)
    return f"i j {lanes}, i k {lanes} -> i l {lanes}", {}


def _columns_to_rows(shape: tuple[int, ...], mesh: dict) -> tuple[str, dict]:
    """Rows of the result are split like rows of the first argument and columns of the second.

    A split of columns is one of rows where both begin with a common factor: 6 columns are 2 × 3,
    8 rows are 2 × 4, and what splits the 2 of one may split the 2 of the other.
    """
    rows, columns = shape[:2]
    common, lanes = math.gcd(rows, columns), _named("lane", len(shape) - 2)
    # Part of an axis of the mesh cannot be handed on without gathering first.
    if any(rows % size for size in mesh.values() if columns % size == 0):
        return f"i j {lanes}, k l {lanes} -> m n {lanes}", {}
    row = "(common more)" if rows > common else "common"
    column = "(common rest)" if columns > common else "common"
    # The size of a factor that is a whole axis is known; the others have to be given.
    sizes = {"common": common} if "common" not in (row, column) else {}
    sizes |= {"more": rows // common} if rows > common else {}
    sizes |= {"rest": columns // common} if columns > common else {}
    return f"{row} j {lanes}, k {column} {lanes} -> {row} l {lanes}", sizes


_moved_to_rows = _identity(_columns_to_rows)
_rows_like = _identity(_rows_like_other)
_placed_like = _identity(_like_other)
