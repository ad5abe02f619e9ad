"""What a whole update costs, next to one of `optax.sgd` with momentum and one of `optax.adamw`.

Weights and state are donated and fed back, the gradient stays as it is. One block of contestants
after the other, each with yardsticks of its own, so that only the weights and states of one are
alive.
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import optax
import rich.table

import fgsgd_jax as fg
from fgsgd_jax.experiments.bench import _timing, networks, report
from fgsgd_jax.experiments.bench._settings import (
    MOMENTUM,
    RATE,
    Settings,
    normal,
    placed,
    update_of,
)
from fgsgd_jax.experiments.config import Scheme, spelled


@dataclasses.dataclass(frozen=True, kw_only=True)
class Contestant:
    """An optimizer to be timed.

    Attributes:
        label: What the table calls it.
        optimizer: The function that makes it.
        arrays: How many arrays of the size of the weights an update has to read or write.
        momentum: Its decay, or None.
        scheme: For FG-SGD only.
        manifolds: For FG-SGD only.
        seed: Of the groups drawn.
    """

    label: str
    optimizer: str
    arrays: int
    momentum: float | None = None
    scheme: Scheme | None = None
    manifolds: tuple[str, ...] = ()
    seed: int = 0

    def prepare(self, params: Any) -> tuple[optax.GradientTransformation, Any]:
        """The transformation, and weights such as these that it can start from."""
        if self.optimizer == "optax.adamw":
            return optax.adamw(RATE), params
        if self.scheme is None:
            return optax.sgd(RATE, momentum=self.momentum), params
        spec, params = placed(params, self.scheme, self.manifolds, seed=self.seed)
        return fg.fgsgd(RATE, spec, momentum=self.momentum), params

    def step(self, params: Any, gradient: Any) -> _timing.Fed:
        """Its compiled update, and the weights and state it works on."""
        tx, start = self.prepare(params)
        return _timing.Fed(update_of(tx), (start, tx.init(start)), gradient)


# Reads of weights, gradient and state, and writes of weights and state. FG-SGD cannot step before
# it has the norm of a group, so it reads its tangent vectors, or what makes them, twice.
SGD = Contestant(
    label=f"optax.sgd, momentum {MOMENTUM}", optimizer="optax.sgd", arrays=5, momentum=MOMENTUM
)
ADAMW = Contestant(label="optax.adamw", optimizer="optax.adamw", arrays=7)
PLAIN = Contestant(label="optax.sgd", optimizer="optax.sgd", arrays=3)


def contestants(
    manifolds: Sequence[tuple[str, ...]], schemes: Sequence[Scheme], momentum: str
) -> dict[str, list[Contestant]]:
    """The contestants of every block, beside the two yardsticks."""
    once: list[Scheme] = list(dict.fromkeys(schemes))
    chosen: Scheme = "PO" if "PO" in once else once[0]
    entries: list[tuple[Scheme, float | None, int]] = [(scheme, None, 5) for scheme in once]
    for scheme in once:
        if momentum == "all" or (momentum == "one" and scheme == chosen):
            entries.append((scheme, MOMENTUM, 7))
    blocks: dict[str, list[Contestant]] = {"no manifold": [PLAIN]}
    for names in dict.fromkeys(manifolds):
        blocks[spelled(names)] = [
            Contestant(
                label=f"fgsgd {scheme}" + (f", momentum {decay}" if decay else ""),
                optimizer="fgsgd",
                arrays=arrays,
                momentum=decay,
                scheme=scheme,
                manifolds=names,
                # Each its own, so that JAX finds nothing traced by an earlier one.
                seed=seed,
            )
            for seed, (scheme, decay, arrays) in enumerate(entries)
        ]
    return blocks


def measure(settings: Settings) -> list[dict[str, Any]]:
    """The figures of every network, asked for once."""
    blocks = contestants(settings.manifolds, settings.schemes, settings.momentum)
    total = len(settings.networks) * sum(len(block) + 2 for block in blocks.values())
    content = []
    with _timing.progress(total, "updates") as bar:
        for network in dict.fromkeys(settings.networks):
            shapes = networks.shapes_of(network, settings.width)
            rows = []
            for name, block in blocks.items():
                bar.set_description(f"updates, {network}, {name}")
                rows += [{"block": name, **row} for row in _block(block, shapes, settings, bar)]
            kernels = {name: shape for name, shape in shapes.items() if networks.is_kernel(name)}
            content.append(
                {
                    "network": network,
                    "leaves": len(shapes),
                    "weights": _count(shapes),
                    "kernels": len(kernels),
                    "kernel_weights": _count(kernels),
                    "contestants": rows,
                }
            )
    return content


def _count(shapes: networks.Shapes) -> int:
    return sum(map(math.prod, shapes.values()))


def _block(
    block: Sequence[Contestant], shapes: networks.Shapes, settings: Settings, bar
) -> list[dict[str, Any]]:
    """Times contestants against both yardsticks, in turn."""
    params, gradient = normal(shapes, 0), normal(shapes, 1)
    largest = max(leaf.nbytes for leaf in params.values())
    everyone = (SGD, ADAMW, *block)
    steps = {}
    for contestant in everyone:
        steps[contestant.label] = contestant.step(params, gradient)
        bar.update()
    del params
    clocks = {label: _timing.clock(step) for label, step in steps.items()}
    seconds = _timing.in_turn(clocks, settings.rounds)
    rows = []
    for contestant in everyone:
        label, step = contestant.label, steps[contestant.label]
        over_sgd, over_adamw = (
            _timing.ratio_of(seconds[label], seconds[other.label]) for other in (SGD, ADAMW)
        )
        beside, anew = step.memory()
        rows.append(
            {
                **dataclasses.asdict(contestant),
                "ratio": over_sgd.ratio,
                "ratio_quartiles": [over_sgd.low, over_sgd.high],
                "ratio_to_adamw": over_adamw.ratio,
                "ratio_to_adamw_quartiles": [over_adamw.low, over_adamw.high],
                "limit": contestant.arrays / SGD.arrays,
                "seconds": float(np.median(seconds[label])),
                "sgd_seconds": float(np.median(seconds[SGD.label])),
                "adamw_seconds": float(np.median(seconds[ADAMW.label])),
                "trace_seconds": step.trace_seconds,
                "compile_seconds": step.compile_seconds,
                "temporary_bytes": beside,
                "memory": None if beside is None else beside / largest,
                "bytes_not_taken_over": anew,
            }
        )
    return rows


COLUMNS: report.Columns = [
    ("update", lambda row: row["label"]),
    ("÷ sgd", lambda row: report.short(row["ratio"])),
    (
        "middle half",
        lambda row: "" if row["label"] == SGD.label else report.spread(*row["ratio_quartiles"]),
    ),
    ("limit", lambda row: f"{row['limit']:.1f}"),
    ("÷ adamw", lambda row: report.short(row["ratio_to_adamw"])),
    ("median", lambda row: report.duration(row["seconds"])),
    ("compile", lambda row: f"{row['trace_seconds'] + row['compile_seconds']:.1f} s"),
    ("memory", lambda row: report.short(row["memory"])),
    ("copied", lambda row: report.count(row["bytes_not_taken_over"], "B")),
]


def tables(content: list[dict[str, Any]]) -> list[str | rich.table.Table]:
    """The figures for people to read."""
    told: list[str | rich.table.Table] = []
    for network in content:
        told.append(_headline(network))
        blocks = report.blocks_by("block", network["contestants"])
        told.append(report.table(f"time of an update / that of {SGD.label}", COLUMNS, blocks))
    return told


def _headline(network: dict[str, Any]) -> str:
    if network["leaves"] == network["kernels"]:
        what = f"{network['kernels']} kernels, all on manifolds and no other leaves"
    else:
        what = (
            f"{network['leaves']} leaves, of which {network['kernels']} kernels with "
            f"{network['kernel_weights']:,} weights on manifolds"
        )
    return f"{network['network']}: {network['weights']:,} weights in {what}"
