"""`fold_batch_norm`: folds batch normalization with fixed statistics into the weights."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from fgsgd_jax import pathsgd
from fgsgd_jax.nnx._paths import require_model

FOLDABLE = (nnx.Linear, nnx.Conv)


def fold_batch_norm(
    model: nnx.Module, input_shape: Sequence[int], *, call: Callable | None = None
) -> nnx.Module:
    """A copy of a model with every batch normalization folded into the layer before it.

    With running averages, batch normalization multiplies each channel by scale/√(variance + ε) and
    adds a constant. Both are folded into the kernel and bias of the `nnx.Linear` or `nnx.Conv`
    whose output it normalizes; a layer without bias gets one. The normalization is replaced by an
    identity module. The copy computes the same function as the model with running averages, and has
    a path norm.

    Args:
        model: The model; it is not changed.
        input_shape: The shape of one example.
        call: How the model is called, such as `lambda model, x: model(x, training=False)`; by
            default `model(x)`. The call must use the running averages.

    Returns:
        The folded copy.

    Raises:
        TypeError: If an argument is of another kind.
        ValueError: If a normalization does not directly follow a linear layer or a convolution, if
            that layer's output is also used elsewhere, or if either of the two is called twice.

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
    require_model(model, call)
    pathsgd.require_input_shape(input_shape)
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
    """Replaces a normalization: accepts the same arguments and returns its input."""

    def __call__(self, x, *args, **kwargs):
        return x


class Call(NamedTuple):
    """One call of a layer: the path of the layer in the model, its input and its output."""

    path: tuple
    input: Any
    output: Any


def _pairs(model, input_shape, call) -> list[tuple[tuple, tuple]]:
    """Pairs of paths: of a layer, and of the normalization of its output."""
    pairs = []

    def find_pairs(x):
        calls = _calls(model, call, x)
        normalizations = [c for c in calls if isinstance(_at(model, c.path), nnx.BatchNorm)]
        for normalization in normalizations:
            before = [
                c.path for c in calls if c.output is normalization.input and c not in normalizations
            ]
            if not before:
                raise ValueError(
                    f"The batch normalization {_named(normalization.path)} does not follow "
                    "directly on a Linear or Conv layer, so there is nothing to fold it into. "
                    "Leave it out of the model."
                )
            pair = before[0], normalization.path
            for path in pair:
                times = [c.path for c in calls].count(path)
                if times > 1:
                    raise ValueError(
                        f"The layer {_named(path)} is called {times} times, so a normalization "
                        "cannot be folded into its weights. Use one layer for each call."
                    )
            pairs.append(pair)
        return x

    jax.eval_shape(find_pairs, jax.ShapeDtypeStruct((1, *input_shape), jnp.float32))
    return pairs


def _calls(model, call, x) -> list[Call]:
    """All calls of linear layers, convolutions and normalizations during one call of a model."""
    model = nnx.clone(model)  # the call may update running averages
    paths = {id(module): path for path, module in nnx.iter_modules(model)}
    calls: list[Call] = []

    def recording(original):
        def record(module, x, *args, **kwargs):
            y = original(module, x, *args, **kwargs)
            if id(module) in paths:
                calls.append(Call(paths[id(module)], x, y))
            return y

        return record

    # Python looks up `__call__` on the class, so the classes are patched during this one call.
    originals = {cls: cls.__call__ for cls in (nnx.BatchNorm, *FOLDABLE)}
    try:
        for cls, original in originals.items():
            setattr(cls, "__call__", recording(original))  # noqa: B010 (for pyright)
        call(model, x)
    finally:
        for cls, original in originals.items():
            setattr(cls, "__call__", original)  # noqa: B010
    return calls


def _fold(layer: Any, normalization: Any) -> None:
    """Multiplies a normalization into the kernel and bias of a layer, in place."""
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
    """Raises an error if folding changed the function of the model."""
    x = jax.random.normal(jax.random.key(0), (2, *input_shape))
    before, after = (jax.tree.leaves(call(nnx.clone(m), x)) for m in (model, folded))
    for expected, output in zip(before, after, strict=True):
        scale = jnp.max(jnp.abs(expected)) + jnp.finfo(expected.dtype).tiny
        if not jnp.max(jnp.abs(expected - output)) <= 1e-3 * scale:
            raise ValueError(
                "The folded model computes something else. Either the running averages were not "
                "used (call it with use_running_average=True, or as your model names it), or the "
                "output of a normalized layer is also used without its normalization."
            )


def _named(path: tuple) -> str:
    return repr("/".join(map(str, path)))
