"""Path-SGD for Flax NNX: the path functions of this package, given a model."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import optax
from flax import nnx

from fgsgd_jax import pathsgd
from fgsgd_jax._functions import require_function
from fgsgd_jax._text import shown

NORMALIZATIONS = (nnx.BatchNorm, nnx.LayerNorm, nnx.GroupNorm, nnx.RMSNorm, nnx.InstanceNorm)


def apply_fn(model: nnx.Module, call: Callable | None = None) -> Callable[[Any, jax.Array], Any]:
    """The function `(params, x) -> outputs` of a model, for the path functions of this package.

    `params` is `nnx.state(model, nnx.Param)`, or a tree of arrays with the same leaves, as
    `nnx.Optimizer` gives it to a transformation. All other variables of the model are constants,
    with their present values.

    Args:
        model: A model without normalization layers.
        call: How the model is called, such as `lambda model, x: model(x, training=False)`; by
            default `model(x)`.

    Raises:
        TypeError: If this is no NNX module, or `call` no function of a model and a batch.
        ValueError: If the model has a normalization layer, with its path.
    """
    require_model(model, call)
    for path, module in nnx.iter_modules(model):
        if isinstance(module, NORMALIZATIONS):
            remedy = (
                "Fold it into the weights (fgsgd_jax.nnx.fold_batch_norm), or leave it out."
                if isinstance(module, nnx.BatchNorm)
                else "Leave it out."
            )
            raise ValueError(
                f"The layer {'/'.join(map(str, path))!r} is a {type(module).__name__}, for which "
                f"no path norm is defined. {remedy}"
            )
    graph, template, rest = nnx.split(model, nnx.Param, ...)
    structure = jax.tree.structure(template)
    shapes = [leaf.shape for leaf in jax.tree.leaves(template)]

    def function(params, x):
        leaves = jax.tree.leaves(params)
        if [leaf.shape for leaf in leaves] != shapes:
            raise ValueError(
                "The parameters are not those of the model that apply_fn was made from: "
                f"{len(leaves)} leaves where the model has {len(shapes)}, or leaves of other "
                "shapes. Give nnx.state(model, nnx.Param), and wrt=nnx.Param to nnx.Optimizer."
            )
        # A copy: the model may write to its variables without changing `rest`.
        merged = nnx.merge(graph, structure.unflatten(leaves), rest, copy=True)
        return merged(x) if call is None else call(merged, x)

    return function


def require_model(model: Any, call: Any) -> None:
    """Raises a TypeError unless this is an NNX module, called as a function says or by default."""
    if not isinstance(model, nnx.Module):
        raise TypeError(
            f"The model must be a Flax NNX module, got {shown(model)}. A Linen module goes to "
            "fgsgd_jax.linen; for any other network, give fgsgd_jax.path_norm and its siblings a "
            "function of parameters and a batch."
        )
    if call is not None:
        require_function("call", call, "model, x")


def path_norm(
    model: nnx.Module, input_shape: Sequence[int], p: Any = 2, *, call: Callable | None = None
) -> jax.Array:
    """The path norm of a model; see `fgsgd_jax.path_norm`.

    Args:
        model: The model. Differentiable by `nnx.grad`.
        input_shape: The shape of one example.
        p: The power, at least 1.
        call: How the model is called; by default `model(x)`.

    Raises:
        ValueError: If the model has a normalization layer, or is not a ReLU network.

    Example:
        >>> from flax import nnx
        >>> import fgsgd_jax.nnx
        >>> model = nnx.Sequential(nnx.Linear(3, 8, rngs=nnx.Rngs(0)), nnx.relu)
        >>> bool(fgsgd_jax.nnx.path_norm(model, (3,)) > 0)
        True
    """
    function = apply_fn(model, call)
    return pathsgd.path_norm(function, nnx.state(model, nnx.Param), input_shape, p)


def path_scales(
    model: nnx.Module,
    input_shape: Sequence[int],
    p: Any = 2,
    *,
    second_term: bool = False,
    call: Callable | None = None,
) -> Any:
    """The scale κ of every weight of a model, a state like `nnx.state(model, nnx.Param)`.

    Args:
        model: The model.
        input_shape: The shape of one example.
        p: The power, at least 1.
        second_term: Whether to add κ⁽²⁾ for weights that a path can pass twice.
        call: How the model is called; by default `model(x)`.

    Returns:
        A state with the structure and shapes of `nnx.state(model, nnx.Param)`.

    Raises:
        TypeError: If this is no NNX module.
        ValueError: If the model has a normalization layer, or is not a ReLU network.

    Example:
        >>> import jax.numpy as jnp
        >>> from flax import nnx
        >>> import fgsgd_jax.nnx
        >>> model = nnx.Linear(3, 2, rngs=nnx.Rngs(0))
        >>> scales = fgsgd_jax.nnx.path_scales(model, (3,))
        >>> bool(jnp.all(scales["kernel"][...] == 1))  # a path of one weight has no others
        True

    References:
        Neyshabur, Salakhutdinov & Srebro, *Path-SGD*, NeurIPS 2015, section 4; see
        `fgsgd_jax.path_scales`.
    """
    function = apply_fn(model, call)
    params = nnx.state(model, nnx.Param)
    return pathsgd.path_scales(function, params, input_shape, p, second_term=second_term)


def scale_by_path(
    model: nnx.Module,
    input_shape: Sequence[int],
    p: Any = 2,
    *,
    call: Callable | None = None,
    **options: Any,
) -> optax.GradientTransformationExtraArgs:
    """Divides the gradients of a model by κ; see `fgsgd_jax.scale_by_path`.

    The arguments are as for `path_norm`; `options` are further arguments of
    `fgsgd_jax.scale_by_path`.
    """
    return pathsgd.scale_by_path(apply_fn(model, call), input_shape, p, **options)


def path_sgd(
    learning_rate: optax.ScalarOrSchedule,
    model: nnx.Module,
    input_shape: Sequence[int],
    p: Any = 2,
    momentum: Any = None,
    *,
    call: Callable | None = None,
    **options: Any,
) -> optax.GradientTransformationExtraArgs:
    """Path-SGD for the parameters of a model; see `fgsgd_jax.path_sgd`.

    Args:
        learning_rate: A number or schedule.
        model: The model. Its parameters are not used, only its structure and other variables.
        input_shape: The shape of one example.
        p: The power of the path norm.
        momentum: The decay of the momentum, or None for none.
        call: How the model is called; by default `model(x)`.
        **options: Further arguments of `fgsgd_jax.path_sgd`.

    Returns:
        A transformation for `nnx.Optimizer(model, tx, wrt=nnx.Param)`, whose `update` needs all
        parameters of the model.

    Raises:
        TypeError: If this is no NNX module, or a number or dtype is of the wrong type.
        ValueError: If the model has a normalization layer; at `init` if it is not a ReLU network.

    Example:
        >>> from flax import nnx
        >>> import fgsgd_jax.nnx
        >>> model = nnx.Sequential(nnx.Linear(3, 8, rngs=nnx.Rngs(0)), nnx.relu)
        >>> tx = fgsgd_jax.nnx.path_sgd(0.1, model, input_shape=(3,), momentum=0.9)
        >>> optimizer = nnx.Optimizer(model, tx, wrt=nnx.Param)
        >>> gradient = nnx.grad(lambda model: model(jax.numpy.ones((1, 3))).sum())(model)
        >>> _ = optimizer.update(model, gradient)

    References:
        Neyshabur, Salakhutdinov & Srebro, *Path-SGD: path-normalized optimization in deep neural
        networks*, NeurIPS 2015 (arXiv 1506.02617), Algorithm 1.
    """
    function = apply_fn(model, call)
    return pathsgd.path_sgd(learning_rate, function, input_shape, p, momentum, **options)
