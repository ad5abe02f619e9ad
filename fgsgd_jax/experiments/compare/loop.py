"""Runs the trials of a comparison that are not done yet, and reports on all of them."""

import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path

from tqdm import tqdm

from fgsgd_jax.experiments.cli import UsageError, deferred_interrupts
from fgsgd_jax.experiments.compare import report
from fgsgd_jax.experiments.compare.config import Comparison
from fgsgd_jax.experiments.compare.folder import TRIALS_FILE, open_folder, read_trials
from fgsgd_jax.experiments.compare.trials import RESULTS, Trials
from fgsgd_jax.experiments.compare.variants import ABLATIONS, KEY, Variant
from fgsgd_jax.experiments.data import ImageData
from fgsgd_jax.experiments.run_folder import Row, write_rows
from fgsgd_jax.experiments.train.config import Config
from fgsgd_jax.experiments.train.diagnostics import log_bounds
from fgsgd_jax.experiments.train.metrics import BOUND_COLUMNS


def run(args: Comparison, settings: Config, run_dir: Path) -> None:
    """Runs the missing trials and reports on all.

    Args:
        args: The arguments of the command.
        settings: The configuration that all trials share.
        run_dir: The folder of the comparison.

    Raises:
        Interrupted: If Ctrl-C ended it.
    """
    variants = ABLATIONS[args.ablate]
    images = _load(args)
    open_folder(run_dir, args.ablate, settings, images.digest())
    rows = read_trials(run_dir / TRIALS_FILE)
    done = {tuple(row[name] for name in KEY) for row in rows}
    wanted = [variant.trials(args.learning_rates, args.seeds) for variant in variants]
    total = sum(map(len, wanted))
    measure = _bounds if args.ablate == "scale" else None

    def what_is_saved() -> str:
        return (
            f"Interrupted; {len(rows)} of {total} trials are in {run_dir}. The same command "
            "continues from there."
        )

    with deferred_interrupts(what_is_saved) as stop_if_interrupted:
        with tqdm(total=total, unit=" trials", disable=args.quiet) as bar:
            for variant, keys in zip(variants, wanted, strict=True):
                missing = [key for key in keys if (variant.name, *key) not in done]
                bar.update(len(keys) - len(missing))
                bar.set_description(variant.name)
                for row in _run_trials(variant, missing, settings, images, measure):
                    rows.append(row)
                    write_rows(run_dir / TRIALS_FILE, rows, KEY + RESULTS + BOUND_COLUMNS)
                    bar.update()
                    stop_if_interrupted()
        title = f"{settings.data} · {settings.scheme} {'+'.join(settings.manifolds)}"
        report.write(run_dir, args.ablate, variants, rows, title, quiet=args.quiet)
        stop_if_interrupted()


def _load(args: Comparison) -> ImageData:
    images = args.load()
    if args.test_size is None:
        return images
    if args.test_size > len(images.test_labels):
        raise UsageError(
            f"--test-size {args.test_size} is more than the {len(images.test_labels)} test "
            f"images of {args.data}; give a smaller number, or omit --test-size."
        )
    return dataclasses.replace(
        images,
        test_images=images.test_images[: args.test_size],
        test_labels=images.test_labels[: args.test_size],
    )


def _run_trials(
    variant: Variant,
    keys: list[tuple[float, float, int]],
    settings: Config,
    images: ImageData,
    measure: Callable | None,
) -> Iterator[Row]:
    """Runs trials of one variant, and yields their rows."""
    if not keys:
        return
    trials = Trials(dataclasses.replace(settings, **variant.changes), images)
    for scale, rate, seed in keys:
        result = trials.run(rate, seed, scale, measure)
        yield dict(zip(KEY, (variant.name, scale, rate, seed), strict=True)) | result


def _bounds(trials: Trials, state) -> Row:
    return log_bounds(trials.spec, state, trials.images)
