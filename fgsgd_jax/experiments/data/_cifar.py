"""Reads the binary version of CIFAR-10."""

from pathlib import Path

import numpy as np

from fgsgd_jax.experiments.cli import UsageError
from fgsgd_jax.experiments.data._checks import Arrays, checked

CIFAR_TRAIN_NAMES = tuple(f"data_batch_{number}.bin" for number in range(1, 6))
CIFAR_TEST_NAME = "test_batch.bin"
CIFAR_RECORD = 1 + 3 * 32 * 32  # bytes: a label, then the red, green and blue planes


def read_cifar_binary(folder: Path) -> Arrays:
    """Reads `data_batch_1.bin` to `data_batch_5.bin` and `test_batch.bin`.

    Raises:
        UsageError: If a file is missing or damaged.
    """
    names = (*CIFAR_TRAIN_NAMES, CIFAR_TEST_NAME)
    missing = [name for name in names if not (folder / name).is_file()]
    if missing:
        raise UsageError(
            f"{folder} lacks {', '.join(missing)}; the binary version of CIFAR-10 has six files."
        )
    batches = [_read_batch(folder / name) for name in names]
    images, labels = (list(parts) for parts in zip(*batches, strict=True))
    train = np.concatenate(images[:-1]), np.concatenate(labels[:-1])
    return checked([*train, images[-1], labels[-1]], folder)


def _read_batch(path: Path) -> tuple[np.ndarray, np.ndarray]:
    content = np.fromfile(path, np.uint8)
    if content.size == 0 or content.size % CIFAR_RECORD:
        raise UsageError(
            f"{path} holds {content.size} bytes, but a batch of CIFAR-10 holds a multiple of "
            f"{CIFAR_RECORD}; it is incomplete or damaged, download it again."
        )
    records = content.reshape(-1, CIFAR_RECORD)
    return records[:, 1:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1), records[:, 0]
