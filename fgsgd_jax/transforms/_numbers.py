"""Checks of the numbers that links and optimizers take."""

from typing import Any

import jax
import numpy as np


def require_decay(name: str, number: Any, wanted: str = "a number") -> None:
    """Raises unless a number is at least 0 and below 1; JAX arrays may have any value.

    Args:
        name: The name of the argument.
        number: What was given.
        wanted: What it may be.

    Raises:
        TypeError: If it is no number.
        ValueError: If it is outside of its range.
    """
    _require_number(name, number, wanted)
    if not isinstance(number, jax.Array) and not 0 <= number < 1:
        raise ValueError(
            f"{name} must be at least 0 and below 1, or past steps never decay; got {number!r}."
        )


def require_not_negative(name: str, number: Any, wanted: str = "a number") -> None:
    """Raises, as `require_decay`, unless a number is finite and at least 0."""
    _require_number(name, number, wanted)
    if not isinstance(number, jax.Array) and not 0 <= number < float("inf"):
        raise ValueError(f"{name} must be a finite number of at least 0, got {number!r}.")


def _require_number(name: str, number: Any, wanted: str) -> None:
    scalar = isinstance(number, (np.ndarray, jax.Array)) and number.ndim == 0
    if isinstance(number, bool) or not (scalar or isinstance(number, (int, float, np.number))):
        raise TypeError(f"{name} must be {wanted}, got {number!r}.")
