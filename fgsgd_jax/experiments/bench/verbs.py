"""What a verb costs, next to one pass x − 0.1·g over the same array.

First by the size of a component, at a fixed number of entries, so that every array is equally far
from the caches; then for 3×3 by the number of components, from one to ten million.
"""

from typing import Any

import jax
import numpy as np
import rich.table

import fgsgd_jax as fg
from fgsgd_jax.experiments.bench import _timing, report
from fgsgd_jax.experiments.bench._settings import Settings, random_array

SIZES = ((3, 3), (5, 5), (7, 7), (11, 11), (9, 64), (64, 64), (576, 64), (4608, 512))
ENTRIES = 4608 * 512  # one of the largest
LANES = tuple(10**power for power in range(8))
MANIFOLDS: dict[str, fg.Manifold] = {
    "sphere": fg.Sphere(),
    "oblique": fg.Oblique(),
    "stiefel": fg.Stiefel(),
}
STEP = 1e-2  # the norm of the tangent vectors that are retracted


def measure(settings: Settings) -> list[dict[str, Any]]:
    """Times the verbs at every size and at every number of components."""
    # Sizes shrink with --components only where the test of the program asks for tiny arrays.
    entries = min(ENTRIES, 9 * settings.components)
    by_size = [
        ("by size", rows, columns, entries // (rows * columns))
        for rows, columns in SIZES
        if rows * columns <= entries
    ]
    by_lanes = [("by number", 3, 3, lanes) for lanes in LANES if lanes <= settings.components]
    content = []
    with _timing.progress(len(by_size + by_lanes) * len(MANIFOLDS), "verbs") as bar:
        for block, rows, columns, lanes in by_size + by_lanes:
            for name, manifold in MANIFOLDS.items():
                bar.set_description(f"verbs, {lanes:,} × {rows}×{columns}, {name}")
                figures = _verbs(manifold, (rows, columns, lanes), settings.rounds)
                content.append(
                    {
                        "block": block,
                        "manifold": name,
                        "rows": rows,
                        "columns": columns,
                        "components": lanes,
                        **figures,
                    }
                )
                bar.update()
    return content


def _verbs(manifold: fg.Manifold, shape: tuple[int, ...], rounds: int) -> dict[str, Any]:
    g = random_array(shape, 1)
    x = _points(manifold, shape)
    to_tangent = jax.jit(manifold.to_tangent)
    v = jax.jit(lambda x, g: manifold.to_tangent(x, g) * (STEP / shape[0]))(x, g)
    run = {
        "pass": (jax.jit(lambda x, g: x - 0.1 * g), x, g),
        "to_tangent": (to_tangent, x, g),
        "retract": (jax.jit(manifold.retract), x, v),
        "residual": (jax.jit(manifold.residual), x),
    }
    clocks = {
        name: _timing.clock(lambda verb=verb, given=given: verb(*given))
        for name, (verb, *given) in run.items()
    }
    seconds = _timing.in_turn(clocks, rounds)
    figures: dict[str, Any] = {"pass_seconds": float(np.median(seconds["pass"]))}
    for name in ("to_tangent", "retract", "residual"):
        ratio = _timing.ratio_of(seconds[name], seconds["pass"])
        figures[name] = {
            "seconds": float(np.median(seconds[name])),
            "ratio": ratio.ratio,
            "ratio_quartiles": [ratio.low, ratio.high],
        }
    return figures


def _points(manifold: fg.Manifold, shape: tuple[int, ...]) -> jax.Array:
    """Points of which a few differ; ten million need not be drawn."""
    *point, lanes = shape
    few = manifold.random(jax.random.key(0), (*point, min(lanes, 100)))
    return jax.numpy.take(few, np.arange(lanes) % few.shape[-1], axis=-1)


def tables(content: list[dict[str, Any]]) -> list[str | rich.table.Table]:
    """The figures for people to read."""

    def of(verb: str) -> report.Columns:
        return [
            (verb, lambda row: report.short(row[verb]["ratio"])),
            ("middle half", lambda row: report.spread(*row[verb]["ratio_quartiles"])),
        ]

    by_size: report.Columns = [
        ("component", lambda row: f"{row['rows']}×{row['columns']}"),
        ("number", lambda row: f"{row['components']:,}"),
    ]
    by_number: report.Columns = [("3×3 components", lambda row: f"{row['components']:,}")]
    verbs = [*of("to_tangent"), *of("retract"), *of("residual")]
    one_pass = ("one pass", lambda row: report.duration(row["pass_seconds"]))
    return [
        report.table(
            f"time of a verb / time of one pass x − 0.1·g, {block}",
            [*first, *verbs, one_pass],
            report.blocks_by("manifold", [row for row in content if row["block"] == block]),
        )
        for block, first in (("by size", by_size), ("by number", by_number))
    ]
