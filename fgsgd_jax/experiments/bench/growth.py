"""How the time of an update grows with the number of 3×3 components, from 10⁴ to 10⁷.

The exponent is the slope of the logarithm of time over that of the number of components, fitted
where the arrays of an update no longer fit into the last cache: below, an update speeds up because
its data stay near.
"""

from pathlib import Path
from typing import Any

import numpy as np
import optax
import rich.table
from matplotlib.figure import Figure

import fgsgd_jax as fg
from fgsgd_jax.experiments._terminal import UsageError
from fgsgd_jax.experiments.bench import _timing, report
from fgsgd_jax.experiments.bench._settings import (
    MOMENTUM,
    RATE,
    Settings,
    lanes_shape,
    normal,
    placed,
    update_of,
)
from fgsgd_jax.experiments.report import save

SMALLEST = 10_000
PER_DECADE = 2
BYTES = 3 * 9 * 4  # of a component: weight and gradient read, weight written
CACHE = 32 << 20  # where the system does not tell
SGD = f"optax.sgd, momentum {MOMENTUM}"
COLORS = {"sphere": "#1f4e79", "stiefel": "#b5541c", SGD: "0.55"}
LABELS = {"sphere": "fgsgd PO, sphere", "stiefel": "fgsgd PO, Stiefel", SGD: SGD}


def measure(settings: Settings) -> dict[str, Any]:
    """Times updates of one kernel, larger and larger."""
    most = settings.components
    least = min(SMALLEST, max(1, most // 10))
    steps = max(1, round(PER_DECADE * np.log10(most / least)))
    numbers = np.unique(np.geomspace(least, most, steps + 1).round().astype(int))
    rows = []
    with _timing.progress(len(numbers), "growth") as bar:
        for number in numbers:
            inputs, outputs = lanes_shape(int(number))
            bar.set_description(f"growth, {inputs * outputs:,} components")
            seconds = _seconds((3, 3, inputs, outputs), settings.rounds)
            for name, taken in seconds.items():
                low, high = np.quantile(taken, (0.25, 0.75))
                rows.append(
                    {
                        "name": name,
                        "components": inputs * outputs,
                        "seconds": float(np.median(taken)),
                        "seconds_quartiles": [float(low), float(high)],
                    }
                )
            bar.update()
    cache = _last_cache()
    fit_from = cache / BYTES
    content = {
        "cache_bytes": cache,
        "fit_from_components": fit_from,
        "rows": rows,
        "exponents": {name: _exponent(rows, name, fit_from) for name in COLORS},
    }
    if settings.figure:
        _draw(settings.figure, content)
    return content


def _seconds(shape: tuple[int, ...], rounds: int) -> dict[str, np.ndarray]:
    gradient = normal({"kernel": shape}, 1)
    clocks = {}
    for name in ("sphere", "stiefel"):
        spec, start = placed(gradient, "PO", (name,))
        tx = fg.fgsgd(RATE, spec)
        clocks[name] = _timing.clock(_timing.Fed(update_of(tx), (start, tx.init(start)), gradient))
    tx = optax.sgd(RATE, momentum=MOMENTUM)
    clocks[SGD] = _timing.clock(_timing.Fed(update_of(tx), (gradient, tx.init(gradient)), gradient))
    return _timing.in_turn(clocks, rounds)


def _exponent(rows, name: str, fit_from: float) -> float | None:
    """The fitted slope, or None with fewer than three sizes beyond the cache."""
    points = [
        (row["components"], row["seconds"])
        for row in rows
        if row["name"] == name and row["components"] >= fit_from
    ]
    if len(points) < 3:
        return None
    numbers, seconds = np.log(points).T
    return float(np.polyfit(numbers, seconds, 1)[0])


def _last_cache() -> int:
    """Bytes of the largest cache of the first core."""
    sizes = Path("/sys/devices/system/cpu/cpu0/cache").glob("index*/size")
    units = {"K": 1 << 10, "M": 1 << 20}
    try:
        told = [text.read_text().strip() for text in sizes]
        return max(int(size[:-1]) * units[size[-1]] for size in told)
    except (OSError, ValueError, KeyError):
        return CACHE


def tables(content: dict[str, Any]) -> list[str | rich.table.Table]:
    """The figures for people to read."""
    columns: report.Columns = [
        ("components", lambda row: f"{row['components']:,}"),
        ("median", lambda row: report.duration(row["seconds"])),
        ("middle half", lambda row: "–".join(map(report.duration, row["seconds_quartiles"]))),
        ("ns a component", lambda row: report.short(1e9 * row["seconds"] / row["components"])),
    ]
    blocks = {
        LABELS[name]: [row for row in content["rows"] if row["name"] == name] for name in COLORS
    }
    told: list[str | rich.table.Table] = [report.table("time of an update", columns, blocks)]
    for name, exponent in content["exponents"].items():
        if exponent is None:
            told.append(f"{LABELS[name]}: too few sizes beyond the cache for an exponent")
        else:
            told.append(
                f"{LABELS[name]}: time grows as number^{exponent:.2f}, from "
                f"{content['fit_from_components']:,.0f} components, which fill the cache of "
                f"{content['cache_bytes'] >> 20} MiB"
            )
    return told


def _draw(path: Path, content: dict[str, Any]) -> None:
    """Draws time over number, both on logarithmic axes, and the slope of 1 to compare with."""
    figure = Figure(figsize=(6.4, 4.2), layout="constrained")
    axes = figure.subplots()
    for name, color in COLORS.items():
        rows = [row for row in content["rows"] if row["name"] == name]
        numbers = np.array([row["components"] for row in rows])
        milliseconds = 1e3 * np.array([row["seconds"] for row in rows])
        low, high = 1e3 * np.array([row["seconds_quartiles"] for row in rows]).T
        exponent = content["exponents"][name]
        label = LABELS[name] + ("" if exponent is None else f": exponent {exponent:.2f}")
        axes.fill_between(numbers, low, high, color=color, alpha=0.2, linewidth=0)
        axes.loglog(numbers, milliseconds, color=color, marker="o", markersize=4, label=label)
    numbers = np.unique([row["components"] for row in content["rows"]])
    last = 1e3 * min(row["seconds"] for row in content["rows"] if row["components"] == numbers[-1])
    axes.loglog(
        numbers,
        0.5 * last * numbers / numbers[-1],
        color="0.3",
        linestyle=":",
        linewidth=1,
        label="exponent 1",
    )
    if numbers[0] < content["fit_from_components"] < numbers[-1]:
        axes.axvline(content["fit_from_components"], color="0.8", linewidth=1, zorder=0)
        axes.annotate(
            "weights, gradient and update\nfill the last cache",
            (content["fit_from_components"], 0.03),
            xycoords=("data", "axes fraction"),
            xytext=(5, 0),
            textcoords="offset points",
            fontsize=8,
            color="0.4",
        )
    axes.set_xlabel("3×3 components")
    axes.set_ylabel("time of an update (ms)")
    axes.legend(fontsize=9, framealpha=1, edgecolor="none")
    try:
        save(figure, path)
    except OSError as error:
        raise UsageError(f"{path} cannot be drawn ({error}).") from error
