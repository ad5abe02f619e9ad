"""How all benchmarks are timed: contestants in turn, in one process, over several rounds."""

import math
import random
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

Clock = Callable[[int], float]
"""Runs a contestant `repeats` times in a row; returns the seconds of one run, NaN if it failed."""

# A contestant that is faster than this runs several times in a row, so that reading the clock and
# starting the run do not count.
SHORTEST = 2e-3
MOST_REPEATS = 200
# A contestant that would take longer than this over all rounds takes part in the first ones only.
LONGEST = 60.0
FEWEST_ROUNDS = 3


class Ratio(NamedTuple):
    """The time of a contestant divided by the time of a baseline.

    Attributes:
        ratio: The ratio of the medians over the rounds.
        low: The lower quartile of the ratios of single rounds.
        high: The upper quartile of the ratios of single rounds.
    """

    ratio: float
    low: float
    high: float


def ratio_of(seconds: np.ndarray, baseline: np.ndarray) -> Ratio:
    """The ratio of two contestants, from the rounds in which both took part.

    Args:
        seconds: The times of a contestant by round.
        baseline: The times of the baseline by round.
    """
    shared = min(len(seconds), len(baseline))
    seconds, baseline = seconds[:shared], baseline[:shared]
    low, high = np.quantile(seconds / baseline, (0.25, 0.75))
    return Ratio(float(np.median(seconds) / np.median(baseline)), float(low), float(high))


def clock(run: Callable[[], Any]) -> Clock:
    """The clock of a function that returns arrays; every run is waited for."""

    def time_of_one(repeats: int) -> float:
        begun = time.perf_counter()
        for _ in range(repeats):
            jax.block_until_ready(run())
        return (time.perf_counter() - begun) / repeats

    return time_of_one


def in_turn(clocks: Mapping[str, Clock], rounds: int) -> dict[str, np.ndarray]:
    """Times contestants in turn, in a new order each round.

    Args:
        clocks: The contestants by name.
        rounds: How often each is timed; one that would take minutes is timed less often.

    Returns:
        The seconds of one run of each contestant, by round.
    """
    repeats, taken = {}, {}
    for name, time_of in clocks.items():
        time_of(1)  # the first run compiles, and touches its memory for the first time
        seconds = time_of(1)
        enough = math.ceil(SHORTEST / seconds) if seconds > 0 else 1  # also for NaN
        repeats[name] = min(enough, MOST_REPEATS)
        slow = seconds * rounds > LONGEST  # False for NaN
        taken[name] = np.empty(min(rounds, FEWEST_ROUNDS) if slow else rounds)
    order = list(clocks)
    shuffle = random.Random(0).shuffle
    for turn in range(rounds):
        shuffle(order)
        for name in order:
            if turn < len(taken[name]):
                taken[name][turn] = clocks[name](repeats[name])
    return taken


def progress(total: int, what: str) -> tqdm:
    """A progress bar, shown only at a terminal."""
    return tqdm(total=total, desc=what, disable=None, leave=False)


class Iterated:
    """A compiled function that is applied to its own results again and again.

    The arguments that become results are donated, so that the results can reuse their memory.

    Args:
        function: Takes `*carried, *fixed` and returns the next `carried`.
        carried: The first arguments; copied, because donation deletes them.
        fixed: Arguments that stay the same.

    Attributes:
        carried: The latest results.
        compiled: The compiled function.
        trace_seconds: The time of tracing.
        compile_seconds: The time of lowering and compiling after that.
    """

    def __init__(self, function: Callable[..., tuple], carried: tuple, *fixed: Any):
        self.carried = jax.tree.map(jnp.copy, carried)
        self.fixed = fixed
        donated = tuple(range(len(carried)))
        begun = time.perf_counter()
        traced = jax.jit(function, donate_argnums=donated).trace(*self.carried, *fixed)
        self.trace_seconds = time.perf_counter() - begun
        results = jax.tree.leaves(traced.out_info)
        self._result_bytes = sum(math.prod(one.shape) * one.dtype.itemsize for one in results)
        begun = time.perf_counter()
        self.compiled: Callable[..., Any] = traced.lower().compile()
        self.compile_seconds = time.perf_counter() - begun
        jax.block_until_ready(self.carried)

    def __call__(self) -> tuple:
        """Applies the function once more, and returns the results without waiting for them."""
        self.carried = self.compiled(*self.carried, *self.fixed)
        return self.carried

    def memory(self) -> tuple[int | None, int | None]:
        """Bytes of temporary memory, and bytes of results that reuse no donated memory.

        None where the device does not report them.
        """
        analysis = self.compiled.memory_analysis()  # pyright: ignore[reportFunctionMemberAccess]
        if analysis is None:
            return None, None
        return analysis.temp_size_in_bytes, self._result_bytes - analysis.alias_size_in_bytes
