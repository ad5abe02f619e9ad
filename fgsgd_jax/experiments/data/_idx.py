"""Reads the IDX files of MNIST and Fashion-MNIST, gzipped or not."""

import gzip
import math
import struct
import zlib
from pathlib import Path

import numpy as np

from fgsgd_jax.experiments.cli import UsageError
from fgsgd_jax.experiments.data._checks import Arrays, checked, require_size
from fgsgd_jax.experiments.data._npz import NPZ_KEYS

IDX_NAMES = (
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
)


def read_idx(path: Path, axes: int) -> np.ndarray:
    """Reads one IDX file of unsigned bytes, gzipped or not.

    The header holds the bytes 0, 0, 8, `axes` and one big-endian 32-bit length for each axis; the
    values follow.

    Args:
        path: The file.
        axes: The number of axes that it has to have: 3 for images, 1 for labels.

    Raises:
        UsageError: If the file is damaged, or does not hold such an array.
    """
    try:
        content = _unpacked(path)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise UsageError(
            f"{path} is not a whole gzip file ({error}); download it again."
        ) from error
    magic = bytes((0, 0, 8, axes))
    if content[:4] != magic:
        kind = "labels" if axes == 1 else "images"
        raise UsageError(
            f"{path} begins with 0x{content[:4].hex()}, but an IDX file of {kind} begins with "
            f"0x{magic.hex()}; it is another kind of file, or damaged."
        )
    start = 4 + 4 * axes
    if len(content) < start:
        raise UsageError(f"{path} ends inside its header; download it again.")
    shape = struct.unpack(f">{axes}I", content[4:start])
    if len(content) != start + math.prod(shape):
        raise UsageError(
            f"{path} holds {len(content) - start} values, but its header {shape} promises "
            f"{math.prod(shape)}; it is incomplete or damaged, download it again."
        )
    return np.frombuffer(content, np.uint8, offset=start).reshape(shape)


def _unpacked(path: Path) -> bytes:
    """The content of a file, gzipped or not."""
    with path.open("rb") as file:
        if file.read(2) != b"\x1f\x8b":
            return path.read_bytes()
    content = bytearray()
    with gzip.open(path) as file:
        while chunk := file.read(1 << 20):
            content += chunk
            require_size(len(content), path)
    return bytes(content)


def read_idx_folder(folder: Path) -> Arrays:
    """Reads the four IDX files of a data set under their usual names, with or without `.gz`."""
    found = [_existing(folder, name) for name in IDX_NAMES]
    missing = [f"{name}[.gz]" for name, path in zip(IDX_NAMES, found, strict=True) if path is None]
    if missing:
        raise UsageError(
            f"{folder} lacks {', '.join(missing)}; --data-dir needs the four IDX files of the data "
            f"set, or one npz file with {', '.join(NPZ_KEYS)}."
        )
    paths = [path for path in found if path is not None]
    arrays = [read_idx(path, axes) for path, axes in zip(paths, (3, 1, 3, 1), strict=True)]
    return checked(arrays, folder)


def _existing(folder: Path, name: str) -> Path | None:
    """The file of this name in one of its spellings; None if there is none."""
    dotted = name.replace("-idx", ".idx")  # some unpackers write it like this
    candidates = (folder / f"{stem}{end}" for stem in (name, dotted) for end in ("", ".gz"))
    return next((path for path in candidates if path.is_file()), None)
