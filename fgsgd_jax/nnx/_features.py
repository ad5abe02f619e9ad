"""Statistics of the features of a Flax NNX model."""

import functools
from typing import Any

import jax
from flax import nnx

from fgsgd_jax import features
from fgsgd_jax._trees import leaves_with_paths
from fgsgd_jax.spec import Collection


def feature_std(
    model: nnx.Module, batches: Any, *, spec: Collection | None = None, **options: Any
) -> dict[str, jax.Array]:
    """The standard deviation λ of the features entering every kernel, by input channel.

    The model is called as it is, on a copy: its parameters, batch statistics and random number
    state do not change. Put it in evaluation mode yourself (`nnx.view`, `model.eval()`, or an
    option of its call).

    The population is all feature vectors that the kernel is applied to: all examples of all batches
    and all positions of the feature map, including positions that a stride skips, without the
    constants of padding. A grouped or depthwise convolution with C channels has C/groups input
    channels; features are pooled over its groups. A layer used several times pools its uses.

    Args:
        model: The model.
        batches: A batch or an iterable of batches. A batch is what the model is called with: an
            array, a dictionary of arrays, or a tuple of positional arguments. Batches of equal
            shapes are compiled once.
        spec: Measures only the leaves that have a scale in this spec, or all its leaves on
            manifolds if none has one; by default every kernel.
        **options: Keyword arguments of the call, such as `training=False`; hashable.

    Returns:
        For every kernel's path, as in `fgsgd_jax.collection(nnx.state(model, nnx.Param))`, an array
        `(input channels,)`. If several axes of a kernel run over input channels (as in the output
        projection of attention), they are flattened in the order of the kernel's axes.

    Raises:
        ValueError: If there is no batch or no kernel, or if the input channels of a kernel cannot
            be traced.

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

    def trace_batch(arguments: tuple) -> features.Trace:
        return _trace_moments(graph, static, params, rest, arguments)

    return features.standard_deviations(trace_batch, params, batches, spec)


def feature_map_sizes(
    model: nnx.Module, batch: Any, *, spec: Collection | None = None, **options: Any
) -> dict[str, int]:
    """The size H·W of the feature map that every kernel produces, for γ as in eq. (2).

    Only shapes are used and nothing is computed, so the batch may hold `jax.ShapeDtypeStruct`s.

    Args:
        model: The model.
        batch: What it is called with; the first axis of its first array counts examples.
        spec: Reports only its leaves on manifolds; by default every kernel.
        **options: Keyword arguments of the call; hashable.

    Returns:
        For every kernel's path the number of output vectors per example: H·W for a convolution, the
        number of tokens of a sequence, 1 for a dense layer on vectors. For a layer used several
        times, the largest.

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

    def trace_batch(arguments: tuple) -> features.Trace:
        trace_shapes = functools.partial(_trace, graph, static, features.no_statistic)
        return jax.eval_shape(trace_shapes, params, rest, arguments)

    return features.map_sizes(trace_batch, params, batch, spec)


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
            f"The keyword arguments {sorted(options)} of the call are static under jit, so all "
            "must be hashable. Pass arrays in the batch, as a tuple of the call's positional "
            "arguments."
        ) from error
    return static


def _trace(graph, options: tuple, statistic, params, rest, arguments) -> features.Trace:
    structure = jax.tree.structure(params)

    def apply(leaves, rest, arguments):
        # A new model: its call may write to its variables without changing the caller's.
        model = nnx.merge(graph, structure.unflatten(leaves), rest)
        model(*arguments, **dict(options))

    return features.trace(apply, leaves_with_paths(params), rest, arguments, statistic)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _trace_moments(graph, options: tuple, params, rest, arguments) -> features.Trace:
    return _trace(graph, options, features.moments, params, rest, arguments)
