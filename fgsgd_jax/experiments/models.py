"""The convolutional network that the program trains."""

import jax
import jax.numpy as jnp
from flax import nnx


class CNN(nnx.Module):
    """3×3 convolutions with batch normalization and ReLU, pooled, then one dense layer.

    The kernels of the convolutions, `conv1/kernel`, `conv2/kernel`, …, can live on manifolds,
    because batch normalization follows them and cancels their norm. Nothing normalizes the outputs
    of the dense layer `head`, so the norm of its weights matters and it stays Euclidean.

    Args:
        channels: The output channels of each convolution. After each convolution the feature map
            is halved, unless it would become smaller than 2×2.
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
            # Batch normalization would subtract a bias again.
            conv = nnx.Conv(inputs, outputs, (3, 3), use_bias=False, rngs=rngs)
            setattr(self, f"conv{stage}", conv)
            # Runs here have few steps; with a momentum of 0.99 the running averages would still
            # contain their initial values.
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

    On a CPU this reshape and maximum is three times as fast as `nnx.max_pool`, gradient included.
    """
    number, rows, columns, channels = x.shape
    x = x[:, : rows // 2 * 2, : columns // 2 * 2]
    return jnp.max(x.reshape(number, rows // 2, 2, columns // 2, 2, channels), axis=(2, 4))
