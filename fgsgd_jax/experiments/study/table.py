"""The table of a study: the results of every method with its best settings."""

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
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
        header.append(f"p of {next(iter(study.results.values())).removesuffix(', %')}")
    lines = [header, ["---"] * len(header)]
    for case in study.cases:
        for method in study.methods:
            lines.append(_line(study, rows, case, method, reference, tuned=tuned))
    table = "\n".join("| " + " | ".join(line) + " |" for line in lines)
    device = f"Trained on {study.device}. " if study.device else ""
    remarks = f"\n{study.remarks(study, rows)}\n" if study.remarks else ""
    return f"{study.title}. {device}{_how_chosen(study)}\n\n{table}\n{remarks}"


def _line(
    study: Study, rows: list[Row], case: Mapping[str, Any], method: str, reference: str, *, tuned
) -> list[str]:
    chosen = study.chosen(rows, case, method)
    values = [
        _summary([row[name] for row in chosen if name in row], study.shown_as.get(name))
        for name in study.results
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
    seeds = "of one seed" if study.tuning_seeds == 1 else f"mean of {study.tuning_seeds} seeds"
    return (
        f"Mean ± deviation over {study.seeds} seeds, with the best of {study.tried} settings of "
        f"each method by {study.score.replace('_', ' ')} ({seeds})."
    )


def _spelled(settings: Mapping[str, Any]) -> str:
    return ", ".join(f"{name.replace('_', ' ')} {value:g}" for name, value in settings.items())


def _summary(values: Sequence[float | None], shown_as: str | None) -> str:
    """The mean and the deviation of values; None stands for a run that diverged."""
    if not values:  # nothing that this method has
        return "–"
    finite = [value for value in values if value is not None]
    if len(finite) < len(values):
        return f"diverged in {len(values) - len(finite)} of {len(values)}"
    mean = statistics.fmean(finite)
    if shown_as == "mean" or len(finite) == 1:
        return f"{100 * mean:.1f}" if shown_as == "percent" else f"{mean:.3g}"
    deviation = statistics.stdev(finite)
    if shown_as == "percent":
        return f"{100 * mean:.1f} ± {100 * deviation:.1f}"
    return f"{mean:.3g} ± {deviation:.2g}"


def _p_value(baseline: Sequence[Row], chosen: Sequence[Row], name: str) -> str:
    ours, theirs = ([row[name] for row in rows] for rows in (chosen, baseline))
    if len(ours) < 2 or None in ours + theirs:
        return "–"
    differences = np.subtract(ours, theirs)
    if np.ptp(differences) <= 1e-12 * np.abs(ours).max():  # no spread to compare with
        return "–"
    return f"{ttest_rel(ours, theirs).pvalue:.1g}"
