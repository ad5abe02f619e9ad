"""How long an update takes to trace and to compile, and that neither grows with the groups.

Everything JAX remembers of earlier contestants is forgotten before each, so every round is a first
time. The numbers of instructions are those of the optimized program.
"""

from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
import optax
import rich.table

import fgsgd_jax as fg
from fgsgd_jax.experiments.bench import _timing, networks, report
from fgsgd_jax.experiments.bench._settings import RATE, Settings, normal, placed, update_of

ROUNDS = 3  # at most: a round takes seconds, and its spread is small
LEAVES = 480
FEW_SHAPES = ((3, 3, 16, 16), (3, 3, 16, 32), (3, 3, 32, 32), (32,))
GROUPS = (4, 4096)

Case = tuple[str, str, networks.Shapes, Callable[[Any], tuple[optax.GradientTransformation, Any]]]
"""Block, label, shapes of the weights, and the function params → (transformation, start)."""


def measure(settings: Settings) -> list[dict[str, Any]]:
    """Times first traces and first compilations."""
    return measure_cases(list(cases_of(settings)), min(ROUNDS, settings.rounds))


def measure_cases(cases: list[Case], rounds: int) -> list[dict[str, Any]]:
    """The figures of cases, in turn; a block begins with what its ratios are taken over."""
    ready = []
    for _, _, shapes, optimizer in cases:
        params = normal(shapes, 0)
        tx, start = optimizer(params)
        ready.append((update_of(tx), (start, tx.init(start)), params))
    steps: list[list[_timing.Fed]] = [[] for _ in cases]
    with _timing.progress(len(cases) * rounds, "compilation") as bar:
        for _ in range(rounds):
            for position, (update, carried, gradient) in enumerate(ready):
                jax.clear_caches()
                steps[position].append(_timing.Fed(update, carried, gradient))
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
        yardstick = next(other for other in rows if other["block"] == row["block"])
        for what in ("trace", "compile"):
            row[f"{what}_ratio"] = row[f"{what}_seconds"] / yardstick[f"{what}_seconds"]
    return rows


def cases_of(settings: Settings) -> Iterator[Case]:
    """Everything that is compiled."""

    def fgsgd(scheme, manifolds, groups=None):
        def optimizer(params):
            spec, start = placed(params, scheme, manifolds, groups=groups)
            return fg.fgsgd(RATE, spec), start

        return optimizer

    def adamw(params):
        return optax.adamw(RATE), params

    every = ("sphere", "oblique", "stiefel")
    kernels = networks.shapes_of("resnet18-3x3", settings.width)
    block = f"resnet18-3x3, {len(kernels)} leaves"
    yield block, "optax.adamw", kernels, adamw
    for names in (*((name,) for name in every), every):
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


def _instructions(step: _timing.Fed) -> int:
    text: str = step.compiled.as_text()  # pyright: ignore[reportFunctionMemberAccess]
    return sum(" = " in line for line in text.splitlines())


def tables(content: list[dict[str, Any]]) -> list[str | rich.table.Table]:
    """The figures for people to read."""
    columns: report.Columns = [
        ("update", lambda row: row["label"]),
        ("trace", lambda row: report.duration(row["trace_seconds"])),
        ("÷ first", lambda row: report.short(row["trace_ratio"])),
        ("compile", lambda row: report.duration(row["compile_seconds"])),
        ("÷ first", lambda row: report.short(row["compile_ratio"])),
        ("instructions", lambda row: f"{row['instructions']:,}"),
    ]
    title = "first trace and compilation of an update"
    return [report.table(title, columns, report.blocks_by("block", content))]
