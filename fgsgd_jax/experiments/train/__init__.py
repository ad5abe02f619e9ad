"""Train a convolutional network on small images, with its kernels on manifolds.

The run folder gets config.json, metrics.csv (a row for each epoch), summary.json, the figures
curves.png, diagnostics.png and margins.png, and a checkpoint after each epoch. The order of the
images is a function of the seed and the epoch, so a resumed run gives bit for bit the results of an
uninterrupted one on the same machine.
"""

import argparse

from fgsgd_jax.experiments.train import arguments
from fgsgd_jax.experiments.train.arguments import add_arguments as add_arguments


def main(args: argparse.Namespace) -> int:
    """Trains with the parsed arguments, and returns the exit code."""
    settings, run_dir, digest = arguments.chosen_run(args)
    # A slow import: delayed so that --help and mistakes get their answer at once.
    from fgsgd_jax.experiments.train import loop

    return loop.run(settings, run_dir, digest=digest, cache_dir=args.cache_dir, quiet=args.quiet)
