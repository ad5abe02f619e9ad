"""Compare what the re-scaling of FG-SGD does, with the rate of every variant tuned alike.

--ablate coordinates: on which manifolds are steps to be taken? Every reading is trained at scales a
factor of 10 apart: one learning rate should serve them all. --ablate scale: kernels at unit scale,
scaled by geometry, and by measured features as well, beside plain SGD, with the generalization
bounds of Table 1 after training.

Half of the training images are held out; of each variant the rate with the least mean validation
error over the seeds is reported, with the error on the test images. The random groups and kinds are
those of one seed throughout. The run folder gets trials.csv, summary.json and a figure; a run that
was interrupted goes on where it stopped when it is given the same --run-dir and arguments.
"""

import argparse
from pathlib import Path

from fgsgd_jax.experiments import _arguments, _terminal, config, data
from fgsgd_jax.experiments.config import MANIFOLDS, SCHEMES


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of this command to its parser."""
    whole, one_of = _terminal.whole_number, _terminal.one_of
    parser.add_argument(
        "--ablate",
        help="what to vary: coordinates or scale",
        type=one_of(("coordinates", "scale")),
        required=True,
        metavar="coordinates|scale",
    )
    _arguments.add_images(parser, fewest=20)
    parser.add_argument(
        "--test-size",
        help="use only the first N test images (default: all)",
        type=whole(1),
        metavar="N",
    )
    parser.add_argument(
        "--channels",
        help="output channels of the 3×3 convolutions (default: 16 32 32)",
        type=whole(1),
        nargs="+",
        default=[16, 32, 32],
        metavar="N",
    )
    parser.add_argument(
        "--scheme",
        help="which kernels form a group (default: PO)",
        type=one_of(SCHEMES),
        default="PO",
        metavar="|".join(SCHEMES),
    )
    parser.add_argument(
        "--manifolds",
        help="manifolds of each group, joined by + (default: sphere)",
        type=_terminal.sum_of(MANIFOLDS),
        default=("sphere",),
        metavar="A+B",
    )
    parser.add_argument(
        "--learning-rates",
        help="the rates to choose from, in units of the radius of the steps (default: 0.03 0.1 0.3 "
        "1 3; plain SGD takes a twentieth of them)",
        type=_terminal.positive_number,
        nargs="+",
        default=[0.03, 0.1, 0.3, 1.0, 3.0],
        metavar="R",
    )
    parser.add_argument(
        "--seeds", help="how often (default: 3)", type=whole(1), default=3, metavar="N"
    )
    parser.add_argument(
        "--epochs", help="in each trial (default: 8)", type=whole(1), default=8, metavar="N"
    )
    _arguments.add_results(
        parser, "the folder of the results (default: runs/compare-<ablation>-<data>)"
    )


def main(args: argparse.Namespace) -> int:
    """Runs all trials that are not done yet, and reports; returns the exit code."""
    data.require_folder(args.data, args.data_dir)
    settings = config.configured(
        {
            "data": args.data,
            "data_dir": str(args.data_dir.resolve()) if args.data_dir else None,
            "channels": tuple(args.channels),
            "scheme": args.scheme,
            "manifolds": tuple(args.manifolds),
            "train_size": args.train_size,
            "epochs": args.epochs,
        }
    )
    run_dir = args.run_dir or Path(f"runs/compare-{args.ablate}-{args.data}")
    # Imported only now, so that --help and mistakes answer at once.
    from fgsgd_jax.experiments import comparisons

    return comparisons.make(args, settings, run_dir)
