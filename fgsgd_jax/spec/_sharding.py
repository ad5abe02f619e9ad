"""On several devices: points that are multiplied are split by rows, whoever split their weight.

xᵀx needs every pair of columns. Of columns on different devices XLA gathers them all, on every
device; of rows on different devices it adds up a small product from each. Between the two lies one
exchange (an all-to-all), in which no device holds more than its share.

Which axis is split is not known while a function is traced, only when it is partitioned. So these
functions state, in the terms of the partitioner (Shardy), how the splits of their arguments and
results belong together, and otherwise do nothing. On one device they are nothing at all.
"""

import math
from collections.abc import Callable

import jax
from jax.custom_batching import custom_vmap
from jax.experimental.custom_partitioning import custom_partitioning
from jax.sharding import AxisType, get_abstract_mesh


def is_open() -> bool:
    """Whether it is for the partitioner to say where arrays are.

    Not on one device, and not inside `jax.shard_map`, where every device has arrays of its own. The
    rules below are Shardy's; the partitioner before it, which can still be switched on, has others.
    """
    return (
        jax.device_count() > 1
        and AxisType.Manual not in get_abstract_mesh().axis_types
        and getattr(jax.config, "jax_use_shardy_partitioner", True)
    )


def by_rows(points: jax.Array) -> jax.Array:
    """The points, split by rows over the devices that they are split over by rows or columns.

    Points split both ways stay split by rows, and their columns are gathered. So are columns on a
    number of devices that does not divide the rows.

    Args:
        points: Matrices `(rows, columns, *lanes)`.
    """
    # The first hands a split of columns on to rows; where rows are split as well, it can tell no
    # winner, and the second names it.
    return _rows_like(_moved_to_rows(points, points), points)


def placed_like(array: jax.Array, other: jax.Array) -> jax.Array:
    """The array, split like another of its shape."""
    return _placed_like(array, other)


def _identity(rule: Callable[[tuple[int, ...], dict], tuple[str, dict]]) -> Callable:
    """A function of two arrays of one shape that gives the first, placed as a rule says.

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
    """So many factors, each a whole axis."""
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
