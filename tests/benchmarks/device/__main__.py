"""The command `python -m tests.benchmarks.device`."""

import importlib.metadata
import os
import platform
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Annotated, Any

# PyTorch needs memory of the same device. Read when JAX first uses it.
os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
# Threads of BLAS would wait for the cores on which programs are compiled. Read by NumPy.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

from cyclopts import Parameter

from fgsgd_jax import kernels
from fgsgd_jax.experiments import cli
from fgsgd_jax.experiments.bench import environment, sections

from .. import console
from . import __doc__ as description
from . import cases, checks, peers, results, updates

PROGRAM = "python -m tests.benchmarks.device"
SMOKE_WIDTH = 1 / 16


def main(argv: Sequence[str] | None = None) -> int:
    """Measures as the arguments say, prints tables, and returns the exit code."""
    return console.run(PROGRAM, str(description), _measure, argv)


def _measure(
    *,
    out: Path,
    seconds: float = 300.0,
    rounds: int = 9,
    only: tuple[str, ...] = (),
    width: float = 1.0,
    smoke: bool = False,
    pallas: bool | None = None,
    again: bool = False,
    name: str = "results",
    into: Path | None = None,
    words: Annotated[Sequence[str], Parameter(parse=False)] = (),
) -> None:
    """Measures updates on the device that JAX finds.

    Args:
        out: The folder for the results.
        seconds: After this time no program is begun.
        rounds: How often each program is timed.
        only: Measure only blocks whose name contains one of these; "checks" and "peers" are two
            more names.
        width: Multiply numbers of channels and the sides of matrices.
        smoke: Measure two updates of small weights, to see that the program runs.
        pallas: Step by the kernels of Pallas of `fgsgd_jax.kernels`; by default if the device can.
        again: Measure nothing; make table and figure again from the rows in the folder.
        name: The name of the files: <name>.jsonl with the rows, <name>.md and <name>.png.
        into: Write the table into this Markdown file instead, below the link to the figure.
        words: The arguments, as they were given.
    """
    command = shlex.join([*PROGRAM.split(), *words])
    interrupted = False
    kernels.PALLAS = pallas
    if not again:
        wanted = _wanted(only, [block.name for block in cases.blocks(width)])
        out.mkdir(parents=True, exist_ok=True)
        (out / f"{name}.jsonl").unlink(missing_ok=True)
        # Not left at once at Ctrl-C, so that table and figure are still written.
        before = signal.signal(signal.SIGINT, signal.default_int_handler)
        try:
            for row in _rows(seconds, rounds, wanted, SMOKE_WIDTH if smoke else width, smoke):
                results.append(out / f"{name}.jsonl", row)
                print(_line(row), file=sys.stderr, flush=True)
        except KeyboardInterrupt:
            interrupted = True
        finally:
            signal.signal(signal.SIGINT, before)
    console = sections.new_console()
    for table in results.write(out, name, command, into):
        console.print(table)
    if interrupted:
        raise KeyboardInterrupt  # the exit code, and the line that says so


def _wanted(only: tuple[str, ...], blocks: list[str]) -> Callable[[str], bool]:
    """Whether a name is to be measured.

    Raises:
        UsageError: If one of `only` is part of no name.
    """
    names = ["checks", *blocks, "peers"]
    for part in only:
        if not any(part in name for name in names):
            raise cli.UsageError(
                f"--only: {part!r} is part of no name; the names are {'; '.join(names)}."
            )
    return lambda name: not only or any(part in name for part in only)


def _rows(
    seconds: float, rounds: int, wanted: Callable[[str], bool], width: float, smoke: bool
) -> Iterator[dict]:
    """All rows, each as soon as it is known."""
    end = time.monotonic() + seconds
    yield _about(rounds)
    pool = ThreadPoolExecutor(environment.cores())
    baseline = None
    try:
        sets = cases.SETS[:1] if smoke else cases.SETS
        checked = checks.Checks(pool, sets) if wanted("checks") else None
        blocks = [block for block in _blocks(width, smoke) if wanted(block.name)]
        for row in updates.rows(checked, updates.updates_of(blocks), pool, rounds, end):
            if row["block"] == cases.SMALL and row["label"] == cases.SGD.label:
                baseline = row.get("seconds")
            yield row
        if wanted("peers") and time.monotonic() < end:
            yield from peers.measure(next(cases.blocks(width)).shapes, baseline, rounds)
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def _blocks(width: float, smoke: bool) -> Iterator[cases.Block]:
    if not smoke:
        yield from cases.blocks(width)
        return
    block = next(cases.blocks(width))
    few = dict(list(block.shapes.items())[:2])
    ours = next(case for case in block.cases if case.label.startswith("fgsgd PO, sphere"))
    yield cases.Block(block.name, few, block.dtype, (cases.SGD, ours))


def _about(rounds: int) -> dict[str, Any]:
    """The row of the device and the versions."""
    import jax

    packages = ("jax", "jaxlib", "optax", "numpy")
    versions = {name: importlib.metadata.version(name) for name in packages}
    return {
        "kind": "device",
        "device": jax.devices()[0].device_kind,
        "driver": _driver(),
        "cores": environment.cores(),
        "versions": {**versions, "python": platform.python_version()},
        "rounds": rounds,
    }


def _driver() -> str:
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def _line(row: dict[str, Any]) -> str:
    figure = next((f"{key} {row[key]:.3g}" for key in ("ratio", "error") if row.get(key)), "")
    return " ".join(
        map(
            str,
            filter(
                None, (row["kind"], row.get("block"), row.get("label"), figure, row.get("reason"))
            ),
        )
    )


if __name__ == "__main__":
    cli.exit_after(main)
