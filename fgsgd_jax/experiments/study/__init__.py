"""Run a study: many methods on one problem, each with its hyperparameters tuned alike.

The studies are **batch-normalized** (do manifolds train a convolutional network as well as AdamW?),
**bounds** (do generalization bounds rank networks by their generalization gap?),
**classical** (optima that factorizations know: Procrustes, principal and independent components),
**convergence** (the share of random starts that reach a global minimum), **coordinates** (does the
best learning rate depend on the scale of the kernels?), **copying** (a recurrent matrix that has to
keep symbols over a delay), **depth** and **depth-convolutional** (plain networks of up to 200
layers without normalization), **language** (a small transformer on characters), **paper** (a
residual network on CIFAR-10, many runs at once on one device), **permuted** (a recurrent network
that reads images pixel by pixel in a random order), **rates** (the range of learning rates in which
methods train well), **robustness** (certified accuracy of networks with a small Lipschitz
constant), **scales** (does re-scaling kernels lower the error, as it lowers bounds?) and
**streaming** (principal components of a stream, with and without averages on the manifold).

Every method is trained with all of its settings (learning rates, decays, …) from a few seeds; the
setting with the best mean validation score is then trained from the remaining seeds, and its test
results are reported: mean and deviation, and a paired test against the first method. The run folder
gets trials.jsonl (one line a trial), table.md and a figure. A study that was interrupted continues
when the same command is given the same folder; nothing is computed twice. One process at a time may
write to a folder; a second one is refused.
"""

import importlib

from fgsgd_jax.experiments.cli import UsageError
from fgsgd_jax.experiments.study.config import Arguments, Paper, StudyName

ARGUMENTS, PAPER = Arguments(), Paper()


def main(
    name: StudyName,  # pyright: ignore[reportInvalidTypeForm]
    /,
    *,
    arguments: Arguments = ARGUMENTS,
    paper: Paper = PAPER,
) -> None:
    """Runs what is missing of a study, and reports on all of it."""
    _require_used(name, arguments, paper)
    problem = arguments.delays if name == "copying" else arguments.load()
    # Slow imports: delayed so that --help and mistakes get their answer at once.
    module = importlib.import_module(f"fgsgd_jax.experiments.study.{name.replace('-', '_')}")
    report = importlib.import_module("fgsgd_jax.experiments.study.report")
    settings = {"settings": paper} if name == "paper" else {}
    if name == "paper" and paper.probe:
        module.probe(problem, **settings)
        return
    study = module.study(problem, smoke=arguments.smoke, **settings)
    folder = arguments.run_dir or study.default_folder
    report.run(study, folder, seconds=arguments.seconds, quiet=arguments.quiet)


def _require_used(name: str, arguments: Arguments, paper: Paper) -> None:
    """Raises `UsageError` for an option of another study, which would change nothing."""
    given = [("copying", "delays")] if arguments.delays != ARGUMENTS.delays else []
    given += [("paper", option) for option in paper.given()]
    for owner, option in given:
        if name != owner:
            raise UsageError(
                f"--{option.replace('_', '-')} is an option of the study {owner}, and {name} does "
                "not use it; omit it."
            )
