"""The network that the program trains, and a larger one that it measures."""

import jax
import jax.numpy as jnp
from flax import nnx


class CNN(nnx.Module):
    """3×3 convolutions with batch normalization and ReLU, pooled, then one dense layer.

    The kernels of the convolutions, `conv1/kernel`, `conv2/kernel`, …, can live on manifolds: what
    normalization follows does not depend on their length. The dense layer `head` has no
    normalization after it and needs its length, so it stays Euclidean.

    Args:
        channels: The output channels of each convolution. After each one the map is halved, as
            long as it stays at least 2×2.
        image_shape: `(rows, columns, channels)` of an image.
        classes: The number of outputs.
        rngs: The random numbers of the initialization.
    """

    def __init__(
        self,
        channels: tuple[int, ...],
        image_shape: tuple[int, int, int],
        classes: int,
        *,
        rngs: nnx.Rngs,
    ):
        rows, columns, inputs = image_shape
        self.stages = len(channels)
        for stage, outputs in enumerate(channels, start=1):
            # A bias would be taken away again by the normalization.
            conv = nnx.Conv(inputs, outputs, (3, 3), use_bias=False, rngs=rngs)
            setattr(self, f"conv{stage}", conv)
            # Runs here have few steps: averages over 100 of them would still remember the start.
            setattr(self, f"norm{stage}", nnx.BatchNorm(outputs, momentum=0.9, rngs=rngs))
            inputs = outputs
            if _can_be_halved(rows, columns):
                rows, columns = rows // 2, columns // 2
        self.head = nnx.Linear(rows * columns * inputs, classes, rngs=rngs)

    def __call__(self, images: jax.Array, *, training: bool) -> jax.Array:
        """Maps images `(number, rows, columns, channels)` to logits `(number, classes)`."""
        x = images
        for stage in range(1, self.stages + 1):
            x = getattr(self, f"conv{stage}")(x)
            x = getattr(self, f"norm{stage}")(x, use_running_average=not training)
            x = nnx.relu(x)
            if _can_be_halved(*x.shape[1:3]):
                x = _halved(x)
        return self.head(x.reshape(len(x), -1))


def _can_be_halved(rows: int, columns: int) -> bool:
    return min(rows, columns) >= 4


def _halved(x: jax.Array) -> jax.Array:
    """The maximum over each 2×2 window; an odd last row or column is dropped.

    A reshape and a maximum: on a CPU three times as fast as `nnx.max_pool` and its gradient.
    """
    number, rows, columns, channels = x.shape
    x = x[:, : rows // 2 * 2, : columns // 2 * 2]
    return jnp.max(x.reshape(number, rows // 2, 2, columns // 2, 2, channels), axis=(2, 4))


class ResNet20(nnx.Module):
    """The residual network of 20 layers for images of 32×32, its shortcuts without weights.

    Three stages of three blocks of two 3×3 convolutions, with 16, 32 and 64 channels at width 1. A
    shortcut into a stage takes every second pixel and fills the new channels with zeros.

    Args:
        classes: The number of outputs.
        width: Multiplies the numbers of channels.
        rngs: The random numbers of the initialization.

    References:
        He et al., *Deep residual learning for image recognition*, 2016, section 4.2, option A.
    """

    def __init__(self, classes: int, *, width: float = 1.0, rngs: nnx.Rngs):
        first, *others = (max(1, round(width * channels)) for channels in (16, 32, 64))
        self.conv = nnx.Conv(3, first, (3, 3), use_bias=False, rngs=rngs)
        self.norm = nnx.BatchNorm(first, rngs=rngs)
        blocks, inputs = [], first
        for outputs in (first, *others):
            for _ in range(3):
                blocks.append(_Block(inputs, outputs, rngs=rngs))
                inputs = outputs
        self.blocks = nnx.List(blocks)
        self.head = nnx.Linear(inputs, classes, rngs=rngs)

    def __call__(self, images: jax.Array, *, training: bool) -> jax.Array:
        """Maps images `(number, rows, columns, 3)` to logits `(number, classes)`."""
        x = nnx.relu(self.norm(self.conv(images), use_running_average=not training))
        for block in self.blocks:
            x = block(x, training=training)
        return self.head(x.mean((1, 2)))


class _Block(nnx.Module):
    """Two convolutions beside a shortcut; where the channels grow, the map is halved."""

    def __init__(self, inputs: int, outputs: int, *, rngs: nnx.Rngs):
        self.more, self.stride = outputs - inputs, 1 if outputs == inputs else 2
        strides = (self.stride, self.stride)
        self.conv1 = nnx.Conv(inputs, outputs, (3, 3), strides, use_bias=False, rngs=rngs)
        self.norm1 = nnx.BatchNorm(outputs, rngs=rngs)
        self.conv2 = nnx.Conv(outputs, outputs, (3, 3), use_bias=False, rngs=rngs)
        self.norm2 = nnx.BatchNorm(outputs, rngs=rngs)

    def __call__(self, x: jax.Array, *, training: bool) -> jax.Array:
        y = nnx.relu(self.norm1(self.conv1(x), use_running_average=not training))
        y = self.norm2(self.conv2(y), use_running_average=not training)
        shortcut = x[:, :: self.stride, :: self.stride]
        return nnx.relu(y + jnp.pad(shortcut, ((0, 0), (0, 0), (0, 0), (0, self.more))))
