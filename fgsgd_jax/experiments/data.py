"""Data sets of small images: where they come from, and in which order training sees them.

Images stay unsigned bytes; the network's step normalizes them with the statistics of the training
images. The order of an epoch and its augmentation are a pure function of the seed and the epoch, so
a resumed run sees what the uninterrupted one would have seen.
"""

import dataclasses
import functools
import hashlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np
from tqdm import tqdm

from fgsgd_jax.experiments import _readers
from fgsgd_jax.experiments._terminal import UsageError

NAMES = ("digits", "fashion", "mnist", "cifar10")

# The split of digits has to be the same for every seed of a run, or errors would not compare.
DIGITS_TRAIN_SIZE = 1500
SPLIT_SEED = 0

# By how many pixels training images are shifted at random, at most; and what is also mirrored.
# Digits are centered, and one of their 8 pixels is much: on a validation part (four seeds, twice
# the epochs) shifting them made the error 1.2 % instead of 0.3 %.
MAX_SHIFT = {"digits": 0, "fashion": 2, "mnist": 2, "cifar10": 4}
MIRRORED = {"fashion", "cifar10"}


@dataclasses.dataclass(frozen=True)
class ImageData:
    """Images and labels for training and for the final test.

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
        return int(self.train_labels.max()) + 1

    def statistics(self) -> tuple[np.ndarray, np.ndarray]:
        """Mean and standard deviation of each channel of the training images, float32."""
        pixels = self.train_images.size // self.train_images.shape[-1]
        total = self.train_images.sum((0, 1, 2), dtype=np.int64)
        squares = np.square(self.train_images, dtype=np.uint16).sum((0, 1, 2), dtype=np.int64)
        mean = total / pixels
        # A constant channel has no scale of its own: leave it at the one it comes in.
        deviation = np.sqrt(squares / pixels - mean**2)
        deviation = np.where(deviation > 0, deviation, 1)
        return mean.astype(np.float32), deviation.astype(np.float32)

    def digest(self) -> str:
        """A fingerprint of all images and labels: equal exactly when the data are."""
        digest = hashlib.sha256()
        for array in (self.train_images, self.train_labels, self.test_images, self.test_labels):
            digest.update(f"{array.dtype}{array.shape}".encode())
            digest.update(np.ascontiguousarray(array).data)
        return digest.hexdigest()[:16]


def require_folder(name: str, folder: object) -> None:
    """Raises `UsageError` unless --data and --data-dir go together."""
    if name == "digits" and folder:
        raise UsageError("--data-dir has no use for digits, which come with scikit-learn.")
    if name != "digits" and not folder:
        raise UsageError(f"--data {name} needs --data-dir, the folder with its files.")


def load(
    name: str,
    folder: Path | None = None,
    *,
    train_size: int | None = None,
    cache_dir: Path | None = None,
    quiet: bool = True,
) -> ImageData:
    """Loads a data set. Nothing is downloaded.

    Args:
        name: One of `NAMES`.
        folder: Where its files lie: IDX files or one npz file for `mnist` and `fashion`; for
            `cifar10` also the binary batches or `train/<class>/*.jpg` and `test/<class>/*.jpg`.
            Digits come with scikit-learn and need none.
        train_size: How many training images to keep, of every class its share; None keeps all.
        cache_dir: Where decoded pictures are kept for the next time; None keeps nothing.
        quiet: Whether to show no progress while pictures are decoded.

    Raises:
        UsageError: If files are missing or damaged.
    """
    progress = functools.partial(tqdm, desc="decoding", unit=" pictures", disable=quiet)
    arrays = _digits() if folder is None else _from_files(name, folder, cache_dir, progress)
    data = ImageData(name, *arrays)
    if train_size is None:
        return data
    if train_size > len(data.train_labels):
        raise UsageError(
            f"--train-size {train_size} is more than the {len(data.train_labels)} training images "
            f"of {name}; give a smaller number, or leave it away to train on all."
        )
    kept = np.sort(stratified_order(data.train_labels)[:train_size])
    return dataclasses.replace(
        data, train_images=data.train_images[kept], train_labels=data.train_labels[kept]
    )


def stratified_order(labels: np.ndarray) -> np.ndarray:
    """A fixed random order of examples in which every beginning holds every class's share.

    Each example gets its place within its class, as a fraction of the class; sorting by that
    fraction deals the classes out evenly.
    """
    generator = np.random.default_rng(SPLIT_SEED)
    shuffled = generator.permutation(len(labels))
    fraction = np.empty(len(labels))
    for label in np.unique(labels):
        members = shuffled[labels[shuffled] == label]
        fraction[members] = (np.arange(len(members)) + 0.5) / len(members)
    return shuffled[np.argsort(fraction[shuffled], kind="stable")]


def batches(
    data: ImageData, batch_size: int, seed: int, epoch: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """The training images of one epoch, shuffled and augmented, in batches of one size.

    What does not fill the last batch sits this epoch out, other images each time.
    """
    generator = np.random.default_rng((seed, epoch))
    order = generator.permutation(len(data.train_labels))
    for start in range(0, len(order) - batch_size + 1, batch_size):
        chosen = order[start : start + batch_size]
        images = data.train_images[chosen]
        if MAX_SHIFT[data.name]:
            images = shifted(images, MAX_SHIFT[data.name], generator)
        if data.name in MIRRORED:
            images = mirrored(images, generator)
        yield images, data.train_labels[chosen]


def shifted(images: np.ndarray, most: int, generator: np.random.Generator) -> np.ndarray:
    """Each image moved by up to `most` pixels in each direction, zeros moving in."""
    number, rows, columns, _ = images.shape
    padded = np.pad(images, ((0, 0), (most, most), (most, most), (0, 0)))
    down, right = generator.integers(0, 2 * most, (2, number, 1), endpoint=True)
    row = (down + np.arange(rows))[:, :, None]
    column = (right + np.arange(columns))[:, None, :]
    return padded[np.arange(number)[:, None, None], row, column]


def mirrored(images: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Each image, or with even chances its mirror image."""
    mirror = generator.integers(0, 1, (len(images), 1, 1, 1), endpoint=True, dtype=np.uint8)
    return np.where(mirror, images[:, :, ::-1], images)


def _digits() -> _readers.Arrays:
    from sklearn.datasets import load_digits  # a slow import that the other data sets do without

    pixels, labels = (np.asarray(part) for part in load_digits(return_X_y=True))
    images = pixels.reshape(-1, 8, 8, 1).astype(np.uint8)  # 0 to 16
    labels = labels.astype(np.int32)
    order = stratified_order(labels)
    train, test = order[:DIGITS_TRAIN_SIZE], order[DIGITS_TRAIN_SIZE:]
    return images[train], labels[train], images[test], labels[test]


def _from_files(
    name: str,
    folder: Path,
    cache_dir: Path | None,
    progress: Callable[[list[Path]], Iterable[Path]],
) -> _readers.Arrays:
    """Reads a data set in the form in which it lies there."""
    if not folder.exists():
        raise UsageError(f"--data-dir {folder} does not exist; give the folder with {name}.")
    archives = [folder] if folder.is_file() else sorted(folder.glob("*.npz"))
    if len(archives) > 1:
        names = ", ".join(path.name for path in archives)
        raise UsageError(f"{folder} holds several npz files ({names}); give one as --data-dir.")
    if archives:
        return _readers.read_npz(archives[0])
    if name != "cifar10":
        return _readers.read_idx_folder(folder)
    if (folder / "train").is_dir() or (folder / "test").is_dir():
        return _readers.read_picture_folder(folder, progress, cache_dir)
    if any(folder.glob("*_batch*.bin")):
        return _readers.read_cifar_binary(folder)
    if (folder / "data_batch_1").exists():
        raise UsageError(
            f"{folder} holds the python version of CIFAR-10, whose pickles can run any code when "
            "they are opened; give the binary version (data_batch_1.bin, …) instead."
        )
    raise UsageError(
        f"{folder} holds no CIFAR-10; train/<class>/*.jpg and test/<class>/*.jpg, "
        "data_batch_1.bin, … and test_batch.bin, or one npz file are needed."
    )
