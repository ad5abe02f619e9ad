"""Checks of the arrays that functions of the library take."""

import re
from typing import Any

import jax
import jax.numpy as jnp

from fgsgd_jax._text import shown
from fgsgd_jax._trees import leaves_with_paths, listed


def checked_array(
    name: str, given: Any, shape: str = "", *, numbers: str = "real numbers"
) -> jax.Array:
    """What was given for an argument, as an array.

    Only shapes and dtypes are read, so that it may be called in a function that JAX traces.

    Args:
        name: The name of the argument.
        given: An array, or nested lists of numbers.
        shape: The axes it needs, such as "(examples, classes)"; "*lanes" stands for any number of
            them. Axes that have a name need an entry.
        numbers: "real numbers", "real floating-point numbers" or "whole numbers".

    Raises:
        TypeError: If it is no array of such numbers.
        ValueError: If it has other axes.

    Example:
        >>> checked_array("x", [[1.0, 2.0]], "(rows, columns, *lanes)").shape
        (1, 2)
        >>> checked_array("x", "text", "(rows, columns, *lanes)")
        Traceback (most recent call last):
            ...
        TypeError: x must be an array (rows, columns, *lanes) of real numbers, got 'text'.
    """
    needed = f"{name} must be an array {f'{shape} ' if shape else ''}of {numbers}"
    try:
        if any(isinstance(leaf, (str, bytes)) for leaf in jax.tree.leaves(given)):
            raise TypeError  # JAX takes "f" for a dtype
        array = jnp.asarray(given)
    except (TypeError, ValueError, OverflowError):  # text, None, trees, lists of unequal lengths
        raise TypeError(f"{needed}, got {described(given)}.") from None
    if not holds(array.dtype, numbers):
        raise TypeError(f"{needed}, got dtype {array.dtype}.")
    if shape and not _fits(array.shape, re.findall(r"[*\w]+", shape)):
        raise ValueError(f"{needed}, got an array of shape {array.shape}.")
    return array


def described(given: Any, example: str = "params['w']") -> str:
    """A wrong value in a message, and what to give in the place of a tree of arrays."""
    if isinstance(given, jax.ShapeDtypeStruct):
        return f"the shape {given.shape} without values"
    leaves = [] if isinstance(given, str) else leaves_with_paths(given)
    if any(path and hasattr(leaf, "shape") for path, leaf in leaves):
        tree = f"a tree with the leaves {listed((path for path, _ in leaves), most=5)}"
        return f"{tree}; give one of them, such as {example}"
    return shown(given)


def holds(dtype: Any, numbers: str = "real numbers") -> bool:
    """Whether arrays of a dtype hold such numbers, as for `checked_array`."""
    whole, real = (jnp.issubdtype(dtype, kind) for kind in (jnp.integer, jnp.floating))
    if real and jnp.finfo(dtype).bits < 16:  # JAX promotes no float8
        return False
    return {"whole numbers": whole, "real floating-point numbers": real}.get(numbers, whole or real)


def _fits(sizes: tuple[int, ...], names: list[str]) -> bool:
    """Whether axes are as many as the names; a name with a star is any number of axes."""
    starred = [place for place, name in enumerate(names) if name.startswith("*")]
    if not starred:
        return len(sizes) == len(names) and 0 not in sizes
    before, after = starred[0], len(names) - starred[0] - 1
    return len(sizes) >= before + after and 0 not in sizes[:before] + sizes[len(sizes) - after :]


def require_gradient_values(gradients: Any) -> None:
    """Raises a TypeError if a gradient, or update, is a shape without values."""
    for path, leaf in leaves_with_paths(gradients):
        if isinstance(leaf, jax.ShapeDtypeStruct):
            raise TypeError(
                f"The gradient of {path!r} is a shape without values. Give the gradients, or make "
                "this call in the function that jax.eval_shape is given."
            )
