"""Checks of the arguments that optimizers share."""

from typing import Any

import jax

from fgsgd_jax.transforms import checked_float_dtype, require_decay, require_not_negative


def require_number_or_schedule(name: str, number: Any) -> None:
    """Raises unless an argument is a schedule, or a number that is finite and not negative.

    A learning rate may be negative as a JAX array, which `optax.inject_hyperparams` makes of it:
    who sets it in a state to ascend means it.
    """
    if callable(number):
        return
    if isinstance(number, jax.Array) and number.ndim:
        raise TypeError(
            f"{name} must be a number or a schedule, got an array of shape {number.shape}."
        )
    lowest = -float("inf") if name == "learning_rate" else 0.0
    require_not_negative(name, number, "a number or a schedule", arrays_from=lowest)


def require_momentum(momentum: Any, nesterov: Any, accumulator_dtype: Any = None) -> None:
    """Raises unless momentum is None or a number from 0 to below 1, and not None for Nesterov's.

    A dtype for the momentum has to be of floating-point numbers.
    """
    if accumulator_dtype is not None:
        checked_float_dtype("accumulator_dtype", accumulator_dtype)
    if momentum is not None:
        require_decay("momentum", momentum, "a number, or None for none")
    elif isinstance(nesterov, bool) and nesterov:
        raise ValueError(
            "nesterov=True needs a momentum, such as momentum=0.9, but momentum is None."
        )
