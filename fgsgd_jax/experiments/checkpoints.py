"""Checkpoints of a run: the state after the last whole epoch, kept by Orbax.

Orbax writes a checkpoint aside and renames it when it is complete, and removes the one before only
then: whenever the program stops, one whole checkpoint is left.
"""

import textwrap
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp

from fgsgd_jax.experiments._terminal import UsageError
from fgsgd_jax.experiments.steps import TrainState

FOLDER = "checkpoints"


def open_folder(run_dir: Path) -> ocp.CheckpointManager:
    """Opens the checkpoints of a run, of which the last one is kept."""
    # Written while we wait: when the row of an epoch is in the metrics, its checkpoint is, too.
    options = ocp.CheckpointManagerOptions(max_to_keep=1, enable_async_checkpointing=False)
    return ocp.CheckpointManager((run_dir / FOLDER).resolve(), options=options)


def save(manager: ocp.CheckpointManager, epoch: int, state: TrainState) -> None:
    """Saves the state after an epoch; 0 is the state before the first."""
    manager.save(epoch, args=ocp.args.StandardSave(state))  # pyright: ignore[reportCallIssue]


def restore(manager: ocp.CheckpointManager, like: TrainState) -> tuple[int, Any]:
    """The last epoch saved and the `TrainState` after it, as `like` in tree and devices."""
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
