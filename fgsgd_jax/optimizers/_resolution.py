"""A warning for steps that the dtype of the weights cannot resolve."""

import warnings
from typing import Any

import jax.numpy as jnp
import numpy as np
import optax

from fgsgd_jax._trees import leaves_with_paths
from fgsgd_jax.spec import Collection

MASTER_WEIGHTS = "Wrap the optimizer in fgsgd_jax.with_master_weights(tx, spec)"


def warn_of_short_steps(
    tx: optax.GradientTransformationExtraArgs,
    spec: Collection,
    learning_rate: Any,
    *,
    longest: float = 1.0,
    remedy: str = MASTER_WEIGHTS,
) -> optax.GradientTransformationExtraArgs:
    """The optimizer, whose `init` warns if no step reaches the resolution of a dtype.

    The spacing of the numbers of a dtype next to x is between eps·|x|/2 and eps·|x|. Where a step
    is shorter than eps times the point, most entries change by less and round to what they were.
    Only a rate that is a number is judged: a schedule may begin with a warm-up.

    Args:
        tx: The optimizer.
        spec: The spec of the parameters.
        learning_rate: Its learning rate.
        longest: The length of the longest step at a rate of 1, over that of the point.
        remedy: How to keep shorter steps, for the message.
    """
    if not isinstance(learning_rate, (int, float, np.number)) or learning_rate == 0:
        return tx
    step = longest * float(learning_rate)

    def init_fn(params):
        state = tx.init(params)  # first, as it refuses leaves that do not fit the spec
        dtypes = {
            path: leaf.dtype
            for path, leaf in leaves_with_paths(params)
            if spec.leaf_spec_of(path, leaf)
        }
        short = {path: dtype for path, dtype in dtypes.items() if step < jnp.finfo(dtype).eps}
        if short:
            path, dtype = next(iter(short.items()))
            spacing = float(jnp.finfo(dtype).eps)
            warnings.warn(
                f"At learning_rate={learning_rate:g} a step is at most {step:.2g} long, but "
                f"{dtype} numbers near 1 are {spacing:.2g} apart: {path!r} will move "
                f"less than it should. {remedy}, or give a larger rate.",
                stacklevel=2,
            )
        return state

    return type(tx)(init_fn, tx.update)  # which may write weights
