"""Checks of the numbers and dtypes that links and optimizers take.

`optax.inject_hyperparams` makes JAX arrays of all numbers. Inside a jitted function their values
are unknown, and nothing is checked there.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer


def require_decay(name: str, number: Any, wanted: str = "a number") -> None:
    """Raises unless a number is at least 0 and below 1, where its value is known.

    Args:
        name: The name of the argument.
        number: What was given.
        wanted: What it may be.

    Raises:
        TypeError: If it is no number.
        ValueError: If it is outside of its range.
    """
    _require_number(name, number, wanted)
    value = known_number(number)
    if value is not None and not 0 <= value < 1:
        raise ValueError(
            f"{name} must be at least 0 and below 1, or past steps never decay; got {value!r}."
            + _if_rounded(number)
        )


def require_not_negative(
    name: str, number: Any, wanted: str = "a number", *, arrays_from: float = 0.0
) -> None:
    """Raises, as `require_decay`, unless a number is finite and at least 0.

    Args:
        name: The name of the argument.
        number: What was given.
        wanted: What it may be.
        arrays_from: What a JAX array may not be below.
    """
    _require_number(name, number, wanted)
    lowest = arrays_from if isinstance(number, jax.Array) else 0
    value = known_number(number)
    if value is not None and not (math.isfinite(value) and value >= lowest):
        at_least = f" of at least {lowest:g}" if lowest == 0 else ""
        raise ValueError(f"{name} must be a finite number{at_least}, got {value!r}.")


def checked_float_dtype(name: str, dtype: Any) -> jnp.dtype:
    """A dtype of real floating-point numbers.

    Raises:
        TypeError: If it is none. `optax.inject_hyperparams` takes `jnp.float32` for a schedule and
            makes an array of it.
    """
    if isinstance(dtype, jax.Array):
        raise TypeError(
            f"{name} must be a dtype, got an array: optax.inject_hyperparams takes jnp.float32 for "
            'a schedule. Write its name, "float32".'
        )
    try:
        real = jnp.issubdtype(jnp.dtype(dtype), jnp.floating)
    except (TypeError, ValueError):
        real = False
    if dtype is None or not real:
        raise TypeError(f"{name} must be a floating-point dtype, such as 'float32', got {dtype!r}.")
    return jnp.dtype(dtype)


def known_number(number: Any) -> Any:
    """A number as it was given, or the value of a JAX array as a float; None if it is unknown."""
    if not isinstance(number, jax.Array):
        return number
    unknown = isinstance(number, Tracer) or number.ndim or not number.is_fully_addressable
    return None if unknown else float(str(np.asarray(number)))  # 0.9 for 0.9 in any dtype


def _if_rounded(number: Any) -> str:
    """What to do where a dtype is too short for a number below 1."""
    if getattr(number, "dtype", None) not in (jnp.bfloat16, jnp.float16):
        return ""
    return (
        f" It may be 1 as {number.dtype}, to which optax.inject_hyperparams rounds: give that "
        "hyperparam_dtype=jnp.float32."
    )


def _require_number(name: str, number: Any, wanted: str) -> None:
    scalar = isinstance(number, (np.ndarray, jax.Array)) and number.ndim == 0
    if isinstance(number, bool) or not (scalar or isinstance(number, (int, float, np.number))):
        raise TypeError(f"{name} must be {wanted}, got {number!r}.")


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
