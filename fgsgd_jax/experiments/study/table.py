"""The table of a study: the results of every method with its best settings."""

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from scipy.stats import ttest_rel

from fgsgd_jax.experiments.run_folder import Row
from fgsgd_jax.experiments.study.grid import Study


def markdown(study: Study, rows: list[Row]) -> str:
    """The results as a table in Markdown, with a caption.

    The last column is the probability of a paired t-test (two-sided, over the seeds) that the first
    result of a method has the same mean as the first result of the first method.
    """
    tuned = study.tried > 1
    header = [*study.cases[0], "method", *["settings"] * tuned, *study.results.values()]
    header += study.across_settings
    reference, *others = study.methods
    if others:
        header.append(f"p of {next(iter(study.results.values()))}")
    lines = [header, ["---"] * len(header)]
    for case in study.cases:
        for method in study.methods:
            lines.append(_line(study, rows, case, method, reference, tuned=tuned))
    table = "\n".join("| " + " | ".join(line) + " |" for line in lines)
    return f"{study.title}. {_how_chosen(study)}\n\n{table}\n"


def _line(
    study: Study, rows: list[Row], case: Mapping[str, Any], method: str, reference: str, *, tuned
) -> list[str]:
    chosen = study.chosen(rows, case, method)
    values = [
        _mean_and_deviation([row[name] for row in chosen if name in row]) for name in study.results
    ]
    line = [*map(str, case.values()), method, *values]
    if tuned:
        line.insert(-len(values), _spelled(study.best(rows, case, method)) or "–")
    of_method = study.rows_of(rows, case, method)
    line += [f"{number(of_method):.2g}" for number in study.across_settings.values()]
    if len(study.methods) > 1:
        baseline = study.chosen(rows, case, reference)
        line.append(
            "" if method == reference else _p_value(baseline, chosen, next(iter(study.results)))
        )
    return line


def _how_chosen(study: Study) -> str:
    if study.tried == 1:
        return f"Mean ± deviation over {study.seeds} seeds."
    return (
        f"Mean ± deviation over {study.seeds} seeds, with the best of {study.tried} settings of "
        f"each method by {study.score.replace('_', ' ')} (mean of {study.tuning_seeds} seeds)."
    )


def _spelled(settings: Mapping[str, Any]) -> str:
    return ", ".join(f"{name.replace('_', ' ')} {value:g}" for name, value in settings.items())


def _mean_and_deviation(values: Sequence[float | None]) -> str:
    if not values:  # nothing that this method has
        return "–"
    finite = [value for value in values if value is not None]
    if len(finite) < len(values):
        return f"diverged in {len(values) - len(finite)} of {len(values)}"
    deviation = f" ± {statistics.stdev(finite):.2g}" if len(finite) > 1 else ""
    return f"{statistics.fmean(finite):.3g}{deviation}"


def _p_value(baseline: Sequence[Row], chosen: Sequence[Row], name: str) -> str:
    ours, theirs = ([row[name] for row in rows] for rows in (chosen, baseline))
    if len(ours) < 2 or None in ours + theirs or ours == theirs:
        return "–"
    return f"{ttest_rel(ours, theirs).pvalue:.1g}"
