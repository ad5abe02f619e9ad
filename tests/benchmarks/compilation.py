"""The time to trace and to compile an update, also by the number of groups.

JAX's caches are cleared before each contestant, so that it traces and compiles everything in every
round. Instructions are counted in the optimized program.
"""

from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
import optax

import fgsgd_jax as fg
from fgsgd_jax.experiments.bench import formatting, networks, timing
from fgsgd_jax.experiments.bench.config import RATE, Settings
from fgsgd_jax.experiments.bench.sections import Tables
from fgsgd_jax.experiments.bench.weights import normal, on_manifolds, update_of

ROUNDS = 3  # at most: a round takes seconds, and the times vary little
LEAVES = 480
FEW_SHAPES = ((3, 3, 16, 16), (3, 3, 16, 32), (3, 3, 32, 32), (32,))
GROUPS = (4, 4096)

Case = tuple[str, str, networks.Shapes, Callable[[Any], tuple[optax.GradientTransformation, Any]]]
"""Block, label, shapes of the weights, and a function `params -> (transformation, start)`."""


def measure(settings: Settings) -> list[dict[str, Any]]:
    """Times the tracing and compilation of every case."""
    return measure_cases(list(cases_of(settings)), min(ROUNDS, settings.rounds))


def measure_cases(cases: list[Case], rounds: int) -> list[dict[str, Any]]:
    """Times cases in turn. The first case of a block is the baseline of its ratios.

    Args:
        cases: What to trace and compile.
        rounds: How often each case is compiled.
    """
    ready = []
    for _, _, shapes, optimizer in cases:
        params = normal(shapes, 0)
        tx, start = optimizer(params)
        ready.append((update_of(tx), (start, tx.init(start)), params))
    steps: list[list[timing.Iterated]] = [[] for _ in cases]
    with timing.progress(len(cases) * rounds, "compilation") as bar:
        for _ in range(rounds):
            for position, (update, carried, gradient) in enumerate(ready):
                jax.clear_caches()
                steps[position].append(timing.Iterated(update, carried, gradient))
                bar.update()
    rows = []
    for (block, label, shapes, _), taken in zip(cases, steps, strict=True):
        rows.append(
            {
                "block": block,
                "label": label,
                "leaves": len(shapes),
                "trace_seconds": float(np.median([step.trace_seconds for step in taken])),
                "compile_seconds": float(np.median([step.compile_seconds for step in taken])),
                "instructions": _instructions(taken[0]),
            }
        )
    for row in rows:
        baseline = next(other for other in rows if other["block"] == row["block"])
        for what in ("trace", "compile"):
            row[f"{what}_ratio"] = row[f"{what}_seconds"] / baseline[f"{what}_seconds"]
    return rows


def cases_of(settings: Settings) -> Iterator[Case]:
    """All cases: networks, manifolds, many leaves, few and many groups."""

    def fgsgd(scheme, names, groups=None):
        def optimizer(params):
            spec, start = on_manifolds(params, scheme, names, groups=groups)
            return fg.fgsgd(RATE, spec), start

        return optimizer

    def adamw(params):
        return optax.adamw(RATE), params

    manifolds = ("sphere", "oblique", "stiefel")
    kernels = networks.shapes_of("resnet18-3x3", settings.width)
    block = f"resnet18-3x3, {len(kernels)} leaves"
    yield block, "optax.adamw", kernels, adamw
    for names in (*((name,) for name in manifolds), manifolds):
        yield block, f"fgsgd PO, {'+'.join(names)}", kernels, fgsgd("PO", names)

    few = {
        f"layer{leaf}/{'kernel' if leaf % len(FEW_SHAPES) < 3 else 'bias'}": FEW_SHAPES[
            leaf % len(FEW_SHAPES)
        ]
        for leaf in range(LEAVES)
    }
    block = f"{LEAVES} leaves of {len(FEW_SHAPES)} shapes"
    yield block, "optax.adamw", few, adamw
    yield block, "fgsgd PO, sphere", few, fgsgd("PO", ("sphere",))

    side = max(64, round(256 * settings.width))  # room for 4,096 components
    one = {"kernel": (3, 3, side, side)}
    block = f"one kernel, 3×3×{side}×{side}, PIO"
    for groups in GROUPS:
        yield block, f"fgsgd PIO, sphere, {groups:,} groups", one, fgsgd("PIO", ("sphere",), groups)


def _instructions(step: timing.Iterated) -> int:
    text: str = step.compiled.as_text()  # pyright: ignore[reportFunctionMemberAccess]
    return sum(" = " in line for line in text.splitlines())


def tables(content: list[dict[str, Any]]) -> Tables:
    """The figures for people to read."""
    columns: formatting.Columns = [
        ("update", lambda row: row["label"]),
        ("trace", lambda row: formatting.duration(row["trace_seconds"])),
        ("÷ first", lambda row: formatting.short(row["trace_ratio"])),
        ("compile", lambda row: formatting.duration(row["compile_seconds"])),
        ("÷ first", lambda row: formatting.short(row["compile_ratio"])),
        ("instructions", lambda row: f"{row['instructions']:,}"),
    ]
    title = "first trace and compilation of an update"
    return [formatting.table(title, columns, formatting.blocks_by("block", content))]
