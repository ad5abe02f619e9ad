"""Files of images, read into arrays: IDX, npz, the binary form of CIFAR-10, folders of pictures.

Every reader returns `(train_images, train_labels, test_images, test_labels)`, images as uint8 of
shape `(number, rows, columns, channels)` and labels as int32, and tells what is wrong with a file
in one line. Nothing here runs code it finds in a file, and nothing is downloaded.
"""

import gzip
import hashlib
import math
import os
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np

from fgsgd_jax.experiments._terminal import UsageError

Arrays = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]
"""Training images, training labels, test images, test labels."""

NPZ_KEYS = ("x_train", "y_train", "x_test", "y_test")
IDX_NAMES = (
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
)
CIFAR_TRAIN_NAMES = tuple(f"data_batch_{number}.bin" for number in range(1, 6))
CIFAR_TEST_NAME = "test_batch.bin"
CIFAR_RECORD = 1 + 3 * 32 * 32  # a label, then the red, green and blue planes
PICTURES = (".jpg", ".jpeg", ".png")


def read_idx(path: Path, axes: int) -> np.ndarray:
    """Reads a file of unsigned bytes in the IDX format of MNIST, gzipped or not.

    The header is the bytes 0, 0, 8, `axes` and one big-endian 32-bit length for each axis; the
    values follow.
    """
    try:
        content = path.read_bytes()
        if content[:2] == b"\x1f\x8b":
            content = gzip.decompress(content)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise UsageError(f"{path} is not a whole gzip file ({error}); get it again.") from error
    magic = bytes((0, 0, 8, axes))
    if content[:4] != magic:
        kind = "labels" if axes == 1 else "images"
        raise UsageError(
            f"{path} begins with 0x{content[:4].hex()}, but an IDX file of {kind} begins with "
            f"0x{magic.hex()}; it is another kind of file, or damaged."
        )
    start = 4 + 4 * axes
    if len(content) < start:
        raise UsageError(f"{path} ends inside its header; it is cut short, get it again.")
    shape = struct.unpack(f">{axes}I", content[4:start])
    if len(content) != start + math.prod(shape):
        raise UsageError(
            f"{path} holds {len(content) - start} values, but its header {shape} promises "
            f"{math.prod(shape)}; it is cut short or damaged, get it again."
        )
    return np.frombuffer(content, np.uint8, offset=start).reshape(shape)


def read_idx_folder(folder: Path) -> Arrays:
    """Reads the four IDX files of MNIST under their usual names, with or without `.gz`."""
    found = [_spelling(folder, name) for name in IDX_NAMES]
    missing = [f"{name}[.gz]" for name, path in zip(IDX_NAMES, found, strict=True) if path is None]
    if missing:
        raise UsageError(
            f"{folder} lacks {', '.join(missing)}; --data-dir needs the four IDX files of the data "
            f"set, or one npz file with {', '.join(NPZ_KEYS)}."
        )
    paths = [path for path in found if path is not None]
    arrays = [read_idx(path, axes) for path, axes in zip(paths, (3, 1, 3, 1), strict=True)]
    return _checked(arrays, folder)


def _spelling(folder: Path, name: str) -> Path | None:
    dotted = name.replace("-idx", ".idx")  # as some unpackers write it
    candidates = (folder / f"{stem}{end}" for stem in (name, dotted) for end in ("", ".gz"))
    return next((path for path in candidates if path.is_file()), None)


def read_npz(path: Path) -> Arrays:
    """Reads `x_train`, `y_train`, `x_test`, `y_test` from an npz file, as Keras ships its data."""
    if not zipfile.is_zipfile(path):
        raise UsageError(f"{path} is not an npz file, or is cut short; get it or make it again.")
    try:
        with np.load(path, allow_pickle=False) as archive:
            missing = [key for key in NPZ_KEYS if key not in archive]
            if missing:
                raise UsageError(
                    f"{path} lacks {', '.join(missing)} (it has {', '.join(archive) or 'nothing'})"
                    f"; {', '.join(NPZ_KEYS)} are needed."
                )
            arrays = [archive[key] for key in NPZ_KEYS]
    except (ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise UsageError(
            f"{path} is not a readable npz file ({error}); get it or make it again."
        ) from error
    return _checked(arrays, path)


def read_cifar_binary(folder: Path) -> Arrays:
    """Reads the binary version of CIFAR-10: `data_batch_1.bin` to `_5.bin` and `test_batch.bin`."""
    names = (*CIFAR_TRAIN_NAMES, CIFAR_TEST_NAME)
    missing = [name for name in names if not (folder / name).is_file()]
    if missing:
        raise UsageError(
            f"{folder} lacks {', '.join(missing)}; the binary version of CIFAR-10 has six files."
        )
    batches = [_cifar_batch(folder / name) for name in names]
    images, labels = (list(parts) for parts in zip(*batches, strict=True))
    train = np.concatenate(images[:-1]), np.concatenate(labels[:-1])
    return _checked([*train, images[-1], labels[-1]], folder)


def _cifar_batch(path: Path) -> tuple[np.ndarray, np.ndarray]:
    content = np.fromfile(path, np.uint8)
    if content.size == 0 or content.size % CIFAR_RECORD:
        raise UsageError(
            f"{path} holds {content.size} bytes, but a batch of CIFAR-10 holds a multiple of "
            f"{CIFAR_RECORD}; it is cut short or damaged, get it again."
        )
    records = content.reshape(-1, CIFAR_RECORD)
    return records[:, 1:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1), records[:, 0]


def read_picture_folder(
    folder: Path, progress: Callable[[list[Path]], Iterable[Path]], cache_dir: Path | None = None
) -> Arrays:
    """Reads `train/<class>/*.jpg` (or png) and `test/<class>/*.jpg`, classes by alphabet.

    Args:
        folder: The folder with `train` and `test`.
        progress: Wraps the list of files while they are decoded.
        cache_dir: A folder where the decoded arrays are kept for the next time; None keeps nothing.
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
    arrays = _checked([images[train], labels[train], images[test], labels[test]], folder)
    if cache:
        _save_whole(cache, arrays)
    return arrays


def _pictures(folder: Path) -> tuple[list[Path], list[str]]:
    """The pictures in the folders of a folder, and the names of those folders, in order."""
    files = sorted(path for path in folder.glob("*/*") if path.suffix.lower() in PICTURES)
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
                f"{path} is of shape {pixels.shape}, but {files[0]} of {images.shape[1:]}; all "
                "pictures need one size."
            )
        images[index] = pixels
    assert images is not None  # `_pictures` returns at least one file
    return images


def _listing_digest(files: list[Path]) -> str:
    """A name for these files as they are now, so that no other cache is mistaken for theirs."""
    digest = hashlib.sha256()
    for path in files:
        facts = path.stat()
        digest.update(f"{path.resolve()} {facts.st_size} {facts.st_mtime_ns}\n".encode())
    return digest.hexdigest()[:12]


def _save_whole(path: Path, arrays: Arrays) -> None:
    """Writes the file under another name first: who reads it sees all of it or none."""
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


def _checked(arrays: list[np.ndarray], source: Path) -> Arrays:
    """The four arrays in our shapes and types, if they are a data set at all."""
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
    if labels.ndim == 2 and labels.shape[1] == 1:  # as Keras ships CIFAR-10
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
