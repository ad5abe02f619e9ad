"""How everything here is timed: contestants in turn, in one process, warm, over several rounds."""

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
"""A contestant: runs so often in a row and returns the seconds of one run, NaN if it failed."""

# A contestant that is faster than this runs several times in a row, so that starting and reading
# the clock do not count.
SHORTEST = 2e-3
MOST_REPEATS = 200
# One that would take longer than this over all rounds takes part in the first ones only.
LONGEST = 60.0
FEWEST_ROUNDS = 3


class Ratio(NamedTuple):
    """One time over another.

    Attributes:
        ratio: That of the medians over the rounds.
        low: A quarter of the ratios of single rounds lie below.
        high: A quarter of them lie above.
    """

    ratio: float
    low: float
    high: float


def ratio_of(seconds: np.ndarray, yardstick: np.ndarray) -> Ratio:
    """The ratio of two contestants, from their seconds in the rounds that both took part in."""
    shared = min(len(seconds), len(yardstick))
    seconds, yardstick = seconds[:shared], yardstick[:shared]
    low, high = np.quantile(seconds / yardstick, (0.25, 0.75))
    return Ratio(float(np.median(seconds) / np.median(yardstick)), float(low), float(high))


def clock(run: Callable[[], Any]) -> Clock:
    """The clock of a function that returns arrays; each run is waited for."""

    def time_of_one(repeats: int) -> float:
        begun = time.perf_counter()
        for _ in range(repeats):
            jax.block_until_ready(run())
        return (time.perf_counter() - begun) / repeats

    return time_of_one


def in_turn(clocks: Mapping[str, Clock], rounds: int) -> dict[str, np.ndarray]:
    """Times contestants in turn, in a new order each round.

    Args:
        clocks: The contestants.
        rounds: How often each is timed; less often what would take minutes.

    Returns:
        The seconds of one run of each contestant, by round.
    """
    repeats, taken = {}, {}
    for name, time_of in clocks.items():
        time_of(1)  # the first run compiles, or touches memory for the first time
        seconds = time_of(1)
        enough = math.ceil(SHORTEST / seconds) if seconds > 0 else 1  # 1 for NaN, too
        repeats[name] = min(enough, MOST_REPEATS)
        slow = seconds * rounds > LONGEST  # not for NaN
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
    """A progress bar, shown at a terminal only."""
    return tqdm(total=total, desc=what, disable=None, leave=False)


class Fed:
    """A compiled function that is fed its own results, whose memory it takes over.

    Args:
        function: Takes `*carried, *fixed` and returns what is carried on.
        carried: Copied, so that what is taken over is nobody else's.
        fixed: Stays as it is.

    Attributes:
        carried: The latest results.
        trace_seconds: How long tracing took.
        compile_seconds: How long lowering and compiling took after that.
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
        self.carried = self.compiled(*self.carried, *self.fixed)
        return self.carried

    def memory(self) -> tuple[int | None, int | None]:
        """Bytes needed beside arguments and results, and bytes of results not taken over.

        None where the device does not tell.
        """
        told = self.compiled.memory_analysis()  # pyright: ignore[reportFunctionMemberAccess]
        if told is None:
            return None, None
        return told.temp_size_in_bytes, self._result_bytes - told.alias_size_in_bytes
