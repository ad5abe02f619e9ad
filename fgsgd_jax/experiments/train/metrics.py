"""`metrics.csv`: its columns, and how it is read when a run is resumed."""

import csv
from collections.abc import Mapping
from pathlib import Path

from fgsgd_jax import bounds
from fgsgd_jax.experiments.cli import UsageError
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
    """Whether the file exists and has the row of an epoch."""
    return path.exists() and len(path.read_text().splitlines()) > 1


def read_metrics(path: Path, epochs: int) -> list[Row]:
    """Reads the rows of the first `epochs` epochs; later rows have no checkpoint.

    Raises:
        UsageError: If the file is damaged, or lacks one of these rows.
    """
    try:
        with path.open(newline="") as file:
            rows = [_row(cells) for cells in csv.DictReader(file)][:epochs]
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise UsageError(f"{path} is not readable ({error}); start a new run.") from error
    if [row["epoch"] for row in rows] != list(range(1, epochs + 1)):
        raise UsageError(f"{path} lacks some of the {epochs} epochs trained; start a new run.")
    return rows


def _row(cells: Mapping[str, str]) -> Row:
    row: Row = {name: float(cells[name]) if cells[name] else None for name in METRICS}
    row["epoch"] = int(cells["epoch"])
    return row
