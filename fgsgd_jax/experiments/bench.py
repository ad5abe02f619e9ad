"""Measure what an update costs, next to one of optax.sgd with momentum.

The section updates. An update is tx.update and optax.apply_updates under one jax.jit, on the
weights of all 3×3 kernels of a ResNet-18. Weights and state are donated and fed back; the gradient
stays as it is. Contestants run in turn, in a new order each round, each waited for, all warm. A
ratio is that of the medians over the rounds; the middle half is where the ratios of the single
rounds lie, without the lowest and the highest quarter (where the machine is busy with other work,
the ratio of the medians may lie outside). The limit is the ratio if only memory traffic took time:
the arrays of the size of the weights that have to be read or written, over the 5 of SGD with
momentum. Memory is what the compiled update needs beside weights, state and gradient, over the
largest weight. On an accelerator, what the host needs to start an update is part of its time.

The section paths. Training steps of Path-SGD over those of SGD on the same network and batch.
"""

import argparse
import dataclasses
import json
import os
import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import rich.box
import rich.console
import rich.table
from tqdm import tqdm

import fgsgd_jax as fg
from fgsgd_jax.experiments import _terminal, bench_paths
from fgsgd_jax.experiments._terminal import UsageError
from fgsgd_jax.experiments.config import MANIFOLDS, SCHEMES, Scheme, spelled

# The stages of a ResNet-18: channels, those of the stage before, and 3×3 convolutions.
STAGES = ((64, 64, 4), (128, 64, 4), (256, 128, 4), (512, 256, 4))
SECTIONS = ("updates", "paths")
MOMENTUM = 0.9
RATE = 1e-3
DEFAULT_MANIFOLDS = (("sphere",), ("oblique",), ("stiefel",), ("sphere", "oblique", "stiefel"))
DEFAULT_SCHEMES: tuple[Scheme, ...] = ("PI", "PO", "PIO")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of this command to its parser."""
    parser.add_argument(
        "--sections",
        help=f"what to measure, out of {', '.join(SECTIONS)} (default: all)",
        type=_terminal.one_of(SECTIONS),
        nargs="+",
        default=SECTIONS,
        metavar="SECTION",
    )
    parser.add_argument(
        "--manifolds",
        help="sets of manifolds for FG-SGD, each joined by +, out of sphere (sp), oblique (ob), "
        "stiefel (st), euclidean (euc) (default: "
        f"{' '.join(map(spelled, DEFAULT_MANIFOLDS))})",
        type=_terminal.sum_of(MANIFOLDS),
        nargs="+",
        default=DEFAULT_MANIFOLDS,
        metavar="A+B",
    )
    parser.add_argument(
        "--schemes",
        help=f"schemes for FG-SGD, out of {', '.join(SCHEMES)} (default: "
        f"{' '.join(DEFAULT_SCHEMES)})",
        type=_terminal.one_of(SCHEMES),
        nargs="+",
        default=DEFAULT_SCHEMES,
        metavar="SCHEME",
    )
    parser.add_argument(
        "--momentum",
        help=f"under which schemes FG-SGD also runs with momentum {MOMENTUM}: none, one (PO, or "
        "else the first of --schemes), or all (default: one)",
        type=_terminal.one_of(("none", "one", "all")),
        default="one",
        metavar="none|one|all",
    )
    parser.add_argument(
        "--width",
        help="multiply the numbers of channels by F (default: 1)",
        type=_terminal.real_number(1 / 64),
        default=1.0,
        metavar="F",
    )
    parser.add_argument(
        "--rounds",
        help="how often each contestant is timed (default: 11)",
        type=_terminal.whole_number(1),
        default=11,
        metavar="N",
    )
    parser.add_argument(
        "--json", help="write the figures to this file, too", type=Path, metavar="PATH"
    )


def main(args: argparse.Namespace) -> int:
    """Measures as the arguments say, prints a table, and returns the exit code."""
    if args.json and (args.json.is_dir() or not args.json.absolute().parent.is_dir()):
        raise UsageError(f"--json {args.json} is not a file in a folder that exists.")
    shapes = kernel_shapes(args.width)
    environment = _environment(shapes)
    console = rich.console.Console()
    console.print(
        f"{environment['device']}, {environment['cores']} CPU cores, load {_load()}, "
        f"JAX {environment['jax']}, {args.rounds} rounds",
        highlight=False,
    )
    started = time.perf_counter()
    content = {**environment, "width": args.width, "rounds": args.rounds}
    if "updates" in args.sections:
        figures = _measure_updates(args, shapes)
        content["contestants"] = [row for rows in figures.values() for row in rows]
        console.print(
            f"{environment['weights']:,} weights, {environment['components']:,} components in "
            f"{environment['kernels']} kernels",
            highlight=False,
        )
        _print_table(console, figures)
    if "paths" in args.sections:
        costs = [bench_paths.measure(name, args.rounds) for name in tqdm(bench_paths.NETWORKS)]
        content["paths"] = [cost._asdict() for cost in costs]
        _print_paths(console, costs)
    console.print(
        f"{time.perf_counter() - started:.0f} s in all, load at the end {_load()}", highlight=False
    )
    if args.json:
        try:
            args.json.write_text(json.dumps(content, indent=2) + "\n")
        except OSError as error:
            raise UsageError(f"{args.json} cannot be written ({error}).") from error
    return 0


def _measure_updates(args: argparse.Namespace, shapes) -> dict[str, list[dict[str, Any]]]:
    blocks = contestants(args.manifolds, args.schemes, args.momentum)
    # One block after the other, each against a yardstick of its own, so that only the weights and
    # states of one are alive.
    total = sum(len(block) + 1 for block in blocks.values())
    with tqdm(total=total, unit=" contestants", disable=None) as bar:
        figures = {}
        for name, block in blocks.items():
            bar.set_description(name)
            figures[name] = measure(block, shapes, args.rounds, bar.update)
    return figures


# --- who runs ------------------------------------------------------------------------------------


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
        known = {
            "sphere": fg.Sphere,
            "oblique": fg.Oblique,
            "stiefel": fg.Stiefel,
            "euclidean": fg.Euclidean,
        }
        request = fg.pom(self.scheme, tuple(known[name]() for name in self.manifolds))
        spec = fg.collection(params, default=request, seed=self.seed)
        params = fg.initialize(jax.random.key(self.seed), params, spec)
        return fg.fgsgd(RATE, spec, momentum=self.momentum), params


# Reads of weights, gradient and state, and writes of weights and state. FG-SGD cannot step before
# it has the norm of a group, so it reads its tangent vectors, or what makes them, twice.
YARDSTICK = Contestant(
    label=f"optax.sgd, momentum {MOMENTUM}", optimizer="optax.sgd", arrays=5, momentum=MOMENTUM
)
RIVALS = (
    Contestant(label="optax.sgd", optimizer="optax.sgd", arrays=3),
    Contestant(label="optax.adamw", optimizer="optax.adamw", arrays=7),
)


def contestants(
    manifolds: Sequence[tuple[str, ...]], schemes: Sequence[Scheme], momentum: str
) -> dict[str, list[Contestant]]:
    """The contestants of every block, beside the yardstick."""
    once: list[Scheme] = list(dict.fromkeys(schemes))
    chosen: Scheme = "PO" if "PO" in once else once[0]
    entries: list[tuple[Scheme, float | None, int]] = [(scheme, None, 5) for scheme in once]
    for scheme in once:
        if momentum == "all" or (momentum == "one" and scheme == chosen):
            entries.append((scheme, MOMENTUM, 7))
    blocks: dict[str, list[Contestant]] = {"no manifold": list(RIVALS)}
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


def kernel_shapes(width: float) -> dict[str, tuple[int, ...]]:
    """The shapes of the 3×3 kernels of a ResNet-18, by name."""

    def scaled(channels: int) -> int:
        return max(1, round(width * channels))

    return {
        f"stage{stage}/conv{layer}": (3, 3, scaled(before if layer == 1 else own), scaled(own))
        for stage, (own, before, layers) in enumerate(STAGES, start=1)
        for layer in range(1, layers + 1)
    }


# --- measuring -----------------------------------------------------------------------------------


class Runner:
    """A contestant ready to run: its compiled update, and the weights and state it works on."""

    def __init__(self, contestant: Contestant, params: Any, gradient: Any):
        tx, start = contestant.prepare(params)

        def update(params, state, gradient):
            updates, state = tx.update(gradient, state, params)
            return optax.apply_updates(params, updates), state

        # Copies, for what is donated must not be another's as well.
        self.donated = jax.tree.map(jnp.copy, (start, tx.init(start)))
        self.gradient = gradient
        begun = time.perf_counter()
        lowered = jax.jit(update, donate_argnums=(0, 1)).lower(*self.donated, gradient)
        self.trace_seconds = time.perf_counter() - begun
        begun = time.perf_counter()
        self.update: Callable[..., Any] = lowered.compile()
        self.compile_seconds = time.perf_counter() - begun
        largest = max(leaf.nbytes for leaf in jax.tree.leaves(params))
        memory = self.update.memory_analysis()  # None where the device does not tell
        self.memory = memory and memory.temp_size_in_bytes / largest
        jax.block_until_ready(self.donated)

    def run(self) -> float:
        """One update; returns its seconds."""
        begun = time.perf_counter()
        self.donated = jax.block_until_ready(self.update(*self.donated, self.gradient))
        return time.perf_counter() - begun


def measure(
    block: Sequence[Contestant],
    shapes: Mapping[str, tuple[int, ...]],
    rounds: int,
    progress: Callable[[], Any],
) -> list[dict[str, Any]]:
    """Times contestants against the yardstick, in turn.

    Args:
        block: The contestants beside the yardstick.
        shapes: The shapes of the weights, by name.
        rounds: How often each is timed.
        progress: Called once for each that is ready.

    Returns:
        The figures of the yardstick and of every contestant.
    """
    params, gradient = (dict(_normal(shapes, seed)) for seed in (0, 1))
    everyone = (YARDSTICK, *block)
    runners = []
    for contestant in everyone:
        runners.append(Runner(contestant, params, gradient))
        progress()
    del params
    for runner in runners:  # the first run touches memory for the first time
        runner.run()
    seconds = np.empty((len(runners), rounds))
    order = list(range(len(runners)))
    shuffle = random.Random(0).shuffle
    for turn in range(rounds):
        shuffle(order)
        for position in order:
            seconds[position, turn] = runners[position].run()
    medians = np.median(seconds, axis=1)
    return [
        {
            **dataclasses.asdict(contestant),
            "ratio": medians[position] / medians[0],
            "ratio_quartiles": np.quantile(seconds[position] / seconds[0], (0.25, 0.75)).tolist(),
            "limit": contestant.arrays / YARDSTICK.arrays,
            "seconds": medians[position],
            "yardstick_seconds": medians[0],
            "trace_seconds": runners[position].trace_seconds,
            "compile_seconds": runners[position].compile_seconds,
            "memory": runners[position].memory,
        }
        for position, contestant in enumerate(everyone)
    ]


def _normal(shapes: Mapping[str, tuple[int, ...]], seed: int) -> Iterator[tuple[str, jax.Array]]:
    keys = jax.random.split(jax.random.key(seed), len(shapes))
    for (name, shape), key in zip(shapes.items(), keys, strict=True):
        yield name, 0.01 * jax.random.normal(key, shape)


# --- telling -------------------------------------------------------------------------------------


def _environment(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Any]:
    weights = sum(int(np.prod(shape)) for shape in shapes.values())
    return {
        "device": jax.devices()[0].device_kind,
        "cores": os.cpu_count(),
        "jax": jax.__version__,
        "kernels": len(shapes),
        "weights": weights,
        "components": weights // 9,
    }


def _load() -> str:
    return f"{os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else "unknown"


def _short(number: float) -> str:
    return f"{number:.2f}" if number < 10 else f"{number:.1f}"


def _print_table(console: rich.console.Console, figures: Mapping[str, Any]) -> None:
    """Prints the figures of all blocks for people to read."""
    title = f"time of an update / that of {YARDSTICK.label}"
    table = rich.table.Table(
        box=rich.box.SIMPLE_HEAD, title=title, title_style="bold", pad_edge=False
    )
    table.add_column("update", no_wrap=True)
    for heading in ("ratio", "middle half", "limit", "median", "compile", "memory"):
        table.add_column(heading, justify="right", no_wrap=True)
    for name, rows in figures.items():
        table.add_row(name, style="bold")
        for row in rows:
            low, high = row["ratio_quartiles"]
            is_yardstick = row["label"] == YARDSTICK.label
            table.add_row(
                f"  {row['label']}",
                _short(row["ratio"]),
                "" if is_yardstick else f"{_short(low)}–{_short(high)}",
                f"{row['limit']:.1f}",
                f"{_short(1e3 * row['seconds'])} ms",
                f"{row['trace_seconds'] + row['compile_seconds']:.1f} s",
                "unknown" if row["memory"] is None else f"{row['memory']:.1f}",
            )
        table.add_section()
    console.print(table)


def _print_paths(console: rich.console.Console, costs: Sequence[bench_paths.PathCost]) -> None:
    title = f"time of a step of Path-SGD / that of SGD, batch {bench_paths.BATCH_SIZE}"
    table = rich.table.Table(
        box=rich.box.SIMPLE_HEAD, title=title, title_style="bold", pad_edge=False
    )
    table.add_column("network", no_wrap=True)
    for heading in ("ratio", "SGD", "Path-SGD"):
        table.add_column(heading, justify="right", no_wrap=True)
    for cost in costs:
        milliseconds = (f"{_short(1e3 * seconds)} ms" for seconds in (cost.sgd, cost.path_sgd))
        table.add_row(f"  {cost.network}", _short(cost.ratio), *milliseconds)
    console.print(table)
