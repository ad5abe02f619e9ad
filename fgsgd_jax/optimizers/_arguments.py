"""Checks of the arguments that optimizers share."""

import jax
import numpy as np


def is_number(number) -> bool:
    """Whether something is a number, traced or not."""
    return isinstance(number, (int, float, np.number, np.ndarray, jax.Array))


def require_number_or_schedule(name: str, number) -> None:
    """Raises a TypeError unless an argument is a number or a schedule."""
    if not (is_number(number) or callable(number)):
        raise TypeError(f"{name} must be a number or a schedule, got {number!r}.")
