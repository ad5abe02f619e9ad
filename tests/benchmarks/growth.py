"""How the time of an update grows with the number of 3×3 components, from 10⁴ to 10⁷.

The exponent is the slope of log(time) over log(number of components). It is fitted only to sizes
whose arrays exceed the last cache: smaller updates are faster because their data stay in it.
"""

from pathlib import Path
from typing import Any

import numpy as np
import optax
from matplotlib.axes import Axes
from matplotlib.figure import Figure

import fgsgd_jax as fg
from fgsgd_jax.experiments import plots
from fgsgd_jax.experiments.bench import formatting, timing
from fgsgd_jax.experiments.bench.config import MOMENTUM, RATE
from fgsgd_jax.experiments.bench.sections import Tables
from fgsgd_jax.experiments.bench.weights import normal, on_manifolds, update_of

from .arrays import channels_of
from .settings import BenchmarkSettings

SMALLEST = 10_000
PER_DECADE = 2
BYTES = 3 * 9 * 4  # for each component: weight and gradient are read, the weight is written
CACHE = 32 << 20  # where the system does not report its caches
SGD = f"optax.sgd, momentum {MOMENTUM}"
COLORS = {"sphere": plots.DARK_BLUE, "stiefel": plots.ORANGE, SGD: "0.55"}
LABELS = {"sphere": "fgsgd PO, sphere", "stiefel": "fgsgd PO, Stiefel", SGD: SGD}


def measure(settings: BenchmarkSettings) -> dict[str, Any]:
    """Times updates of a single kernel of growing size, and draws the figure if asked for."""
    most = settings.components
    least = min(SMALLEST, max(1, most // 10))
    steps = max(1, round(PER_DECADE * np.log10(most / least)))
    numbers = np.unique(np.geomspace(least, most, steps + 1).round().astype(int))
    rows = []
    with timing.progress(len(numbers), "growth") as bar:
        for number in numbers:
            inputs, outputs = channels_of(int(number))
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
        spec, start = on_manifolds(gradient, "PO", (name,))
        tx = fg.fgsgd(RATE, spec)
        clocks[name] = timing.clock(
            timing.Iterated(update_of(tx), (start, tx.init(start)), gradient)
        )
    tx = optax.sgd(RATE, momentum=MOMENTUM)
    clocks[SGD] = timing.clock(
        timing.Iterated(update_of(tx), (gradient, tx.init(gradient)), gradient)
    )
    return timing.in_turn(clocks, rounds)


def _exponent(rows, name: str, fit_from: float) -> float | None:
    """The fitted slope; None with fewer than three sizes beyond the cache."""
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
        texts = [size.read_text().strip() for size in sizes]
        return max(int(text[:-1]) * units[text[-1]] for text in texts)
    except (OSError, ValueError, KeyError):
        return CACHE


def tables(content: dict[str, Any]) -> Tables:
    """The figures for people to read."""
    columns: formatting.Columns = [
        ("components", lambda row: f"{row['components']:,}"),
        ("median", lambda row: formatting.duration(row["seconds"])),
        ("middle half", lambda row: "–".join(map(formatting.duration, row["seconds_quartiles"]))),
        (
            "ns per component",
            lambda row: formatting.short(1e9 * row["seconds"] / row["components"]),
        ),
    ]
    blocks = {
        LABELS[name]: [row for row in content["rows"] if row["name"] == name] for name in COLORS
    }
    shown: Tables = [formatting.table("time of an update", columns, blocks)]
    for name, exponent in content["exponents"].items():
        if exponent is None:
            shown.append(f"{LABELS[name]}: too few sizes beyond the cache for an exponent")
        else:
            shown.append(
                f"{LABELS[name]}: time grows as number^{exponent:.2f}, from "
                f"{content['fit_from_components']:,.0f} components, which fill the cache of "
                f"{content['cache_bytes'] >> 20} MiB"
            )
    return shown


def _draw(path: Path, content: dict[str, Any]) -> None:
    """Draws time over number of components, on logarithmic axes, with a line of exponent 1."""
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
    _draw_guides(axes, content)
    axes.set_xlabel("3×3 components")
    axes.set_ylabel("time of an update (ms)")
    axes.legend(fontsize=9, framealpha=1, edgecolor="none")
    plots.save(figure, path)


def _draw_guides(axes: Axes, content: dict[str, Any]) -> None:
    """Draws a line of exponent 1, and the size that fills the last cache."""
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
