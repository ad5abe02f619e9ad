"""The report of a comparison: the best rate of each variant, as JSON, tables and a figure."""

import statistics
from collections.abc import Sequence
from pathlib import Path

import rich.box
import rich.console
import rich.table

from fgsgd_jax.experiments.compare import figures
from fgsgd_jax.experiments.compare.trials import RESULTS
from fgsgd_jax.experiments.compare.variants import Variant
from fgsgd_jax.experiments.run_folder import SUMMARY_FILE, Row, report_folder, write_json
from fgsgd_jax.experiments.train.metrics import BOUND_COLUMNS, BOUNDS, KINDS

FIGURE_FILE = "comparison.png"


def write(
    run_dir: Path,
    ablate: str,
    variants: Sequence[Variant],
    rows: list[Row],
    title: str,
    *,
    quiet: bool,
) -> None:
    """Writes summary and figure to the run folder, and prints the tables unless `quiet`.

    Args:
        run_dir: The folder of the comparison.
        ablate: What is varied.
        variants: The variants.
        rows: All trials.
        title: The title of the figure and of the first table.
        quiet: Whether to print only the path of the run folder.
    """
    best = [
        best_rate(rows, variant.name, scale) for variant in variants for scale in variant.scales
    ]
    write_json(run_dir / SUMMARY_FILE, {"ablate": ablate, "variants": best})
    draw = {"coordinates": figures.draw_rates, "scale": figures.draw_bounds}[ablate]
    draw(run_dir / FIGURE_FILE, rows, best, title)
    if not quiet:
        _print(best, title, ablate)
    report_folder(run_dir, quiet=quiet)


def best_rate(rows: list[Row], variant: str, scale: float) -> Row:
    """The best rate of a variant by validation error, with means and deviations over the seeds."""
    by_rate: dict[float, list[Row]] = {}
    for row in rows:
        if row["variant"] == variant and row["scale"] == scale:
            by_rate.setdefault(row["learning_rate"], []).append(row)
    rate = min(by_rate, key=lambda rate: _mean(by_rate[rate], "validation_error"))
    best = by_rate[rate]
    names = RESULTS + tuple(name for name in BOUND_COLUMNS if name in best[0])
    return (
        {"variant": variant, "scale": scale, "learning_rate": rate, "seeds": len(best)}
        | {name: _mean(best, name) for name in names}
        | {f"{name}_std": figures.deviation([row[name] for row in best]) for name in RESULTS}
    )


def _mean(rows: list[Row], name: str) -> float:
    return statistics.fmean(row[name] for row in rows)


def _print(best: list[Row], title: str, ablate: str) -> None:
    console = rich.console.Console()
    console.print(_table_of_errors(best, title))
    if BOUND_COLUMNS[0] in best[0]:
        for kind in KINDS:
            table = _table(f"log of the bound, on {kind}", list(BOUNDS.values()))
            for row in best:
                table.add_row(row["variant"], *(f"{row[f'{kind}_{name}']:.1f}" for name in BOUNDS))
            console.print(table)
    if ablate == "coordinates":
        for variant in dict.fromkeys(row["variant"] for row in best):
            rates = [row["learning_rate"] for row in best if row["variant"] == variant]
            factor = max(rates) / min(rates)
            console.print(f"{variant}: the best rate moves by a factor of {factor:.3g}")


def _table_of_errors(best: list[Row], title: str) -> rich.table.Table:
    has_scales = len({row["scale"] for row in best}) > 1
    headings = ["best rate", "validation error", "test error"]
    table = _table(title, ["scale ×", *headings] if has_scales else headings)
    for row in best:
        scale = [f"{row['scale']:g}"] if has_scales else []
        errors = [
            _percent(row[name], row[f"{name}_std"]) for name in ("validation_error", "test_error")
        ]
        table.add_row(row["variant"], *scale, f"{row['learning_rate']:g}", *errors)
    return table


def _percent(mean: float, deviation: float | None) -> str:
    spread = "" if deviation is None else f" ± {100 * deviation:.2f}"
    return f"{100 * mean:.2f}{spread} %"


def _table(title: str, headings: list[str]) -> rich.table.Table:
    """An empty Markdown table with a first column for the variants."""
    table = rich.table.Table(box=rich.box.MARKDOWN, title=title)
    table.add_column("variant", no_wrap=True)
    for heading in headings:
        table.add_column(heading, justify="right", no_wrap=True)
    return table
