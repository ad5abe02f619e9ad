"""What all tests share: an end to what JAX keeps of the tests before."""

import gc
import math
import os
from pathlib import Path

import jax
import pytest

# Clearing after every module would have each compile JAX's own small operations again.
ENOUGH = 2 * 2**30


def _resident_bytes() -> float:
    """The memory of this process, where the system says; elsewhere more than enough."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except OSError:
        return math.inf
    return pages * os.sysconf("SC_PAGE_SIZE")


@pytest.fixture(autouse=True, scope="module")
def _bounded_memory():
    """Drops compiled functions, gigabytes in all: no module needs those of another."""
    yield
    if _resident_bytes() > ENOUGH:
        jax.clear_caches()
        gc.collect()
