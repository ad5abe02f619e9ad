"""Images as normalized vectors, split into training, validation and test sets."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from fgsgd_jax.experiments.data import ImageData, stratified_order

SIDE = 10  # the images of figure 1 have 10×10 pixels


@dataclasses.dataclass(frozen=True)
class Vectors:
    """Normalized images as vectors, with their labels.

    Attributes:
        images: Arrays `(number, pixels)` under "train", "validation" and "test".
        labels: Arrays `(number,)` under the same keys.
        classes: The number of classes.
    """

    images: dict[str, jax.Array]
    labels: dict[str, jax.Array]
    classes: int

    @property
    def inputs(self) -> int:
        """The number of pixels of an image."""
        return self.images["train"].shape[1]


def vectors(data: ImageData, dtype: str, *, small: bool = False) -> Vectors:
    """The images of a data set; a sixth of the training images becomes the validation set.

    Args:
        data: The images.
        dtype: The dtype of the vectors.
        small: Whether to average the images to 10×10 gray pixels, as figure 1 does.
    """
    order = stratified_order(data.train_labels)
    held_out = len(order) // (5 if data.name == "cifar10" else 6)  # 10,000, as in the paper
    train, validation = order[held_out:], order[:held_out]
    parts = {
        "train": (data.train_images[train], data.train_labels[train]),
        "validation": (data.train_images[validation], data.train_labels[validation]),
        "test": (data.test_images, data.test_labels),
    }
    flat = {name: flattened(images, small=small) for name, (images, _) in parts.items()}
    mean, deviation = flat["train"].mean(), flat["train"].std()
    return Vectors(
        {name: jnp.asarray((part - mean) / deviation, dtype) for name, part in flat.items()},
        {name: jnp.asarray(labels) for name, (_, labels) in parts.items()},
        data.classes,
    )


def flattened(images: np.ndarray, *, small: bool) -> np.ndarray:
    """Images `(number, rows, columns, channels)` as float32 vectors `(number, pixels)`."""
    images = images.astype(np.float32)
    if small:
        images = images.mean(-1, keepdims=True)
        rows, columns = (_averages(size) for size in images.shape[1:3])
        images = np.einsum("ir,nrcd,jc->nijd", rows, images, columns)
    return images.reshape(len(images), -1)


def _averages(size: int) -> np.ndarray:
    """The matrix that averages `size` pixels to `SIDE`, each weighted by how much it overlaps."""
    if size <= SIDE:
        return np.eye(size, dtype=np.float32)
    edges = np.linspace(0, size, SIDE + 1)
    pixels = np.arange(size)
    overlap = np.minimum(edges[1:, None], pixels + 1) - np.maximum(edges[:-1, None], pixels)
    return (np.clip(overlap, 0, None) * SIDE / size).astype(np.float32)
