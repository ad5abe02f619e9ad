"""`Plan`: the size of the runs that the figures need."""

import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path

from fgsgd_jax.experiments.run_folder import Row

SMALLEST = 8  # units in figure 1, doubled up to --units
EXPONENTS = range(6)  # learning rates 10^0 to 10^-5
OPTIMIZERS = ("SGD", "AdaGrad", "Path-SGD")


@dataclasses.dataclass(frozen=True)
class Plan:
    """What was asked for.

    Attributes:
        name: The name of the data set.
        figures: The figures to make: "1", "2", "3".
        epochs: The epochs of every run.
        validation_epochs: The epochs for choosing a learning rate.
        seeds: How often everything is repeated.
        units: Hidden units of figures 2 and 3, and the most of figure 1.
        precision: The dtype of all numbers.
        folder: The folder of the results.
    """

    name: str
    figures: tuple[str, ...]
    epochs: int
    validation_epochs: int
    seeds: int
    units: int
    precision: str
    folder: Path

    @property
    def widths(self) -> list[int]:
        """The numbers of hidden units of figure 1."""
        widths = [SMALLEST]
        while 2 * widths[-1] <= self.units:
            widths.append(2 * widths[-1])
        return widths

    @property
    def optimizers(self) -> tuple[str, ...]:
        """The optimizers of figures 2 and 3."""
        return OPTIMIZERS if "3" in self.figures else ("SGD",)

    @property
    def total_epochs(self) -> int:
        """The number of epochs of all runs together, unless one diverges."""
        figure_1 = len(self.widths) * self.epochs if "1" in self.figures else 0
        runs = 0 if self.figures == ("1",) else 2 * len(self.optimizers)
        each = self.epochs + len(EXPONENTS) * self.validation_epochs
        return self.seeds * (figure_1 + runs * each)


Tick = Callable[[str], None]
"""Called after each epoch with what is being trained; raises `KeyboardInterrupt` on Ctrl-C."""


def ticking(tick: Tick, what: str, runs: Iterator) -> Iterator:
    """Yields from a training run, and calls `tick` after each epoch but not at the start."""
    for row, losses in runs:
        if row["epoch"]:
            tick(what)
        yield row, losses


def rows_of(tick: Tick, what: str, runs: Iterator) -> list[Row]:
    """The metrics of all epochs of a training run."""
    return [row for row, _ in ticking(tick, what, runs)]
