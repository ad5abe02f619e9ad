"""Compare ways of re-scaling in FG-SGD, with the learning rate of every variant tuned alike.

--ablate coordinates: on which manifolds should steps be taken? Every variant is trained at scales a
factor of 10 apart; a single learning rate should be best for all of them. --ablate scale: plain
SGD, and kernels at unit scale, scaled by geometry, and scaled by measured features as well, with
the generalization bounds of Table 1 after training.

Half of the training images are held out for validation. For each variant, the rate with the lowest
mean validation error over the seeds is reported, with its error on the test images. All trials
share the same random groups and manifolds. The run folder gets trials.csv, summary.json and a
figure; an interrupted comparison continues when the same command is given the same --run-dir.
"""

from pathlib import Path

from fgsgd_jax.experiments.compare.config import Comparison
from fgsgd_jax.experiments.train.config import require_consistent


def main(*, comparison: Comparison) -> None:
    """Runs all trials that are not done yet, and reports."""
    settings = comparison.settings()
    require_consistent(settings)
    run_dir = comparison.run_dir or Path(f"runs/compare-{comparison.ablate}-{comparison.data}")
    # A slow import: delayed so that --help and mistakes get their answer at once.
    from fgsgd_jax.experiments.compare import loop

    loop.run(comparison, settings, run_dir)
