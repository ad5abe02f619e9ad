"""Checks of the numbers, schedules and dtypes that links and optimizers take.

`optax.inject_hyperparams` makes JAX arrays of all numbers. Inside a jitted function their values
are unknown, and only their shapes and dtypes are checked there.
"""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from fgsgd_jax._functions import takes
from fgsgd_jax._text import shown


def require_finite(
    name: str, number: Any, wanted: str = "a number", *, lowest: float = -math.inf
) -> None:
    """Raises unless a number is finite and not below a bound, where its value is known.

    Args:
        name: The name of the argument.
        number: What was given.
        wanted: What it may be.
        lowest: The least number that it may be.

    Raises:
        TypeError: If it is no real number.
        ValueError: If it is outside of its range.
    """
    require_number(name, number, wanted)
    value = known_number(number)
    if value is not None and not (math.isfinite(value) and value >= lowest):
        raise ValueError(f"{name} must be {_finite(lowest)}, got {value!r}.")


def require_not_negative(name: str, number: Any, wanted: str = "a number") -> None:
    """Raises, as `require_finite`, unless a number is finite and at least 0."""
    require_finite(name, number, wanted, lowest=0.0)


def require_decay(name: str, number: Any, wanted: str = "a number") -> None:
    """Raises, as `require_finite`, unless a number is at least 0 and below 1."""
    require_number(name, number, wanted)
    value = known_number(number)
    if value is not None and not 0 <= value < 1:
        raise ValueError(
            f"{name} must be at least 0 and below 1, or past steps never decay; got {value!r}."
            + _if_rounded(number)
        )


def require_number_or_schedule(name: str, number: Any) -> None:
    """Raises unless an argument is a schedule, or a number that is finite and not negative.

    A negative learning rate would ascend. `optax.scale(-1.0)` says so where it is meant.
    """
    if callable(number):
        return
    require_number(name, number, "a number or a schedule")
    value = known_number(number)
    if name == "learning_rate" and value is not None and -math.inf < value < 0:
        raise ValueError(
            f"learning_rate must be a finite number of at least 0, got {value!r}. To ascend, turn "
            "the gradients around first: optax.chain(optax.scale(-1.0), optimizer)."
        )
    require_not_negative(name, number)


def checked_schedule(name: str, number: Any, lowest: float = 0.0) -> Any:
    """A schedule that raises unless it gives a number, finite and not below a bound if it is known.

    Args:
        name: The name of the argument, for the message.
        number: A schedule, or a number, which is returned as it is.
        lowest: The least number that it may give.
    """
    if not callable(number):
        return number
    if not takes(number, 1):
        raise TypeError(
            f"{name} must be a number or a schedule, a function of the number of steps alone, got "
            f"{shown(number)}. A schedule is such as optax.linear_schedule(0.1, 0.0, 1000)."
        )

    @functools.wraps(number)
    def schedule(count):
        value = number(count)
        steps = known_number(count)  # None for a constant inside a compiled function
        gives = f"but the schedule gives {{}}{'' if steps is None else f' after {steps:g} steps'}. "
        if not _is_number(value):
            raise TypeError(
                f"{name} must be a number, {gives.format(shown(value))}"
                "A schedule takes the number of steps and returns a number or a scalar array, such "
                "as optax.linear_schedule(0.1, 0.0, 1000)."
            )
        known = known_number(value)
        if known is not None and not lowest <= known < math.inf:
            raise ValueError(
                f"{name} must be {_finite(lowest)}, {gives.format(f'{float(known):g}')}"
                "Give one that stays finite and ends at 0, such as "
                "optax.linear_schedule(0.1, 0.0, 1000)."
            )
        return value

    return schedule


def require_momentum(momentum: Any, nesterov: Any, accumulator_dtype: Any = None) -> None:
    """Raises unless momentum is None or a number from 0 to below 1, and not None for Nesterov's.

    Nor with a dtype for the momentum, which has to be of floating-point numbers.
    """
    if accumulator_dtype is not None:
        checked_float_dtype("accumulator_dtype", accumulator_dtype)
    require_flag("nesterov", nesterov)
    if momentum is not None:
        require_decay("momentum", momentum, "a number, or None for none")
    elif isinstance(nesterov, bool) and nesterov:
        raise ValueError(
            "nesterov=True needs a momentum, such as momentum=0.9, but momentum is None."
        )
    elif accumulator_dtype is not None:
        raise ValueError(
            "accumulator_dtype is the dtype of the momentum, but momentum is None. Give a "
            "momentum, such as momentum=0.9, or leave accumulator_dtype out."
        )


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
    if isinstance(dtype, np.generic):  # which NumPy takes for its own dtype
        raise TypeError(f"{name} must be a floating-point dtype, such as 'float32', got {dtype!r}.")
    try:
        real = jnp.issubdtype(jnp.dtype(dtype), jnp.floating)
    except (TypeError, ValueError):
        real = False
    if dtype is None or not real:
        raise TypeError(f"{name} must be a floating-point dtype, such as 'float32', got {dtype!r}.")
    return jnp.dtype(dtype)


def require_count(name: str, number: Any, lowest: int = 0) -> None:
    """Raises unless an argument is a whole number that is not below a bound.

    Raises:
        TypeError: If it is no whole number.
        ValueError: If it is below the bound.
    """
    whole = isinstance(number, (int, np.integer)) and not isinstance(number, bool)
    if not whole:
        raise TypeError(f"{name} must be a whole number, got {shown(number)}.")
    if number < lowest:
        raise ValueError(f"{name} must be at least {lowest}, got {number!r}.")


def require_flag(name: str, value: Any) -> None:
    """Raises a TypeError unless an argument is True or False, also as a scalar array."""
    scalar = isinstance(value, (np.ndarray, np.generic, jax.Array)) and value.ndim == 0
    if not (isinstance(value, bool) or (scalar and value.dtype == bool)):
        raise TypeError(f"{name} must be True or False, got {shown(value)}.")


def require_number(name: str, number: Any, wanted: str = "a number") -> None:
    """Raises a TypeError unless an argument is a real number or a scalar array of one."""
    if not _is_number(number):
        raise TypeError(f"{name} must be {wanted}, got {shown(number)}.")


def known_number(number: Any) -> Any:
    """A number as it was given, or the value of a JAX array as a float; None if it is unknown."""
    if not isinstance(number, jax.Array):
        return number
    unknown = isinstance(number, Tracer) or number.ndim or not number.is_fully_addressable
    return None if unknown else float(str(np.asarray(number)))  # 0.9 for 0.9 in any dtype


def _is_number(number: Any) -> bool:
    if isinstance(number, (np.ndarray, np.generic, jax.Array)):
        kinds = jnp.floating, jnp.integer
        return number.ndim == 0 and any(jnp.issubdtype(number.dtype, kind) for kind in kinds)
    return isinstance(number, (int, float)) and not isinstance(number, bool)


def _finite(lowest: float) -> str:
    return "a finite number" + ("" if lowest == -math.inf else f" of at least {lowest:g}")


def _if_rounded(number: Any) -> str:
    """What to do where a dtype is too short for a number below 1."""
    if getattr(number, "dtype", None) not in (jnp.bfloat16, jnp.float16):
        return ""
    return (
        f" It may be 1 as {number.dtype}, to which optax.inject_hyperparams rounds: give that "
        "hyperparam_dtype=jnp.float32."
    )
