"""Checkpoints of a run: the state after the last complete epoch, stored by Orbax.

Orbax writes a checkpoint under a temporary name, renames it when it is complete, and only then
removes the previous one. So one complete checkpoint is left, whenever the program stops.
"""

import errno
import json
import os
import shutil
import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp

from fgsgd_jax.experiments.cli import UsageError
from fgsgd_jax.experiments.train.steps import TrainState

FOLDER = "checkpoints"
FILES = "files"
"""Where the metadata of a checkpoint has the texts of files of the run."""


def open_folder(run_dir: Path) -> ocp.CheckpointManager:
    """Opens the checkpoints of a run. Only the last one is kept."""
    for unfinished in (run_dir / FOLDER).glob("*.orbax-checkpoint-tmp"):
        shutil.rmtree(unfinished, ignore_errors=True)  # Orbax would warn of it
    # Synchronous: when `save` returns, the checkpoint is on disk.
    options = ocp.CheckpointManagerOptions(max_to_keep=1, enable_async_checkpointing=False)
    return ocp.CheckpointManager((run_dir / FOLDER).resolve(), options=options)


def last_epoch(run_dir: Path) -> int:
    """The last saved epoch, 0 if there is none; also while the checkpoints are open."""
    names = [path.name for path in (run_dir / FOLDER).glob("*")]
    return max((int(name) for name in names if name.isdigit()), default=0)


def save(
    manager: ocp.CheckpointManager, epoch: int, state: TrainState, files: Mapping[str, str]
) -> None:
    """Saves the state after an epoch; epoch 0 is the state before the first.

    Args:
        manager: The checkpoints of the run.
        epoch: The epoch.
        state: The state.
        files: The texts of files of the run, by name, which `copy_of` returns.

    Raises:
        UsageError: If it cannot be written.
    """
    args = ocp.args.StandardSave(state)  # pyright: ignore[reportCallIssue]
    try:
        manager.save(epoch, args=args, custom_metadata={FILES: dict(files)})
    except (OSError, ValueError) as error:
        full = os.strerror(errno.ENOSPC)
        if isinstance(error, ValueError) and full not in str(error):  # not of the disk: a bug
            raise
        said = full if full in str(error) else error
        raise UsageError(
            f"The checkpoint of epoch {epoch} cannot be written to {manager.directory} ({said}); "
            "make room, and continue with --resume."
        ) from error


def copy_of(run_dir: Path, name: str) -> str | None:
    """The text of a file of the run when the last checkpoint was saved; None if it has none."""
    # Read without Orbax, which would remove what another process is writing there.
    path = run_dir / FOLDER / str(last_epoch(run_dir)) / "_CHECKPOINT_METADATA"
    try:
        return str(json.loads(path.read_text(encoding="utf-8"))["custom_metadata"][FILES][name])
    except (OSError, ValueError, TypeError, KeyError):
        return None


def restore(manager: ocp.CheckpointManager, like: TrainState) -> tuple[int, Any]:
    """The last saved epoch and the state after it.

    Args:
        manager: The checkpoints of the run.
        like: A state with the same tree structure, shapes, dtypes and devices.

    Raises:
        UsageError: If there is no complete checkpoint, or it is damaged.
    """
    epoch = manager.latest_step()
    if epoch is None:
        raise UsageError(
            f"{manager.directory} holds no whole checkpoint, so there is nothing to resume; start "
            "a new run."
        )
    target = jax.tree.map(ocp.utils.to_shape_dtype_struct, like)
    args = ocp.args.StandardRestore(target)  # pyright: ignore[reportCallIssue]
    try:
        return epoch, manager.restore(epoch, args=args)
    except (OSError, ValueError, KeyError) as error:
        raise UsageError(
            f"{manager.directory / str(epoch)} is damaged, or from another version of this program "
            f"({textwrap.shorten(str(error), 100)}); start a new run."
        ) from error
