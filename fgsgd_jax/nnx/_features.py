"""Measuring features in a Flax NNX model."""

import functools
from typing import Any

import jax
from flax import nnx

from fgsgd_jax._trees import leaves_with_paths
from fgsgd_jax.features import _jaxpr, _statistics
from fgsgd_jax.spec import Collection


def feature_std(
    model: nnx.Module, batches: Any, *, spec: Collection | None = None, **options: Any
) -> dict[str, jax.Array]:
    """The standard deviation λ of the features entering every kernel, by input channel.

    The model is called as it is and not changed: its parameters, batch statistics and random
    numbers are those of before. Put it in evaluation mode yourself (`nnx.view`, `model.eval()`, or
    an option of its call).

    A standard deviation is that of the population of all feature vectors that a kernel meets: over
    the examples of all batches and all positions of the map, those that a stride skips included,
    zeros and other constants of padding not. A grouped or depthwise convolution has C/groups input
    channels; features are pooled over its groups. A layer used several times pools its uses.

    Args:
        model: The model.
        batches: A batch or an iterable of batches. A batch is what the model is called with: an
            array, a dictionary of arrays, or a tuple of positional arguments. Batches of equal
            shapes are compiled once.
        spec: Measures only its leaves that have a scale, or all on manifolds where none has; by
            default every kernel.
        **options: Keyword arguments of the call, such as `training=False`; hashable.

    Returns:
        For every kernel's path, as `fgsgd_jax.collection(nnx.state(model, nnx.Param))` names it, an
        array over its input channels. Where several axes of a kernel run over input channels (the
        heads of an output projection), they are flattened in the kernel's order.

    Raises:
        ValueError: If there is no batch, no kernel, or one whose input channels cannot be traced.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from flax import nnx
        >>> model = nnx.Sequential(nnx.Linear(2, 3, rngs=nnx.Rngs(0)))
        >>> x = jnp.array([[1.0, 5.0], [3.0, 5.0]])
        >>> feature_std(model, x)
        {'layers/0/kernel': Array([1., 0.], dtype=float32)}

    References:
        Ozay, *Fine-grained optimization of deep neural networks*, NeurIPS 2019, section 4: λ.
    """
    graph, params, rest = _split(model)
    static = _hashable(options)

    def measure(arguments: tuple) -> _jaxpr.Traced:
        return _moments(graph, static, params, rest, arguments)

    return _statistics.standard_deviations(measure, params, batches, spec)


def feature_map_sizes(
    model: nnx.Module, batch: Any, *, spec: Collection | None = None, **options: Any
) -> dict[str, int]:
    """The size H·W of the feature map that every kernel gives, for the literal γ of eq. (2).

    Nothing is computed: shapes are enough, also `jax.ShapeDtypeStruct`s.

    Args:
        model: The model.
        batch: What it is called with; the first axis of its first array counts examples.
        spec: Reports only its leaves on manifolds; by default every kernel.
        **options: Keyword arguments of the call; hashable.

    Returns:
        For every kernel's path the number of output vectors for one example: H·W of a convolution,
        the tokens of a sequence, 1 for a dense layer on vectors. The largest of a layer used
        several times.

    Raises:
        ValueError: As `feature_std`.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from flax import nnx
        >>> model = nnx.Conv(1, 4, (3, 3), strides=2, rngs=nnx.Rngs(0))
        >>> feature_map_sizes(model, jax.ShapeDtypeStruct((5, 8, 8, 1), jnp.float32))
        {'kernel': 16}

    References:
        Ozay, 2019, eq. (2): b̂.
    """
    graph, params, rest = _split(model)
    static = _hashable(options)

    def measure(arguments: tuple) -> _jaxpr.Traced:
        look = functools.partial(_trace, graph, static, _statistics.nothing)
        return jax.eval_shape(look, params, rest, arguments)

    return _statistics.map_sizes(measure, params, batch, spec)


def _split(model: nnx.Module):
    if not isinstance(model, nnx.Module):
        raise ValueError(
            f"Features of a Flax NNX module are measured here, not of {type(model).__name__}. Give "
            "the module itself; a Linen module goes to fgsgd_jax.linen with its variables."
        )
    return nnx.split(model, nnx.Param, ...)


def _hashable(options: dict[str, Any]) -> tuple:
    static = tuple(sorted(options.items()))
    try:
        hash(static)
    except TypeError as error:
        raise ValueError(
            f"The keyword arguments {sorted(options)} of the call are compiled in, so all must be "
            "hashable. Pass arrays in the batch, as a tuple of the call's positional arguments."
        ) from error
    return static


def _trace(graph, options: tuple, observe, params, rest, arguments) -> _jaxpr.Traced:
    structure = jax.tree.structure(params)

    def apply(leaves, rest, arguments):
        # A new model, whose variables it may write without touching those of the caller.
        own = nnx.merge(graph, structure.unflatten(leaves), rest)
        own(*arguments, **dict(options))

    return _jaxpr.trace(apply, leaves_with_paths(params), rest, arguments, observe)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _moments(graph, options: tuple, params, rest, arguments) -> _jaxpr.Traced:
    return _trace(graph, options, _statistics.moments, params, rest, arguments)
