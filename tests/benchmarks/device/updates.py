"""The rows of updates: traced in one thread, compiled in others, measured one after the other."""

import functools
import time
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Executor
from typing import Any

import jax

from fgsgd_jax.experiments.bench import timing

from . import programs
from .cases import Block, Case
from .checks import Checks

Row = dict[str, Any]
CHECKS_SHARE = 1 / 3  # the largest part of all time that may pass until the checks are done


class Measured:
    """What the updates of a block share: weights, gradient, and the baseline of their ratios.

    Args:
        block: The block.

    Attributes:
        block: The block.
        baseline: The program of its first case, once it has run.
    """

    def __init__(self, block: Block):
        self.block = block
        self.baseline: programs.Running | None = None

    @functools.cached_property
    def arrays(self) -> tuple[Any, Any]:
        """Weights and gradient, in the memory of the CPU."""
        with jax.default_device(jax.devices("cpu")[0]):
            return self.block.weights(0), self.block.weights(1)

    @functools.cached_property
    def gradient(self) -> Any:
        """The gradient on the device."""
        return jax.device_put(self.arrays[1], jax.devices()[0])


class Update:
    """An update of a block, which is traced by `begin` and measured by `row`.

    Args:
        measured: What the updates of its block share.
        case: The update.
    """

    def __init__(self, measured: Measured, case: Case):
        self.measured, self.case = measured, case
        self.program: programs.Program | None = None
        self.failure: str | None = None

    def begin(self, pool: Executor) -> None:
        """Traces twenty updates, and begins to compile them."""
        try:
            self.program = programs.submit(self.case, *self.measured.arrays, pool)
        except Exception as error:  # one that fails must not end the others
            self.failure = _reason(error)

    def done(self) -> bool:
        """Whether nothing is left to wait for."""
        return self.program is None or self.program.compiled.done()

    def row(self, rounds: int, patience: float) -> Row:
        """Measures it in turn with the baseline of its block.

        Args:
            rounds: How often both are timed.
            patience: The seconds to wait until it is compiled.
        """
        if self.program is None:
            return self.skipped(self.failure or "not traced")
        try:
            own = programs.Running(self.program, self.measured.gradient, patience)
            if self.case is self.measured.block.cases[0]:
                self.measured.baseline = own
            return self._row(self.program, own, rounds)
        except TimeoutError:
            return self.skipped("not compiled in time")
        except Exception as error:  # one that fails must not end the others
            return self.skipped(_reason(error))

    def skipped(self, reason: str) -> Row:
        """The row that says why it was not measured."""
        return {
            "kind": "skipped",
            "block": self.measured.block.name,
            "label": self.case.label,
            "reason": reason,
        }

    def _row(self, program: programs.Program, own: programs.Running, rounds: int) -> Row:
        baseline = self.measured.baseline
        if baseline is None:
            return self.skipped("the first update of its block, which it is compared with, failed")
        taken, of_baseline = programs.seconds_in_turn(own, baseline, rounds)
        ratio = timing.ratio_of(taken, of_baseline)
        moved = own.moved()
        return {
            "kind": "update",
            "block": self.measured.block.name,
            "label": self.case.label,
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


def _reason(error: Exception) -> str:
    return f"{type(error).__name__}: {(str(error).splitlines() or [''])[0][:200]}"


def updates_of(blocks: Iterable[Block]) -> Iterator[Update]:
    """The updates of all blocks, in order."""
    for block in blocks:
        measured = Measured(block)
        yield from (Update(measured, case) for case in block.cases)


def rows(
    checks: Checks | None, updates: Iterable[Update], pool: Executor, rounds: int, end: float
) -> Iterator[Row]:
    """The rows of the checks and of all updates, each as soon as it is known.

    Tracing needs this thread, so it and measuring take turns: as soon as the next update is
    compiled, it is measured, and until then further ones are traced.

    Args:
        checks: The checks, which come first.
        updates: The updates, in order.
        pool: Compiles them.
        rounds: How often each is timed.
        end: When `time.monotonic()` is past it, no update is begun.
    """
    untraced, waiting = deque(updates), deque[Update]()
    begun = time.monotonic()
    end_of_checks = begun + CHECKS_SHARE * (end - begun) if untraced else end
    while checks or waiting or untraced:
        left = end - time.monotonic()
        if checks and (checks.done() or not untraced or time.monotonic() > end_of_checks):
            yield from checks.rows(max(0.0, end_of_checks - time.monotonic()))
            checks = None
        elif left <= 0:
            yield (waiting or untraced).popleft().skipped("no time was left")
        elif not checks and waiting and (waiting[0].done() or not untraced):
            yield waiting.popleft().row(rounds, left)
        else:
            update = untraced.popleft()
            update.begin(pool)
            waiting.append(update)
