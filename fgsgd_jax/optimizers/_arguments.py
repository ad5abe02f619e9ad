"""Checks of the arguments that optimizers share.

JAX arrays may have any value: `optax.inject_hyperparams` makes arrays of all numbers, and their
values may be unknown.
"""

from typing import Any

import jax
import numpy as np


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
    _require_number(name, number, "a number or a schedule")
    if not 0 <= number < float("inf"):
        raise ValueError(f"{name} must be a finite number of at least 0, got {number!r}.")


def require_momentum(momentum: Any, nesterov: Any) -> None:
    """Raises unless momentum is None or a number from 0 to below 1, and not None for Nesterov's."""
    if momentum is None:
        if isinstance(nesterov, bool) and nesterov:
            raise ValueError(
                "nesterov=True needs a momentum, such as momentum=0.9, but momentum is None."
            )
        return
    if isinstance(momentum, jax.Array):
        return
    _require_number("momentum", momentum, "a number, or None for none")
    if not 0 <= momentum < 1:
        raise ValueError(
            f"momentum must be at least 0 and below 1, or past steps never decay; got {momentum!r}."
        )


def _require_number(name: str, number: Any, wanted: str) -> None:
    scalar = isinstance(number, np.ndarray) and number.ndim == 0
    if isinstance(number, bool) or not (scalar or isinstance(number, (int, float, np.number))):
        raise TypeError(f"{name} must be {wanted}, got {number!r}.")
