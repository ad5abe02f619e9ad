"""`load`: a data set by its name, from whatever file format its folder contains."""

import dataclasses
import functools
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
from tqdm import tqdm

from fgsgd_jax.experiments.cli import UsageError
from fgsgd_jax.experiments.data._checks import Arrays
from fgsgd_jax.experiments.data._cifar import read_cifar_binary
from fgsgd_jax.experiments.data._idx import read_idx_folder
from fgsgd_jax.experiments.data._images import ImageData
from fgsgd_jax.experiments.data._npz import read_npz
from fgsgd_jax.experiments.data._pictures import read_picture_folder
from fgsgd_jax.experiments.data._split import stratified_order

DIGITS_TRAIN_SIZE = 1500


def require_folder(name: str, folder: object) -> None:
    """Raises `UsageError` unless --data and --data-dir fit together."""
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
        folder: The folder with its files: IDX files or one npz file for `mnist` and `fashion`; for
            `cifar10` also the binary batches or `train/<class>/*.jpg` and `test/<class>/*.jpg`.
            Digits come with scikit-learn and need none.
        train_size: How many training images to keep, each class in proportion; None keeps all.
        cache_dir: The folder where decoded pictures are cached; None caches nothing.
        quiet: Whether to hide the progress bar while pictures are decoded.

    Raises:
        UsageError: If the folder is missing, or files in it are missing or damaged.
    """
    require_folder(name, folder)
    progress = functools.partial(tqdm, desc="decoding", unit=" pictures", disable=quiet)
    arrays = _digits() if folder is None else _from_files(name, folder, cache_dir, progress)
    data = ImageData(name, *arrays)
    if train_size is None:
        return data
    if train_size > len(data.train_labels):
        raise UsageError(
            f"--train-size {train_size} is more than the {len(data.train_labels)} training images "
            f"of {name}; give a smaller number, or omit --train-size to train on all."
        )
    kept = np.sort(stratified_order(data.train_labels)[:train_size])
    return dataclasses.replace(
        data, train_images=data.train_images[kept], train_labels=data.train_labels[kept]
    )


def _digits() -> Arrays:
    from sklearn.datasets import load_digits  # a slow import, and only digits need it

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
) -> Arrays:
    """Reads a data set in whichever format the folder contains."""
    if not folder.exists():
        raise UsageError(f"--data-dir {folder} does not exist; give the folder with {name}.")
    archives = [folder] if folder.is_file() else sorted(folder.glob("*.npz"))
    if len(archives) > 1:
        names = ", ".join(path.name for path in archives)
        raise UsageError(f"{folder} holds several npz files ({names}); give one as --data-dir.")
    if archives:
        return read_npz(archives[0])
    if name != "cifar10":
        return read_idx_folder(folder)
    if (folder / "train").is_dir() or (folder / "test").is_dir():
        return read_picture_folder(folder, progress, cache_dir)
    if any(folder.glob("*_batch*.bin")):
        return read_cifar_binary(folder)
    if (folder / "data_batch_1").exists():
        raise UsageError(
            f"{folder} holds the python version of CIFAR-10, whose pickles can run arbitrary code "
            "when they are opened; give the binary version (data_batch_1.bin, …) instead."
        )
    raise UsageError(
        f"{folder} holds no CIFAR-10; train/<class>/*.jpg and test/<class>/*.jpg, "
        "data_batch_1.bin, … and test_batch.bin, or one npz file are needed."
    )
