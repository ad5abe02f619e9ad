"""`metrics.csv`: its columns, and how it is read when a run is resumed."""

import csv
import io
from collections.abc import Mapping
from pathlib import Path

from fgsgd_jax import bounds
from fgsgd_jax.experiments.cli import UsageError, note
from fgsgd_jax.experiments.files import write_text
from fgsgd_jax.experiments.run_folder import Row

METRICS_FILE = "metrics.csv"

# The bounds of Table 1 by their column names, with the labels that people read.
BOUNDS = {name: name.replace("_", " ").title() for name in bounds.Bounds._fields[:3]}
KINDS = bounds.NetworkBounds._fields
BOUND_COLUMNS = tuple(f"{kind}_{name}" for kind in KINDS for name in BOUNDS)
DIAGNOSTICS = (
    "group_frobenius",
    "group_spectral",
    "layer_frobenius",
    "layer_spectral",
    "smallest_scale",
    "largest_scale",
    "normal",
    "gradient_norm",
    "tau",
    "normalized_share",
    "angle",
    *BOUND_COLUMNS,
)
METRICS = (
    "epoch",
    "train_loss",
    "train_error",
    "test_loss",
    "test_error",
    "drift",
    "seconds_per_step",
    "learning_rate",
    *DIAGNOSTICS,
)
"""The columns of `metrics.csv`.

Errors are fractions. Training loss and error are averages over the steps of the epoch; test loss
and error are those after it. The diagnostics describe the last step of the epoch: the largest value
over all weights on manifolds, as `fgsgd_jax.diagnostics` defines it, and the logarithms of the
bounds of Table 1, for groups and for whole layers. They and `drift` are empty if no weight is on a
manifold.
"""


def has_rows(path: Path) -> bool:
    """Whether the file exists and has the row of an epoch, or is something else."""
    return path.exists() and (not path.is_file() or len(path.read_bytes().splitlines()) > 1)


def read_metrics(path: Path, epochs: int, copy: str | None = None) -> list[Row]:
    """Reads the rows of the first `epochs` epochs; later rows have no checkpoint.

    Args:
        path: The file.
        epochs: How many epochs are trained.
        copy: The text of the file after the last of them, from which a damaged file is restored.

    Raises:
        UsageError: If the file is damaged or lacks one of these rows, and there is no copy.
    """
    try:
        return _rows(path.read_bytes(), epochs)
    except (OSError, ValueError) as error:
        said = (isinstance(error, OSError) and error.strerror) or str(error)
    try:
        rows = _rows((copy or "").encode(), epochs)
    except ValueError:
        raise UsageError(
            f"{path} cannot be read: {said}. The checkpoint has no copy of its {epochs} rows; "
            "restore the file, or start a new run."
        ) from None
    write_text(path, copy or "")
    note(f"{path} was damaged ({said}); it is restored from the last checkpoint.")
    return rows


def _rows(text: bytes, epochs: int) -> list[Row]:
    """Raises `ValueError`, which says what is wrong, if the text lacks one of the rows."""
    try:
        table = csv.DictReader(io.StringIO(text.decode(), newline=""))
        rows = [_row(cells) for cells in table][:epochs]
    except (ValueError, TypeError, KeyError, csv.Error) as error:
        raise ValueError("it is not a table of the metrics") from error
    if [row["epoch"] for row in rows] != list(range(1, epochs + 1)):
        raise ValueError(f"it lacks some of the {epochs} epochs trained")
    return rows


def _row(cells: Mapping[str, str]) -> Row:
    row: Row = {name: float(cells[name]) if cells[name] else None for name in METRICS}
    row["epoch"] = int(cells["epoch"])
    return row
