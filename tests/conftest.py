"""What all tests share: a compilation cache on disk for local runs, and bounded memory."""

import gc
import math
import os
from pathlib import Path

import jax
import pytest

# Clearing after every module would make each one compile JAX's own small operations again.
MOST_MEMORY = 2 * 2**30


def pytest_configure(config: pytest.Config) -> None:
    """Keeps compiled functions in `.pytest_cache`; compiling is most of the time of a test.

    JAX writes an entry without a lock, so each worker has a folder of its own. `pytest
    --cache-clear` empties them. `JAX_ENABLE_COMPILATION_CACHE=false` does without.
    """
    cache = getattr(config, "cache", None)  # None under `-p no:cacheprovider`
    if cache is None or not jax.config.jax_enable_compilation_cache:
        return
    worker = os.environ.get("PYTEST_XDIST_WORKER", "main")
    jax.config.update("jax_compilation_cache_dir", str(cache.mkdir(f"jax-{worker}")))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)
    # No hints to XLA where to keep files of its own, which would depend on the folder.
    jax.config.update("jax_persistent_cache_enable_xla_caches", "none")


@pytest.hookimpl(tryfirst=True)  # before `-m` selects
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Marks as slow: examples in docstrings, and of a sweep all cases but `sweep(fast=…)`."""
    cases: dict[str, list[pytest.Item]] = {}
    for item in items:
        if isinstance(item, pytest.DoctestItem):
            item.add_marker(pytest.mark.slow)
        if item.get_closest_marker("sweep"):
            cases.setdefault(item.nodeid.partition("[")[0], []).append(item)
    for sweep in cases.values():
        count = sweep[0].get_closest_marker("sweep").kwargs["fast"]
        # Spread evenly, so that they differ in more than the parameter that varies fastest.
        fast = {(2 * i + 1) * len(sweep) // (2 * count) for i in range(count)}
        for number, item in enumerate(sweep):
            if number not in fast:
                item.add_marker(pytest.mark.slow)


def _resident_bytes() -> float:
    """The memory of this process; infinite where the system does not say."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except OSError:
        return math.inf
    return pages * os.sysconf("SC_PAGE_SIZE")


@pytest.fixture(scope="module")
def quickly_compiled():
    """Compiles without the slow optimizations of XLA, for tests of formulas.

    Compilation is most of their time, and neither the speed of a program nor its last bit matters
    to them. Not for tests that train: on the CPU, networks become NaN without the optimizations.
    """
    name = "jax_disable_most_optimizations"
    before = jax.config.read(name)
    jax.config.update(name, True)
    yield
    jax.config.update(name, before)


@pytest.fixture(autouse=True, scope="module")
def _bounded_memory():
    """Drops compiled functions, gigabytes in all, after the tests of a module."""
    yield
    if _resident_bytes() > MOST_MEMORY:
        jax.clear_caches()
        gc.collect()
