"""Rivals of fixed norms and of orthogonality in the study `paper`, for kernels of convolutions.

Leaves of more than two axes are kernels, whose last axis counts filters; those of five axes are
stacked along the first.

References:
    Salimans & Kingma, *Weight normalization*, NeurIPS 2016. Bansal, Chen & Wang, *Can we gain more
    from orthogonality regularizations in training deep networks?*, NeurIPS 2018 ("soft").
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax


class Filters(NamedTuple):
    """The filters of a kernel, w = g v/|v| each.

    Attributes:
        lengths: g, `(…, 1, 1, 1, filters)`.
        directions: v, with the shape of the kernel.
    """

    lengths: jax.Array
    directions: jax.Array

    @property
    def kernel(self) -> jax.Array:
        """The kernel."""
        return self.lengths * self.directions / _lengths(self.directions)


def weight_normalized(tx: optax.GradientTransformation) -> optax.GradientTransformation:
    """An optimizer of the lengths and directions of all filters, and of all other leaves.

    Args:
        tx: The optimizer of lengths, directions and other leaves. It also decays them, if it does.
    """

    def init(params):
        separate = jax.tree.map(
            lambda leaf: Filters(_lengths(leaf), leaf) if _is_kernel(leaf) else leaf, params
        )
        return separate, tx.init(separate)

    def update(updates, state, params=None):
        separate, inner = state
        _, pullback = jax.vjp(_joined, separate)
        (gradient,) = pullback(updates)
        updates, inner = tx.update(gradient, inner, separate)
        separate = optax.apply_updates(separate, updates)
        return optax.tree.sub(_joined(separate), params), (separate, inner)

    return optax.GradientTransformation(init, update)


def soft_orthogonal(penalty: Any, decay: float) -> optax.GradientTransformation:
    """Adds the gradient of `penalty · |WᵀW − I|²` for every kernel W, and decays all other leaves.

    Args:
        penalty: What the squared distance is multiplied by. A kernel counts as the matrix whose
            columns are its filters.
        decay: The weight decay of the other leaves.
    """

    def distance(params):
        kernels = filter(_is_kernel, jax.tree.leaves(params))
        matrices = [kernel.reshape(*kernel.shape[:-4], -1, kernel.shape[-1]) for kernel in kernels]
        return sum(jnp.sum((w.mT @ w - jnp.eye(w.shape[-1])) ** 2) for w in matrices)

    def add(gradient, params):
        return optax.tree.add_scale(gradient, penalty, jax.grad(distance)(params))

    others = optax.add_decayed_weights(
        decay, mask=lambda params: jax.tree.map(lambda leaf: not _is_kernel(leaf), params)
    )
    return optax.chain(optax.stateless(add), others)


def _is_kernel(leaf: jax.Array) -> bool:
    return leaf.ndim > 2


def _lengths(filters: jax.Array) -> jax.Array:
    return jnp.linalg.norm(filters.reshape(*filters.shape[:-4], -1, filters.shape[-1]), axis=-2)[
        ..., None, None, None, :
    ]


def _joined(separate: Any) -> Any:
    return jax.tree.map(
        lambda leaf: leaf.kernel if isinstance(leaf, Filters) else leaf,
        separate,
        is_leaf=lambda leaf: isinstance(leaf, Filters),
    )
