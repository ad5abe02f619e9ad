"""Reproduce the figures of the Path-SGD paper, at a size that fits the machine.

Figure 1: one hidden layer of 8, 16, 32, … units, trained to convergence: the test error keeps
falling after the training error has reached 0. Figure 2: two hidden layers trained by SGD from a
balanced start and from an unbalanced one (rescaled at random, so that both compute the same
function). Figure 3: the same with SGD, AdaGrad and Path-SGD: Path-SGD takes the same path from
both starts.

For each optimizer and start the learning rate is a power of ten, chosen by the loss on validation
images. The size of the paper is --units 4000. The run folder gets a CSV file and a figure for each,
summary.json, and first_epoch.csv with the single steps of figure 3.
"""

from fgsgd_jax.experiments import data, run_folder
from fgsgd_jax.experiments.cli import UsageError
from fgsgd_jax.experiments.path_figures.config import PathFigures

CHOSEN = PathFigures()


def main(*, chosen: PathFigures = CHOSEN) -> None:
    """Trains what the figures need and draws them."""
    data.require_folder(chosen.data, chosen.data_dir)
    run_dir = chosen.run_dir or run_folder.new_run_dir(f"paths-{chosen.data}")
    if run_folder.is_taken(run_dir):
        raise UsageError(f"{run_dir} exists; give another --run-dir.")
    # A slow import: delayed so that --help and mistakes get their answer at once.
    from fgsgd_jax.experiments.path_figures import make_figures

    make_figures.run(chosen, run_dir)
