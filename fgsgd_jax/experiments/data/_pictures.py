"""Reads folders of JPEG or PNG pictures, one subfolder a class, and caches the decoded arrays."""

import hashlib
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np

from fgsgd_jax.experiments.cli import UsageError
from fgsgd_jax.experiments.data._checks import Arrays, checked
from fgsgd_jax.experiments.data._npz import read_npz
from fgsgd_jax.experiments.files import replacing

SUFFIXES = (".jpg", ".jpeg", ".png")
MOST_PIXELS = 1 << 20  # in a picture: a small file can hold a picture of gigabytes


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
        _save(cache, arrays)
    return arrays


def _pictures(folder: Path) -> tuple[list[Path], list[str]]:
    """The pictures in the subfolders of a folder, and the names of these subfolders, sorted."""
    files = sorted(path for path in folder.glob("*/*") if path.suffix.lower() in SUFFIXES)
    if not files:
        raise UsageError(f"{folder}/<class>/*.jpg (or *.png) are needed, but none were found.")
    for path in files:
        if not path.is_file():  # reading a pipe would wait for ever
            raise UsageError(f"{path} is not a regular file; remove it.")
    return files, sorted({path.parent.name for path in files})


def _decoded(files: list[Path], progress: Callable[[list[Path]], Iterable[Path]]) -> np.ndarray:
    images = None
    for index, path in enumerate(progress(files)):
        pixels = _read_picture(path)
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


def _read_picture(path: Path) -> np.ndarray:
    """The pixels of a picture, uint8 of shape `(rows, columns, 3)`."""
    from PIL import Image  # only folders of pictures need it

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path) as picture:
                columns, rows = picture.size
                if columns * rows > MOST_PIXELS:
                    raise Image.DecompressionBombError(f"{columns}×{rows} pixels")
                return np.asarray(picture.convert("RGB"))
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise UsageError(
            f"{path} is too large ({error}); pictures of at most {MOST_PIXELS:,} pixels are "
            "needed: make it smaller, or remove it."
        ) from error
    except (OSError, ValueError, SyntaxError) as error:  # Pillow raises each of them
        raise UsageError(f"{path} is not a readable picture ({error}); remove it.") from error


def _listing_digest(files: list[Path]) -> str:
    """A digest of paths, sizes and modification times: changed files get a new cache."""
    digest = hashlib.sha256()
    for path in files:
        status = path.stat()
        digest.update(f"{path.resolve()} {status.st_size} {status.st_mtime_ns}\n".encode())
    return digest.hexdigest()[:12]


def _save(path: Path, arrays: Arrays) -> None:
    x_train, y_train, x_test, y_test = arrays
    with replacing(path, "give another --cache-dir") as unfinished:
        np.savez(unfinished, x_train=x_train, y_train=y_train, x_test=x_test, y_test=y_test)
