"""Norms whose squares neither overflow nor vanish, with a finite derivative at 0."""

import functools

import jax
import jax.numpy as jnp
from jax import lax

from fgsgd_jax import _xla_cpu
from fgsgd_jax.linalg._products import entries, inner, is_small, total


def safe_sqrt(x: jax.Array) -> jax.Array:
    """√x with derivative 0 at 0, so that a zero vector has a finite derivative."""
    positive = ~(x <= 0)  # not `x > 0`, which would turn NaN into 0
    return jnp.where(positive, jnp.sqrt(jnp.where(positive, x, 1)), 0)


def norm(x: jax.Array) -> jax.Array:
    """‖x‖ (Frobenius) of every matrix. `(rows, columns, *lanes)` → `(*lanes)`."""

    def measured():
        return _norm_of_entries(entries(x)) if is_small(x) else _norm_over_axes(x, (0, 1))

    return _xla_cpu.materialize(measured, x)


def column_norm(x: jax.Array) -> jax.Array:
    """‖xⱼ‖ of every column. `(rows, columns, *lanes)` → `(columns, *lanes)`."""

    def measured():
        return _norm_of_entries(list(x)) if is_small(x) else _norm_over_axes(x, (0,))

    return _xla_cpu.materialize(measured, x)


def magnitude(x: jax.Array) -> jax.Array:
    """The largest |entry| of every matrix, `(*lanes)`, 1 where it is 0 or infinite.

    What to divide x by before its entries are squared. A constant for differentiation.
    """

    def largest():
        return _largest(entries(x)) if is_small(x) else jnp.max(jnp.abs(x), axis=(0, 1))

    return _xla_cpu.materialize(lambda: divisor(largest()), x)


def square_norm(x: jax.Array) -> jax.Array:
    """‖x‖² of every matrix, `(*lanes)`: infinite by overflow, NaN where an entry is infinite."""
    return jnp.where(jnp.any(jnp.isinf(x), axis=(0, 1)), jnp.nan, inner(x, x))


def finite_or_nan(number: jax.Array) -> jax.Array:
    """The number, NaN where it is infinite."""
    return jnp.where(jnp.isinf(number), jnp.nan, number)


def shorten(v: jax.Array, longest: float) -> jax.Array:
    """v, or v scaled to norm `longest` where it is longer."""
    length = norm(v)
    return v * jnp.where(length > longest, longest / length, 1)


def divisor(largest: jax.Array) -> jax.Array:
    """What to divide numbers by before they are squared: the largest, or 1 if it is 0 or infinite.

    A constant for differentiation.
    """
    return lax.stop_gradient(jnp.where((largest > 0) & jnp.isfinite(largest), largest, 1))


def _largest(parts: list[jax.Array]) -> jax.Array:
    """maxᵢ |eᵢ|, entry by entry of the arrays."""
    return functools.reduce(jnp.maximum, map(jnp.abs, parts))


def _norm_of_entries(parts: list[jax.Array]) -> jax.Array:
    """(Σ eᵢ²)^½, entry by entry of the arrays."""
    scale = divisor(_largest(parts))
    return scale * safe_sqrt(total((part / scale) ** 2 for part in parts))


def _norm_over_axes(x: jax.Array, axes: tuple[int, ...]) -> jax.Array:
    scale = divisor(jnp.max(jnp.abs(x), axis=axes))
    return scale * safe_sqrt(jnp.sum((x / scale) ** 2, axis=axes))
