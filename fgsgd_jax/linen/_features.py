"""Measuring features in a Flax Linen model."""

import functools
from collections.abc import Mapping
from typing import Any

import flax.linen
import jax

from fgsgd_jax._trees import leaves_with_paths
from fgsgd_jax.features import _jaxpr, _statistics
from fgsgd_jax.spec import Collection


def feature_std(
    model: flax.linen.Module,
    variables: Mapping[str, Any],
    batches: Any,
    *,
    spec: Collection | None = None,
    **options: Any,
) -> dict[str, jax.Array]:
    """The standard deviation λ of the features entering every kernel, by input channel.

    What is pooled over, and what is not counted, is said at `fgsgd_jax.nnx.feature_std`; the two
    agree.

    Args:
        model: The module.
        variables: Its variables, as `{"params": …, "batch_stats": …}`.
        batches: A batch or an iterable of batches. A batch is what the module is called with: an
            array, a dictionary of arrays, or a tuple of positional arguments. Batches of equal
            shapes are compiled once.
        spec: Measures only its leaves that have a scale, or all on manifolds where none has; by
            default every kernel.
        **options: Keyword arguments of `model.apply`, such as `train=False` or `method=…`;
            hashable.

    Returns:
        For every kernel's path, as `fgsgd_jax.collection(variables["params"])` names it, an array
        over its input channels; several input axes are flattened in the kernel's order.

    Raises:
        ValueError: If there are no parameters, no batch, no kernel, or one whose input channels
            cannot be traced.

    Example:
        >>> import flax.linen as nn, jax, jax.numpy as jnp
        >>> model, x = nn.Dense(3), jnp.array([[1.0, 5.0], [3.0, 5.0]])
        >>> variables = model.init(jax.random.key(0), x)
        >>> feature_std(model, variables, x)
        {'kernel': Array([1., 0.], dtype=float32)}

    References:
        Ozay, *Fine-grained optimization of deep neural networks*, NeurIPS 2019, section 4: λ.
    """
    params, rest = _split(model, variables)
    static = _hashable(model, options)

    def measure(arguments: tuple) -> _jaxpr.Traced:
        return _moments(model, static, params, rest, arguments)

    return _statistics.standard_deviations(measure, params, batches, spec)


def feature_map_sizes(
    model: flax.linen.Module,
    variables: Mapping[str, Any],
    batch: Any,
    *,
    spec: Collection | None = None,
    **options: Any,
) -> dict[str, int]:
    """The size H·W of the feature map that every kernel gives, for the literal γ of eq. (2).

    Nothing is computed: shapes are enough, also `jax.ShapeDtypeStruct`s.

    Args:
        model: The module.
        variables: Its variables.
        batch: What it is called with; the first axis of its first array counts examples.
        spec: Reports only its leaves on manifolds; by default every kernel.
        **options: Keyword arguments of `model.apply`; hashable.

    Returns:
        For every kernel's path the number of output vectors for one example; the largest of a
        layer used several times.

    Raises:
        ValueError: As `feature_std`.

    Example:
        >>> import flax.linen as nn, jax, jax.numpy as jnp
        >>> model, x = nn.Conv(4, (3, 3), strides=2), jnp.ones((5, 8, 8, 1))
        >>> variables = jax.eval_shape(model.init, jax.random.key(0), x)
        >>> feature_map_sizes(model, variables, x)
        {'kernel': 16}

    References:
        Ozay, 2019, eq. (2): b̂.
    """
    params, rest = _split(model, variables)
    static = _hashable(model, options)

    def measure(arguments: tuple) -> _jaxpr.Traced:
        look = functools.partial(_trace, model, static, _statistics.nothing)
        return jax.eval_shape(look, params, rest, arguments)

    return _statistics.map_sizes(measure, params, batch, spec)


def _split(model: flax.linen.Module, variables: Mapping[str, Any]) -> tuple[Any, dict[str, Any]]:
    if not isinstance(model, flax.linen.Module):
        raise ValueError(
            f"Features of a Flax Linen module are measured here, not of {type(model).__name__}. "
            "Give the module and its variables; an NNX module goes to fgsgd_jax.nnx."
        )
    if not isinstance(variables, Mapping) or "params" not in variables:
        held = sorted(variables) if isinstance(variables, Mapping) else type(variables).__name__
        raise ValueError(
            "The variables of a Linen module are a dictionary with an entry 'params', as "
            f"{{'params': …, 'batch_stats': …}}; given was {held}."
        )
    return variables["params"], {name: variables[name] for name in variables if name != "params"}


def _hashable(model: flax.linen.Module, options: dict[str, Any]) -> tuple:
    static = tuple(sorted(options.items()))
    try:
        hash((model, static))
    except TypeError as error:
        raise ValueError(
            f"The module and the keyword arguments {sorted(options)} of its call are compiled in, "
            f"so all must be hashable, but: {error}. Use tuples in place of lists, and pass arrays "
            "in the batch, as a tuple of the call's positional arguments."
        ) from error
    return static


def _trace(model, options: tuple, observe, params, rest, arguments) -> _jaxpr.Traced:
    structure = jax.tree.structure(params)

    def apply(leaves, rest, arguments):
        model.apply({"params": structure.unflatten(leaves), **rest}, *arguments, **dict(options))

    return _jaxpr.trace(apply, leaves_with_paths(params), rest, arguments, observe)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _moments(model, options: tuple, params, rest, arguments) -> _jaxpr.Traced:
    return _trace(model, options, _statistics.moments, params, rest, arguments)
