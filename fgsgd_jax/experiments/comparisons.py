"""The trials of a comparison: which there are, those that are done, and what they come to."""

import argparse
import csv
import dataclasses
import json
import statistics
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import rich.box
import rich.console
import rich.table
from matplotlib.figure import Figure
from tqdm import tqdm

from fgsgd_jax.experiments import data, report
from fgsgd_jax.experiments._terminal import (
    UsageError,
    deferred_interrupts,
    is_taken,
    make_run_dir,
)
from fgsgd_jax.experiments.config import Config
from fgsgd_jax.experiments.insights import bounded
from fgsgd_jax.experiments.report import BOUND_COLUMNS, BOUNDS, KINDS, Row
from fgsgd_jax.experiments.trials import Trials

TRIALS_FILE, FIGURE_FILE, SETTINGS_FILE = "trials.csv", "comparison.png", "config.json"
KEY = ("variant", "scale", "learning_rate", "seed")
FOUND = ("train_loss", "validation_error", "test_error")
COLORS = ("#1f4e79", "#b5541c", "#5b8c5a", "#8fb4d9", "#7d5ba6", "#666666")

# SGD turns a kernel by about its rate times the gradient, FG-SGD by less than 0.42 times its own.
SGD_SHARE = 0.05
RADIUS = 0.05  # that of a typical kernel scaled by geometry: (9·16 + 9·32)^−½


@dataclasses.dataclass(frozen=True)
class Variant:
    """One line of a comparison: its name, what it changes, and the unit of its rates."""

    name: str
    changes: dict[str, Any]
    unit: float = 1.0
    scales: tuple[float, ...] = (1.0,)


SCALES = (10.0, 1.0, 0.1)
BY_FEATURES = {"scale": "geometric", "feature_batches": 10}
ABLATIONS: dict[str, tuple[Variant, ...]] = {
    "coordinates": (
        Variant("unit", {"scale": "geometric", "coordinates": "unit"}, scales=SCALES),
        # The radius of its steps is the scale itself: rates for all of them.
        Variant("scaled", {"scale": "geometric", "coordinates": "scaled"}, RADIUS, SCALES),
        Variant(f"radius {RADIUS}", {"scale": "geometric", "coordinates": RADIUS}, RADIUS, SCALES),
    ),
    "scale": (
        Variant("SGD", {"optimizer": "sgd"}, SGD_SHARE),
        Variant("unit scale", {}),
        Variant("geometric", {"scale": "geometric"}),
        Variant("literal", {"scale": "literal"}),
        Variant("λ of channels", BY_FEATURES),
        Variant("λ of channels ≥ 1", BY_FEATURES | {"min_std": 1.0}),
        Variant("λ of kernels", BY_FEATURES | {"feature_std": "kernel"}),
    ),
}


def make(args: argparse.Namespace, settings: Config, run_dir: Path) -> int:
    """Runs the trials that are not done yet, and reports on all."""
    variants = ABLATIONS[args.ablate]
    images = data.load(
        settings.data,
        args.data_dir,
        train_size=settings.train_size,
        cache_dir=args.cache_dir,
        quiet=args.quiet,
    )
    if args.test_size is not None:
        if args.test_size > len(images.test_labels):
            raise UsageError(
                f"--test-size {args.test_size} is more than the {len(images.test_labels)} test "
                f"images of {settings.data}."
            )
        images = dataclasses.replace(
            images,
            test_images=images.test_images[: args.test_size],
            test_labels=images.test_labels[: args.test_size],
        )
    _open_folder(run_dir, args.ablate, settings, images.digest())
    rows = _read(run_dir / TRIALS_FILE)
    done = {tuple(row[name] for name in KEY) for row in rows}
    wanted = [_keys(variant, args.learning_rates, args.seeds) for variant in variants]
    total = sum(map(len, wanted))
    measure = _bounds if args.ablate == "scale" else None
    try:
        with (
            deferred_interrupts() as stop_if_interrupted,
            tqdm(total=total, unit=" trials", disable=args.quiet) as bar,
        ):
            for variant, keys in zip(variants, wanted, strict=True):
                left = [key for key in keys if (variant.name, *key) not in done]
                bar.update(len(keys) - len(left))
                bar.set_description(variant.name)
                for row in _run(variant, left, settings, images, measure):
                    rows.append(row)
                    report.write_rows(run_dir / TRIALS_FILE, rows, KEY + FOUND + BOUND_COLUMNS)
                    bar.update()
                    stop_if_interrupted()
    except KeyboardInterrupt:
        print(
            f"Interrupted; {len(rows)} of {total} trials are in {run_dir}. The same command goes "
            "on from there.",
            file=sys.stderr,
        )
        return 130
    chosen = [
        _chosen(rows, variant.name, scale) for variant in variants for scale in variant.scales
    ]
    report.write_json(run_dir / report.SUMMARY_FILE, {"ablate": args.ablate, "variants": chosen})
    draw = {"coordinates": _draw_rates, "scale": _draw_bounds}[args.ablate]
    title = f"{settings.data} · {settings.scheme} {'+'.join(settings.manifolds)}"
    draw(run_dir / FIGURE_FILE, rows, chosen, title)
    if not args.quiet:
        _print(chosen, title, args.ablate)
    print(run_dir if args.quiet else f"Results are in {run_dir}")
    return 0


def _keys(variant: Variant, rates: list[float], seeds: int) -> list[tuple[float, float, int]]:
    """The scales, rates and seeds of a variant. Literal steps get rates for their own radius."""
    return [
        (scale, float(f"{rate * variant.unit * (scale if literal else 1):.6g}"), seed)
        for literal in [variant.name == "scaled"]
        for scale in variant.scales
        for rate in rates
        for seed in range(seeds)
    ]


def _run(
    variant: Variant, keys: list[tuple], settings: Config, images: data.ImageData, measure
) -> Iterator[Row]:
    if not keys:
        return
    trials = Trials(dataclasses.replace(settings, **variant.changes), images)
    for scale, rate, seed in keys:
        found = trials.run(rate, seed, scale, measure)
        yield dict(zip(KEY, (variant.name, scale, rate, seed), strict=True)) | found


def _bounds(trials: Trials, state) -> Row:
    return bounded(trials.groups, state, trials.images)


# --- what is kept --------------------------------------------------------------------------------


def _open_folder(run_dir: Path, ablate: str, settings: Config, digest: str) -> None:
    """Makes the folder, or sees that it is one of the same comparison."""
    content = json.loads(
        json.dumps({"ablate": ablate, "digest": digest} | dataclasses.asdict(settings))
    )
    path = run_dir / SETTINGS_FILE
    if path.exists():
        if json.loads(path.read_text()) != content:
            raise UsageError(
                f"{run_dir} holds trials of other settings or images; give another --run-dir."
            )
        return
    if is_taken(run_dir):
        raise UsageError(f"{run_dir} exists and is no comparison; name another --run-dir.")
    make_run_dir(run_dir)
    report.write_json(path, content)


def _read(path: Path) -> list[Row]:
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return [
            {
                name: cell if name == "variant" else int(cell) if name == "seed" else float(cell)
                for name, cell in cells.items()
                if cell
            }
            for cells in csv.DictReader(file)
        ]


# --- what it comes to ----------------------------------------------------------------------------


def _chosen(rows: list[Row], variant: str, scale: float) -> Row:
    """The best rate of a variant by validation, with means and deviations over the seeds."""
    by_rate: dict[float, list[Row]] = {}
    for row in rows:
        if row["variant"] == variant and row["scale"] == scale:
            by_rate.setdefault(row["learning_rate"], []).append(row)
    rate = min(by_rate, key=lambda rate: _mean(by_rate[rate], "validation_error"))
    best = by_rate[rate]
    names = FOUND + tuple(name for name in BOUND_COLUMNS if name in best[0])
    return (
        {"variant": variant, "scale": scale, "learning_rate": rate, "seeds": len(best)}
        | {name: _mean(best, name) for name in names}
        | {f"{name}_std": _deviation([row[name] for row in best]) for name in FOUND}
    )


def _mean(rows: list[Row], name: str) -> float:
    return statistics.fmean(row[name] for row in rows)


def _deviation(values: list[float]) -> float | None:
    return statistics.stdev(values) if len(values) > 1 else None


def _print(chosen: list[Row], title: str, ablate: str) -> None:
    console = rich.console.Console()
    scales = len({row["scale"] for row in chosen}) > 1
    errors = _table(title, ["scale ×"] * scales + ["best rate", "validation error", "test error"])
    for row in chosen:
        percents = [
            _percent(row[name], row[f"{name}_std"]) for name in ("validation_error", "test_error")
        ]
        numbers = [f"{row['scale']:g}"] * scales + [f"{row['learning_rate']:g}"]
        errors.add_row(row["variant"], *numbers, *percents)
    console.print(errors)
    if BOUND_COLUMNS[0] in chosen[0]:
        for kind in KINDS:
            terms = _table(f"log of the bound, on {kind}", list(BOUNDS.values()))
            for row in chosen:
                terms.add_row(row["variant"], *(f"{row[f'{kind}_{name}']:.1f}" for name in BOUNDS))
            console.print(terms)
    if ablate == "coordinates":
        for variant in dict.fromkeys(row["variant"] for row in chosen):
            rates = [row["learning_rate"] for row in chosen if row["variant"] == variant]
            factor = max(rates) / min(rates)
            console.print(f"{variant}: the best rate moves by a factor of {factor:.3g}")


def _percent(mean: float, deviation: float | None) -> str:
    spread = "" if deviation is None else f" ± {100 * deviation:.2f}"
    return f"{100 * mean:.2f}{spread} %"


def _table(title: str, heads: list[str]) -> rich.table.Table:
    table = rich.table.Table(box=rich.box.MARKDOWN, title=title)
    table.add_column("variant", no_wrap=True)
    for head in heads:
        table.add_column(head, justify="right", no_wrap=True)
    return table


def _draw_rates(path: Path, rows: list[Row], chosen: list[Row], title: str) -> None:
    """Validation error over the learning rate, a panel for each reading, a line for each scale."""
    variants = list(dict.fromkeys(row["variant"] for row in chosen))
    figure = Figure(figsize=(4.2 * len(variants), 3.6), layout="constrained")
    figure.suptitle(title, fontsize=11)
    panels = figure.subplots(1, len(variants), sharey=True, squeeze=False)[0]
    for panel, variant in zip(panels, variants, strict=True):
        for scale, color in zip(SCALES, COLORS, strict=False):
            rates, means, deviations = _curve(rows, variant, scale)
            panel.errorbar(
                rates, means, deviations, color=color, marker=".", capsize=2, label=f"{scale:g} γ"
            )
        panel.set_xscale("log")
        panel.set_yscale("log")
        report.label_log(panel.xaxis)
        panel.set_title(variant, fontsize=10)
        panel.set_xlabel("learning rate")
    panels[0].set_ylabel("validation error (%)")
    report.label_log(panels[0].yaxis)
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, frameon=False, title="scale s", loc="outside right center")
    report.save(figure, path)


def _curve(rows: list[Row], variant: str, scale: float):
    by_rate: dict[float, list[float]] = {}
    for row in rows:
        if row["variant"] == variant and row["scale"] == scale:
            by_rate.setdefault(row["learning_rate"], []).append(100 * row["validation_error"])
    rates = sorted(by_rate)
    means = [statistics.fmean(by_rate[rate]) for rate in rates]
    return rates, means, [_deviation(by_rate[rate]) or 0 for rate in rates]


def _draw_bounds(path: Path, rows: list[Row], chosen: list[Row], title: str) -> None:
    """Test error beside the logarithms of the bounds, a row for each variant."""
    figure = Figure(figsize=(11, 1.4 + 0.4 * len(chosen)), layout="constrained")
    figure.suptitle(title, fontsize=11)
    error, of_groups, of_layers = figure.subplots(1, 3, sharey=True)
    places = np.arange(len(chosen))
    for place, best in zip(places, chosen, strict=True):
        errors = [
            100 * row["test_error"]
            for row in rows
            if all(row[name] == best[name] for name in ("variant", "scale", "learning_rate"))
        ]
        error.plot(errors, [place] * len(errors), "o", color="#8fb4d9")
        error.plot(100 * best["test_error"], place, "|", color="#1f4e79", markersize=14)
    for panel, kind in zip((of_groups, of_layers), KINDS, strict=True):
        for offset, ((name, label), color) in enumerate(zip(BOUNDS.items(), COLORS, strict=False)):
            values = [best[f"{kind}_{name}"] for best in chosen]
            panel.barh(places + 0.25 * (offset - 1), values, 0.24, color=color, label=label)
        panel.axvline(0, color="0.4", linewidth=1)
        panel.set_xlabel(f"log of the bound, on {kind}")
    of_layers.legend(frameon=False, fontsize=8)
    error.set_xlabel("test error (%)")
    error.set_yticks(places, [best["variant"] for best in chosen])
    error.invert_yaxis()
    report.save(figure, path)
