"""Checks of the arguments that optimizers share.

JAX arrays may have any value: `optax.inject_hyperparams` makes arrays of all numbers, and their
values may be unknown.
"""

from typing import Any

import jax

from fgsgd_jax.transforms import require_decay, require_not_negative


def require_number_or_schedule(name: str, number: Any) -> None:
    """Raises unless an argument is a schedule, or a number that is finite and not negative."""
    if callable(number):
        return
    if isinstance(number, jax.Array):
        if number.ndim:
            raise TypeError(
                f"{name} must be a number or a schedule, got an array of shape {number.shape}."
            )
        return
    require_not_negative(name, number, "a number or a schedule")


def require_momentum(momentum: Any, nesterov: Any) -> None:
    """Raises unless momentum is None or a number from 0 to below 1, and not None for Nesterov's."""
    if momentum is None:
        if isinstance(nesterov, bool) and nesterov:
            raise ValueError(
                "nesterov=True needs a momentum, such as momentum=0.9, but momentum is None."
            )
        return
    require_decay("momentum", momentum, "a number, or None for none")
