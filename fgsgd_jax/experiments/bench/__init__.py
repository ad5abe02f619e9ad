"""Measure what a whole update of FG-SGD costs, compared with optax.sgd and optax.adamw.

An update is tx.update and optax.apply_updates under one jax.jit, on all weights of a network; by
default on the 3×3 kernels of a ResNet-18 alone. Weights and state are donated and fed back.

Contestants run in turn, in a new order each round; every run is waited for, and none includes
compilation. What is faster than 2 ms runs several times in a row. On an accelerator, the time
includes what the host needs to start an update. To measure on one core, start the program under
`taskset -c 0`.

÷ sgd        The median time over the rounds, divided by the time of SGD with momentum.
middle half  The ratios of single rounds, without the lowest and the highest quarter. On a busy
             machine the ratio of the medians may lie outside.
limit        The ratio to SGD with momentum if only memory traffic took time: the arrays of the size
             of the weights that must be read or written, over the 5 of SGD with momentum.
memory       Temporary memory of the compiled update, over the size of the largest weight.
copied       Results that do not reuse the donated memory of the old weights and state.

Benchmarks of single parts and of other libraries are in the repository: python -m tests.benchmarks.
"""

import argparse
import dataclasses

from fgsgd_jax.experiments.bench import arguments
from fgsgd_jax.experiments.bench.arguments import add_arguments as add_arguments
from fgsgd_jax.experiments.bench.settings import Settings


def main(args: argparse.Namespace) -> int:
    """Measures as the arguments say, prints tables, and returns the exit code."""
    arguments.require_writable("--json", args.json)
    chosen = {field.name: getattr(args, field.name) for field in dataclasses.fields(Settings)}
    # A slow import: delayed so that --help and mistakes get their answer at once.
    from fgsgd_jax.experiments.bench import sections, updates

    sections.measure({"updates": updates}, Settings(**chosen), json_path=args.json)
    return 0
