"""The images of the study `paper`, on the device, and how they are shifted and mirrored."""

import jax
import jax.numpy as jnp
import numpy as np

from fgsgd_jax.experiments.cli import UsageError
from fgsgd_jax.experiments.data import ImageData, stratified_order

SHIFT = 4  # the largest shift of an image, in pixels; in smaller images it is smaller


class Data:
    """The images on the device, as unsigned bytes; a tenth of the training images validates.

    Args:
        images: The images.
        shrink: How many pixels, along both sides, are averaged to one.
    """

    def __init__(self, images: ImageData, shrink: int = 1):
        order = stratified_order(images.train_labels)
        training, validation = np.split(order, [len(order) - len(order) // 10])
        pixels = jnp.asarray(shrunken(images.train_images, shrink))
        labels = jnp.asarray(images.train_labels)
        self.training = pixels[training], labels[training]
        self.validation = pixels[validation], labels[validation]
        self.test = (
            jnp.asarray(shrunken(images.test_images, shrink)),
            jnp.asarray(images.test_labels),
        )
        self.mean, self.deviation = images.statistics()
        self.classes, self.channels = images.classes, images.train_images.shape[-1]
        self.shift = SHIFT // shrink if images.name == "cifar10" else None


def shrunken(images: np.ndarray, factor: int) -> np.ndarray:
    """Images `(number, rows, columns, channels)` whose blocks of pixels are averaged to one each.

    Raises:
        UsageError: If the images cannot be cut into such blocks.
    """
    number, rows, columns, channels = images.shape
    if rows % factor or columns % factor:
        raise UsageError(
            f"--shrink {factor} does not divide images of {rows}×{columns} pixels into blocks; "
            "give a divisor of both."
        )
    blocks = images.reshape(number, rows // factor, factor, columns // factor, factor, channels)
    return blocks.mean((2, 4)).round().astype(images.dtype)


def augmented(key: jax.Array, images: jax.Array, shift: int) -> jax.Array:
    """Images at random shifted by up to `shift` pixels along both axes, and mirrored or not.

    Args:
        key: The key of the random numbers.
        images: `(number, rows, columns, channels)`.
        shift: The largest shift, in pixels; zeros move in at the edges.
    """
    shifting, mirroring = jax.random.split(key)
    number = len(images)
    corners = jax.random.randint(shifting, (number, 2), 0, 2 * shift + 1)
    padded = jnp.pad(images, ((0, 0), (shift, shift), (shift, shift), (0, 0)))

    def cropped(image, corner):
        return jax.lax.dynamic_slice(image, (corner[0], corner[1], 0), images.shape[1:])

    shifted = jax.vmap(cropped)(padded, corners)
    mirror = jax.random.bernoulli(mirroring, shape=(number, 1, 1, 1))
    return jnp.where(mirror, shifted[:, :, ::-1], shifted)
