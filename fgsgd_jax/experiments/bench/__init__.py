"""Measure what a whole update of FG-SGD costs, compared with optax.sgd and optax.adamw.

An update is tx.update and optax.apply_updates under one jax.jit, on all weights of a network; by
default on the 3×3 kernels of a ResNet-18 alone. Weights and state are donated and fed back.

Contestants run in turn, in a new order each round; every run is waited for, and none includes
compilation. What is faster than 2 ms runs several times in a row. On an accelerator, the time
includes what the host needs to start an update. To measure on one core, start the program under
`taskset -c 0`.

- ÷ sgd: the median time over the rounds, divided by the time of SGD with momentum.
- middle half: the ratios of single rounds, without the lowest and the highest quarter. On a busy
  machine the ratio of the medians may lie outside.
- limit: the ratio to SGD with momentum if only memory traffic took time: the arrays of the size
  of the weights that must be read or written, over the 5 of SGD with momentum.
- memory: temporary memory of the compiled update, over the size of the largest weight.
- copied: results that do not reuse the donated memory of the old weights and state.

Benchmarks of single parts and of other libraries are in the repository:
`python -m tests.benchmarks`.
"""

from fgsgd_jax.experiments.bench.config import Bench, require_writable

SETTINGS = Bench()


def main(*, settings: Bench = SETTINGS) -> None:
    """Measures as the settings say, and prints tables."""
    require_writable("--json", settings.json)
    # A slow import: delayed so that --help and mistakes get their answer at once.
    from fgsgd_jax.experiments.bench import sections, updates

    sections.measure({"updates": updates}, settings, json_path=settings.json)
