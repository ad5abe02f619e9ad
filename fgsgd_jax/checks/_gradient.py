"""`check_gradient`: whether a function and its Riemannian gradient agree."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fgsgd_jax._arrays import holds
from fgsgd_jax._functions import takes
from fgsgd_jax._keys import require_key
from fgsgd_jax._text import shown
from fgsgd_jax.checks import _points
from fgsgd_jax.checks._laws import ROUNDING, LawTable
from fgsgd_jax.checks._report import Report
from fgsgd_jax.checks._sample import require_manifold
from fgsgd_jax.checks._slope import LENGTHS, slope
from fgsgd_jax.geometry import Manifold

LAWS = LawTable()


def check_gradient(
    manifold: Manifold,
    function: Callable[[Any], jax.Array],
    x: Any,
    key: jax.Array,
    *,
    laws: str | Iterable[str] | None = None,
    tolerances: Mapping[str, float] | None = None,
) -> Report:
    """Measures whether a function and its Riemannian gradient agree, in the dtype of x.

    The gradient is `to_tangent` of the `representer` of the Euclidean gradient. It must be tangent,
    and the error of the linear model, |f(R(x, tv)) − f(x) − t⟨grad, v⟩|, must have slope 2 in t on
    a log-log plot. ⟨·, ·⟩ is `manifold.inner`.

    Args:
        manifold: The manifold.
        function: A function of a point that returns a scalar.
        x: A point, in float64 for the slope to be visible.
        key: A PRNG key.
        laws: The names of the laws to measure; None measures all.
        tolerances: Tolerances that replace the default ones, by name of the law.

    Returns:
        A report of two laws.

    Raises:
        TypeError: If the manifold is a class, or not a `Manifold`, or the key is no key of JAX.
        ValueError: If there is no law of a given name.

    Example:
        >>> import jax
        >>> import jax.numpy as jnp
        >>> from fgsgd_jax import Sphere
        >>> with jax.enable_x64(True):
        ...     x = Sphere().random(jax.random.key(0), (4, 3), jnp.float64)
        ...     report = check_gradient(Sphere(), lambda x: jnp.sum(x**4), x, jax.random.key(1))
        >>> report.passed
        True
    """
    require_manifold(manifold)
    require_key(key)
    if not callable(function) or not takes(function, 1):
        raise TypeError(f"`function` must be a function of a point, got {shown(function)}.")
    _require_point(x)
    selected = LAWS.select("check_gradient", manifold, laws, tolerances)
    gradient = manifold.to_tangent(x, manifold.representer(x, jax.grad(function)(x)))
    sample = _Sample(manifold, function, x, gradient, _points.unit_tangent(manifold, key, x))
    measured = {name: LAWS[name].measure(sample) for name in selected}
    return LAWS.report(measured, tolerances, jax.tree.leaves(x)[0].dtype.itemsize)


def _require_point(x: Any) -> None:
    """Raises a TypeError unless x is an array of floats, or a tuple of such on a `Product`."""

    def is_of_floats(leaf):
        is_array = isinstance(leaf, (jax.Array, np.ndarray))
        return is_array and holds(leaf.dtype, "real floating-point numbers")

    if not all(map(is_of_floats, x if isinstance(x, tuple) and x else (x,))):
        raise TypeError(
            "`x` must be a point, an array (rows, columns, …) of real floating-point numbers, or a "
            f"tuple of such on a Product, got {shown(x)}."
        )


class _Sample(NamedTuple):
    """A function, a point, the gradient there, and a unit tangent vector."""

    manifold: Manifold
    function: Callable[[Any], jax.Array]
    x: Any
    gradient: Any
    v: Any


@LAWS.law("gradient is tangent", ROUNDING)
def _gradient_is_tangent(sample: _Sample):
    gradient = sample.gradient
    return _points.difference(sample.manifold.to_tangent(sample.x, gradient), gradient)


@LAWS.law("error of the linear model has slope 2", 0.1)
def _linear_model(sample: _Sample):
    manifold, function, x, gradient, v = sample
    directional_derivative = jnp.sum(manifold.inner(x, gradient, v))

    def error(t):
        value = function(manifold.retract(x, _points.scale(t, v)))
        return jnp.abs(value - function(x) - t * directional_derivative)

    return 2 - slope(np.asarray(jax.jit(jax.vmap(error))(jnp.asarray(LENGTHS))))
