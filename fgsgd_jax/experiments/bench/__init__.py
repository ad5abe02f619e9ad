"""Measure what this library costs, and how accurate it is, next to what else there is.

Contestants run in turn, in a new order each round, each waited for, all warm. A ratio is that of
the medians over the rounds; the middle half is where the ratios of the single rounds lie, without
the lowest and the highest quarter (where the machine is busy with other work, the ratio of the
medians may lie outside). What is faster than 2 ms runs several times in a row. On an accelerator,
what the host needs to start an update is part of its time. To measure on one core, start the
program under `taskset -c 0`.

updates      An update is tx.update and optax.apply_updates under one jax.jit, on all weights of
             a network; by default on the 3×3 kernels of a ResNet-18 alone. Weights and state are
             donated and fed back. The limit is the ratio to SGD with momentum if only memory
             traffic took time: the arrays of the size of the weights that have to be read or
             written, over the 5 of SGD with momentum. Memory is what the compiled update needs
             beside weights, state and gradient, over the largest weight; copied is what it
             writes to new memory instead of that of the old weights and state.
compilation  Tracing and compiling an update; of 480 leaves; of 4 and 4,096 groups.
verbs        to_tangent, retract and residual over one pass x − 0.1·g on the same array, by the
             size of a component and by the number of components.
accuracy     Every fast routine in float32 against NumPy and SciPy in float64.
matrices     Large Stiefel points: the retraction over a QR decomposition, the step over a landing
             step and over optax.contrib.muon; orthonormality after many long steps.
share        How much of a training step of a CIFAR ResNet-20 the update takes.
growth       The time of an update from 10⁴ to 10⁷ components, with a figure.
peers        The same step in other libraries, where they are installed.
paths        Training steps of Path-SGD over those of SGD on the same network and batch.
"""

import argparse
import dataclasses
import importlib
import json
import os
import platform
import time
from pathlib import Path
from typing import Any

from fgsgd_jax.experiments import _terminal
from fgsgd_jax.experiments._terminal import UsageError
from fgsgd_jax.experiments.bench._settings import MOMENTUM, Settings
from fgsgd_jax.experiments.bench.networks import NETWORKS
from fgsgd_jax.experiments.config import MANIFOLDS, SCHEMES, spelled

# Each is a module of this package with `measure(settings)`, which returns what goes into the JSON,
# and `tables(content)`, which shows just that.
SECTIONS = (
    "updates",
    "compilation",
    "verbs",
    "accuracy",
    "matrices",
    "share",
    "growth",
    "peers",
    "paths",
)


PICTURES = (".png", ".pdf", ".svg")

# Columns of what is written to a file: the widest table fits.
WIDTH = 100


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of this command to its parser."""

    def several(flag: str, help: str, type, metavar: str) -> None:
        default = getattr(Settings, flag.removeprefix("--"))
        shown = " ".join(name if isinstance(name, str) else spelled(name) for name in default)
        parser.add_argument(
            flag,
            help=f"{help} (default: {shown})",
            type=type,
            nargs="+",
            default=default,
            metavar=metavar,
        )

    def number(flag: str, help: str, type, metavar: str) -> None:
        default = getattr(Settings, flag.removeprefix("--"))
        parser.add_argument(
            flag, help=f"{help} (default: {default})", type=type, default=default, metavar=metavar
        )

    one_of, whole = _terminal.one_of, _terminal.whole_number
    parser.add_argument(
        "--sections",
        help=f"what to measure, out of {', '.join(SECTIONS)} (default: all)",
        type=one_of(SECTIONS),
        nargs="+",
        default=SECTIONS,
        metavar="SECTION",
    )
    several(
        "--networks",
        f"updates: whose weights, out of {', '.join(NETWORKS)}",
        one_of(NETWORKS),
        "NETWORK",
    )
    several(
        "--manifolds",
        "updates: sets of manifolds for FG-SGD, each joined by +, out of sphere (sp), oblique "
        "(ob), stiefel (st), euclidean (euc)",
        _terminal.sum_of(MANIFOLDS),
        "A+B",
    )
    several(
        "--schemes",
        f"updates: schemes for FG-SGD, out of {', '.join(SCHEMES)}",
        one_of(SCHEMES),
        "SCHEME",
    )
    parser.add_argument(
        "--momentum",
        help=f"updates: under which schemes FG-SGD also runs with momentum {MOMENTUM}: none, one "
        "(PO, or else the first of --schemes), or all (default: one)",
        type=one_of(("none", "one", "all")),
        default="one",
        metavar="none|one|all",
    )
    number(
        "--width",
        "multiply the numbers of channels of networks, and the sides of large matrices, by F",
        _terminal.real_number(1 / 64),
        "F",
    )
    number("--components", "verbs, growth, peers: at most N components at once", whole(1), "N")
    number("--steps", "matrices: so many steps before orthonormality is measured", whole(1), "N")
    number("--rounds", "how often each contestant is timed", whole(1), "N")
    parser.add_argument(
        "--peer-python",
        help="peers: the Python interpreter that has torch and other peers (default: this one)",
        type=Path,
        metavar="PATH",
    )
    parser.add_argument(
        "--figure", help="growth: draw the figure to this file", type=Path, metavar="PATH"
    )
    parser.add_argument(
        "--json", help="write the figures to this file, too", type=Path, metavar="PATH"
    )


def main(args: argparse.Namespace) -> int:
    """Measures as the arguments say, prints tables, and returns the exit code."""
    for flag in ("json", "figure"):
        _require_place(f"--{flag}", getattr(args, flag))
    if args.figure and args.figure.suffix not in PICTURES:
        raise UsageError(f"--figure {args.figure} is none of {', '.join(PICTURES)}.")
    if args.figure and "growth" not in args.sections:
        raise UsageError(f"--figure {args.figure} is drawn by growth; name it in --sections, too.")
    if args.peer_python and not os.access(args.peer_python, os.X_OK):
        raise UsageError(f"--peer-python {args.peer_python} is not a program that can be run.")
    chosen = {field.name: getattr(args, field.name) for field in dataclasses.fields(Settings)}
    settings = Settings(**chosen)

    # Imported only now, so that --help and mistakes answer at once.
    import rich.console

    from fgsgd_jax.experiments.bench import report

    console = rich.console.Console(highlight=False)
    if not console.is_terminal:
        console.width = WIDTH
    content: dict[str, Any] = {
        **_environment(),
        "settings": {
            name: str(value) if isinstance(value, Path) else value for name, value in chosen.items()
        },
    }
    console.print(
        f"{content['device']} ({content['processor']}), {content['cores']} CPU cores, "
        f"load {_shown(content['load'])}, JAX {content['jax']}, Python {content['python']}, "
        f"{settings.rounds} rounds"
    )
    started = time.perf_counter()
    for name in dict.fromkeys(args.sections):
        section = importlib.import_module(f"fgsgd_jax.experiments.bench.{name}")
        content[name] = report.jsonable(section.measure(settings))
        for told in section.tables(content[name]):
            console.print(told)
        if args.json:  # after each section, so that a later one cannot lose it
            _write(args.json, json.dumps(content, indent=2) + "\n")
    console.print(
        f"{time.perf_counter() - started:.0f} s in all, load at the end {_shown(_load())}"
    )
    return 0


def _require_place(flag: str, path: Path | None) -> None:
    if path and (path.is_dir() or not path.absolute().parent.is_dir()):
        raise UsageError(f"{flag} {path} is not a file in a folder that exists.")


def _write(path: Path, text: str) -> None:
    try:
        path.write_text(text)
    except OSError as error:
        raise UsageError(f"{path} cannot be written ({error}).") from error


def _environment() -> dict[str, Any]:
    import jax

    return {
        "device": jax.devices()[0].device_kind,
        "processor": _processor(),
        "cores": cores(),
        "jax": jax.__version__,
        "python": platform.python_version(),
        "load": _load(),
    }


def cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _processor() -> str:
    try:  # Linux, where `platform` knows nothing
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.partition(": ")[2] for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def _load() -> float | None:
    return os.getloadavg()[0] if hasattr(os, "getloadavg") else None


def _shown(load: float | None) -> str:
    return "unknown" if load is None else f"{load:.1f}"
