"""The cost of a verb, compared with one pass x − 0.1·g over the same array.

First by the size of a component, with a fixed number of entries, so that all arrays exceed the
caches equally; then by the number of 3×3 components, from one to ten million.
"""

from typing import Any

import jax
import numpy as np

import fgsgd_jax as fg
from fgsgd_jax.experiments.bench import formatting, timing
from fgsgd_jax.experiments.bench.sections import Tables

from .arrays import random_array
from .settings import BenchmarkSettings

SIZES = ((3, 3), (5, 5), (7, 7), (11, 11), (9, 64), (64, 64), (576, 64), (4608, 512))
ENTRIES = 4608 * 512  # one component of the largest size
LANES = tuple(10**power for power in range(8))
MANIFOLDS: dict[str, fg.Manifold] = {
    "sphere": fg.Sphere(),
    "oblique": fg.Oblique(),
    "stiefel": fg.Stiefel(),
}
STEP = 1e-2  # scales the tangent vectors that are retracted


def measure(settings: BenchmarkSettings) -> list[dict[str, Any]]:
    """Times the verbs at every size and at every number of components."""
    # A small --components, as in the tests, also limits the sizes.
    entries = min(ENTRIES, 9 * settings.components)
    by_size = [
        ("by size", rows, columns, entries // (rows * columns))
        for rows, columns in SIZES
        if rows * columns <= entries
    ]
    by_lanes = [("by number", 3, 3, lanes) for lanes in LANES if lanes <= settings.components]
    content = []
    with timing.progress(len(by_size + by_lanes) * len(MANIFOLDS), "verbs") as bar:
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
        name: timing.clock(lambda verb=verb, given=given: verb(*given))
        for name, (verb, *given) in run.items()
    }
    seconds = timing.in_turn(clocks, rounds)
    figures: dict[str, Any] = {"pass_seconds": float(np.median(seconds["pass"]))}
    for name in ("to_tangent", "retract", "residual"):
        ratio = timing.ratio_of(seconds[name], seconds["pass"])
        figures[name] = {
            "seconds": float(np.median(seconds[name])),
            "ratio": ratio.ratio,
            "ratio_quartiles": [ratio.low, ratio.high],
        }
    return figures


def _points(manifold: fg.Manifold, shape: tuple[int, ...]) -> jax.Array:
    """Up to 100 random points, repeated: drawing ten million would take long."""
    *point, lanes = shape
    few = manifold.random(jax.random.key(0), (*point, min(lanes, 100)))
    return jax.numpy.take(few, np.arange(lanes) % few.shape[-1], axis=-1)


def tables(content: list[dict[str, Any]]) -> Tables:
    """The figures for people to read."""
    by_size: formatting.Columns = [
        ("component", lambda row: f"{row['rows']}×{row['columns']}"),
        ("number", lambda row: f"{row['components']:,}"),
    ]
    by_number: formatting.Columns = [("3×3 components", lambda row: f"{row['components']:,}")]
    verbs = [
        column
        for verb in ("to_tangent", "retract", "residual")
        for column in formatting.ratio_columns(verb, lambda row, verb=verb: row[verb])
    ]
    one_pass = ("one pass", lambda row: formatting.duration(row["pass_seconds"]))
    return [
        formatting.table(
            f"time of a verb / time of one pass x − 0.1·g, {block}",
            [*first, *verbs, one_pass],
            formatting.blocks_by("manifold", [row for row in content if row["block"] == block]),
        )
        for block, first in (("by size", by_size), ("by number", by_number))
    ]
