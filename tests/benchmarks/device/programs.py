"""Compiled programs of twenty updates: their time, and what they move."""

import dataclasses
import re
import time
from concurrent.futures import Executor, Future
from typing import Any

import jax
import numpy as np
from jax import lax

import fgsgd_jax as fg
from fgsgd_jax.experiments.bench import timing

from ..compiled.programs import kernels
from .cases import Case

UPDATES = 20


@dataclasses.dataclass(frozen=True)
class Program:
    """A program that is being compiled.

    Attributes:
        case: Its update.
        compiled: The program, and the seconds that compiling it took.
        start: Weights and state, in the memory of the CPU.
        trace_seconds: The time of tracing and lowering.
    """

    case: Case
    compiled: "Future[tuple[Any, float]]"
    start: tuple[Any, Any]
    trace_seconds: float


def submit(case: Case, params: Any, gradient: Any, pool: Executor) -> Program:
    """Traces twenty updates, and begins to compile them."""
    begun = time.perf_counter()
    with jax.default_device(jax.devices("cpu")[0]):
        tx, start = case.prepare(params)
        # Compiled, because init would otherwise check the weights one operation after the other.
        state = jax.jit(tx.init)(start)

    def updates(params, state, gradient):
        def update(_, both):
            params, state = both
            return fg.apply_gradients(tx, gradient, state, params)

        return lax.fori_loop(0, UPDATES, update, (params, state))

    shapes = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), (start, state, gradient)
    )
    lowered = jax.jit(updates, donate_argnums=(0, 1)).lower(*shapes)
    seconds = time.perf_counter() - begun
    return Program(case, pool.submit(_compile, lowered), (start, state), seconds)


def _compile(lowered: Any) -> tuple[Any, float]:
    begun = time.perf_counter()
    return lowered.compile(), time.perf_counter() - begun


class Running:
    """A compiled program that is applied to its own results again and again.

    Args:
        program: The program.
        gradient: The gradient, on the device.
        timeout: The seconds to wait until it is compiled.

    Raises:
        TimeoutError: If it was not compiled in time.
    """

    def __init__(self, program: Program, gradient: Any, timeout: float):
        self.compiled, self.compile_seconds = program.compiled.result(timeout)
        self.gradient = gradient
        first, again = (jax.tree.leaves(self._run(program.start)) for _ in range(2))
        self.equal = all(map(_same_bits, first, again))
        self.finite = all(map(_finite, first))
        self.carried = self._run(program.start)

    def _run(self, start: tuple[Any, Any]) -> tuple[Any, Any]:
        device = jax.devices()[0]
        # A copy, because the donated arrays are deleted.
        return self.compiled(
            *jax.tree.map(lambda x: jax.device_put(np.array(x), device), start), self.gradient
        )

    def __call__(self) -> tuple[Any, Any]:
        """Takes twenty updates more, and returns the results without waiting for them."""
        self.carried = self.compiled(*self.carried, self.gradient)
        return self.carried

    def clock(self) -> timing.Clock:
        """The clock of one update."""
        seconds_of = timing.clock(self)
        return lambda repeats: seconds_of(repeats) / UPDATES

    def moved(self) -> tuple[int, int] | None:
        """The bytes and the number of kernels of one update; None where they cannot be counted."""
        body = _body(self.compiled.as_text())
        found = kernels(body) if body else []
        return (sum(found), len(found)) if found else None


def _body(program: str) -> str | None:
    """The body of the loop over the updates, as if it were a program of its own."""
    names = re.findall(r"body=%([\w.\-]+)", program[program.find("\nENTRY ") :])
    if len(names) != 1:
        return None
    found = re.search(rf"^%{re.escape(names[0])} .*?^}}", program, re.DOTALL | re.MULTILINE)
    return f"ENTRY {found.group()}" if found else None


def _same_bits(one: jax.Array, other: jax.Array) -> bool:
    return np.asarray(one).tobytes() == np.asarray(other).tobytes()


def _finite(leaf: jax.Array) -> bool:
    return bool(np.isfinite(np.asarray(leaf, np.float32)).all())


def seconds_in_turn(own: Running, baseline: Running, rounds: int) -> tuple[np.ndarray, np.ndarray]:
    """The seconds of one update of a program and of the baseline, by round."""
    if own is baseline:
        seconds = timing.in_turn({"own": own.clock()}, rounds)["own"]
        return seconds, seconds
    taken = timing.in_turn({"own": own.clock(), "baseline": baseline.clock()}, rounds)
    return taken["own"], taken["baseline"]
