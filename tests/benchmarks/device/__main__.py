"""The command `python -m tests.benchmarks.device`."""

import importlib.metadata
import os
import platform
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Annotated, Any

# PyTorch needs memory of the same device. Read when JAX first uses it.
os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")

from cyclopts import Parameter

from fgsgd_jax.experiments import cli
from fgsgd_jax.experiments.bench import environment, sections

from . import __doc__ as description
from . import cases, checks, peers, programs, results

PROGRAM = "python -m tests.benchmarks.device"
SMOKE_WIDTH = 1 / 16


def main(argv: Sequence[str] | None = None) -> int:
    """Measures as the arguments say, prints tables, and returns the exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    return cli.exit_code(lambda: _run(arguments))


def _run(argv: list[str]) -> int:
    app = cli.new_app(PROGRAM, help=description)
    app.default(_measure)
    return cli.run(app, argv)


def _measure(
    *,
    out: Path,
    seconds: float = 300.0,
    rounds: int = 9,
    only: tuple[str, ...] = (),
    width: float = 1.0,
    smoke: bool = False,
    again: bool = False,
    words: Annotated[Sequence[str], Parameter(parse=False)] = (),
) -> None:
    """Measures updates on the device that JAX finds.

    Args:
        out: The folder for results.jsonl, results.md and results.png.
        seconds: After this time no program is begun.
        rounds: How often each program is timed.
        only: Measure only blocks whose name contains one of these; "checks" and "peers" are two
            more names.
        width: Multiply numbers of channels and the sides of matrices.
        smoke: Measure two updates of small weights, to see that the program runs.
        again: Measure nothing; make table and figure again from results.jsonl.
        words: The arguments, as they were given.
    """
    command = shlex.join([*PROGRAM.split(), *words])
    if not again:
        out.mkdir(parents=True, exist_ok=True)
        (out / results.ROWS).unlink(missing_ok=True)
        for row in _rows(seconds, rounds, only, SMOKE_WIDTH if smoke else width, smoke):
            results.append(out, row)
            print(_line(row), file=sys.stderr, flush=True)
    console = sections.new_console()
    for table in results.write(out, command):
        console.print(table)


def _rows(
    seconds: float, rounds: int, only: tuple[str, ...], width: float, smoke: bool
) -> Iterator[dict]:
    """All rows, each as soon as it is known."""
    end = time.monotonic() + seconds
    yield _about(rounds)
    pool = ThreadPoolExecutor(environment.cores())
    baselines: dict[str, float] = {}

    def wanted(name: str) -> bool:
        return not only or any(one in name for one in only)

    try:
        if wanted("checks"):
            few = {"sets": cases.SETS[:1], "schemes": checks.SCHEMES[:1]} if smoke else {}
            yield from checks.measure(pool, **few)
        blocks = [block for block in _blocks(width, smoke) if wanted(block.name)]
        ahead = None
        # The programs of a block are compiled while those of the one before are measured.
        for block in [*blocks, None]:
            following = block and (block, programs.all_submitted(block, pool, end))
            if ahead:
                former, (gradient, pending) = ahead
                yield from _measured(former, gradient, pending, end, rounds, baselines)
                if former.name == peers.BLOCK and wanted("peers") and time.monotonic() < end:
                    yield from peers.measure(former.shapes, baselines.get(peers.BLOCK), rounds)
            ahead = following
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def _blocks(width: float, smoke: bool) -> Iterator[cases.Block]:
    if not smoke:
        yield from cases.blocks(width)
        return
    block = next(cases.blocks(width))
    few = dict(list(block.shapes.items())[:2])
    yield cases.Block(block.name, few, block.dtype, (cases.SGD, *_two(block)))


def _two(block: cases.Block) -> tuple[cases.Case, ...]:
    return tuple(case for case in block.cases if case.label.startswith("fgsgd PO, sphere"))[:1]


def _measured(
    block: cases.Block,
    gradient: Any,
    pending: list[programs.Program],
    end: float,
    rounds: int,
    baselines: dict[str, float],
) -> Iterator[dict[str, Any]]:
    """The rows of a block."""
    import jax

    gradient = jax.device_put(gradient, jax.devices()[0])
    baseline = None
    for program in pending:
        try:
            own = programs.Running(program, gradient, max(0.1, end - time.monotonic()))
        except TimeoutError:
            yield _skipped(block, program.case, "not compiled in time")
            continue
        except Exception as error:  # one that fails must not end the others
            reason = f"{type(error).__name__}: {str(error).splitlines()[0][:200]}"
            yield _skipped(block, program.case, reason)
            continue
        baseline = baseline or own
        row = _row(block, program, own, baseline, rounds)
        baselines.setdefault(block.name, row["seconds"])
        yield row
    for case in block.cases[len(pending) :]:
        yield _skipped(block, case, "no time was left")


def _row(block, program, own, baseline, rounds) -> dict[str, Any]:
    from fgsgd_jax.experiments.bench import timing

    taken, of_baseline = programs.seconds_in_turn(own, baseline, rounds)
    ratio = timing.ratio_of(taken, of_baseline)
    moved = own.moved()
    return {
        "kind": "update",
        "block": block.name,
        "label": program.case.label,
        "ratio": ratio.ratio,
        "ratio_quartiles": [ratio.low, ratio.high],
        "seconds": float(sorted(taken)[len(taken) // 2]),
        "baseline_seconds": float(sorted(of_baseline)[len(of_baseline) // 2]),
        "bytes": moved and moved[0],
        "kernels": moved and moved[1],
        "equal": own.equal,
        "finite": own.finite,
        "trace_seconds": program.trace_seconds,
        "compile_seconds": own.compile_seconds,
    }


def _skipped(block: cases.Block, case: cases.Case, reason: str) -> dict[str, Any]:
    return {"kind": "skipped", "block": block.name, "label": case.label, "reason": reason}


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
