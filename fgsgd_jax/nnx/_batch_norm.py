"""`fold_batch_norm`: batch normalization with fixed statistics, written into the weights."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

FOLDABLE = (nnx.Linear, nnx.Conv)


def fold_batch_norm(
    model: nnx.Module, input_shape: Sequence[int], *, call: Callable | None = None
) -> nnx.Module:
    """A copy of a model with every batch normalization folded into the layer before it.

    With its running averages, batch normalization multiplies each channel by scale/√(variance + ε)
    and adds a constant. Both go into the kernel and bias of the `nnx.Linear` or `nnx.Conv` whose
    output it normalizes; a bias is added where there was none. In place of the normalization a
    module that does nothing is left. The copy computes what the model computes with running
    averages, and is a network of weights and ReLU that paths describe.

    Args:
        model: The model; it is not changed.
        input_shape: The shape of one example.
        call: How the model is called, such as `lambda model, x: model(x, training=False)`; by
            default `model(x)`. The running averages have to be used then.

    Returns:
        The folded copy.

    Raises:
        ValueError: If a normalization does not follow directly on a linear layer or a convolution,
            if that layer's output is also used elsewhere, or if one of both is called twice.

    Example:
        >>> import jax.numpy as jnp
        >>> from flax import nnx
        >>> import fgsgd_jax.nnx
        >>> model = nnx.Sequential(
        ...     nnx.Linear(3, 4, use_bias=False, rngs=nnx.Rngs(0)),
        ...     nnx.BatchNorm(4, use_running_average=True, rngs=nnx.Rngs(0)),
        ...     nnx.relu,
        ... )
        >>> folded = fgsgd_jax.nnx.fold_batch_norm(model, (3,))
        >>> x = jnp.ones((2, 3))
        >>> bool(jnp.allclose(folded(x), model(x))), bool(fgsgd_jax.nnx.path_norm(folded, (3,)) > 0)
        (True, True)
    """
    call = call or (lambda model, x: model(x))
    pairs = _pairs(model, input_shape, call)
    folded = nnx.clone(model)
    modules = dict(nnx.iter_modules(folded))
    for layer, normalization in pairs:
        _fold(modules[layer], modules[normalization])
        _replace(folded, normalization, _Identity())
    _require_same(model, folded, input_shape, call)
    return folded


class _Identity(nnx.Module):
    """What is left of a normalization: takes its arguments, returns its input."""

    def __call__(self, x, *args, **kwargs):
        return x


class Call(NamedTuple):
    """One call of a layer: where the layer is in the model, what went in, what came out."""

    path: tuple
    given: Any
    returned: Any


def _pairs(model, input_shape, call) -> list[tuple[tuple, tuple]]:
    """The paths of each normalization and of the layer whose output it gets."""
    pairs = []

    def look(x):
        calls = _calls(model, call, x)
        normalizations = [c for c in calls if isinstance(_at(model, c.path), nnx.BatchNorm)]
        for normalization in normalizations:
            before = [
                c.path
                for c in calls
                if c.returned is normalization.given and c not in normalizations
            ]
            if not before:
                raise ValueError(
                    f"The batch normalization {_named(normalization.path)} does not follow "
                    "directly on a Linear or Conv layer, so there is nothing to fold it into."
                )
            pair = before[0], normalization.path
            for path in pair:
                times = [c.path for c in calls].count(path)
                if times > 1:
                    raise ValueError(
                        f"The layer {_named(path)} is called {times} times, so a normalization "
                        "cannot be folded into its weights."
                    )
            pairs.append(pair)
        return x

    jax.eval_shape(look, jax.ShapeDtypeStruct((1, *input_shape), jnp.float32))
    return pairs


def _calls(model, call, x) -> list[Call]:
    """All calls of linear layers, convolutions and normalizations while a model is called."""
    heard = nnx.clone(model)  # running averages may be written to
    paths = {id(module): path for path, module in nnx.iter_modules(heard)}
    calls: list[Call] = []

    def listening(original):
        def listen(module, x, *args, **kwargs):
            y = original(module, x, *args, **kwargs)
            if id(module) in paths:
                calls.append(Call(paths[id(module)], x, y))
            return y

        return listen

    # A call is looked up on the class, so that is where to listen, as long as this one call takes.
    originals = {kind: kind.__call__ for kind in (nnx.BatchNorm, *FOLDABLE)}
    try:
        for kind, original in originals.items():
            setattr(kind, "__call__", listening(original))  # noqa: B010 (it is no plain attribute)
        call(heard, x)
    finally:
        for kind, original in originals.items():
            setattr(kind, "__call__", original)  # noqa: B010
    return calls


def _fold(layer: Any, normalization: Any) -> None:
    """Writes a normalization into the kernel and bias of a layer."""
    variance, mean = normalization.var[...], normalization.mean[...]
    factor = 1 / jnp.sqrt(variance + normalization.epsilon)
    if normalization.scale is not None:
        factor = factor * normalization.scale[...]
    bias = -mean if layer.bias is None else layer.bias[...] - mean
    bias = bias * factor
    if normalization.bias is not None:
        bias = bias + normalization.bias[...]
    kernel = layer.kernel[...]
    layer.kernel[...] = (kernel * factor).astype(kernel.dtype)
    layer.bias = nnx.Param(bias.astype(kernel.dtype))
    layer.use_bias = True


def _at(model, path: tuple):
    for name in path:
        model = model[name] if isinstance(name, int) else getattr(model, name)
    return model


def _replace(model, path: tuple, module: nnx.Module) -> None:
    *parents, name = path
    parent = _at(model, tuple(parents))
    if isinstance(name, int):
        parent[name] = module
    else:
        setattr(parent, name, module)


def _require_same(model, folded, input_shape, call) -> None:
    """Refuses a fold that changed the function: an output that was also used before it."""
    x = jax.random.normal(jax.random.key(0), (2, *input_shape))
    before, after = (jax.tree.leaves(call(nnx.clone(m), x)) for m in (model, folded))
    for one, other in zip(before, after, strict=True):
        scale = jnp.max(jnp.abs(one)) + jnp.finfo(one.dtype).tiny
        if not jnp.max(jnp.abs(one - other)) <= 1e-3 * scale:
            raise ValueError(
                "Folded, the model computes something else. Either the running averages were not "
                "used (call it with use_running_average=True, or as your model names it), or the "
                "output of a normalized layer is also used without its normalization."
            )


def _named(path: tuple) -> str:
    return repr("/".join(map(str, path)))
