"""Statistics of the features of a Flax Linen model."""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import flax.linen
import jax

from fgsgd_jax import features
from fgsgd_jax._trees import leaves_with_paths
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

    The population is all feature vectors that the kernel is applied to: all examples of all batches
    and all positions of the feature map, as described at `fgsgd_jax.nnx.feature_std`.

    Args:
        model: The module.
        variables: Its variables, as `{"params": …, "batch_stats": …}`.
        batches: A batch or an iterable of batches. A batch is what the module is called with: an
            array, a dictionary of arrays, or a tuple of positional arguments. Batches of equal
            shapes are compiled once.
        spec: Measures only the leaves that have a scale in this spec, or all its leaves on
            manifolds if none has one; by default every kernel.
        **options: Keyword arguments of `model.apply`, such as `train=False` or `method=…`;
            hashable.

    Returns:
        For every kernel's path, as in `fgsgd_jax.collection(variables["params"])`, an array
        `(input channels,)`. If several axes of a kernel run over input channels, they are flattened
        in the order of the kernel's axes.

    Raises:
        ValueError: If there are no parameters, no batch or no kernel, or if the input channels of a
            kernel cannot be traced.

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
    model = _with_tuples(model)
    static = _hashable(model, options)

    def trace_batch(arguments: tuple) -> features.Trace:
        return _trace_moments(model, static, params, rest, arguments)

    return features.standard_deviations(trace_batch, params, batches, spec)


def feature_map_sizes(
    model: flax.linen.Module,
    variables: Mapping[str, Any],
    batch: Any,
    *,
    spec: Collection | None = None,
    **options: Any,
) -> dict[str, int]:
    """The size H·W of the feature map that every kernel produces, for γ as in eq. (2).

    Only shapes are used and nothing is computed, so the batch may hold `jax.ShapeDtypeStruct`s.

    Args:
        model: The module.
        variables: Its variables.
        batch: What it is called with; the first axis of its first array counts examples.
        spec: Reports only its leaves on manifolds; by default every kernel.
        **options: Keyword arguments of `model.apply`; hashable.

    Returns:
        For every kernel's path the number of output vectors per example: H·W for a convolution, the
        number of tokens of a sequence, 1 for a dense layer on vectors. For a layer used several
        times, the largest.

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
    model = _with_tuples(model)
    static = _hashable(model, options)

    def trace_batch(arguments: tuple) -> features.Trace:
        trace_shapes = functools.partial(_trace, model, static, features.no_statistic)
        return jax.eval_shape(trace_shapes, params, rest, arguments)

    return features.map_sizes(trace_batch, params, batch, spec)


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
            f"{{'params': …, 'batch_stats': …}}; given was {held}. Give what module.init returns."
        )
    return variables["params"], {name: variables[name] for name in variables if name != "params"}


def _with_tuples(model: flax.linen.Module) -> flax.linen.Module:
    """The module with tuples in place of lists among its fields, so that it can be hashed."""

    def frozen(value: Any) -> Any:
        return tuple(map(frozen, value)) if type(value) in (list, tuple) else value

    fields = {
        field.name: getattr(model, field.name)
        for field in dataclasses.fields(model)
        if field.init and field.name not in ("parent", "name")
    }
    changed = {
        name: frozen(value) for name, value in fields.items() if type(value) in (list, tuple)
    }
    return model.clone(**changed)


def _hashable(model: flax.linen.Module, options: dict[str, Any]) -> tuple:
    static = tuple(sorted(options.items()))
    try:
        hash((model, static))
    except TypeError as error:
        raise ValueError(
            f"The module and the keyword arguments {sorted(options)} of its call are static under "
            f"jit, so all must be hashable, but: {error}. Use tuples in place of lists, and pass "
            "arrays in the batch, as a tuple of the call's positional arguments."
        ) from error
    return static


def _trace(model, options: tuple, statistic, params, rest, arguments) -> features.Trace:
    structure = jax.tree.structure(params)

    def apply(leaves, rest, arguments):
        model.apply({"params": structure.unflatten(leaves), **rest}, *arguments, **dict(options))

    return features.trace(apply, leaves_with_paths(params), rest, arguments, statistic)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _trace_moments(model, options: tuple, params, rest, arguments) -> features.Trace:
    return _trace(model, options, features.moments, params, rest, arguments)
