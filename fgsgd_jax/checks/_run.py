"""An optimizer at work, as the laws of `check_optimizer` measure it."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from fgsgd_jax.spec import residual
from fgsgd_jax.transforms import initial_state


class Walk(NamedTuple):
    """The last updates, state and parameters of a run, and the largest residual on the way."""

    updates: Any
    state: Any
    params: Any
    drift: float


class Run:
    """The optimizer at work, every step jitted; what several laws need is computed once."""

    def __init__(self, tx, params, spec, key: jax.Array, steps: int, extra_args: dict[str, Any]):
        self.params, self.spec, self.key, self.steps = params, spec, key, steps
        self.plain_update = functools.partial(
            optax.with_extra_args_support(tx).update, **extra_args
        )
        self.update = jax.jit(self.plain_update)
        self.state = initial_state(tx, params)
        self.zero = jax.tree.map(jnp.zeros_like, params)
        smallest = min(leaf.dtype.itemsize for leaf in jax.tree.leaves(params))
        self.item_size = min(max(smallest, 2), 8)

    def require_arguments(self) -> None:
        """Raises a TypeError if updates need more arguments."""
        try:
            jax.eval_shape(self.plain_update, self.zero, self.state, self.params)
        except TypeError as error:
            if "required keyword-only argument" not in str(error):
                raise
            raise TypeError(
                f"The updates of this optimizer need further arguments: {error}. Give them by name "
                "in `extra_args`, as in check_optimizer(…, extra_args={'value': 1.0})."
            ) from None

    def gradients(self, step: int, size: float = 1.0) -> Any:
        """Random gradients of a step."""
        leaves, structure = jax.tree.flatten(self.params)
        keys = jax.random.split(jax.random.fold_in(self.key, step), len(leaves))
        drawn = [
            (size * jax.random.normal(key, leaf.shape)).astype(leaf.dtype)
            for key, leaf in zip(keys, leaves, strict=True)
        ]
        return structure.unflatten(drawn)

    def drift(self, params: Any) -> float:
        """How far the parameters are from their manifolds; 0 without a spec, NaN if any is NaN."""
        measured = {} if self.spec is None else residual(params, self.spec)
        return float(np.max([0.0, *map(float, measured.values())]))

    @functools.cached_property
    def walk(self) -> Walk:
        params, state, updates, drifts = self.params, self.state, self.zero, [0.0]
        for step in range(self.steps):
            updates, state = self.update(self.gradients(step), state, params)
            params = optax.apply_updates(params, updates)
            drifts.append(self.drift(params))
        return Walk(updates, state, params, float(np.max(drifts)))

    def after(self, size: float) -> Any:
        """The parameters after one step with gradients of a size."""
        updates, _ = self.update(self.gradients(0, size), self.state, self.params)
        return optax.apply_updates(self.params, updates)
