"""A warning for steps that the dtype of the weights cannot resolve."""

import warnings
from typing import Any

import jax.numpy as jnp
import numpy as np
import optax

from fgsgd_jax._trees import leaves_with_paths
from fgsgd_jax.spec import Collection

LONGEST_STEP = 2**0.5 - 1  # max over g of g/τ(g) with eq. (7): no step is longer than this · rate


def warn_of_short_steps(
    tx: optax.GradientTransformationExtraArgs, spec: Collection, learning_rate: Any, rho: Any
) -> optax.GradientTransformationExtraArgs:
    """The optimizer, whose `init` warns if no step of `fgsgd` reaches the resolution of a dtype.

    The spacing of the numbers of a dtype next to x is between eps·|x|/2 and eps·|x|. Where a step
    is shorter than eps times the point, most entries change by less and round to what they were.
    Only a rate that is a number is judged: a schedule may begin with a warm-up. With ρ below 1, or
    one that is no number, steps have another bound.
    """
    numbers = all(isinstance(number, (int, float, np.number)) for number in (learning_rate, rho))
    if not numbers or learning_rate == 0 or rho < 1:
        return tx
    step = LONGEST_STEP * float(learning_rate)

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
                "less than it should. Give master_dtype='float32', or a larger rate.",
                stacklevel=2,
            )
        return state

    return optax.GradientTransformationExtraArgs(init_fn, tx.update)
