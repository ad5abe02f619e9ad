"""ResNet-20 for CIFAR-10, the network whose training steps are measured."""

import jax
import jax.numpy as jnp
from flax import nnx


class ResNet20(nnx.Module):
    """The residual network of 20 layers for images of 32×32, with parameter-free shortcuts.

    Three stages of three blocks of two 3×3 convolutions, with 16, 32 and 64 channels at width 1.
    Where a stage doubles the channels, the shortcut takes every second pixel and pads the new
    channels with zeros.

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
    """Two convolutions and a shortcut around them; where the channels grow, the map is halved."""

    def __init__(self, inputs: int, outputs: int, *, rngs: nnx.Rngs):
        self.new_channels, self.stride = outputs - inputs, 1 if outputs == inputs else 2
        strides = (self.stride, self.stride)
        self.conv1 = nnx.Conv(inputs, outputs, (3, 3), strides, use_bias=False, rngs=rngs)
        self.norm1 = nnx.BatchNorm(outputs, rngs=rngs)
        self.conv2 = nnx.Conv(outputs, outputs, (3, 3), use_bias=False, rngs=rngs)
        self.norm2 = nnx.BatchNorm(outputs, rngs=rngs)

    def __call__(self, x: jax.Array, *, training: bool) -> jax.Array:
        y = nnx.relu(self.norm1(self.conv1(x), use_running_average=not training))
        y = self.norm2(self.conv2(y), use_running_average=not training)
        shortcut = x[:, :: self.stride, :: self.stride]
        return nnx.relu(y + jnp.pad(shortcut, ((0, 0), (0, 0), (0, 0), (0, self.new_channels))))
