"""Path-SGD for Flax Linen: the path functions of this package, given a module."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import optax

from fgsgd_jax import pathsgd
from fgsgd_jax._text import shown

NORMALIZATIONS = (nn.BatchNorm, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm, nn.InstanceNorm)


def apply_fn(
    module: nn.Module, *, variables: Mapping[str, Any] | None = None, **arguments: Any
) -> Callable[[Any, jax.Array], Any]:
    """The function `(params, x) -> outputs` of a module, for the path functions of this package.

    Args:
        module: A module without normalization layers.
        variables: Other collections of variables, such as `{"batch_stats": …}`; constants.
        **arguments: Keyword arguments of every call of the module, such as `train=False`.

    Returns:
        A function of the parameters `variables["params"]` and a batch. It raises a ValueError with
        the name of the layer if it calls a normalization layer.
    """
    if not isinstance(module, nn.Module):
        raise TypeError(
            f"The module must be a Flax Linen module, got {shown(module)}. An NNX module goes to "
            "fgsgd_jax.nnx."
        )
    _require_dictionary("variables", variables)

    def refuse_normalization(next_function, args, kwargs, context):
        if isinstance(context.module, NORMALIZATIONS):
            layer = "/".join(context.module.path)
            raise ValueError(
                f"The layer {layer!r} is a {type(context.module).__name__}, for which no path norm "
                "is defined. Fold it into the weights before it, or leave it out."
            )
        return next_function(*args, **kwargs)

    def function(params, x):
        with nn.intercept_methods(refuse_normalization):
            return module.apply({**(variables or {}), "params": params}, x, **arguments)

    return function


def _require_dictionary(name: str, given: Any) -> None:
    if not (given is None or isinstance(given, Mapping)):
        raise TypeError(f"`{name}` must be a dictionary or None, got {shown(given)}.")


def path_norm(
    module: nn.Module, params: Any, input_shape: Sequence[int], p: Any = 2, **arguments: Any
) -> jax.Array:
    """The path norm of a module; see `fgsgd_jax.path_norm`.

    Args:
        module: The module.
        params: Its parameters, `variables["params"]`.
        input_shape: The shape of one example.
        p: The power, at least 1.
        **arguments: As for `apply_fn`.

    Example:
        >>> import flax.linen as nn, jax, jax.numpy as jnp
        >>> from fgsgd_jax import linen
        >>> module = nn.Sequential([nn.Dense(8), nn.relu, nn.Dense(1)])
        >>> params = module.init(jax.random.key(0), jnp.ones((1, 3)))["params"]
        >>> bool(linen.path_norm(module, params, (3,)) > 0)
        True
    """
    return pathsgd.path_norm(apply_fn(module, **arguments), params, input_shape, p)


def path_scales(
    module: nn.Module,
    params: Any,
    input_shape: Sequence[int],
    p: Any = 2,
    *,
    second_term: bool = False,
    **arguments: Any,
) -> Any:
    """The scale κ of every weight of a module; see `fgsgd_jax.path_scales`.

    The arguments are as for `path_norm`.
    """
    function = apply_fn(module, **arguments)
    return pathsgd.path_scales(function, params, input_shape, p, second_term=second_term)


def scale_by_path(
    module: nn.Module,
    input_shape: Sequence[int],
    p: Any = 2,
    *,
    variables: Mapping[str, Any] | None = None,
    arguments: Mapping[str, Any] | None = None,
    **options: Any,
) -> optax.GradientTransformationExtraArgs:
    """Divides the gradients of a module by κ; see `fgsgd_jax.scale_by_path`.

    The arguments are as for `path_sgd`; `options` are further arguments of
    `fgsgd_jax.scale_by_path`.
    """
    _require_dictionary("arguments", arguments)
    function = apply_fn(module, variables=variables, **(arguments or {}))
    return pathsgd.scale_by_path(function, input_shape, p, **options)


def path_sgd(
    learning_rate: optax.ScalarOrSchedule,
    module: nn.Module,
    input_shape: Sequence[int],
    p: Any = 2,
    momentum: Any = None,
    *,
    variables: Mapping[str, Any] | None = None,
    arguments: Mapping[str, Any] | None = None,
    **options: Any,
) -> optax.GradientTransformationExtraArgs:
    """Path-SGD for the parameters of a module; see `fgsgd_jax.path_sgd`.

    Args:
        learning_rate: A number or schedule.
        module: The module, without normalization layers.
        input_shape: The shape of one example.
        p: The power of the path norm.
        momentum: The decay of the momentum, or None for none.
        variables: As for `apply_fn`.
        arguments: Keyword arguments of every call of the module.
        **options: Further arguments of `fgsgd_jax.path_sgd`.

    Example:
        >>> import flax.linen as nn, jax, jax.numpy as jnp
        >>> from flax.training.train_state import TrainState
        >>> from fgsgd_jax import linen
        >>> module = nn.Sequential([nn.Dense(8), nn.relu, nn.Dense(1)])
        >>> params = module.init(jax.random.key(0), jnp.ones((1, 3)))["params"]
        >>> tx = linen.path_sgd(0.1, module, (3,), momentum=0.9)
        >>> state = TrainState.create(apply_fn=module.apply, params=params, tx=tx)
        >>> state.apply_gradients(grads=params).step
        1
    """
    _require_dictionary("arguments", arguments)
    function = apply_fn(module, variables=variables, **(arguments or {}))
    return pathsgd.path_sgd(learning_rate, function, input_shape, p, momentum, **options)
