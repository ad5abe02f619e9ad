"""Checks that four arrays read from files are a data set, with shapes and dtypes made uniform."""

from pathlib import Path

import numpy as np

from fgsgd_jax.experiments.cli import UsageError

Arrays = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]
"""Training images, training labels, test images, test labels.

Images are uint8 of shape `(number, rows, columns, channels)`, labels int32 of shape `(number,)`.
"""


MOST_BYTES = 1 << 30  # of a data set: a small compressed file can promise far more


def require_size(size: int, source: Path) -> None:
    """Raises `UsageError` if a file unpacks to more bytes than a data set of small images has."""
    if size > MOST_BYTES:
        raise UsageError(
            f"{source} unpacks to {size:,} bytes or more; a data set of at most {MOST_BYTES:,} "
            "bytes is needed: the file is damaged, or not a data set of small images."
        )


def checked(arrays: list[np.ndarray], source: Path) -> Arrays:
    """The four arrays in the shapes and dtypes of `Arrays`.

    Args:
        arrays: Training images, training labels, test images, test labels.
        source: Where they were read, for error messages.

    Raises:
        UsageError: If the arrays do not fit together.
    """
    train = _checked_half(arrays[0], arrays[1], f"{source}, training")
    test = _checked_half(arrays[2], arrays[3], f"{source}, test")
    shapes = train[0].shape[1:], test[0].shape[1:]
    if shapes[0] != shapes[1]:
        raise UsageError(
            f"{source}: images of one shape are needed, not {shapes[0]} in training "
            f"and {shapes[1]} in test."
        )
    if test[1].max() > train[1].max():
        raise UsageError(
            f"{source}: the test images have the label {test[1].max()}, which no "
            "training image has."
        )
    return *train, *test


def _checked_half(
    images: np.ndarray, labels: np.ndarray, where: str
) -> tuple[np.ndarray, np.ndarray]:
    shape = images.shape
    if images.ndim == 3:
        images = images[..., np.newaxis]
    if labels.ndim == 2 and labels.shape[1] == 1:  # the shape in Keras' CIFAR-10
        labels = labels[:, 0]
    if images.dtype != np.uint8 or images.ndim != 4 or images.size == 0:
        raise UsageError(
            f"{where}: the images are {images.dtype} of shape {shape}; at least one is needed, as "
            "uint8 of shape (number, rows, columns) or (number, rows, columns, channels)."
        )
    if labels.dtype.kind not in "iu" or labels.shape != images.shape[:1] or labels.min() < 0:
        raise UsageError(
            f"{where}: the labels are {labels.dtype} of shape {labels.shape}; one whole number "
            f"from 0 for each of the {len(images)} images is needed."
        )
    return np.ascontiguousarray(images), labels.astype(np.int32)
