"""The network that the program trains."""

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
