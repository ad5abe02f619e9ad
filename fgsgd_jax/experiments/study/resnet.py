"""Residual networks of 6n + 2 layers for small images, and ways to compute them for many runs.

A function of one run is mapped over runs by `jax.vmap`. A convolution with a kernel for every run
is then a grouped convolution, which is slow on GPUs: the gradient of its kernel becomes a
convolution with a window as large as the image. There are others with the same result; which is the
fastest has to be measured.

References:
    He, Zhang, Ren & Sun, *Deep residual learning for image recognition*, CVPR 2016, section 4.2,
    shortcuts of option A.
"""

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax.custom_batching import custom_vmap

Convolution = Literal["dense", "patches", "map", "grouped"]
"""How the convolutions of many runs are computed.

"dense": as one convolution whose kernel is zero between different runs. "patches": as products of
matrices, with every 3×3 neighborhood written out. "map": one run after another. "grouped": as one
grouped convolution.
"""

CHANNELS = (16, 32, 64)
EPSILON = 1e-5  # added to variances

Moments = list[tuple[jax.Array, jax.Array]]
"""Means and variances of the features of every convolution, `(channels,)` each."""


def initial(key: jax.Array, inputs: int, classes: int, *, depth: int, width: float) -> Any:
    """He-normal kernels; the kernels of a stage that have the same shape are stacked.

    Args:
        key: The key of the random numbers.
        inputs: The number of channels of the images.
        classes: The number of outputs.
        depth: The number of layers, 6n + 2.
        width: Multiplies the numbers of channels.

    Returns:
        The parameters: a dictionary for each stage of layers, and for the last layer.
    """
    channels = [max(1, round(width * channels)) for channels in CHANNELS]
    params: dict[str, Any] = {}
    for stage, (before, after) in enumerate(itertools.pairwise([inputs, *channels])):
        # The first convolution of all stands before the blocks, that of other stages inside of one.
        number = (depth - 2) // 3 - (stage > 0)
        params[f"stage{stage}"] = {
            "first": {"kernel": (3, 3, before, after), "norm": _norm(after)},
            "others": {"kernels": (number, 3, 3, after, after), "norm": _norm(number, after)},
        }
    params["last"] = {"weight": (channels[-1], classes), "bias": jnp.zeros(classes)}
    return _he_normal(key, params)


def _norm(*shape: int) -> dict[str, jax.Array]:
    return {"scale": jnp.ones(shape), "bias": jnp.zeros(shape)}


def _he_normal(key: jax.Array, params: Any) -> Any:
    """Parameters with random weights in the place of shapes, cut from one array of numbers.

    One array, because random numbers take long to compile.
    """
    leaves, tree = jax.tree.flatten(params, is_leaf=lambda leaf: isinstance(leaf, tuple))
    sizes = [math.prod(leaf) if isinstance(leaf, tuple) else 0 for leaf in leaves]
    numbers = jnp.split(jax.random.normal(key, (sum(sizes),)), np.cumsum(sizes)[:-1])

    def weight(leaf, numbers):
        if not isinstance(leaf, tuple):
            return leaf
        inputs = math.prod(leaf[-4:-1])
        return numbers.reshape(leaf) * (2 / inputs) ** 0.5

    return tree.unflatten(map(weight, leaves, numbers))


def network(
    params: Any, images: jax.Array, convolution: Convolution, moments: Moments | None = None
) -> tuple[jax.Array, Moments]:
    """The outputs of one run, and the moments of the features of these images.

    Args:
        params: The parameters of `initial`.
        images: `(number, rows, columns, channels)`; their dtype is that of all features.
        convolution: How convolutions are computed.
        moments: Normalizes features, in the place of the moments of these images.

    Returns:
        The outputs `(number, classes)`, and the moments.
    """
    own: Moments = []

    def normalized(x: jax.Array, layer: Any, stride: int = 1) -> jax.Array:
        kernel = layer["kernel"].astype(x.dtype)
        y = CONVOLUTIONS[convolution](x, kernel, stride)
        features = y.astype(jnp.float32)
        mean = features.mean((0, 1, 2))
        own.append((mean, jnp.square(features).mean((0, 1, 2)) - mean**2))
        mean, variance = own[-1] if moments is None else moments[len(own) - 1]
        scale = layer["norm"]["scale"] * jax.lax.rsqrt(jnp.maximum(variance, 0) + EPSILON)
        return ((features - mean) * scale + layer["norm"]["bias"]).astype(x.dtype)

    x = jax.nn.relu(normalized(images, params["stage0"]["first"]))
    for stage in range(len(CHANNELS)):
        layers = _layers_in_blocks(params[f"stage{stage}"], skip=stage == 0)
        for first, second in zip(layers[::2], layers[1::2], strict=True):
            stride = 1 if first["kernel"].shape[-2] == first["kernel"].shape[-1] else 2
            y = jax.nn.relu(normalized(x, first, stride))
            y = normalized(y, second)
            new = y.shape[-1] - x.shape[-1]
            shortcut = jnp.pad(x[:, ::stride, ::stride], [(0, 0)] * 3 + [(0, new)])
            x = jax.nn.relu(y + shortcut)
    x = x.astype(jnp.float32).mean((1, 2))
    return x @ params["last"]["weight"] + params["last"]["bias"], own


def _layers_in_blocks(stage: Any, *, skip: bool) -> list[Any]:
    """The convolutions in the blocks of a stage; `skip` leaves out the first of all."""
    kernels, norms = stage["others"]["kernels"], stage["others"]["norm"]
    others = [
        {"kernel": kernels[i], "norm": jax.tree.map(lambda leaf, i=i: leaf[i], norms)}
        for i in range(len(kernels))
    ]
    return others if skip else [stage["first"], *others]


# --- convolutions -----------------------------------------------------------------------------


def convolved(x: jax.Array, kernel: jax.Array, stride: int) -> jax.Array:
    """Images `(number, rows, columns, channels)` after a 3×3 convolution, one zero around them."""
    return jax.lax.conv_general_dilated(
        x, kernel, (stride, stride), [(1, 1)] * 2, dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


def by_patches(x: jax.Array, kernel: jax.Array, stride: int) -> jax.Array:
    """The same as a product of matrices, whose rows are the 3×3 neighborhoods."""
    _, rows, columns, _ = x.shape
    padded = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    shifted = [
        padded[:, i : i + rows : stride, j : j + columns : stride]
        for i in range(3)
        for j in range(3)
    ]
    return jnp.concatenate(shifted, -1) @ kernel.reshape(-1, kernel.shape[-1])


def dense(x: jax.Array, kernel: jax.Array, stride: int) -> jax.Array:
    """The same; mapped over runs, their channels are those of one convolution.

    To be differentiated outside of the map over runs.
    """

    @custom_vmap
    def of_runs(x, kernel):
        return convolved(x, kernel, stride)

    @of_runs.def_vmap
    def _(runs, batched, x, kernel):
        assert batched[1], "A kernel of every run is needed."
        if not batched[0]:
            x = jnp.broadcast_to(x, (runs, *x.shape))
        diagonal = jnp.eye(runs, dtype=kernel.dtype)
        kernel = jnp.einsum("rhwio,rs->hwriso", kernel, diagonal)
        height, width, _, inputs, _, outputs = kernel.shape
        kernel = kernel.reshape(height, width, runs * inputs, runs * outputs)
        number, rows, columns = x.shape[1:4]
        x = jnp.moveaxis(x, 0, 3).reshape(number, rows, columns, -1)
        y = convolved(x, kernel, stride)
        return jnp.moveaxis(y.reshape(*y.shape[:3], runs, outputs), 3, 0), True

    return of_runs(x, kernel)


CONVOLUTIONS: dict[Convolution, Callable[[jax.Array, jax.Array, int], jax.Array]] = {
    "dense": dense,
    "patches": by_patches,
    "map": convolved,
    "grouped": convolved,
}


def mapped(function: Callable, convolution: Convolution, in_axes: Sequence[int | None]) -> Callable:
    """A function of one run, with convolutions of this kind, for many runs.

    Args:
        function: The function.
        convolution: How its convolutions are computed.
        in_axes: 0 for the arguments of which every run has its own, None for the others.
    """
    if convolution != "map":
        return jax.vmap(function, in_axes)

    def one_after_another(*arguments):
        own = [argument for argument, axis in zip(arguments, in_axes, strict=True) if axis == 0]

        def one(own):
            own = iter(own)
            pairs = zip(arguments, in_axes, strict=True)
            return function(*(next(own) if axis == 0 else given for given, axis in pairs))

        return jax.lax.map(one, own)

    return one_after_another


def gradients(
    loss: Callable[[Any, jax.Array, jax.Array], jax.Array], convolution: Convolution
) -> Callable[[Any, jax.Array, jax.Array], tuple[jax.Array, Any]]:
    """The losses and gradients of many runs, from the loss of one run.

    Args:
        loss: `(params, images, labels) -> scalar`, with convolutions of this kind.
        convolution: How they are computed.
    """
    if convolution != "dense":
        return mapped(jax.value_and_grad(loss), convolution, (0, 0, 0))

    def total(params, images, labels):
        losses = jax.vmap(loss)(params, images, labels)
        return losses.sum(), losses

    def differentiated_outside(*runs):
        gradient, losses = jax.grad(total, has_aux=True)(*runs)
        return losses, gradient

    return differentiated_outside
