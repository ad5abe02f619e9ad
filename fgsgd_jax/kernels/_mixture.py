"""A step of a mixture: every lane takes the numbers and the move of its own manifold."""

from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from fgsgd_jax.kernels._kernel import Kernel
from fgsgd_jax.spec import select


class MixtureKernel(Kernel):
    """The kernels of several manifolds, of which every lane uses one.

    Numbers of the usual shapes, one per point or per column, are stored once for all manifolds,
    each lane holding those of its own. A tangent vector has a part per manifold, of use in the
    lanes of that manifold only.
    """

    def __init__(self, manifold_ids: jax.Array, kernels: Sequence[Kernel]):
        self.manifold_ids, self.kernels = manifold_ids, kernels
        self.recomputes_tangent = all(kernel.recomputes_tangent for kernel in kernels)
        self.has_costly_aim = any(kernel.has_costly_aim for kernel in kernels)
        self.mixes_entries = any(kernel.mixes_entries for kernel in kernels)

    def normal(self, x, g):
        return self._shared(x, [kernel.normal(x, g) for kernel in self.kernels])

    def tangent(self, x, g, normal):
        return tuple(k.tangent(x, g, n) for k, n in zip(self.kernels, normal, strict=True))

    def vector(self, v):
        return select(self.manifold_ids, v)

    def parts(self, vector):
        return (vector,) * len(self.kernels)

    def squares(self, x, v, normal):
        each = zip(self.kernels, v, normal, strict=True)
        return self.vector([kernel.squares(x, part, n) for kernel, part, n in each])

    def length(self, v, normal):
        each = zip(self.kernels, v, normal, strict=True)
        return self.vector([kernel.length(part, n) for kernel, part, n in each])

    def shortened(self, t, length):
        return self.vector([kernel.shortened(t, length) for kernel in self.kernels])

    def aim(self, x, v, t, normal, squares, at_rest, *, exact):
        each = self._each(x, v, t, normal)
        return self._shared(x, [k.aim(*own, squares, at_rest, exact=exact) for k, *own in each])

    def move(self, x, v, t, aimed, *, exact):
        return self.vector([k.move(*own, exact=exact) for k, *own in self._each(x, v, t, aimed)])

    def _each(self, x, v, t, numbers) -> Iterator[tuple]:
        """Every kernel with x, its part of v, t and its numbers, derived in its own lanes only."""
        for index, (kernel, part, n) in enumerate(zip(self.kernels, v, numbers, strict=True)):
            yield kernel, *self._without_derivatives_elsewhere(index, (x, part, t, n))

    def _without_derivatives_elsewhere(self, index: int, numbers: Any) -> Any:
        """The same numbers, constant for derivatives in the lanes of other manifolds.

        What a kernel computes there is not used, and may be NaN, as a rotation of a point that is
        no orthogonal matrix is. The derivative of `select` multiplies that by 0, which is NaN.
        """
        own = self.manifold_ids == index

        def masked(number):
            # XLA drops a choice between equal arrays, so that steps pay nothing.
            array = jnp.broadcast_to(number, jnp.broadcast_shapes(number.shape, own.shape))
            return jnp.where(own, array, jax.lax.stop_gradient(array))

        return jax.tree.map(masked, numbers)

    def _shared(self, x: jax.Array, numbers: list[Any]) -> tuple:
        usual = (x.shape[2:], x.shape[1:])
        shares = [
            index
            for index, number in enumerate(numbers)
            if isinstance(number, jax.Array) and number.shape in usual
        ]
        if len(shares) < 2:
            return tuple(numbers)
        shared = select(self.manifold_ids, [numbers[i] for i in shares], shares)
        return tuple(shared if i in shares else own for i, own in enumerate(numbers))
