"""Reads a data set from an npz archive with the keys that Keras uses."""

import zipfile
import zlib
from pathlib import Path

import numpy as np

from fgsgd_jax.experiments.cli import UsageError
from fgsgd_jax.experiments.data._checks import Arrays, checked, require_size

NPZ_KEYS = ("x_train", "y_train", "x_test", "y_test")


def read_npz(path: Path) -> Arrays:
    """Reads `x_train`, `y_train`, `x_test`, `y_test` from an npz file. Runs no pickled code.

    Raises:
        UsageError: If the file is damaged, or one of these arrays is missing or unsuitable.
    """
    if not path.is_file() or not zipfile.is_zipfile(path):  # a pipe would be waited for
        raise UsageError(
            f"{path} is not an npz file, or is cut short; download it, or write it, again."
        )
    try:
        with zipfile.ZipFile(path) as members:
            require_size(sum(member.file_size for member in members.infolist()), path)
        with np.load(path, allow_pickle=False) as archive:
            missing = [key for key in NPZ_KEYS if key not in archive]
            if missing:
                raise UsageError(
                    f"{path} lacks {', '.join(missing)} (it has {', '.join(archive) or 'nothing'})"
                    f"; {', '.join(NPZ_KEYS)} are needed."
                )
            arrays = [archive[key] for key in NPZ_KEYS]
    except (ValueError, EOFError, MemoryError, zipfile.BadZipFile, zlib.error) as error:
        raise UsageError(
            f"{path} is not a readable npz file ({error}); download it, or write it, again."
        ) from error
    return checked(arrays, path)
