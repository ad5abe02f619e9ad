"""The cost of a whole update, compared with one of `optax.sgd` with momentum and of `optax.adamw`.

Weights and state are donated and fed back; the gradient stays the same. Contestants are measured in
blocks, each with its own baselines, so that only the weights and states of one block are in memory.
"""

import dataclasses
import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import optax
import rich.table

import fgsgd_jax as fg
from fgsgd_jax.experiments.arguments import Scheme
from fgsgd_jax.experiments.bench import formatting, networks, timing
from fgsgd_jax.experiments.bench.config import MOMENTUM, RATE, Settings
from fgsgd_jax.experiments.bench.weights import normal, on_manifolds, update_of
from fgsgd_jax.experiments.cli import spelled


@dataclasses.dataclass(frozen=True, kw_only=True)
class Contestant:
    """An optimizer to be timed.

    Attributes:
        label: Its name in the table.
        optimizer: The name of the function that makes it.
        arrays: How many arrays of the size of the weights an update must read or write.
        momentum: The decay of its momentum, or None.
        scheme: The scheme of the groups, for FG-SGD only.
        manifolds: The names of the manifolds, for FG-SGD only.
        seed: The seed of the random groups.
    """

    label: str
    optimizer: str
    arrays: int
    momentum: float | None = None
    scheme: Scheme | None = None
    manifolds: tuple[str, ...] = ()
    seed: int = 0

    def prepare(self, params: Any) -> tuple[optax.GradientTransformation, Any]:
        """The transformation, and weights of the same shapes from which it can start."""
        if self.optimizer == "optax.adamw":
            return optax.adamw(RATE), params
        if self.scheme is None:
            return optax.sgd(RATE, momentum=self.momentum), params
        spec, params = on_manifolds(params, self.scheme, self.manifolds, seed=self.seed)
        return fg.fgsgd(RATE, spec, momentum=self.momentum), params

    def step(self, params: Any, gradient: Any) -> timing.Iterated:
        """Its compiled update, with weights and state."""
        tx, start = self.prepare(params)
        return timing.Iterated(update_of(tx), (start, tx.init(start)), gradient)


# `arrays` counts reads of weights, gradient and state, and writes of weights and state. FG-SGD
# needs the norm of a whole group before its step, so it reads weights and gradient twice.
SGD = Contestant(
    label=f"optax.sgd, momentum {MOMENTUM}", optimizer="optax.sgd", arrays=5, momentum=MOMENTUM
)
ADAMW = Contestant(label="optax.adamw", optimizer="optax.adamw", arrays=7)
PLAIN = Contestant(label="optax.sgd", optimizer="optax.sgd", arrays=3)


def contestants(
    manifolds: Sequence[tuple[str, ...]], schemes: Sequence[Scheme], momentum: str
) -> dict[str, list[Contestant]]:
    """The contestants of every block, without the two baselines.

    Args:
        manifolds: Sets of manifolds, one block for each.
        schemes: The schemes of FG-SGD.
        momentum: Which schemes also run with momentum: "none", "one" or "all".
    """
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
                # Different seeds, so that no contestant reuses what JAX traced for another.
                seed=seed,
            )
            for seed, (scheme, decay, arrays) in enumerate(entries)
        ]
    return blocks


def measure(settings: Settings) -> list[dict[str, Any]]:
    """The figures of every network."""
    blocks = contestants(settings.manifolds, settings.schemes, settings.momentum)
    total = len(settings.networks) * sum(len(block) + 2 for block in blocks.values())
    content = []
    with timing.progress(total, "updates") as bar:
        for network in dict.fromkeys(settings.networks):
            shapes = networks.shapes_of(network, settings.width)
            rows = []
            for name, block in blocks.items():
                bar.set_description(f"updates, {network}, {name}")
                figures = _measure_block(block, shapes, settings.rounds, bar)
                rows += [{"block": name, **row} for row in figures]
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


def _measure_block(
    block: Sequence[Contestant], shapes: networks.Shapes, rounds: int, bar
) -> Iterator[dict[str, Any]]:
    """Times contestants and both baselines in turn, and yields the figures of each."""
    params, gradient = normal(shapes, 0), normal(shapes, 1)
    largest = max(leaf.nbytes for leaf in params.values())
    everyone = (SGD, ADAMW, *block)
    steps = {}
    for contestant in everyone:
        steps[contestant.label] = contestant.step(params, gradient)
        bar.update()
    del params
    clocks = {label: timing.clock(step) for label, step in steps.items()}
    seconds = timing.in_turn(clocks, rounds)
    for contestant in everyone:
        yield _figures(contestant, steps[contestant.label], seconds, largest)


def _figures(
    contestant: Contestant, step: timing.Iterated, seconds: dict[str, np.ndarray], largest: int
) -> dict[str, Any]:
    """The figures of one contestant.

    Args:
        contestant: The contestant.
        step: Its compiled update.
        seconds: The times of all contestants by label.
        largest: The bytes of the largest weight.
    """
    own = seconds[contestant.label]
    over_sgd, over_adamw = (
        timing.ratio_of(own, seconds[baseline.label]) for baseline in (SGD, ADAMW)
    )
    temporary, copied = step.memory()
    return {
        **dataclasses.asdict(contestant),
        "ratio": over_sgd.ratio,
        "ratio_quartiles": [over_sgd.low, over_sgd.high],
        "ratio_to_adamw": over_adamw.ratio,
        "ratio_to_adamw_quartiles": [over_adamw.low, over_adamw.high],
        "limit": contestant.arrays / SGD.arrays,
        "seconds": float(np.median(own)),
        "sgd_seconds": float(np.median(seconds[SGD.label])),
        "adamw_seconds": float(np.median(seconds[ADAMW.label])),
        "trace_seconds": step.trace_seconds,
        "compile_seconds": step.compile_seconds,
        "temporary_bytes": temporary,
        "memory": None if temporary is None else temporary / largest,
        "bytes_not_taken_over": copied,
    }


COLUMNS: formatting.Columns = [
    ("update", lambda row: row["label"]),
    ("÷ sgd", lambda row: formatting.short(row["ratio"])),
    (
        "middle half",
        lambda row: "" if row["label"] == SGD.label else formatting.spread(*row["ratio_quartiles"]),
    ),
    ("limit", lambda row: f"{row['limit']:.1f}"),
    ("÷ adamw", lambda row: formatting.short(row["ratio_to_adamw"])),
    ("median", lambda row: formatting.duration(row["seconds"])),
    ("compile", lambda row: f"{row['trace_seconds'] + row['compile_seconds']:.1f} s"),
    ("memory", lambda row: formatting.short(row["memory"])),
    ("copied", lambda row: formatting.count(row["bytes_not_taken_over"], "B")),
]


def tables(content: list[dict[str, Any]]) -> list[str | rich.table.Table]:
    """The figures for people to read: a headline and a table for each network."""
    shown: list[str | rich.table.Table] = []
    for network in content:
        blocks = formatting.blocks_by("block", network["contestants"])
        title = f"time of an update / time of {SGD.label}"
        shown += [_headline(network), formatting.table(title, COLUMNS, blocks)]
    return shown


def _headline(network: dict[str, Any]) -> str:
    if network["leaves"] == network["kernels"]:
        what = f"{network['kernels']} kernels, all on manifolds and no other leaves"
    else:
        what = (
            f"{network['leaves']} leaves, of which {network['kernels']} kernels with "
            f"{network['kernel_weights']:,} weights on manifolds"
        )
    return f"{network['network']}: {network['weights']:,} weights in {what}"
