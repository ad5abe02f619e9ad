"""The arguments of `compare`."""

import argparse

from fgsgd_jax.experiments import shared_arguments
from fgsgd_jax.experiments.argument_types import one_of, positive_number, sum_of, whole_number
from fgsgd_jax.experiments.config import MANIFOLDS, SCHEMES
from fgsgd_jax.experiments.shared_arguments import add_number


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of this command to its parser."""
    parser.add_argument(
        "--ablate",
        help="what to vary: coordinates or scale",
        type=one_of(("coordinates", "scale")),
        required=True,
        metavar="coordinates|scale",
    )
    shared_arguments.add_images(parser, fewest=20)
    parser.add_argument(
        "--test-size",
        help="use only the first N test images (default: all)",
        type=whole_number(1),
        metavar="N",
    )
    parser.add_argument(
        "--channels",
        help="output channels of the 3×3 convolutions (default: 16 32 32)",
        type=whole_number(1),
        nargs="+",
        default=[16, 32, 32],
        metavar="N",
    )
    schemes = "|".join(SCHEMES)
    add_number(parser, "--scheme", "which kernels form a group", "PO", one_of(SCHEMES), schemes)
    parser.add_argument(
        "--manifolds",
        help="manifolds of each group, joined by + (default: sphere)",
        type=sum_of(MANIFOLDS),
        default=("sphere",),
        metavar="A+B",
    )
    parser.add_argument(
        "--learning-rates",
        help="the learning rates to choose from, in units of the radius of the manifolds on which "
        "steps are taken (default: 0.03 0.1 0.3 1 3); plain SGD uses a twentieth of them",
        type=positive_number,
        nargs="+",
        default=[0.03, 0.1, 0.3, 1.0, 3.0],
        metavar="R",
    )
    add_number(parser, "--seeds", "seeds for each variant and rate", 3, whole_number(1))
    add_number(parser, "--epochs", "epochs of each trial", 8, whole_number(1))
    shared_arguments.add_results(
        parser, "the folder of the results (default: runs/compare-<ablation>-<data>)"
    )
