"""The check of the functions that functions of the library take."""

import inspect
from collections.abc import Callable
from typing import Any

from fgsgd_jax._text import shown


def takes(function: Callable, count: int) -> bool:
    """Whether a function can be called with so many arguments; true where Python cannot tell.

    Example:
        >>> takes(lambda step: step, 1), takes(lambda params, x: x, 1), takes(int, 1)
        (True, False, True)
    """
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):  # a function written in C may have no signature
        return True
    try:
        signature.bind(*range(count))
    except TypeError:
        return False
    return True


def require_function(name: str, function: Any, arguments: str) -> None:
    """Raises a TypeError unless an argument is a function of certain arguments.

    Args:
        name: The name of the argument.
        function: What was given.
        arguments: The arguments it has to take, such as "params, x".
    """
    if not callable(function) or not takes(function, len(arguments.split(","))):
        raise TypeError(f"{name} must be a function of ({arguments}), got {shown(function)}.")
