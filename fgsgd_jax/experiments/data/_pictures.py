"""Reads folders of JPEG or PNG pictures, one subfolder a class, and caches the decoded arrays."""

import hashlib
import os
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np

from fgsgd_jax.experiments.cli import UsageError
from fgsgd_jax.experiments.data._checks import Arrays, checked
from fgsgd_jax.experiments.data._npz import read_npz

SUFFIXES = (".jpg", ".jpeg", ".png")


def read_picture_folder(
    folder: Path, progress: Callable[[list[Path]], Iterable[Path]], cache_dir: Path | None = None
) -> Arrays:
    """Reads `train/<class>/*.jpg` (or png) and `test/<class>/*.jpg`, classes in alphabetical order.

    Args:
        folder: The folder that contains `train` and `test`.
        progress: Wraps the list of files while they are decoded, for example in a progress bar.
        cache_dir: The folder for decoded arrays, reused by later runs; None caches nothing.

    Raises:
        UsageError: If pictures are missing or damaged, or differ in size.
    """
    train_files, train_classes = _pictures(folder / "train")
    test_files, test_classes = _pictures(folder / "test")
    if set(train_classes) != set(test_classes):
        different = ", ".join(sorted(set(train_classes) ^ set(test_classes)))
        raise UsageError(
            f"{folder / 'train'} and {folder / 'test'} need the same classes, but differ in "
            f"{different}."
        )
    files = train_files + test_files
    cache = cache_dir / f"{folder.name}-{_listing_digest(files)}.npz" if cache_dir else None
    if cache and cache.is_file():
        return read_npz(cache)
    images = _decoded(files, progress)
    labels = np.array([train_classes.index(path.parent.name) for path in files])
    train, test = slice(len(train_files)), slice(len(train_files), None)
    arrays = checked([images[train], labels[train], images[test], labels[test]], folder)
    if cache:
        _save_atomically(cache, arrays)
    return arrays


def _pictures(folder: Path) -> tuple[list[Path], list[str]]:
    """The pictures in the subfolders of a folder, and the names of these subfolders, sorted."""
    files = sorted(path for path in folder.glob("*/*") if path.suffix.lower() in SUFFIXES)
    if not files:
        raise UsageError(f"{folder}/<class>/*.jpg (or *.png) are needed, but none were found.")
    return files, sorted({path.parent.name for path in files})


def _decoded(files: list[Path], progress: Callable[[list[Path]], Iterable[Path]]) -> np.ndarray:
    from PIL import Image, UnidentifiedImageError  # only folders of pictures need it

    images = None
    for index, path in enumerate(progress(files)):
        try:
            with Image.open(path) as picture:
                pixels = np.asarray(picture.convert("RGB"))
        except (UnidentifiedImageError, OSError) as error:
            raise UsageError(f"{path} is not a readable picture ({error}); remove it.") from error
        if images is None:
            images = np.empty((len(files), *pixels.shape), np.uint8)
        if pixels.shape != images.shape[1:]:
            raise UsageError(
                f"{path} is of shape {pixels.shape}, but {files[0]} is of shape "
                f"{images.shape[1:]}; all pictures must have the same size."
            )
        images[index] = pixels
    assert images is not None  # `_pictures` returns at least one file
    return images


def _listing_digest(files: list[Path]) -> str:
    """A digest of paths, sizes and modification times: changed files get a new cache."""
    digest = hashlib.sha256()
    for path in files:
        status = path.stat()
        digest.update(f"{path.resolve()} {status.st_size} {status.st_mtime_ns}\n".encode())
    return digest.hexdigest()[:12]


def _save_atomically(path: Path, arrays: Arrays) -> None:
    """Writes to a temporary name and renames, so that no reader sees a partial file."""
    unfinished = path.with_suffix(f".{os.getpid()}.npz")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        x_train, y_train, x_test, y_test = arrays
        np.savez(unfinished, x_train=x_train, y_train=y_train, x_test=x_test, y_test=y_test)
        unfinished.replace(path)
    except OSError as error:
        raise UsageError(
            f"{path} cannot be written ({error}); give another --cache-dir."
        ) from error
