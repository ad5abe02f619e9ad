"""`Entries`: small matrices as a grid of their entries, an array `(*lanes)` each."""

from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


@jax.tree_util.register_pytree_node_class
class Entries:
    """Many small matrices, or vectors, as a grid of arrays: one array `(*lanes)` for each entry.

    Arithmetic on `(rows, columns, *lanes)` arrays also runs on entries: indices select entries,
    operators work entry by entry, numbers and arrays `(*lanes)` count for every entry, and
    `jax.tree.map` applies any other function. A compiler then sees operations on arrays of one
    shape only, and a GPU keeps the entries of a point in the registers of one thread.

    Args:
        grid: The arrays, an object array.

    >>> import jax.numpy as jnp
    >>> x = Entries.of(jnp.arange(8.0).reshape(2, 2, 2))
    >>> (x[0, 1] * x)[1].array()
    Array([[ 8., 15.],
           [12., 21.]], dtype=float32)
    """

    def __init__(self, grid: np.ndarray):
        self.grid = grid

    @classmethod
    def of(cls, array: jax.Array) -> "Entries":
        """The entries of an array `(rows, columns, *lanes)`."""
        grid = np.empty(array.shape[:2], object)
        for index in np.ndindex(grid.shape):
            grid[index] = array[index]
        return cls(grid)

    def array(self) -> jax.Array:
        """The entries as one array."""
        flat = jnp.stack([*self.grid.flat])
        return flat.reshape(self.grid.shape + flat.shape[1:])

    @property
    def shape(self) -> tuple[int, ...]:
        return self.grid.shape + self.grid.flat[0].shape

    @property
    def dtype(self):
        return self.grid.flat[0].dtype

    def __getitem__(self, index) -> Any:
        part = self.grid[index]
        return Entries(part) if isinstance(part, np.ndarray) else part

    def __iter__(self) -> Iterator:
        return (self[i] for i in range(len(self.grid)))

    def _with(self, other, operation: Callable) -> "Entries":
        other = other.grid if isinstance(other, Entries) else _single(other)
        return Entries(operation(self.grid, other))

    def __add__(self, other):
        return self._with(other, np.add)

    def __sub__(self, other):
        return self._with(other, np.subtract)

    def __mul__(self, other):
        return self._with(other, np.multiply)

    def __truediv__(self, other):
        return self._with(other, np.true_divide)

    __radd__, __rmul__ = __add__, __mul__

    def __rsub__(self, other):
        return self._with(other, lambda one, two: two - one)

    def tree_flatten(self):
        return tuple(self.grid.flat), self.grid.shape

    @classmethod
    def tree_unflatten(cls, shape, leaves):
        grid = np.empty(shape, object)
        for index, leaf in zip(np.ndindex(shape), leaves, strict=True):
            grid[index] = leaf
        return cls(grid)


def _single(part: Any) -> np.ndarray:
    """An array as the only entry of a grid without axes."""
    grid = np.empty((), object)
    grid[()] = part
    return grid
