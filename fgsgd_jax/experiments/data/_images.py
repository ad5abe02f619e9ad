"""`ImageData`: the images and labels of a data set, as unsigned bytes."""

import dataclasses
import hashlib
from typing import Literal, get_args

import numpy as np

Name = Literal["digits", "fashion", "mnist", "cifar10"]
NAMES: tuple[Name, ...] = get_args(Name)


@dataclasses.dataclass(frozen=True)
class ImageData:
    """Images and labels for training and for the final test.

    Images stay unsigned bytes; the training step normalizes them with `statistics`.

    Attributes:
        name: One of `NAMES`.
        train_images: uint8 of shape `(number, rows, columns, channels)`.
        train_labels: int32 of shape `(number,)`, from 0.
        test_images: Like the training images.
        test_labels: Like the training labels.
    """

    name: str
    train_images: np.ndarray
    train_labels: np.ndarray
    test_images: np.ndarray
    test_labels: np.ndarray

    @property
    def classes(self) -> int:
        """The number of classes: the largest training label plus one."""
        return int(self.train_labels.max()) + 1

    def statistics(self) -> tuple[np.ndarray, np.ndarray]:
        """Mean and standard deviation of each channel of the training images, float32."""
        pixels = self.train_images.size // self.train_images.shape[-1]
        total = self.train_images.sum((0, 1, 2), dtype=np.int64)
        squares = np.square(self.train_images, dtype=np.uint16).sum((0, 1, 2), dtype=np.int64)
        mean = total / pixels
        deviation = np.sqrt(squares / pixels - mean**2)
        # A constant channel has deviation 0; dividing by 1 instead leaves it unscaled.
        deviation = np.where(deviation > 0, deviation, 1)
        return mean.astype(np.float32), deviation.astype(np.float32)

    def digest(self) -> str:
        """A fingerprint of all images and labels: equal exactly when the data are."""
        digest = hashlib.sha256()
        for array in (self.train_images, self.train_labels, self.test_images, self.test_labels):
            digest.update(f"{array.dtype}{array.shape}".encode())
            digest.update(np.ascontiguousarray(array).data)
        return digest.hexdigest()[:16]
