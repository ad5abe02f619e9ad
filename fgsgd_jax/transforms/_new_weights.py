"""Updates that hold new weights: what a caller who adds them at once may ask for.

`update` returns differences, and `optax.apply_updates` adds them: the weight is read once more, and
the difference written and read. XLA fuses the addition into a step that it compiles, but not into a
kernel of Pallas, which can write the new weight itself.
"""

from typing import Any

import jax
import optax

from fgsgd_jax.spec import require_gradients
from fgsgd_jax.transforms._link import require_transformation

_ORDER = "apply_gradients(tx, gradients, state, params)"


class WritesWeights(optax.GradientTransformationExtraArgs):
    """A transformation whose `update` takes `new_weights=True`.

    Its updates of leaves on manifolds are then `NewWeight`, those of other leaves differences.
    """


class NewWeight:
    """A weight after an update. No array, so that nothing scales it, or adds it, by mistake."""

    def __init__(self, weight: jax.Array):
        self.weight = weight


def apply_gradients(
    tx: optax.GradientTransformation, gradients: Any, state: Any, params: Any, **extra_args: Any
) -> tuple[Any, Any]:
    """A whole step: `tx.update` and `optax.apply_updates` in one call, with the same result.

    `fgsgd`, `rsgd` and `riemannian_adam`, with or without `euclidean=…` and weight decay, write the
    new weights directly. That saves memory traffic on GPUs and TPUs, where kernels of Pallas take
    the step (`fgsgd_jax.kernels` says which). Everywhere else, and for any other transformation, it
    is a shorter way to write the two calls. Donate `state` and `params` to the
    jitted function that calls this, so that both are updated in place.

    Args:
        tx: Any Optax transformation.
        gradients: A tree like the parameters.
        state: The state of `tx`.
        params: The parameters.
        **extra_args: Further arguments of `tx.update`, such as `value`.

    Returns:
        The new parameters, and the new state.

    Raises:
        TypeError: If `tx` is no transformation, and as `tx.update` does.
        ValueError: If a gradient is missing or of another shape than its weight, and as `tx.update`
            does.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> import fgsgd_jax as fg
        >>> params = {"kernel": jax.random.normal(jax.random.key(0), (3, 3, 4, 8))}
        >>> spec = fg.collection(params)
        >>> params = fg.project(params, spec)
        >>> tx = fg.fgsgd(0.5, spec)
        >>> state = tx.init(params)
        >>> gradients = {"kernel": jnp.ones((3, 3, 4, 8))}
        >>> params, state = fg.apply_gradients(tx, gradients, state, params)
        >>> bool(fg.residual(params, spec)["kernel"] < 1e-6)
        True
    """
    require_transformation(tx, f"`tx` in {_ORDER}")
    # The slow weights of a lookahead have no gradients.
    fast = params.fast if isinstance(params, optax.LookaheadParams) else params
    require_gradients(None, gradients, fast, order=_ORDER)
    if isinstance(tx, WritesWeights):
        extra_args["new_weights"] = True
    tx = optax.with_extra_args_support(tx)
    updates, state = tx.update(gradients, state, params, **extra_args)

    def updated(weight, update):
        if isinstance(update, NewWeight):
            return update.weight
        return optax.apply_updates(weight, update)

    return jax.tree.map(updated, params, updates, is_leaf=lambda leaf: leaf is None), state
